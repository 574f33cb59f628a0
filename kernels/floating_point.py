"""The floating-point mode of a step, for code that NumPy runs; the compiled engine sets the mode for itself.

It uses the floating-point environment of the C library, so it needs no compiled module.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from collections.abc import Callable
from typing import TypeVar

# (system, machine): the byte offset of the control register in fenv_t, its bits for denormals, and its value when all
# traps are masked and rounding is to nearest.
_CONTROL_REGISTERS = {
    ("linux", "x86_64"): (28, 0x8040, 0x1F80),
    ("linux", "aarch64"): (0, 1 << 24, 0),
    ("darwin", "x86_64"): (4, 0x8040, 0x1F80),
    ("darwin", "arm64"): (8, 1 << 24, 0),
}
Result = TypeVar("Result")

_ENVIRONMENT_BYTES = 64  # More than any fenv_t.


@functools.cache
def _register() -> tuple[ctypes.CDLL, int, int, int] | None:
    known = _CONTROL_REGISTERS.get((sys.platform, platform.machine()))
    if known is None:
        return None
    return ctypes.CDLL(None), *known


def can_flush_denormals() -> bool:
    """Whether the layout of the floating-point environment of this system is known."""
    return _register() is not None


def with_denormals(flush: bool, function: Callable[[], Result]) -> Result:
    """The result of `function()`, run with denormals as zero, or not with `flush=False`; the mode is restored after.

    Whatever the mode of the caller is, the function runs with rounding to nearest and without traps.

    It is not a context manager, because a signal handler may raise between `__enter__` and the block.
    """
    register = _register()
    if register is None:
        if flush:
            raise NotImplementedError(
                f"flush_denormals=True: not known how, without the compiled module, on {sys.platform} "
                f"{platform.machine()}; pass flush_denormals=False"
            )
        return function()
    library, offset, bits, standard = register
    before = (ctypes.c_ubyte * _ENVIRONMENT_BYTES)()
    library.fegetenv(before)
    changed = (ctypes.c_ubyte * _ENVIRONMENT_BYTES)(*before)
    ctypes.c_uint32.from_buffer(changed, offset).value = standard | bits if flush else standard
    try:
        library.fesetenv(changed)
        return function()
    finally:
        library.fesetenv(before)

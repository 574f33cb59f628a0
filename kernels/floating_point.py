"""Treats denormals as zero in this thread, for code that NumPy runs; the engine sets the mode for itself.

It uses the floating-point environment of the C library, so it needs no compiled module.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from collections.abc import Callable
from typing import TypeVar

# (system, machine): the byte offset of the control register in fenv_t, and its bits for denormals.
_CONTROL_REGISTERS = {
    ("linux", "x86_64"): (28, 0x8040),
    ("linux", "aarch64"): (0, 1 << 24),
    ("darwin", "x86_64"): (4, 0x8040),
    ("darwin", "arm64"): (8, 1 << 24),
}
Result = TypeVar("Result")

_ENVIRONMENT_BYTES = 64  # More than any fenv_t.


@functools.cache
def _register() -> tuple[ctypes.CDLL, int, int] | None:
    known = _CONTROL_REGISTERS.get((sys.platform, platform.machine()))
    if known is None:
        return None
    return ctypes.CDLL(None), *known


def can_flush_denormals() -> bool:
    """Whether the layout of the floating-point environment of this system is known."""
    return _register() is not None


def with_denormals(flush: bool, function: Callable[[], Result]) -> Result:
    """The result of `function()`, run with denormals as zero, or not with `flush=False`; the mode is restored after.

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
    library, offset, bits = register
    before = (ctypes.c_ubyte * _ENVIRONMENT_BYTES)()
    library.fegetenv(before)
    changed = (ctypes.c_ubyte * _ENVIRONMENT_BYTES)(*before)
    control = ctypes.c_uint32.from_buffer(changed, offset)
    control.value = control.value | bits if flush else control.value & ~bits
    try:
        library.fesetenv(changed)
        return function()
    finally:
        library.fesetenv(before)

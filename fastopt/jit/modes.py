"""The floating-point mode of a thread in compiled code: denormals, rounding, traps."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, TypeVar, cast

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = platform.machine().lower() in ("aarch64", "arm64")


def _inline(function: Function) -> Function:
    """The function compiled with these flags, whatever those of its caller are."""
    return cast(Function, njit(error_model="numpy", fastmath=False, boundscheck=False, forceinline=True)(function))


FLUSH_BITS = 0x8040 if X86 else (1 << 24 if ARM else 0)
"""Bits of the control register that make denormals zero, on input and output, as in kernels/native/machine.h; 0 on
processors for which they are not known."""

STANDARD_BITS = 0x1F80 if X86 else 0
"""The control register when it rounds to nearest and masks all traps, and denormals are numbers."""

CONTROL_BITS = 0xFFC0 if X86 else ((1 << 24) | (3 << 22) | 0x9F00 if ARM else 0)
"""The bits for denormals, rounding and traps; the others are flags, or nothing."""

_BYTES = ir.IntType(8).as_pointer()


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    function_type = ir.FunctionType(result, [each.type for each in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def _nothing_moves_past(builder: Any) -> None:
    """Keep the compiler from moving loads and stores across this point."""
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)


@intrinsic
def get_mode(typing_context: Any) -> Any:
    """The control register."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result = ir.IntType(64)
        if X86:
            word = cgutils.alloca_once(builder, ir.IntType(32))
            _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [builder.bitcast(word, _BYTES)])
            return builder.zext(builder.load(word), result)
        return _call(builder, "llvm.aarch64.get.fpcr", result, []) if ARM else result(0)

    return types.uint64(), generate


@intrinsic
def write_mode(typing_context: Any, mode: Any) -> Any:
    """Set the control register."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _nothing_moves_past(builder)
        if X86:
            word = cgutils.alloca_once(builder, ir.IntType(32))
            builder.store(builder.trunc(arguments[0], ir.IntType(32)), word)
            _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [builder.bitcast(word, _BYTES)])
        elif ARM:
            _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [arguments[0]])
        _nothing_moves_past(builder)
        return context.get_dummy_value()

    return types.void(types.uint64), generate


@intrinsic
def pinned(typing_context: Any, number: Any) -> Any:
    """The same float64; arithmetic with it comes after earlier changes of the mode, and before later ones.

    LLVM does not know that arithmetic depends on the mode, and could move it past a change.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not (X86 or ARM):
            return arguments[0]
        number = ir.DoubleType()
        constraint = "=x,0" if X86 else "=w,0"
        return builder.asm(ir.FunctionType(number, [number]), "", constraint, [arguments[0]], True)

    return types.float64(types.float64), generate


_uint64: Any = types.uint64
_BITS: Any = _uint64(FLUSH_BITS)
_CONTROL: Any = _uint64(CONTROL_BITS)
_STANDARD: Any = _uint64(STANDARD_BITS)


@_inline
def set_mode(mode: int) -> int:
    """Set denormals, rounding and traps as in `mode`, and return the mode before. It writes only what differs."""
    before: int = get_mode()  # type: ignore[call-arg]
    if (before ^ mode) & _CONTROL:
        write_mode((before & ~_CONTROL) | (mode & _CONTROL))
    return before


@_inline
def leave_mode(before: int, mode: int) -> None:
    """Go back from `mode` to the mode before, which `set_mode` returned."""
    if (before ^ mode) & _CONTROL:
        write_mode(before)  # type: ignore[call-arg]


@_inline
def flushing() -> int:
    """The mode of updates that treat denormals as zero."""
    mode: int = _STANDARD | _BITS
    return mode


@_inline
def as_around() -> int:
    """The mode of updates that treat denormals as the code around them does."""
    around: int = get_mode()  # type: ignore[call-arg]
    mode: int = _STANDARD | (around & _BITS)
    return mode


@_inline
def _set_denormals(mode: int) -> int:
    """Set the bits for denormals as in `mode`, and return the mode before."""
    before: int = get_mode()  # type: ignore[call-arg]
    if (before ^ mode) & _BITS:
        write_mode((before & ~_BITS) | (mode & _BITS))
    return before


@_inline
def flush_denormals() -> int:
    """Treat denormals as zero in all later arithmetic of this thread, and return the mode before.

    Denormals are numbers closer to zero than 1.2e-38 (float32) or 2.2e-308 (float64). Arithmetic with them takes up to
    a hundred times as long. The updates of `fastopt.jit` flush them anyway; this function is for the rest of a loop.
    Call it from Python or inside an `@njit` function. It does nothing on processors other than x86-64 and AArch64.

    Returns
    -------
    int
        For `restore_denormals`.

    Examples
    --------
    >>> import numba, numpy as np
    >>> from fastopt import jit
    >>> @numba.njit
    ... def halve(array):
    ...     mode = jit.flush_denormals()
    ...     for i in range(array.size):
    ...         array[i] *= 0.5
    ...     jit.restore_denormals(mode)
    >>> numbers = np.array([1.0, 3e-308])
    >>> halve(numbers)
    >>> numbers
    array([0.5, 0. ])
    """
    return _set_denormals(_BITS)


@_inline
def restore_denormals(mode: int) -> None:
    """Treat denormals as before `flush_denormals`, which returned `mode`. Other bits of the mode are kept."""
    _set_denormals(_uint64(mode))

"""The floating-point mode of a thread in compiled code: denormals, rounding, traps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..registers import PROCESSOR, REGISTER

Function = TypeVar("Function", bound=Callable[..., Any])

X86, ARM = PROCESSOR == "x86_64", PROCESSOR == "arm64"


def inline(function: Function) -> Function:
    """The function compiled with these flags, whatever those of its caller are."""
    return cast(Function, njit(error_model="numpy", fastmath=False, boundscheck=False, forceinline=True)(function))


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


uint64: Any = types.uint64
BITS: Any = uint64(REGISTER.flush)
_CONTROL: Any = uint64(REGISTER.control)
STANDARD: Any = uint64(REGISTER.standard)


@inline
def replace_bits(mode: int, mask: int) -> int:
    """Set the bits of `mask` as in `mode`, and return the mode before. It writes only what differs."""
    before: int = get_mode()  # type: ignore[call-arg]
    if (before ^ mode) & mask:
        write_mode((before & ~mask) | (mode & mask))
    return before


@inline
def set_mode(mode: int) -> int:
    """Set denormals, rounding and traps as in `mode`, and return the mode before."""
    return replace_bits(mode, _CONTROL)


@inline
def leave_mode(before: int, mode: int) -> None:
    """Go back from `mode` to the mode before, which `set_mode` returned."""
    if (before ^ mode) & _CONTROL:
        write_mode(before)  # type: ignore[call-arg]

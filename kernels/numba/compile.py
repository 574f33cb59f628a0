"""The part of `loops` that needs Numba: compiles the Python source of a loop or coefficient function to LLVM text.

Loaded only if no compiled code is found on disk: loading Numba takes longer than everything else in a first step.
"""

from __future__ import annotations

import functools
import linecache
import math
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_inline = numba.njit(error_model="numpy", fastmath=False, boundscheck=False)  # independent of the options of the caller


@intrinsic
def _prefetch(typing_context: Any, pointer: Any, index: Any) -> Any:
    """Prefetch the cache line of element `index`; past the end of an array it has no effect."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base, offset = arguments
        byte_pointer = ir.IntType(8).as_pointer()
        address = builder.bitcast(builder.gep(base, [offset]), byte_pointer)
        word = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [byte_pointer, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch")
        builder.call(function, [address, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(pointer, types.intp), generate


@intrinsic
def _doubles(typing_context: Any, pointer: Any) -> Any:
    """The same pointer, to float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType().as_pointer())

    return types.CPointer(types.float64)(pointer), generate


@functools.cache
def _has_fused() -> bool:
    """Whether this processor multiplies and adds in one instruction."""
    return bool(binding.get_host_cpu_features().get("fma")) or "x86" not in binding.get_process_triple()


@intrinsic
def _add_square(typing_context: Any, total: Any, x: Any) -> Any:
    """total + x * x of float64, rounded once where the processor has an instruction for that."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, x = arguments
        return builder.fma(x, x, total) if _has_fused() else builder.fadd(total, builder.fmul(x, x))

    return types.float64(types.float64, types.float64), generate


@intrinsic
def opaque(typing_context: Any, number: Any) -> Any:
    """The same float64, with its value hidden from LLVM.

    LLVM turns powers with a known exponent into products and roots, whose bits can differ from those of the C library.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        bits = builder.bitcast(arguments[0], word)
        bits = builder.asm(ir.FunctionType(word, [word]), "", "=r,0", [bits], False)
        return builder.bitcast(bits, ir.DoubleType())

    return types.float64(types.float64), generate


@functools.cache
def vocabulary(real: str) -> dict[str, Any]:
    """The vocabulary of the dialect for Numba, in one precision."""
    number = np.dtype(real).type
    zero, one = number(0), number(1)

    @_inline
    def select(condition, if_true, if_false):  # type: ignore[no-untyped-def]
        return if_true if condition else if_false

    @_inline
    def maximum(a, b):  # type: ignore[no-untyped-def]
        return b if a < b else a

    @_inline
    def clip(x, low, high):  # type: ignore[no-untyped-def]
        y = low if x < low else x
        return high if y > high else y

    @_inline
    def sign(x):  # type: ignore[no-untyped-def]
        return math.copysign(one, x) if x < zero or x > zero else zero

    @_inline
    def log(x):  # type: ignore[no-untyped-def]
        return math.log(opaque(x))  # type: ignore[call-arg]

    @_inline
    def power(base, exponent):  # type: ignore[no-untyped-def]
        return opaque(base) ** opaque(exponent)  # type: ignore[call-arg]

    return {
        "inline": _inline,
        "number": number,
        "float64": np.float64,
        "doubles": _doubles,
        "add_square": _add_square,
        "prefetch": _prefetch,
        "sqrt": np.sqrt,
        "floor": np.floor,
        "log": log,
        "power": power,
        "select": select,
        "maximum": maximum,
        "clip": clip,
        "sign": sign,
    }


def function_from(source: str, name: str, real: str) -> Any:
    """The Python function that a source defines; messages of Numba and tracebacks can show its lines."""
    filename = f"<fastopt {name} {real}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = dict(vocabulary(real))
    exec(compile(source, filename, "exec"), namespace)
    return namespace[name]


_SIGNATURES = {
    "loop": lambda real: (types.CPointer(types.CPointer(real)), types.intp, types.CPointer(real), types.intp),
    "coefficients": lambda real: (types.CPointer(real), types.CPointer(real)),
    "sum": lambda real: (types.CPointer(real), types.intp, types.float64, types.CPointer(types.float64)),
}
"""The argument types of the compiled functions, as the engine calls them."""

_CALLED_BY_ENGINE = """
define {returned} @"{symbol}"({arguments}) {{
    %result = alloca {result}
    %exception = alloca ptr
    %status = call i32 @"{native}"(ptr %result, ptr %exception, {arguments})
    {ending}
}}
"""
"""Replaces the wrapper that Numba generates, which would need Numba at load time. No compiled function can raise."""

_SPELLED = {types.int64: "i64", types.float64: "double"}

_NOTHING = {"returned": "void", "result": "ptr", "ending": "ret void"}
_A_NUMBER = {"returned": "i64", "result": "i64", "ending": "%number = load i64, ptr %result\n    ret i64 %number"}


def llvm_text(source: str, name: str, real: str, kind: str, symbol: str, number: str = "") -> str:
    """The optimized LLVM text of a function, named `symbol`; `kind` selects its argument types, `number` the precision
    in which it computes, if that is not `real`."""
    arguments = _SIGNATURES[kind](types.float32 if real == "float32" else types.float64)
    return _llvm_text(function_from(source, name, number or real), types.void(*arguments), symbol, _NOTHING)


def whole_step_text(symbol: str) -> str:
    """The optimized LLVM text of `whole_step.step`, named `symbol`."""
    from . import whole_step

    return _llvm_text(whole_step.step, types.int64(types.int64, types.int64), symbol, _A_NUMBER)


def _llvm_text(function: Any, signature: Any, symbol: str, ending: dict[str, str]) -> str:
    compiled: Any = numba.cfunc(signature)(function)
    wrapper = compiled.native_name
    spelled = ", ".join(
        f"{'ptr' if isinstance(each, types.CPointer) else _SPELLED[each]} %argument{index}"
        for index, each in enumerate(signature.args)
    )
    without_wrapper = _without(compiled._library.get_llvm_str(), wrapper)
    native = wrapper.removeprefix("cfunc.")
    return without_wrapper + _CALLED_BY_ENGINE.format(symbol=symbol, native=native, arguments=spelled, **ending)


def _without(text: str, function: str) -> str:
    """The text of a module without the definition of one function."""
    lines, kept, inside = text.splitlines(), [], False
    for line in lines:
        inside = inside or (line.startswith("define ") and (f"@{function}(" in line or f'@"{function}"(' in line))
        if not inside:
            kept.append(line)
        elif line == "}":
            inside = False
    return "\n".join(kept)

"""Loops compiled by Numba from the rules, when first used: native functions of the same form as the Cython ones.

The engine calls them through their addresses, so threads, floating-point mode and segment table are the engine's, and
Numba's own threading layers are not involved.
"""

from __future__ import annotations

import functools
import linecache
import threading
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import formulas
from .render_numba import numba_source

_compiling = threading.Lock()
"""So that threads which want a loop at once compile it once, and none holds an address that the cache has dropped."""

_inline = numba.njit(error_model="numpy")


@intrinsic
def _prefetch(typing_context: Any, pointer: Any, index: Any) -> Any:
    """Bring the cache line of element `index` near; past the end of an array it does nothing."""

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


@functools.cache
def _vocabulary(real: str) -> dict[str, Any]:
    """The dialect's words for Numba, in one precision."""
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
        return (one if x > zero else zero) - (one if x < zero else zero)

    return {
        "inline": _inline,
        "number": number,
        "prefetch": _prefetch,
        "sqrt": np.sqrt,
        "floor": np.floor,
        "select": select,
        "maximum": maximum,
        "clip": clip,
        "sign": sign,
    }


@functools.cache
def compiled_loop(name: str, real: str) -> Any:
    """The compiled function; its `address` is what the engine calls."""
    source = numba_source(formulas.loop(name), real)
    filename = f"<fastopt {name} {real}>"
    # Lets Numba and tracebacks show the lines.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = dict(_vocabulary(real))
    exec(compile(source, filename, "exec"), namespace)
    element = types.float32 if real == "float32" else types.float64
    signature = types.void(types.CPointer(types.CPointer(element)), types.intp, types.CPointer(element), types.intp)
    return numba.cfunc(signature)(namespace[f"{name}_loop"])


def loop(name: str, dtype: np.dtype) -> int:
    """The address of a rule's or an operation's loop over float32 or float64; compiles it the first time."""
    with _compiling:
        return int(compiled_loop(name, dtype.name).address)

"""Loops compiled by Numba from the rules, when first used: native functions of the same form as the Cython ones.

The engine calls them through their addresses, so threads, floating-point mode and segment table are the engine's, and
Numba's own threading layers are not involved. What was compiled is kept on disk (see `object_cache`); where it is found,
Numba is not even loaded.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import numpy as np

from . import formulas, machine_code, object_cache
from .render_numba import coefficients_source, numba_source

_compiling = threading.Lock()
"""So that threads which want a function at once compile it once."""


@functools.cache
def _compiler_digest() -> str:
    """Of how the words of the dialect are spelled."""
    return object_cache.key(Path(__file__).with_name("numba_compile.py").read_text(encoding="utf-8"))


def _text(source: str, name: str, real: str, kind: str) -> str:
    from . import numba_compile

    return numba_compile.llvm_text(source, name, real, kind, _symbol(name))


def _symbol(name: str) -> str:
    return f"fastopt_{name}"


def _address(source: str, name: str, real: str, kind: str) -> int:
    key = object_cache.key(source, name, real, kind, _compiler_digest(), machine_code.environment())
    data = object_cache.read(key)
    if data is None:
        data = machine_code.emit(_text(source, name, real, kind))
        object_cache.write(key, data)
    return machine_code.load(data, _symbol(name))


@functools.cache
def _loop(name: str, real: str) -> int:
    return _address(numba_source(formulas.loop(name), real), f"{name}_loop", real, "loop")


@functools.cache
def _coefficient_function(name: str) -> int:
    source = coefficients_source(formulas.functions_of_coefficients(name))
    return _address(source, f"{name}_coefficients", "float64", "coefficients")


def loop(name: str, dtype: np.dtype) -> int:
    """The address of a rule's or an operation's loop over float32 or float64; compiles it the first time."""
    with _compiling:
        return _loop(name, dtype.name)


def coefficient_function(name: str) -> int:
    """The address of a coefficient function; compiles it the first time."""
    with _compiling:
        return _coefficient_function(name)


def loop_assembly(name: str, real: str) -> str:
    """What a loop is compiled to, for reading."""
    return machine_code.assembly(_text(numba_source(formulas.loop(name), real), f"{name}_loop", real, "loop"))

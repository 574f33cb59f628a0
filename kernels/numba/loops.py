"""Loops compiled by Numba from the rules, when first used: native functions of the same form as the Cython ones.

The engine calls them through their addresses, so threads, floating-point mode and segment table are the engine's, and
Numba's own threading layers are not involved. What was compiled is kept on disk (see `object_cache`); where it is
found, Numba is not even loaded.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import numpy as np

from ..formulas import registry
from ..render.numba_source import coefficients_source, numba_source
from . import machine_code, object_cache

_compiling = threading.Lock()
"""So that threads which want a function at once compile it once."""


@functools.cache
def _compiler_digest() -> str:
    """Of how the words of the dialect are spelled."""
    return object_cache.key(Path(__file__).with_name("compile.py").read_text(encoding="utf-8"))


def _text(source: str, name: str, real: str, kind: str) -> str:
    from . import compile as numba_compile

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


def _loop_parts(name: str, real: str) -> tuple[str, str, str, str]:
    return numba_source(registry.loop(name), real), f"{name}_loop", real, "loop"


def _coefficients_parts(name: str) -> tuple[str, str, str, str]:
    source = coefficients_source(registry.functions_of_coefficients(name))
    return source, f"{name}_coefficients", "float64", "coefficients"


@functools.cache
def _loop(name: str, real: str) -> int:
    return _address(*_loop_parts(name, real))


@functools.cache
def _coefficient_function(name: str) -> int:
    return _address(*_coefficients_parts(name))


def loop(name: str, dtype: np.dtype) -> int:
    """The address of a rule's or an operation's loop over float32 or float64; compiles it the first time."""
    with _compiling:
        return _loop(name, dtype.name)


def coefficient_function(name: str) -> int:
    """The address of a coefficient function; compiles it the first time."""
    with _compiling:
        return _coefficient_function(name)


def loop_text(name: str, real: str) -> str:
    """A loop as LLVM's text, for reading."""
    return _text(*_loop_parts(name, real))


def coefficients_text(name: str) -> str:
    """A coefficient function as LLVM's text, for reading."""
    return _text(*_coefficients_parts(name))

"""Compiles loops with Numba when they are first used, to native functions with the signature of the Cython loops.

The engine calls them through their addresses. It provides the threads, the floating-point mode and the segment table;
the threading layers of Numba are not involved. Compiled code is kept on disk (see `object_cache`). If it is found
there, Numba is not even loaded.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .. import constants, registers
from ..engine import step_table
from ..formulas import registry
from ..render.numba_source import adding_source, coefficients_source, numba_source, sum_source
from . import machine_code, object_cache

_compiling = threading.Lock()
"""Ensures that a function is compiled only once if several threads request it at the same time."""


@functools.cache
def _compiler_digest() -> str:
    """The digest of the modules that decide how a source is compiled: this folder, and what a whole step works on."""
    own = sorted(Path(__file__).parent.glob("*.py"))
    paths = [*own, *(Path(str(module.__file__)) for module in (constants, registers, step_table))]
    return object_cache.key(*(text for path in paths for text in (path.name, path.read_text(encoding="utf-8"))))


def _text(source: str, name: str, real: str, kind: str) -> str:
    from . import compile as numba_compile

    return numba_compile.llvm_text(source, name, real, kind, _symbol(name))


def _symbol(name: str) -> str:
    return f"fastopt_{name}"


def _address(source: str, name: str, real: str, kind: str) -> int:
    return _address_of(name, lambda: _text(source, name, real, kind), source, name, real, kind)


def _key(*identity: str) -> str:
    return object_cache.key(*identity, _compiler_digest(), machine_code.environment())


def _address_of(name: str, text: Callable[[], str], *identity: str) -> int:
    """The address of a function, whose LLVM text is made only if no compiled one of this identity is kept."""
    key = _key(*identity)
    data = object_cache.read(key)
    if data is None:
        data = machine_code.emit(text())
        object_cache.write(key, data)
    return machine_code.load(data, _symbol(name))


def _loop_parts(name: str, real: str) -> tuple[str, str, str, str]:
    return numba_source(registry.loop(name), real), f"{name}_loop", real, "loop"


def _adding_parts(name: str, real: str) -> tuple[str, str, str, str]:
    return adding_source(registry.loop(name), real), f"{name}_loop", real, "loop"


def _coefficients_parts(name: str) -> tuple[str, str, str, str]:
    source = coefficients_source(registry.functions_of_coefficients(name))
    return source, f"{name}_coefficients", "float64", "coefficients"


@functools.cache
def _loop(name: str, real: str) -> int:
    return _address(*_loop_parts(name, real))


@functools.cache
def _adding_loop(name: str, real: str) -> int:
    return _address(*_adding_parts(name, real))


@functools.cache
def _coefficient_function(name: str) -> int:
    return _address(*_coefficients_parts(name))


@functools.cache
def _sum_over(name: str, real: str) -> int:
    number = real if name in registry.counts() else "float64"
    source, own = sum_source(registry.functions_of_sum(name)), f"{name}_sum"
    identity = (source, own, real, "sum", number)

    def text() -> str:
        from . import compile as numba_compile

        return numba_compile.llvm_text(source, own, real, "sum", _symbol(own), number)

    return _address_of(own, text, *identity)


_WHOLE_STEP = ("whole_step", repr(object.__basicsize__))


@functools.cache
def _whole_step() -> int:
    return _address_of("whole_step", whole_step_text, *_WHOLE_STEP)


def loop(name: str, dtype: np.dtype) -> int:
    """The address of the loop of a rule or an operation over float32 or float64; compiles it the first time."""
    with _compiling:
        return _loop(name, dtype.name)


def loop_of_engine(name: str, dtype: np.dtype) -> int:
    """The same for the compiled engine: its loops of terms add them up."""
    with _compiling:
        return (_adding_loop if registry.loop(name).reductions else _loop)(name, dtype.name)


def coefficient_function(name: str) -> int:
    """The address of a coefficient function; compiles it the first time."""
    with _compiling:
        return _coefficient_function(name)


def sum_over(name: str, dtype: np.dtype) -> int:
    """The address of a sum whose term is one number, over float32 or float64; compiles it the first time."""
    with _compiling:
        return _sum_over(name, dtype.name)


def whole_step() -> int:
    """The address of the function that does a whole step; see `engine.step_table`. Compiles it the first time."""
    with _compiling:
        return _whole_step()


def is_whole_step_kept() -> bool:
    """Whether that function need not be compiled: it was, in this process or before."""
    return _whole_step.cache_info().currsize > 0 or object_cache.read(_key(*_WHOLE_STEP)) is not None


def whole_step_text() -> str:
    """The LLVM text of that function."""
    from . import compile as numba_compile

    return numba_compile.whole_step_text(_symbol("whole_step"))


def loop_text(name: str, real: str) -> str:
    """The LLVM text of a loop, for inspection."""
    return _text(*_loop_parts(name, real))


def coefficients_text(name: str) -> str:
    """The LLVM text of a coefficient function, for inspection."""
    return _text(*_coefficients_parts(name))

"""Compiles kernels from their source, once for each distinct source."""

from __future__ import annotations

import functools
import hashlib
import linecache
import threading
from typing import Any

from .words import machine, words

_compiling = threading.Lock()
"""Makes threads that request the same kernel at the same time compile it only once."""


def python_function(source: str, name: str, real: str) -> Any:
    """The function `name` of a source, as a Python function; Numba and tracebacks can show its lines."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    filename = f"<fastopt cuda {name} {real} {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = words(real)
    exec(compile(source, filename, "exec"), namespace)
    return namespace[name]


@functools.cache
def _compiled(source: str, name: str, real: str) -> Any:
    return machine.compiled_kernel(python_function(source, name, real))


def kernel(source: str, name: str, real: str) -> Any:
    """A kernel that takes one int64, the address of a header; compiled for the current device on first use."""
    with _compiling:
        return _compiled(source, name, real)

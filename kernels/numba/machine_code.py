"""Compiles LLVM text to an object for this processor, and loads objects; uses llvmlite, without Numba."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm


@functools.cache
def target_machine() -> Any:
    """The LLVM target machine for this processor; follows NUMBA_CPU_NAME and related variables as Numba does."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = processor()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small")


@functools.cache
def processor() -> tuple[str, str]:
    """The name and the features of the processor."""
    name, features = os.environ.get("NUMBA_CPU_NAME", "host"), os.environ.get("NUMBA_CPU_FEATURES", "")
    if name in ("", "host"):
        name, features = llvm.get_host_cpu_name(), features or llvm.get_host_cpu_features().flatten()
    return name, features.replace("+avx", "-avx") if os.environ.get("NUMBA_ENABLE_AVX") == "0" else features


@functools.cache
def environment() -> str:
    """Everything except the source that an object depends on: versions, the processor, and the variables of Numba."""
    variables = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    triple = llvm.get_default_triple()
    return repr((_numba_version(), _llvmlite_version(), triple, processor(), variables))


def _numba_version() -> str:
    """The version of Numba, read without loading Numba, which would take longer than everything else."""
    found = importlib.util.find_spec("numba")
    if found is None or found.origin is None:
        raise ImportError("No module named 'numba'")
    version_file = Path(found.origin).with_name("_version.py")
    if version_file.is_file():
        return version_file.read_text(encoding="utf-8")
    import numba

    return str(numba.__version__)


def _llvmlite_version() -> str:
    import llvmlite

    return f"{llvmlite.__version__} {llvm.llvm_version_info}"


def emit(text: str) -> bytes:
    """Compile a module, given as optimized LLVM text, to an object."""
    machine = target_machine()
    module = llvm.parse_assembly(text)
    module.verify()
    data: bytes = machine.emit_object(module)
    return data


def assembly(text: str) -> str:
    """The assembly of a module, given as optimized LLVM text, for inspection."""
    found: str = target_machine().emit_assembly(llvm.parse_assembly(text))
    return found


@functools.cache
def _provide_powers() -> None:
    """Bind what objects call to Python's own C library: on Windows, several can be loaded. They call nothing else."""
    library = ctypes.CDLL("ucrtbase")
    for name in ("pow", "log"):
        llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)


_engines: list[Any] = []
"""Never freed: they hold the code whose addresses `load` has returned."""


def load(data: bytes, symbol: str) -> int:
    """Load an object into memory, and return the address of one of its functions."""
    machine = target_machine()
    if sys.platform == "win32":
        _provide_powers()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    address = int(engine.get_function_address(symbol))
    if not address:
        raise RuntimeError(f"the object has no function {symbol!r}")
    _engines.append(engine)
    return address

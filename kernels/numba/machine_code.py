"""From LLVM's text to an object for this processor, and from an object to addresses; llvmlite, without Numba."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm


@functools.cache
def target_machine() -> Any:
    """This processor, as LLVM sees it; NUMBA_CPU_NAME and the like count here as they do in Numba."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = processor()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small")


@functools.cache
def processor() -> tuple[str, str]:
    """Its name and its features."""
    name, features = os.environ.get("NUMBA_CPU_NAME", "host"), os.environ.get("NUMBA_CPU_FEATURES", "")
    if name in ("", "host"):
        name, features = llvm.get_host_cpu_name(), features or llvm.get_host_cpu_features().flatten()
    return name, features.replace("+avx", "-avx") if os.environ.get("NUMBA_ENABLE_AVX") == "0" else features


@functools.cache
def environment() -> str:
    """All that an object depends on beside its source: versions, the processor, and what Numba is told."""
    variables = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    triple = llvm.get_default_triple()
    return repr((_numba_version(), _llvmlite_version(), triple, processor(), variables))


def _numba_version() -> str:
    """Without loading Numba, which takes longer than all the rest."""
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
    """The object of a module that is given as text, which has been optimized."""
    machine = target_machine()
    module = llvm.parse_assembly(text)
    module.verify()
    data: bytes = machine.emit_object(module)
    return data


def assembly(text: str) -> str:
    """The same as a text, for reading."""
    found: str = target_machine().emit_assembly(llvm.parse_assembly(text))
    return found


_engines: list[Any] = []
"""Kept for ever, with the code whose addresses were handed out."""


def load(data: bytes, symbol: str) -> int:
    """Where a function of an object is, once it is in memory."""
    machine = target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    address = int(engine.get_function_address(symbol))
    if not address:
        raise RuntimeError(f"the object has no function {symbol!r}")
    _engines.append(engine)
    return address

"""The floating-point mode of a step, for code that NumPy runs; the compiled engine sets the mode for itself.

It uses the floating-point environment of the C library, or functions that LLVM compiles: no compiled module.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from .registers import PROCESSOR, REGISTER

REGISTER_OFFSETS = {
    ("linux", "x86_64"): 28,
    ("linux", "arm64"): 0,
    ("darwin", "x86_64"): 4,
    ("darwin", "arm64"): 8,
}
"""Where the control register is in `fenv_t`, in bytes, by system and processor."""

Result = TypeVar("Result")

_ENVIRONMENT_BYTES = 64  # More than any fenv_t.

_FUNCTIONS = {
    "x86_64": """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define i64 @get_mode() {
    %place = alloca i32
    call void @llvm.x86.sse.stmxcsr(ptr %place)
    %word = load i32, ptr %place
    %mode = zext i32 %word to i64
    ret i64 %mode
}
define void @set_mode(i64 %mode) {
    %place = alloca i32
    %word = trunc i64 %mode to i32
    store i32 %word, ptr %place
    call void @llvm.x86.sse.ldmxcsr(ptr %place)
    ret void
}
""",
    "arm64": """
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
define i64 @get_mode() {
    %mode = call i64 @llvm.aarch64.get.fpcr()
    ret i64 %mode
}
define void @set_mode(i64 %mode) {
    call void @llvm.aarch64.set.fpcr(i64 %mode)
    ret void
}
""",
}
"""Functions that read and write the control register of a processor."""

Mode = Any
"""The floating-point mode of a thread, as `Access.get` returns it."""


class Access(NamedTuple):
    """How the mode is read and written: in the C library's own form, or as a number."""

    get: Callable[[], Mode]
    set: Callable[[Mode], object]
    changed: Callable[[Mode, bool], Mode]
    """The mode of a step, made of the caller's: with denormals as zero, or not."""


def _standard(flush: bool) -> int:
    """The control register in a step."""
    return REGISTER.standard | REGISTER.flush if flush else REGISTER.standard


def _by_c_library() -> Access | None:
    """For systems whose `fenv_t` is known."""
    offset = REGISTER_OFFSETS.get((sys.platform, PROCESSOR))
    if offset is None:
        return None
    library = ctypes.CDLL(None)

    def get() -> Mode:
        mode = (ctypes.c_ubyte * _ENVIRONMENT_BYTES)()
        library.fegetenv(mode)
        return mode

    def changed(mode: Mode, flush: bool) -> Mode:
        other = (ctypes.c_ubyte * _ENVIRONMENT_BYTES)(*mode)
        ctypes.c_uint32.from_buffer(other, offset).value = _standard(flush)
        return other

    return Access(get, library.fesetenv, changed)


def _by_llvm() -> Access | None:
    """For all systems on known processors, Windows for one: functions that LLVM compiles, where it is installed."""
    functions = _FUNCTIONS.get(PROCESSOR)
    if functions is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        import llvmlite.binding as llvm
    except ImportError:
        return None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine()
    compiler = llvm.create_mcjit_compiler(llvm.parse_assembly(functions), target)
    compiler.finalize_object()
    _compilers.append(compiler)
    get = ctypes.PYFUNCTYPE(ctypes.c_uint64)(compiler.get_function_address("get_mode"))
    set = ctypes.PYFUNCTYPE(None, ctypes.c_uint64)(compiler.get_function_address("set_mode"))
    return Access(get, set, lambda mode, flush: _standard(flush))


_compilers: list[Any] = []
"""Never freed: they hold the code of the functions."""


@functools.cache
def _access() -> Access | None:
    return _by_c_library() or _by_llvm()


@functools.cache
def can_flush_denormals() -> bool:
    """Whether it is known how to treat denormals as zero on this machine."""
    return _access() is not None


def with_denormals(flush: bool, function: Callable[[], Result]) -> Result:
    """The result of `function()`, run with denormals as zero, or not with `flush=False`; the mode is restored after.

    Whatever the mode of the caller is, the function runs with rounding to nearest and without traps. Where it is not
    known how (see `can_flush_denormals`), it runs in the caller's mode.

    It is not a context manager, because a signal handler may raise between `__enter__` and the block.
    """
    access = _access()
    if access is None:
        return function()
    before = access.get()
    changed = access.changed(before, flush)
    try:
        access.set(changed)
        return function()
    finally:
        access.set(before)

"""The table of backends: by name, the loops, coefficient functions and engine of each."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .engine import host_memory
from .engine.contract import EngineInputs
from .formulas import registry
from .formulas.storage import FORMATS


class Memory(Protocol):
    """The kind of memory that holds the arrays of a backend: a module, `host_memory` or `cuda.memory`.

    Its arrays have dtype, shape, strides, size, ndim, nbytes. Arrays from `zeros` can also be sliced and reshaped.
    """

    ARRAYS: str
    """The name for its arrays in messages."""
    CONTIGUOUS_COPY: str
    """What makes a contiguous copy of an array, for messages."""
    ALIGNMENT: int
    """Alignment in bytes: the part of each parameter in a buffer of states begins at a multiple of it."""
    PICKLES: bool
    """Whether optimizers over its arrays can be pickled and deep-copied."""

    def as_array(self, value: object, /) -> Any:
        """The array that a value is or wraps, without a copy; None for any other value."""

    def zeros(self, size: int, dtype: np.dtype[Any], /) -> Any:
        """A new one-dimensional array, zeroed and aligned."""

    def fill(self, array: Any, value: float, /) -> None: ...

    def clear_together(self, arrays: Iterable[Any], records: Iterable[np.ndarray], /) -> None:
        """Fill arrays of this memory, and records of them in main memory, with zeros."""

    def copy(self, target: Any, source: Any, /) -> None:
        """Copy `source`, an array of this memory or NumPy, to `target`, an array of this memory and the same shape."""

    def to_host(self, array: Any, /) -> np.ndarray:
        """A copy of an array in main memory."""

    def address(self, array: Any, /) -> int: ...

    def is_contiguous(self, array: Any, /) -> bool: ...

    def is_writable(self, array: Any, /) -> bool: ...

    def place(self, array: Any, /) -> str:
        """The place of an array; all arrays of one optimizer must be in the same place."""


def _no_codec(name: str, stochastic: bool) -> tuple[Any, Any]:
    raise NotImplementedError(f"this backend reads and writes float32 and float64 alone, not {name}")


def _decoded_first(name: str) -> None:
    return None


def _codec_on_a_device(name: str, stochastic: bool) -> tuple[Any, Any]:
    """None: kernels decode and encode elements as they load and store them."""
    if FORMATS[name].has_base:
        raise NotImplementedError(
            f"backend='cuda' has no states of {name}, whose elements share a number with others of a block; use "
            "float32 states, or a backend that runs on the processor"
        )
    return None, None


def _in_main_memory_only(*arguments: Any) -> Any:
    raise NotImplementedError("arrays on a device are added up and changed by an engine only")


def _can_flush_denormals() -> bool:
    from . import floating_point  # not needed by the compiled module

    return floating_point.can_flush_denormals()


@dataclass(frozen=True)
class Backend:
    """One way to run the rules."""

    name: str
    engine: Callable[[EngineInputs], Any]
    """Creates a `contract.Engine`, or a `contract.DeviceEngine` if steps run on a device."""
    loop: Callable[[str, Any], Any]
    """The loop of a rule, an operation or terms, in a precision. The operands of terms are arrays of them; for the
    compiled engine they are `constants.LANES` partial sums of each term, to which the loop adds."""
    sum_over: Callable[[str, Any], Any]
    coefficient_function: Callable[[str], Any]
    codec: Callable[[str, bool], tuple[Any, Any]] = _no_codec
    """What decodes and encodes a format, given its name and whether it rounds stochastically."""
    over_bfloat16: Callable[[str], tuple[Any, Any] | None] = _decoded_first
    """The loops of a rule over operands that are all stored as bfloat16: see `engine.plan.Operation`."""
    add_up_arrays: Callable[[list[Any], Any, int], float] = _in_main_memory_only
    """Adds up all elements of arrays, given a sum from `sum_over` and the most threads to use (0: the default)."""
    change_arrays: Callable[[list[Any], Any, tuple[float, ...], int], None] = _in_main_memory_only
    """Calls a loop of one operand on each array, given its coefficients and the most threads to use."""
    memory: Memory = host_memory
    """The memory that holds its arrays."""
    on_device: bool = False
    """Whether its steps run on a device, on the engine's `stream`."""
    can_flush_denormals: Callable[[], bool] = _can_flush_denormals
    """Whether its steps on this machine can treat denormals as zero."""
    native: bool = False
    """Whether its engine is the compiled one, which other compiled modules step by the addresses of gradients."""


def check_flush(backend: Backend, wanted: bool | None) -> None:
    """Raise if a user has asked for what steps of a backend cannot do; `wanted` is None if that was left open.

    Raises
    ------
    NotImplementedError
        It is not known how denormals are treated as zero on this machine.
    """
    if wanted and not backend.can_flush_denormals():
        import platform  # slow to load

        raise NotImplementedError(
            f"flush_denormals=True with backend={backend.name!r}: not known how on {sys.platform} "
            f"{platform.machine()}; leave it out, or pass flush_denormals=False"
        )


@functools.cache
def compiled_module_error() -> str | None:
    """Why the compiled module cannot be used, or None if it can; loads it, with the loops for this processor.

    Raises
    ------
    ValueError
        FASTOPT_CPU or FASTOPT_PREFETCH requests something impossible.
    """
    try:
        from . import native  # noqa: F401
        from .native import loops as cython_loops  # noqa: F401
    except ImportError as error:
        folder = Path(__file__).with_name("native")
        built = any((folder / f"engine{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
        return str(error) if built else "it was not built"
    return None


def _cython() -> Backend:
    error = compiled_module_error()
    if error is not None:
        raise ImportError(
            f"backend 'cython': the compiled module cannot be loaded ({error}). In a checkout, build it with "
            "`python -m pip install -e .`; after a plain `pip install .`, start Python outside of the checkout's root"
        )
    from . import native
    from .native import loops as cython_loops

    return Backend(
        "cython",
        native.Engine,
        cython_loops.loop,
        cython_loops.sum_over,
        native.coefficient_function,
        cython_loops.codec,
        cython_loops.over_bfloat16,
        add_up_arrays=native.add_up_arrays,
        change_arrays=native.change_arrays,
        can_flush_denormals=native.can_flush_denormals,
        native=True,
    )


def _numba() -> Backend:
    try:
        from .numba import loops as numba_loops
        from .numba import machine_code

        machine_code.environment()  # Numba itself is loaded only to compile something.
    except ImportError as error:
        raise ImportError(f"backend 'numba': Numba cannot be loaded ({error}); `pip install numba`") from error
    if compiled_module_error() is None:
        from . import native
        from .native import loops as cython_loops

        def coefficient_function(name: str) -> int:
            custom = name in registry.CUSTOM_RULES
            return numba_loops.coefficient_function(name) if custom else native.coefficient_function(name)

        # Sums always come from the engine, for every kind of loop.
        return Backend(
            "numba",
            native.Engine,
            numba_loops.loop_of_engine,
            cython_loops.sum_over,
            coefficient_function,
            cython_loops.codec,
            add_up_arrays=native.add_up_arrays,
            change_arrays=native.change_arrays,
            can_flush_denormals=native.can_flush_denormals,
            native=True,
        )
    from .python import codecs, reference
    from .python.compiled_engine import CompiledEngine, CompiledLoop, WithAddress

    return Backend(
        "numba",
        functools.partial(CompiledEngine, whole_step=numba_loops.whole_step, is_kept=numba_loops.is_whole_step_kept),
        lambda name, dtype: CompiledLoop(numba_loops.loop(name, dtype)),
        lambda name, dtype: WithAddress(
            reference.sum_over(name, dtype), functools.partial(numba_loops.sum_over, name, dtype)
        ),
        lambda name: WithAddress(
            reference.coefficient_function(name), functools.partial(numba_loops.coefficient_function, name)
        ),
        codecs.codec,
        add_up_arrays=reference.add_up_arrays,
        change_arrays=reference.change_arrays,
    )


def _reference() -> Backend:
    from .python import codecs, reference
    from .python.engine import PythonEngine

    return Backend(
        "reference",
        PythonEngine,
        reference.loop,
        reference.sum_over,
        reference.coefficient_function,
        codecs.codec,
        add_up_arrays=reference.add_up_arrays,
        change_arrays=reference.change_arrays,
    )


def _cuda() -> Backend:
    from .cuda.availability import require_cuda

    require_cuda()
    from .cuda import memory
    from .cuda.engine import CudaEngine

    return Backend(
        "cuda",
        CudaEngine,
        lambda name, dtype: registry.loop(name),
        lambda name, dtype: registry.functions_of_sum(name),
        registry.functions_of_coefficients,
        _codec_on_a_device,
        memory=memory,
        on_device=True,
        can_flush_denormals=lambda: True,  # they are never slow, and are kept: docs/cuda.md
    )


BACKENDS: dict[str, Callable[[], Backend]] = {
    "cython": _cython,
    "numba": _numba,
    "reference": _reference,
    "cuda": _cuda,
}


@functools.cache
def load(name: str, custom: bool = False) -> Backend:
    """A backend by name; "auto" is cython if it was built, else numba, and always numba for `custom` rules.

    Raises
    ------
    ValueError
        No backend has this name, or the backend cannot run a custom rule.
    ImportError
        The backend needs something that is not installed.
    """
    if name == "auto":
        name = "cython" if compiled_module_error() is None and not custom else "numba"
    if custom and name == "cython":
        raise ValueError(
            "backend='cython' has loops for built-in rules only; a custom rule is compiled by 'numba', which "
            "'auto' chooses"
        )
    if name not in BACKENDS:
        raise ValueError(f"unknown backend: {name!r} (expected one of 'auto', {', '.join(map(repr, BACKENDS))})")
    return BACKENDS[name]()

"""The table of backends: where loops, coefficient functions and the engine come from, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .engine import host_memory
from .engine.contract import EngineInputs
from .formulas import registry


class Memory(Protocol):
    """Where a backend's arrays are: a module, `host_memory` or `cuda.memory`.

    Its arrays have dtype, shape, strides, size, ndim, nbytes, and can be sliced and reshaped where `zeros` made them.
    """

    ARRAYS: str
    """What messages call an array there."""
    ALIGNMENT: int
    """Bytes at which the part of each parameter in a buffer of states begins."""
    PICKLES: bool
    """Whether optimizers over such arrays can be pickled and deep-copied."""

    def as_array(self, value: object, /) -> Any:
        """The array that something is or stands for, without a copy; None for anything else."""

    def zeros(self, size: int, dtype: np.dtype[Any], /) -> Any:
        """A one-dimensional array, zeroed and aligned."""

    def fill(self, array: Any, value: float, /) -> None: ...

    def copy(self, target: Any, source: Any, /) -> None:
        """Write an array of the same shape, of this memory or NumPy's, over one of this memory."""

    def to_host(self, array: Any, /) -> np.ndarray:
        """A copy in main memory."""

    def address(self, array: Any, /) -> int: ...

    def is_contiguous(self, array: Any, /) -> bool: ...

    def is_writable(self, array: Any, /) -> bool: ...

    def place(self, array: Any, /) -> str:
        """Where an array is; arrays of one optimizer are all in one place."""


def _in_main_memory_only(*arguments: Any) -> Any:
    raise NotImplementedError("arrays on a device are added up and changed by an engine only")


@dataclass(frozen=True)
class Backend:
    """One way to run the rules."""

    name: str
    engine: Callable[[EngineInputs], Any]
    """Makes a `contract.Engine`; a `contract.DeviceEngine` where steps run on a device."""
    loop: Callable[[str, Any], Any]
    sum_over: Callable[[str, Any], Any]
    coefficient_function: Callable[[str], Any]
    add_up_arrays: Callable[[list[Any], Any, int], float] = _in_main_memory_only
    """The sum over all elements of arrays, given a sum from `sum_over` and at most so many threads (0: the default)."""
    change_arrays: Callable[[list[Any], Any, tuple[float, ...], int], None] = _in_main_memory_only
    """Calls a loop of one operand on each of these arrays, given its coefficients and at most so many threads."""
    memory: Memory = host_memory
    """Where its arrays are."""
    on_device: bool = False
    """Whether its steps run on a device, on the engine's `stream`."""


@functools.cache
def compiled_module_error() -> str | None:
    """Why the compiled module cannot be used, or None when it can; loads it, with this processor's loops.

    Raises
    ------
    ValueError
        FASTOPT_CPU or FASTOPT_PREFETCH asks for what is not possible.
    """
    try:
        from . import native  # noqa: F401
        from .native import loops as cython_loops  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


def _cython() -> Backend:
    try:
        from . import native
        from .native import loops as cython_loops
    except ImportError as error:
        raise ImportError(
            f"backend 'cython': the compiled module cannot be loaded ({error}). In a checkout, build it with "
            "`python -m pip install -e .`; after a plain `pip install .`, start Python outside of the checkout's root"
        ) from error
    return Backend(
        "cython",
        native.Engine,
        cython_loops.loop,
        cython_loops.sum_over,
        native.coefficient_function,
        native.add_up_arrays,
        native.change_arrays,
    )


def _numba() -> Backend:
    try:
        from .numba import loops as numba_loops
        from .numba import machine_code

        machine_code.environment()  # Numba itself is loaded when there is something to compile.
    except ImportError as error:
        raise ImportError(f"backend 'numba': Numba cannot be loaded ({error}); `pip install numba`") from error
    if compiled_module_error() is None:
        from . import native
        from .native import loops as cython_loops

        def coefficient_function(name: str) -> int:
            custom = name in registry.CUSTOM_RULES
            return numba_loops.coefficient_function(name) if custom else native.coefficient_function(name)

        # Sums are the engine's own, for every kind of loop.
        return Backend(
            "numba",
            native.Engine,
            numba_loops.loop,
            cython_loops.sum_over,
            coefficient_function,
            native.add_up_arrays,
            native.change_arrays,
        )
    from .python import reference
    from .python.engine import ThreadedPythonEngine, callable_loop

    def loop(name: str, dtype: Any) -> Any:
        return callable_loop(numba_loops.loop(name, dtype))

    return Backend(
        "numba",
        ThreadedPythonEngine,
        loop,
        reference.sum_over,
        reference.coefficient_function,
        reference.add_up_arrays,
        reference.change_arrays,
    )


def _reference() -> Backend:
    from .python import reference
    from .python.engine import PythonEngine

    return Backend(
        "reference",
        PythonEngine,
        reference.loop,
        reference.sum_over,
        reference.coefficient_function,
        reference.add_up_arrays,
        reference.change_arrays,
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
        memory=memory,
        on_device=True,
    )


BACKENDS: dict[str, Callable[[], Backend]] = {
    "cython": _cython,
    "numba": _numba,
    "reference": _reference,
    "cuda": _cuda,
}


@functools.cache
def load(name: str, custom: bool = False) -> Backend:
    """A backend by name; "auto" is cython where it was built, else numba, which also runs `custom` rules.

    Raises
    ------
    ValueError
        There is no backend of that name, or it cannot run a custom rule.
    ImportError
        There is, but what it needs is not installed.
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

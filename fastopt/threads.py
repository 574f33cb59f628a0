"""The number of threads of a step."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable
from typing import Any

from .kernels import backends, cpu


def _number_of_threads(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = int(value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    if number > 4096:
        raise ValueError(f"{name} must be at most 4096, got {number}")
    return number


def check_n_threads(value: Any) -> int:
    """An optimizer's `n_threads` for the engine: 0 means the default."""
    return 0 if value is None else _number_of_threads("n_threads", value)


def set_num_threads(n: int | None) -> None:
    """Set the maximum number of threads for optimizers without their own `n_threads`, from the next step on.

    Small steps use fewer threads, because waking a thread takes as long as a few microseconds of work. The results
    have the same bits with any number.

    Parameters
    ----------
    n: int or None
        At least 1. None restores the default: OMP_NUM_THREADS if set, or else the number of processors that this
        process may use (by its affinity and by its control group's quota, rounded up).

    Raises
    ------
    TypeError, ValueError
        `n` is not an integer, or less than 1.

    Examples
    --------
    >>> import fastopt
    >>> fastopt.set_num_threads(1)
    >>> fastopt.get_num_threads()
    1
    >>> fastopt.set_num_threads(None)
    """
    value = 0 if n is None else _number_of_threads("n", n)
    if backends.compiled_module_error() is None:
        from .kernels import native

        native.set_requested_threads(value)
    cpu.set_requested_threads(value)


def get_num_threads() -> int:
    """The maximum number of threads for optimizers without their own `n_threads`; see `set_num_threads`."""
    return _default_threads()()


@functools.cache
def _default_threads() -> Callable[[], int]:
    if backends.compiled_module_error() is None:
        from .kernels import native

        default: Callable[[], int] = native.get_default_threads
        return default
    return cpu.default_threads

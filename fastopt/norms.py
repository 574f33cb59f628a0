"""The global norm of arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .kernels import backends
from .kernels.engine import host_memory
from .state.arrays import check_array, describe_type
from .state.param_tree import read_params
from .step.storage import working_dtype
from .threads import check_n_threads


def global_norm(arrays: Any, *, n_threads: int | None = None) -> float:
    """The L2 norm of all elements of all arrays together, in one parallel pass.

    sqrt(sum x^2). Squares are computed and added in float64 in a fixed order, so the result has the same bits with any
    number of threads, and float32 arrays lose no accuracy. `max_grad_norm` clips by this norm.

    Parameters
    ----------
    arrays: numpy.ndarray, or dict or sequence of them, which can be nested
        C-contiguous, all float64, or all of float32, bfloat16 and float16. None in a list or dict is ignored.
    n_threads: int, optional
        The maximum number of threads; default `fastopt.get_num_threads()`.

    Returns
    -------
    norm: float
        0 without elements; NaN if any element is NaN.

    Raises
    ------
    TypeError, ValueError
        An entry is not such an array, or dtypes differ.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> fastopt.global_norm({"W": np.full((2, 2), 2.0), "b": np.array([3.0])})
    5.0
    """
    check_n_threads(n_threads)
    if not isinstance(arrays, (np.ndarray, Mapping, Sequence)) or isinstance(arrays, (str, bytes)):
        raise TypeError(f"arrays must be a numpy.ndarray, or a dict or sequence of them, got {describe_type(arrays)}")
    tree, leaves = read_params(arrays, "arrays")
    named = [(label, each) for label, each in zip(tree.labels("arrays"), leaves, strict=True) if each is not None]
    copied = f"pass {host_memory.CONTIGUOUS_COPY}"
    checked = [(label, check_array(label, each, writable=False, instead=copied)) for label, each in named]
    if not checked:
        return 0.0
    first, dtype = checked[0][0], checked[0][1].dtype
    for label, array in checked:
        if working_dtype(array.dtype) != working_dtype(dtype):
            raise TypeError(
                "arrays must all be of one dtype, or of float32, bfloat16 and float16: "
                f"{first} is {dtype}, {label} is {array.dtype}"
            )
    return norm_of([array for _, array in checked], n_threads)


def norm_of(checked: list[np.ndarray], n_threads: int | None = None) -> float:
    """`global_norm` of arrays that are already known to go together and to be C-contiguous.

    Those of 16 bits are copied to float32, one after the other.
    """
    if not checked:
        return 0.0
    working, threads = working_dtype(checked[0].dtype), check_n_threads(n_threads)
    add_up_arrays, square = _sum_of_squares(working)
    halves = [array for array in checked if array.dtype != working]
    if not halves:
        return math.sqrt(add_up_arrays(checked, square, threads))
    total = 0.0
    for array in checked:
        total += add_up_arrays([array if array.dtype == working else array.astype(working)], square, threads)
    return math.sqrt(total)


@functools.cache
def _sum_of_squares(dtype: np.dtype) -> tuple[Callable[[list[Any], Any, int], float], Any]:
    backend = backends.load("auto")
    return backend.add_up_arrays, backend.sum_over("square", dtype)

"""Arrays in one flat buffer, with a view for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from ..kernels.engine import host_memory
from ..step.storage import HALVES
from .arrays import DTYPES, describe_type, empty_aligned, is_half, listed
from .param_tree import read_params

Name = TypeVar("Name")


@overload
def pack(arrays: Mapping[Name, np.ndarray]) -> tuple[np.ndarray, dict[Name, np.ndarray]]: ...
@overload
def pack(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]: ...
def pack(arrays: Any) -> Any:
    """Copy arrays into one flat buffer and return it with a view of it for each.

    A pickle or a deep copy of the result has views that are arrays of their own, as NumPy copies them: pack them again.

    The buffer starts on a 64-byte boundary and holds the arrays one after the other without gaps, so its size is the
    number of parameters, and an optimizer over it makes one pass over memory.

    Parameters
    ----------
    arrays: dict or sequence of numpy.ndarray
        All of one dtype: float32, float64, bfloat16 or float16. They are copied and not kept. Dicts, lists and tuples
        can be nested.

    Returns
    -------
    flat: numpy.ndarray
        One-dimensional.
    views: dict or list
        As `arrays`, with lists for tuples, of the same shapes; writing to a view writes to `flat`.

    Raises
    ------
    TypeError
        Something is not an array of one of these dtypes, or the dtypes differ.
    ValueError
        There are no arrays.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> flat, views = fastopt.pack({"W": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)})
    >>> flat.shape, views["W"].shape
    ((9,), (2, 3))
    >>> views["b"][:] = 5
    >>> flat
    array([1., 1., 1., 1., 1., 1., 5., 5., 5.], dtype=float32)
    """
    if (
        isinstance(arrays, np.ndarray)
        or not isinstance(arrays, (Mapping, Sequence))
        or isinstance(arrays, (str, bytes))
    ):
        raise TypeError(f"arrays must be a dict or a sequence of arrays, got {describe_type(arrays)}")
    tree, leaves = read_params(arrays, "arrays")
    if not leaves:
        raise ValueError("arrays is empty; there is nothing to pack")
    dtypes = {}
    for label, array in zip(tree.labels("arrays"), leaves, strict=True):
        if host_memory.as_array(array) is None:
            raise TypeError(f"{label} must be a numpy.ndarray, got {describe_type(array)}")
        if not (array.dtype in DTYPES or is_half(array.dtype)) or not array.dtype.isnative:
            known = listed((*map(str, DTYPES), *HALVES))
            raise TypeError(f"{label} must be of native {known}, got dtype {array.dtype.str!r}")
        dtypes[array.dtype] = label
    if len(dtypes) > 1:
        found = ", ".join(f"{label} is {dtype}" for dtype, label in dtypes.items())
        raise TypeError(f"arrays must all be of one dtype: {found}")
    flat = empty_aligned(sum(array.size for array in leaves), next(iter(dtypes)))
    views, start = [], 0
    for array in leaves:
        view = flat[start : start + array.size].reshape(array.shape)
        view[...] = array
        views.append(view)
        start += math.prod(array.shape)
    return flat, tree.unflatten(views)

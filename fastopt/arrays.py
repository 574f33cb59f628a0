"""Checks of the arrays that users hand in, and aligned memory for those that we allocate."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy as np

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))

Name = TypeVar("Name")


def empty_aligned(size: int, dtype: np.dtype[Any]) -> np.ndarray:
    """A zeroed one-dimensional array that starts on a cache line."""
    memory = np.zeros(size * dtype.itemsize + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size * dtype.itemsize].view(dtype)


def _is_masked(array: np.ndarray) -> bool:
    """Whether it has a mask; does not load numpy.ma, which takes longer than all else in a first step."""
    return isinstance(array, getattr(sys.modules.get("numpy.ma"), "MaskedArray", ()))


def check_array(label: str, array: object, *, writable: bool) -> np.ndarray:
    """Check that an array is something that a kernel can walk over in place.

    Raises
    ------
    TypeError
        It is no NumPy array, or not of float32 or float64 in this machine's byte order.
    ValueError
        It is not C-contiguous, not aligned, or read-only where it must be written.
    """
    if not isinstance(array, np.ndarray) or _is_masked(array):
        raise TypeError(f"{label} must be a numpy.ndarray, got {describe_type(array)}")
    if not array.dtype.isnative:
        raise TypeError(f"{label} must be in this machine's byte order, got dtype {array.dtype.str!r}")
    if array.dtype not in DTYPES:
        raise TypeError(f"{label} must be of dtype float32 or float64, got {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{label} must be C-contiguous, got shape {array.shape} with strides {array.strides}; "
            "fastopt updates in place and makes no silent copy"
        )
    if not array.flags.aligned:
        raise ValueError(f"{label} must be aligned to its itemsize, got address {array.ctypes.data:#x}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{label} must be writable, got a read-only array")
    return array


def check_like(label: str, array: object, param: np.ndarray, *, writable: bool = False) -> np.ndarray:
    """Check that an array can stand beside a parameter as its gradient: same dtype, same shape."""
    checked = check_array(label, array, writable=writable)
    if checked.dtype != param.dtype:
        raise TypeError(f"{label} must be of its parameter's dtype {param.dtype}, got {checked.dtype}")
    if checked.shape != param.shape:
        raise ValueError(f"{label} must be of its parameter's shape {param.shape}, got {checked.shape}")
    return checked


def memory_span(array: np.ndarray) -> tuple[int, int]:
    """The addresses [begin, end) of a contiguous array."""
    begin = array.__array_interface__["data"][0]
    return begin, begin + array.nbytes


def check_no_overlap(arrays: Sequence[tuple[str, np.ndarray]]) -> None:
    """Check that no two of these contiguous arrays share memory; O(n log n)."""
    spans = sorted((*memory_span(array), label) for label, array in arrays if array.nbytes)
    for (_, end, label), (begin, _, other) in itertools.pairwise(spans):
        if begin < end:
            raise ValueError(f"{label} and {other} share memory; every parameter needs its own")


def describe_type(value: object) -> str:
    """What something is that should have been an array, with advice where there is some."""
    name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    if name.split(".")[0] == "torch":
        name += " (for a CPU tensor, tensor.detach().numpy() shares its memory)"
    return name


@overload
def pack(arrays: Mapping[Name, np.ndarray]) -> tuple[np.ndarray, dict[Name, np.ndarray]]: ...
@overload
def pack(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]: ...
def pack(arrays: Any) -> Any:
    """Copy arrays into one flat buffer and return it with a view of it for each.

    The buffer starts on a 64-byte boundary and holds the arrays one after the other without gaps, so its size is the
    number of parameters, and an optimizer over it makes one pass over memory.

    Parameters
    ----------
    arrays: dict or sequence of numpy.ndarray
        All float32 or all float64. They are copied and not kept.

    Returns
    -------
    flat: numpy.ndarray
        One-dimensional.
    views: dict or list
        As `arrays`, of the same shapes; writing to a view writes to `flat`.

    Raises
    ------
    TypeError
        Something is not an array of float32 or float64, or the dtypes differ.
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
    named = list(arrays.items()) if isinstance(arrays, Mapping) else list(enumerate(arrays))
    if not named:
        raise ValueError("arrays is empty; there is nothing to pack")
    dtypes = {}
    for name, array in named:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"arrays[{name!r}] must be a numpy.ndarray, got {describe_type(array)}")
        if array.dtype not in DTYPES or not array.dtype.isnative:
            raise TypeError(f"arrays[{name!r}] must be of native float32 or float64, got dtype {array.dtype.str!r}")
        dtypes[array.dtype] = name
    if len(dtypes) > 1:
        listed = ", ".join(f"arrays[{name!r}] is {dtype}" for dtype, name in dtypes.items())
        raise TypeError(f"arrays must all be of one dtype: {listed}")
    flat = empty_aligned(sum(array.size for _, array in named), next(iter(dtypes)))
    views, start = [], 0
    for _, array in named:
        view = flat[start : start + array.size].reshape(array.shape)
        view[...] = array
        views.append(view)
        start += math.prod(array.shape)
    if isinstance(arrays, Mapping):
        return flat, dict(zip(arrays, views, strict=True))
    return flat, views

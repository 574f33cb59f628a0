"""Checks of the arrays that users pass, and aligned memory for those that fastopt allocates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from ..kernels.backends import Memory
from ..kernels.engine import host_memory
from ..kernels.formulas import registry

ALIGNMENT, empty_aligned = host_memory.ALIGNMENT, host_memory.zeros

DTYPES = tuple(map(np.dtype, registry.REALS))
"""The dtypes that kernels work in."""

Name = TypeVar("Name")


def is_device_array(value: object) -> bool:
    """Whether something claims to lie in the memory of a CUDA device; loads nothing."""
    try:
        # Numba's simulated arrays have the first alone; CPU tensors of torch have the second, but raise AttributeError.
        return hasattr(value, "__cuda_ndarray__") or hasattr(value, "__cuda_array_interface__")
    except RuntimeError:  # only torch raises it, for parameters that require gradients
        return True


def check_array(label: str, array: object, *, writable: bool, memory: Memory = host_memory) -> Any:
    """Check that a kernel can walk over an array in place; returns it, as its memory has it.

    Raises
    ------
    TypeError
        It is not an array in this memory, or not of float32 or float64 in this machine's byte order.
    ValueError
        It is not C-contiguous, not aligned, or read-only where it must be written.
    """
    found = memory.as_array(array)
    if found is None:
        raise TypeError(f"{label} must be {memory.ARRAYS}, got {describe_type(array)}")
    if not found.dtype.isnative:
        raise TypeError(f"{label} must be in this machine's byte order, got dtype {found.dtype.str!r}")
    if found.dtype not in DTYPES:
        raise TypeError(f"{label} must be of dtype float32 or float64, got {found.dtype}")
    if not memory.is_contiguous(found):
        raise ValueError(
            f"{label} must be C-contiguous, got shape {tuple(found.shape)} with strides {found.strides}; "
            "fastopt updates in place and makes no silent copy"
        )
    if found.size and memory.address(found) % found.dtype.alignment:
        raise ValueError(f"{label} must be aligned to its itemsize, got address {memory.address(found):#x}")
    if writable and not memory.is_writable(found):
        raise ValueError(f"{label} must be writable, got a read-only array")
    return found


def check_like(label: str, array: object, param: Any, *, writable: bool = False, memory: Memory = host_memory) -> Any:
    """Check that an array can stand beside a parameter as its gradient: same dtype, same shape, same place."""
    checked = check_array(label, array, writable=writable, memory=memory)
    if checked.dtype != param.dtype:
        raise TypeError(f"{label} must be of its parameter's dtype {param.dtype}, got {checked.dtype}")
    if tuple(checked.shape) != tuple(param.shape):
        raise ValueError(f"{label} must be of its parameter's shape {tuple(param.shape)}, got {tuple(checked.shape)}")
    if memory.place(checked) != memory.place(param):
        raise ValueError(f"{label} must be where its parameter is, {memory.place(param)}, got {memory.place(checked)}")
    return checked


def memory_span(array: Any, memory: Memory = host_memory) -> tuple[int, int]:
    """The addresses [begin, end) of a contiguous array."""
    begin = memory.address(array)
    return begin, begin + array.nbytes


def check_no_overlap(arrays: Sequence[tuple[str, Any]], memory: Memory = host_memory) -> None:
    """Check that no two of these contiguous arrays share memory; O(n log n)."""
    spans = sorted((*memory_span(array, memory), label) for label, array in arrays if array.nbytes)
    for (_, end, label), (begin, _, other) in itertools.pairwise(spans):
        if begin < end:
            raise ValueError(f"{label} and {other} share memory; every parameter needs its own")


def describe_type(value: object) -> str:
    """The type of something that should have been an array, for a message, with advice where there is some."""
    name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    if is_device_array(value):
        name += " in the memory of a CUDA device (for optimizers with backend='cuda', all of whose arrays are on one)"
    elif name.split(".")[0] == "torch":
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

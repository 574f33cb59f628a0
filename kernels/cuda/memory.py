"""Operations on device arrays outside of steps: allocate, fill, copy, inspect.

A step uses none of these functions. Each of them starts after all earlier work on the device, and is done when it
returns. Arrays are Numba's (`DeviceNDArray`, in the simulator `FakeCUDAArray`); they have shape, dtype, size, ndim and
nbytes, and can be sliced and reshaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import cuda

from .availability import is_simulated, require_cuda

if is_simulated():
    from .simulated import allocate, array_address, clear, device_of, view_of_interface
else:
    from .hardware import allocate, array_address, clear, device_of, view_of_interface

ALIGNMENT = 256
"""The alignment of `empty`'s memory in bytes: CUDA's allocator guarantees it, and 128-bit loads need less."""

ARRAYS = "in the memory of a CUDA device (a CuPy array, a torch tensor, anything with __cuda_array_interface__)"
"""The description of an array in error messages."""

CONTIGUOUS_COPY = "a contiguous copy (cupy.ascontiguousarray(...), tensor.contiguous())"
"""What makes a contiguous copy of an array, for error messages."""

PICKLES = False
"""Whether optimizers over these arrays can be pickled and deep-copied: Numba's arrays cannot."""

FILL_BLOCK = 1 << 16
"""The number of elements that `fill` copies from the host."""


def as_array(value: Any) -> Any | None:
    """The device array that shares a value's memory, without a copy; None if the value is not a device array.

    Parameters
    ----------
    value: any object
        A Numba device array, or anything with `__cuda_array_interface__`: a CuPy array, a torch tensor on a CUDA
        device (a parameter that requires a gradient too).

    Returns
    -------
    array: Numba device array of the same memory, shape, strides and dtype; it keeps `value` alive.
    """
    require_cuda()
    if getattr(value, "__cuda_ndarray__", False):
        return value
    if getattr(value, "requires_grad", False) is True:
        value = value.detach()  # shares the memory; torch gives no interface for a tensor that requires a gradient
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return None
    array = view_of_interface(interface, value)
    array.read_only = bool(interface["data"][1])
    return array


def interface_of(value: Any) -> dict[str, Any] | None:
    """A value's `__cuda_array_interface__`, or None if it does not have one; cheaper than `as_array`."""
    if getattr(value, "__cuda_ndarray__", False):
        return {
            "shape": tuple(value.shape),
            "typestr": value.dtype.str,
            "strides": None if value.is_c_contiguous() else tuple(value.strides),
            "data": (array_address(value), getattr(value, "read_only", False)),
        }
    if getattr(value, "requires_grad", False) is True:
        value = value.detach()  # shares the memory; torch gives no interface for a tensor that requires a gradient
    interface: dict[str, Any] | None = getattr(value, "__cuda_array_interface__", None)
    return interface


def is_contiguous_interface(interface: dict[str, Any]) -> bool:
    """Whether the interface describes a C-contiguous array; a dimension of length 1 may have any stride."""
    strides = interface.get("strides")
    if strides is None or 0 in interface["shape"]:
        return True
    expected = int(np.dtype(interface["typestr"]).itemsize)
    for length, stride in zip(reversed(interface["shape"]), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def empty(size: int, dtype: Any) -> Any:
    """A new one-dimensional array of `size` elements on the current device, uninitialized."""
    require_cuda()
    return allocate(int(size), np.dtype(dtype), ALIGNMENT)


def fill(array: Any, value: float) -> None:
    """Set every element of a contiguous array to a number."""
    if array.size == 0:
        return
    flat = array.reshape(array.size)
    if value == 0:
        cuda.synchronize()
        clear(flat)
        cuda.synchronize()
        return
    # The host provides the first part; the device then doubles the filled part by copying it, again and again.
    filled = min(flat.size, FILL_BLOCK)
    copy(flat[:filled], np.full(filled, value, array.dtype))
    while filled < flat.size:
        more = min(filled, flat.size - filled)
        copy(flat[filled : filled + more], flat[:more])
        filled += more


def clear_together(arrays: Iterable[Any], records: Iterable[np.ndarray]) -> None:
    """Fill arrays on the device with zeros, and then the host's records of them."""
    for array in arrays:
        fill(array, 0)
    for record in records:
        record[...] = 0


def zeros(size: int, dtype: Any) -> Any:
    """A new one-dimensional array of `size` zeros."""
    array = empty(size, dtype)
    fill(array, 0)
    return array


def copy(target: Any, source: Any) -> None:
    """Copy a contiguous array on the host or the device into a device array of the same shape and dtype.

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes differ.
    """
    if source.dtype != target.dtype:
        raise TypeError(f"source must be of the target's dtype {target.dtype}, got {source.dtype}")
    if tuple(source.shape) != tuple(target.shape):
        raise ValueError(f"source must be of the target's shape {tuple(target.shape)}, got {tuple(source.shape)}")
    if target.size == 0:
        return
    cuda.synchronize()
    if isinstance(source, np.ndarray):
        source = np.ascontiguousarray(source).reshape(source.size)
    else:
        source = source.reshape(source.size)
    target.reshape(target.size).copy_to_device(source)
    cuda.synchronize()


def to_host(array: Any) -> np.ndarray:
    """A new NumPy array with the elements of a contiguous device array, read after all work on the device."""
    result = np.empty(tuple(array.shape), array.dtype)
    if array.size:
        cuda.synchronize()
        array.reshape(array.size).copy_to_host(result.reshape(-1))
    return result


def address(array: Any) -> int:
    """The address at which an array starts on the device; 0 for an array without memory."""
    return array_address(array)


def is_contiguous(array: Any) -> bool:
    """Whether an array is C-contiguous."""
    return bool(array.is_c_contiguous()) or array.size == 0


def is_writable(array: Any) -> bool:
    """Whether an array's source allows writing, by its `__cuda_array_interface__`; Numba does not keep this flag."""
    return not getattr(array, "read_only", False)


def nbytes(array: Any) -> int:
    """The size of an array in bytes."""
    return int(math.prod(array.shape)) * int(array.dtype.itemsize)


def place(array: Any) -> str:
    """The device that an array is on, by the numbers that torch and CuPy use."""
    return f"cuda:{device_of(array)}"

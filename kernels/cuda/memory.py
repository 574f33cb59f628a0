"""What an optimizer does with device arrays beside stepping: allocate, fill, copy, look at.

Nothing here is part of a step, so everything is ordered after all work on the device, and done when it returns.
Arrays are Numba's (`DeviceNDArray`, in the simulator `FakeCUDAArray`); they have shape, dtype, size, ndim and nbytes,
and can be sliced and reshaped.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from .availability import is_simulated, require_cuda

if is_simulated():
    from .simulated import allocate, array_address, clear, device_of, view_of_interface
else:
    from .hardware import allocate, array_address, clear, device_of, view_of_interface

ALIGNMENT = 256
"""Bytes at which `empty`'s memory starts: what CUDA's allocator promises, and more than 128-bit loads need."""

ARRAYS = "in the memory of a CUDA device (a CuPy array, a torch tensor, anything with __cuda_array_interface__)"
"""What messages call an array here."""

PICKLES = False
"""Whether optimizers over such arrays can be pickled and deep-copied: Numba's arrays cannot."""

FILL_BLOCK = 1 << 16
"""Elements that `fill` brings from the host."""


def as_array(value: Any) -> Any | None:
    """The device array that stands for a value without a copy, or None when it is none.

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
        value = value.detach()  # torch hands out no interface of what requires a gradient; this shares its memory
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return None
    array = view_of_interface(interface, value)
    array.read_only = bool(interface["data"][1])
    return array


def interface_of(value: Any) -> dict[str, Any] | None:
    """What `__cuda_array_interface__` says of a value, or None when it has none; cheaper than `as_array`."""
    if getattr(value, "__cuda_ndarray__", False):
        return {
            "shape": tuple(value.shape),
            "typestr": value.dtype.str,
            "strides": None if value.is_c_contiguous() else tuple(value.strides),
            "data": (array_address(value), getattr(value, "read_only", False)),
        }
    if getattr(value, "requires_grad", False) is True:
        value = value.detach()  # torch hands out no interface of what requires a gradient; this shares its memory
    interface: dict[str, Any] | None = getattr(value, "__cuda_array_interface__", None)
    return interface


def is_contiguous_interface(interface: dict[str, Any]) -> bool:
    """Whether what it describes is C-contiguous; lengths of 1 have any stride."""
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
    """A new one-dimensional array on the current device, of so many elements, with anything in it."""
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
    # A part comes from the host; the device copies it to twice its length, and so on.
    filled = min(flat.size, FILL_BLOCK)
    copy(flat[:filled], np.full(filled, value, array.dtype))
    while filled < flat.size:
        more = min(filled, flat.size - filled)
        copy(flat[filled : filled + more], flat[:more])
        filled += more


def zeros(size: int, dtype: Any) -> Any:
    """A new one-dimensional array of so many zeros."""
    array = empty(size, dtype)
    fill(array, 0)
    return array


def copy(target: Any, source: Any) -> None:
    """Copy a contiguous array of the same shape and dtype into a device array, from the host or the device.

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
    """A new NumPy array with what a contiguous device array holds, after all work on the device."""
    result = np.empty(tuple(array.shape), array.dtype)
    if array.size:
        cuda.synchronize()
        array.reshape(array.size).copy_to_host(result.reshape(-1))
    return result


def address(array: Any) -> int:
    """Where an array starts on the device; 0 for none of its memory."""
    return array_address(array)


def is_contiguous(array: Any) -> bool:
    """Whether it is C-contiguous."""
    return bool(array.is_c_contiguous()) or array.size == 0


def is_writable(array: Any) -> bool:
    """Whether the one it came from allows writing; that of `__cuda_array_interface__`, which Numba does not keep."""
    return not getattr(array, "read_only", False)


def nbytes(array: Any) -> int:
    """Its size in bytes."""
    return int(math.prod(array.shape)) * int(array.dtype.itemsize)


def place(array: Any) -> str:
    """Which device an array is on, as torch and CuPy number them."""
    return f"cuda:{device_of(array)}"

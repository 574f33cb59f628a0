"""The stand-in of `hardware` for Numba's simulator, where device memory is the host's."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from numba.cuda.cudadrv.devicearray import FakeCUDAArray

# --- memory -----------------------------------------------------------------------------------------------------------


def allocate(size: int, dtype: np.dtype, alignment: int) -> Any:
    """A one-dimensional array that is aligned as on a device."""
    memory = np.empty(size * dtype.itemsize + alignment, np.uint8)
    offset = -memory.ctypes.data % alignment
    return FakeCUDAArray(memory[offset : offset + size * dtype.itemsize].view(dtype))


def array_address(array: Any) -> int:
    """Where an array's memory starts."""
    return int(array._ary.ctypes.data) if array.size else 0


def device_of(array: Any) -> int:
    """The number of the device that an array is on: there is one."""
    return 0


def view_of_interface(interface: dict[str, Any], owner: Any) -> Any:
    """The array of what `owner.__cuda_array_interface__` describes."""
    dtype, shape, strides = np.dtype(interface["typestr"]), tuple(interface["shape"]), interface.get("strides")
    if not math.prod(shape):
        return FakeCUDAArray(np.empty(shape, dtype))
    if strides is None:
        strides = tuple(dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    reach = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True)) + dtype.itemsize
    memory = (ctypes.c_char * reach).from_address(interface["data"][0])
    memory.owner = owner  # type: ignore[attr-defined]  # views of the array keep it alive
    return FakeCUDAArray(np.ndarray(shape, dtype, memory, strides=strides))

"""Arrays on a device, or in Numba's simulator of one, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import cuda

from fastopt.kernels.cuda import memory


def to_device(values: Any) -> Any:
    """Copies of arrays on the device, in lists and dicts of whatever depth; anything else stays what it is."""
    if isinstance(values, np.ndarray):
        flat = memory.zeros(values.size, values.dtype)
        memory.copy(flat, values.reshape(-1))
        return flat.reshape(values.shape)
    if isinstance(values, Mapping):
        return {key: to_device(value) for key, value in values.items()}
    return [to_device(value) for value in values] if isinstance(values, list) else values


def to_host(values: Any) -> Any:
    """The same, back."""
    if getattr(values, "__cuda_ndarray__", False):
        return memory.to_host(values)
    if isinstance(values, Mapping):
        return {key: to_host(value) for key, value in values.items()}
    return [to_host(value) for value in values] if isinstance(values, list) else values


class Interface:
    """What another library's array is: nothing but its `__cuda_array_interface__`."""

    def __init__(self, values: np.ndarray, read_only: bool = False, **changed: Any) -> None:
        self.array = to_device(np.array(values, order="C"))
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (memory.address(self.array), read_only),
            "strides": None,
            "version": 3,
            **changed,
        }

    def to_host(self) -> np.ndarray:
        return memory.to_host(self.array)


def transposed(values: np.ndarray) -> Any:
    """A device array of these values that is not C-contiguous."""
    return cuda.to_device(np.asfortranarray(values))

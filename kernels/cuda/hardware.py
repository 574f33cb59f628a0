"""What needs a GPU, and has its stand-in in `simulated`: memory, streams, and instructions that Numba lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.cudadrv import driver

# --- memory -----------------------------------------------------------------------------------------------------------


def allocate(size: int, dtype: np.dtype, alignment: int) -> Any:
    """A one-dimensional device array; CUDA's allocator aligns to 256 bytes."""
    return cuda.device_array(size, dtype)


def array_address(array: Any) -> int:
    """Where an array's memory starts."""
    return int(array.device_ctypes_pointer.value or 0)


def device_of(array: Any) -> int:
    """The number of the device that an array is on; of one without elements, that of the current one."""
    if not array.size:
        return int(cuda.get_current_device().id)
    attribute = driver.binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(driver.driver.cuPointerGetAttribute(attribute, driver.binding.CUdeviceptr(array_address(array))))


def view_of_interface(interface: dict[str, Any], owner: Any) -> Any:
    """The device array of what `owner.__cuda_array_interface__` describes; nothing waits for its stream."""
    return cuda.from_cuda_array_interface(interface, owner=owner, sync=False)

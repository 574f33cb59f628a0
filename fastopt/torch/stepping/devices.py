"""Which devices parameters can be on, and what steps them there.

`kind` and `current_stream` are all that is asked of torch about a CUDA device; tests without one put others in their
place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...kernels import backends

BACKENDS = {"cpu": ("cython", "numba", "reference"), "cuda": ("cuda",)}
"""For each kind of device what can step parameters there; "auto" chooses among them."""


def kind(tensor: Tensor) -> str:
    """The kind of device that a tensor is on, a key of `BACKENDS` where parameters can be stepped."""
    return tensor.device.type


def current_stream(device: torch.device) -> int:
    """The stream on which torch works on a device now."""
    return int(torch.cuda.current_stream(device).cuda_stream)


def check_current(owner: str, label: str, tensor: Tensor) -> None:
    """Check that a parameter is on the device that kernels are launched on.

    Raises
    ------
    ValueError
        It is on another.
    """
    current = torch.cuda.current_device()
    if tensor.device.index != current:
        raise ValueError(
            f"{owner}: {label} is on {tensor.device}, and torch's current device is cuda:{current}; an optimizer "
            "steps the parameters of one device, with torch.cuda.set_device(...) before it is made"
        )


def check_backend(owner: str, label: str, param: Tensor, backend: str) -> None:
    """Check that a backend, as the user named it, can step a parameter.

    Names that no backend has are not for this to refuse.

    Raises
    ------
    TypeError
        It cannot; the message says which can.
    """
    possible = BACKENDS[kind(param)]
    known = {each for names in BACKENDS.values() for each in names}
    if backend in known and backend not in possible:
        raise TypeError(
            f"{owner}: backend={backend!r} cannot step parameters on {param.device}, as {label} is; use "
            f"{' or '.join(repr(each) for each in ('auto', *possible))}"
        )


def load_backends(params: Sequence[Tensor], backend: str, custom: bool) -> None:
    """Load what steps these parameters, so that it is known to be there.

    Raises
    ------
    ImportError, RuntimeError
        What they need is not installed, or no device can be used.
    """
    for each in {kind(param) for param in params}:
        backend_for(each, backend, custom)


def backend_for(kind: str, backend: str, custom: bool) -> Any:
    """The backend of this name for a kind of device; `custom`: it must run custom rules."""
    return backends.load("cuda" if backend == "auto" and kind == "cuda" else backend, custom)


class DeviceMemory:
    """The memory of a dense tensor on a device, in its order, as `__cuda_array_interface__` says it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # which keeps the memory
        size, itemsize = tensor.numel(), tensor.element_size()
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": f"<f{itemsize}",
            "data": (tensor.data_ptr(), False),
            "strides": None,
            "version": 3,
        }


def device_array(tensor: Tensor) -> Any:
    """The memory of a dense tensor on a device, as the CUDA backend takes it."""
    return backends.load("cuda").memory.as_array(DeviceMemory(tensor))

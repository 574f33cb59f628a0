"""The devices that parameters can be on, and the backends that step them there.

Stepping asks torch about CUDA devices through `kind`, `current_stream` and `check_current` alone; tests without a
device replace them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...kernels import backends

BACKENDS = {"cpu": ("cython", "numba", "reference"), "cuda": ("cuda",)}
"""The backends that can step parameters on each kind of device; "auto" chooses among them."""


def kind(tensor: Tensor) -> str:
    """The kind of a tensor's device; a key of `BACKENDS` if parameters can be stepped there."""
    return tensor.device.type


def current_stream(device: torch.device) -> int:
    """The handle of torch's current stream on a device."""
    return int(torch.cuda.current_stream(device).cuda_stream)


def check_current(owner: str, label: str, tensor: Tensor) -> None:
    """Check that a parameter is on torch's current device, where kernels are launched.

    Raises
    ------
    ValueError
        It is on another device.
    """
    current = torch.cuda.current_device()
    if tensor.device.index != current:
        raise ValueError(
            f"{owner}: {label} is on {tensor.device}, and torch's current device is cuda:{current}; an optimizer "
            "steps the parameters of one device, with torch.cuda.set_device(...) before it is made"
        )


def check_backend(owner: str, label: str, param: Tensor, backend: str) -> None:
    """Check that the backend that the user named can step a parameter; unknown names pass.

    Raises
    ------
    TypeError
        It cannot; the message says which backends can.
    """
    possible = BACKENDS[kind(param)]
    known = {each for names in BACKENDS.values() for each in names}
    if backend in known and backend not in possible:
        raise TypeError(
            f"{owner}: backend={backend!r} cannot step parameters on {param.device}, as {label} is; use "
            f"{' or '.join(repr(each) for each in ('auto', *possible))}"
        )


def load_backends(params: Sequence[Tensor], backend: str, custom: bool, flush_denormals: bool | None) -> None:
    """Load the backends that step these parameters, so that errors come now rather than at the first step.

    Raises
    ------
    ImportError, RuntimeError
        A backend needs a package that is not installed, or a device that cannot be used.
    NotImplementedError
        `flush_denormals` is True, and a backend cannot do that on this machine.
    """
    for each in {kind(param) for param in params}:
        backends.check_flush(backend_for(each, backend, custom), flush_denormals)


def backend_for(kind: str, backend: str, custom: bool) -> Any:
    """The backend of this name for a kind of device; `custom`: it must run custom rules."""
    return backends.load("cuda" if backend == "auto" and kind == "cuda" else backend, custom)


class DeviceMemory:
    """The memory of a dense tensor on a device, in memory order, with `__cuda_array_interface__`."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # which keeps the memory
        self.__cuda_array_interface__ = {
            "shape": (tensor.numel(),),
            "typestr": "<u2" if tensor.element_size() == 2 else f"<f{tensor.element_size()}",  # codes of 16 bits
            "data": (tensor.data_ptr(), False),
            "strides": None,
            "version": 3,
        }


def device_array(tensor: Tensor) -> Any:
    """The memory of a dense tensor on a device, as the CUDA backend takes it."""
    return backends.load("cuda").memory.as_array(DeviceMemory(tensor))

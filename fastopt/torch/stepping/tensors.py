"""Checks of torch's tensors, their layouts, and their memory as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import devices

DTYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def labels(groups: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What messages call each parameter of all groups: by its name if it has one, else by its position."""
    position = 0
    for group in groups:
        names = group.get("param_names")
        for index in range(len(group["params"])):
            yield f"parameter {names[index]!r}" if names else f"params[{position}]"
            position += 1


def check_param(owner: str, label: str, param: Tensor) -> None:
    """Check that the kernels can update a parameter.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        They cannot; the message says why, and what to use instead. It begins with `owner`, the optimizer's name.
    """
    _check(owner, label, param)
    if param.is_neg():
        raise ValueError(f"{owner}: {label} is a view that negates; give it memory of its own with .resolve_neg()")
    if param.is_inference():
        raise ValueError(f"{owner}: {label} is an inference tensor, which cannot be changed; clone() it first")


def check_gradient(owner: str, label: str, param: Tensor, gradient: Tensor) -> None:
    """Check that the kernels can read a gradient, or a copy of it in its parameter's layout.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        They cannot; the message says why.
    """
    label = f"the gradient of {label}"
    _check(owner, label, gradient)
    if gradient.dtype != param.dtype:
        raise TypeError(f"{owner}: {label} must be of its parameter's dtype {param.dtype}, got {gradient.dtype}")
    if gradient.shape != param.shape:
        raise ValueError(
            f"{owner}: {label} must be of its parameter's shape {tuple(param.shape)}, got {tuple(gradient.shape)}"
        )


def _check(owner: str, label: str, tensor: Tensor) -> None:
    if tensor.is_sparse or tensor.layout != torch.strided:
        raise RuntimeError(
            f"{owner} does not support sparse gradients or parameters: {label} is {tensor.layout}; "
            "use torch.optim's SGD, Adagrad or SparseAdam for them"
        )
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{owner} updates float32 and float64: {label} is {tensor.dtype}; use torch.optim for it")
    if devices.kind(tensor) not in devices.BACKENDS:
        raise ValueError(
            f"{owner} updates tensors on CUDA devices and in main memory: {label} is on {tensor.device}; use "
            "torch.optim for it"
        )
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(f"{owner} updates plain tensors: {label} is a {type(tensor).__name__}; use torch.optim for it")


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements fill its memory without gaps or overlaps, in any order of dimensions."""
    if tensor.numel() == 0:
        return True
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def strides_that_count(tensor: Tensor) -> list[int]:
    """The strides of dimensions with more than one element."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1]


def lies_like(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape have their elements in the same order in memory."""
    return tensor.numel() == 0 or strides_that_count(tensor) == strides_that_count(other)


def flat_array(tensor: Tensor) -> np.ndarray:
    """The memory of a dense tensor, in memory order. Torch does not resize or free it while the array lives."""
    array: np.ndarray = torch.as_strided(tensor.detach(), (tensor.numel(),), (1,)).numpy()
    return array


def laid_out_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A copy of a tensor in the memory layout of another."""
    return torch.empty_like(other, requires_grad=False).copy_(tensor.detach().as_subclass(Tensor))

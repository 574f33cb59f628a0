"""PyTorch's tensors as the bytes that files hold; the only modules here that load PyTorch are this one and `models`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .changes import Changes
from .leaves import DTYPES, Leaf

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Dtypes that NumPy also has, by their size in bytes."""


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def tensor_leaf(label: str, tensor: Tensor) -> Leaf:
    """A tensor as a leaf; it is copied if it is not contiguous or on a device.

    Raises
    ------
    TypeError
        A file cannot hold it.
    """
    name = dtype_name(tensor)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or name not in DTYPES:
        raise TypeError(
            f"{label} is a tensor of dtype {name}, layout {tensor.layout} on {tensor.device}, which a file cannot hold"
        )
    return Leaf(name, tuple(tensor.shape), as_bits(tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()))


def as_bits(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor on the CPU as an array of its shape, whose items are the tensor's as bits."""
    if tensor.is_complex():
        return tensor.detach().numpy()
    bits: np.ndarray = tensor.detach().view(BITS[tensor.element_size()]).numpy()
    return bits


def new_tensor(leaf: Leaf) -> Tensor:
    """A new tensor with a leaf's content."""
    dtype = getattr(torch, leaf.dtype)
    tensor = torch.empty(leaf.shape, dtype=dtype, device="cpu")
    target = as_bits(tensor)
    target[...] = bits_of(leaf, target.dtype)
    return tensor


def in_place(tensor: Any, leaf: Leaf) -> bool:
    """Whether a leaf's content can be written to a tensor's memory as it is."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not (tensor.is_conj() or tensor.is_neg())
        and dtype_name(tensor) == leaf.dtype
        and tuple(tensor.shape) == leaf.shape
        and not torch._debug_has_internal_overlap(tensor)
    )


def write_in_place(tensor: Tensor, leaf: Leaf, label: str, changes: Changes) -> None:
    """Have a tensor written with what the file has for it.

    Raises
    ------
    ValueError
        They differ in shape or dtype, or it cannot be written to.
    """
    if dtype_name(tensor) != leaf.dtype or tuple(tensor.shape) != leaf.shape:
        raise ValueError(f"{label} is {dtype_name(tensor)} of shape {tuple(tensor.shape)} here, and {leaf} in the file")
    if in_place(tensor, leaf):
        target = as_bits(tensor)
        changes.copies.append((target, bits_of(leaf, target.dtype)))
        changes.on_device.append(functools.partial(note_writing, tensor))
    elif tensor.is_meta or tensor.layout != torch.strided:
        raise ValueError(
            f"{label} is a tensor of layout {tensor.layout} on {tensor.device}, without memory to load into"
        )
    else:
        changes.on_device.append(functools.partial(_copy_to, tensor, leaf))


def bits_of(leaf: Leaf, dtype: np.dtype[Any]) -> np.ndarray:
    """A leaf's bytes as an array of its shape, of a dtype of the same size."""
    return leaf.data.reshape(-1).view(dtype).reshape(leaf.shape)


def _copy_to(tensor: Tensor, leaf: Leaf) -> None:
    with torch.no_grad():
        tensor.copy_(new_tensor(leaf))


def note_writing(tensor: Tensor) -> None:
    """Let autograd know that a tensor is written to, as an operation in place does."""
    with torch.no_grad():
        tensor.detach().as_strided((0,), (1,)).zero_()

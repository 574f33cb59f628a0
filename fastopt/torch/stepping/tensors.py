"""Checks of torch's tensors, their layouts, and their memory as arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import devices, shards

REALS: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
"""The dtypes that kernels compute in, which are those of numbers in states, and NumPy's names for them."""

HALVES: dict[torch.dtype, str] = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""The dtypes for which kernels compute in float32, and the formats (`kernels.formulas.storage`) that they are."""

DTYPES: dict[torch.dtype, np.dtype[Any]] = {**REALS, **dict.fromkeys(HALVES, np.dtype(np.uint16))}
"""The dtypes of parameters, and those of arrays over their memory: of codes for halves, as NumPy has no bfloat16."""

COUNT_DTYPES = {**REALS, torch.int32: np.dtype(np.int32), torch.int64: np.dtype(np.int64)}
"""The dtypes that a count of steps can have."""

REST_DTYPE = torch.int16
"""Of the state that holds the rest of bfloat16 parameters; torch 2.13 cannot pickle uint16."""

ARRAY_DTYPES = {**COUNT_DTYPES, **DTYPES, REST_DTYPE: np.dtype(np.uint16), torch.uint8: np.dtype(np.uint8)}
"""The dtypes of arrays over the memory of everything that a step reads or writes."""


def dtype_name(tensor: Tensor) -> str:
    """The name of a tensor's dtype, as NumPy has it."""
    return str(tensor.dtype).removeprefix("torch.")


def working_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The dtype that kernels compute in for a parameter of this one."""
    return REALS[torch.float32 if dtype in HALVES else dtype]


def labels(groups: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What messages call each parameter of all groups: by its name if it has one, else by its position."""
    position = 0
    for group in groups:
        names = group.get("param_names")
        for index in range(len(group["params"])):
            yield f"parameter {names[index]!r}" if names else f"params[{position}]"
            position += 1


def check_param(owner: str, label: str, param: Tensor, dtypes: Collection[torch.dtype] = DTYPES) -> None:
    """Check that the kernels can update a parameter, or a state; not whether it has memory now, as `check_memory` does.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        They cannot; the message says why, and what to use instead. It begins with `owner`, the optimizer's name.
    """
    shards.check_param(owner, label, param)
    param = shards.local(param)
    _check(owner, label, param, dtypes)
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
    shards.check_gradient(owner, label, param, gradient)
    param, gradient = shards.local(param), shards.local(gradient)
    _check(owner, label, gradient)
    if not gradient._is_zerotensor():
        check_memory(owner, label, gradient)
    if not fits(gradient.dtype, param.dtype):
        more = " or torch.float32" if param.dtype in HALVES else ""
        raise TypeError(f"{owner}: {label} must be of its parameter's dtype {param.dtype}{more}, got {gradient.dtype}")
    if gradient.shape != param.shape:
        raise ValueError(
            f"{owner}: {label} must be of its parameter's shape {tuple(param.shape)}, got {tuple(gradient.shape)}"
        )


def fits(dtype: torch.dtype, param_dtype: torch.dtype) -> bool:
    """Whether a gradient or a state can have this dtype: its parameter's, or that in which kernels compute for it."""
    return dtype is param_dtype or (dtype is torch.float32 and param_dtype in HALVES)


def is_settled(param: Tensor) -> bool:
    """Whether it is already certain that a parameter will be stepped as it is now, so that it can be checked.

    A frozen one may be anything as long as it has no gradient, and one that gets its shape in its first forward pass
    has no memory yet.
    """
    return param.grad is not None or (param.requires_grad and not torch.nn.parameter.is_lazy(param))


def can_update(param: Tensor) -> bool:
    """Whether `check_param` accepts a parameter."""
    try:
        if not torch.nn.parameter.is_lazy(param):
            check_param("", "", param)
            return True
    except (RuntimeError, TypeError, ValueError):
        pass
    return False


def check_memory(owner: str, label: str, tensor: Tensor) -> None:
    """Check that a tensor has memory for all its elements.

    Raises
    ------
    RuntimeError
        Its storage was resized, as those do that move tensors out of memory for a while.
    """
    tensor = shards.local(tensor)
    if not has_memory(tensor):
        raise RuntimeError(
            f"{owner}: {label} has {tensor.numel()} elements, but its storage has {tensor.untyped_storage().nbytes()} "
            "bytes; give the storage its size and values back before the step"
        )


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor's storage has memory for all its elements."""
    tensor = as_plain(shards.local(tensor))
    if tensor.numel() == 0:
        return True
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + reach + 1) * tensor.element_size()
    return not tensor._is_zerotensor() and tensor.untyped_storage().nbytes() >= needed


def is_without_memory(value: Any) -> bool:
    """Whether something is a tensor on the meta device."""
    return isinstance(value, Tensor) and value.is_meta


def as_plain(tensor: Tensor) -> Tensor:
    """A tensor whose shape, strides and address are those that torch knows: a subclass can say anything of itself."""
    if type(tensor) is Tensor or type(tensor) is torch.nn.Parameter:
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        plain: Tensor = Tensor.detach(tensor)
    return plain


def _check(owner: str, label: str, tensor: Tensor, dtypes: Collection[torch.dtype] = DTYPES) -> None:
    if tensor.is_sparse or tensor.layout != torch.strided:
        raise RuntimeError(
            f"{owner} does not support sparse gradients or parameters: {label} is {tensor.layout}; "
            "use torch.optim's SGD, Adagrad or SparseAdam for them"
        )
    if tensor.dtype not in dtypes:
        kinds = "float32, float64, bfloat16 and float16"
        raise TypeError(f"{owner} updates {kinds}: {label} is {tensor.dtype}; use torch.optim for it")
    if devices.kind(tensor) == "meta":
        raise ValueError(
            f"{owner}: {label} is on meta, where tensors have no memory; give it some first (a model with "
            "model.to_empty(device='cpu')), and make the optimizer from the parameters that the model has then"
        )
    if devices.kind(tensor) not in devices.BACKENDS:
        raise ValueError(
            f"{owner} updates tensors on CUDA devices and in main memory: {label} is on {tensor.device}; use "
            "torch.optim for it"
        )
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(f"{owner} updates plain tensors: {label} is a {type(tensor).__name__}; use torch.optim for it")
    _check_honest(owner, label, tensor)


def _check_honest(owner: str, label: str, tensor: Tensor) -> None:
    """Check that a tensor of a subclass is what it says; a parameter that gets its shape later says nothing yet."""
    plain = tensor if torch.nn.parameter.is_lazy(tensor) else as_plain(tensor)
    for name, says in FACTS.items() if plain is not tensor else ():
        said, known = says(tensor), says(plain)
        if said != known:
            raise TypeError(
                f"{owner} updates plain tensors: {label} is a {type(tensor).__name__} whose {name} is {said!r}, but "
                f"its memory is that of a tensor whose {name} is {known!r}; use torch.optim for it"
            )


FACTS: dict[str, Callable[[Tensor], Any]] = {
    "dtype": lambda tensor: tensor.dtype,
    "shape": lambda tensor: tuple(tensor.shape),
    "size()": lambda tensor: tuple(tensor.size()),
    "ndim": lambda tensor: tensor.ndim,
    "dim()": lambda tensor: tensor.dim(),
    "numel()": lambda tensor: tensor.numel(),
    "stride()": lambda tensor: tensor.stride(),
    "element_size()": lambda tensor: tensor.element_size(),
    "storage_offset()": lambda tensor: tensor.storage_offset(),
    "data_ptr()": lambda tensor: tensor.data_ptr(),
    "device": lambda tensor: tensor.device,
    "layout": lambda tensor: tensor.layout,
    "is_neg()": lambda tensor: tensor.is_neg(),
}
"""What is asked of a tensor to find its elements."""


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


SOME_ADDRESS = 64
"""Of an empty tensor, which has none: NumPy before 2.4 does not take 0."""


class Memory:
    """The memory of a dense tensor, in memory order, for `numpy.asarray`.

    It keeps the memory when other memory is assigned to the tensor. Unlike the array of `Tensor.numpy()` it leaves the
    storage resizable, so whoever uses the address checks first that it is still the tensor's.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = as_plain(tensor).detach()
        if not is_dense(self.tensor):
            raise ValueError(f"expected a tensor without gaps, got shape {self.tensor.shape}, {self.tensor.stride()}")
        self.__array_interface__ = {
            "shape": (self.tensor.numel(),),
            "typestr": ARRAY_DTYPES[self.tensor.dtype].str,
            "data": (self.tensor.data_ptr() or SOME_ADDRESS, False),
            "version": 3,
        }


def flat_array(tensor: Tensor) -> np.ndarray:
    """The memory of a dense tensor, in memory order; `Memory` says what keeps it."""
    return np.asarray(Memory(tensor))


def tensor_below(array: np.ndarray) -> Tensor:
    """The tensor that keeps the memory of a `flat_array`."""
    memory: Any = array.base
    tensor: Tensor = memory.tensor
    return tensor


def laid_out_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A copy of a tensor in the memory layout of another."""
    return torch.empty_like(other, requires_grad=False).copy_(tensor.detach().as_subclass(Tensor))

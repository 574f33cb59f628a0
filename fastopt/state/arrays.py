"""Checks of the arrays that users pass, and aligned memory for those that fastopt allocates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.backends import Memory
from ..kernels.engine import host_memory
from ..kernels.formulas import registry
from ..step.storage import HALVES, working_dtype

ALIGNMENT, empty_aligned = host_memory.ALIGNMENT, host_memory.zeros

DTYPES = tuple(map(np.dtype, registry.REALS))
"""The dtypes that kernels work in."""


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether it is a dtype of 16 bits that parameters can have: NumPy's float16, or bfloat16 of whichever package."""
    return dtype.name in HALVES and dtype.itemsize == 2


def is_device_array(value: object) -> bool:
    """Whether something claims to lie in the memory of a CUDA device; loads nothing."""
    try:
        # Numba's simulated arrays have the first alone; CPU tensors of torch have the second, but raise AttributeError.
        return hasattr(value, "__cuda_ndarray__") or hasattr(value, "__cuda_array_interface__")
    except RuntimeError:  # only torch raises it, for parameters that require gradients
        return True


UNCOPIED = "fastopt updates in place and makes no silent copy"


def check_array(
    label: str, array: object, *, writable: bool, memory: Memory = host_memory, instead: str = UNCOPIED
) -> Any:
    """Check that a kernel can walk over an array in place; returns it, as its memory has it.

    `instead` tells the user what to do about an array that is not contiguous.

    Raises
    ------
    TypeError
        It is not an array in this memory, or not of one of the dtypes that steps update, in this machine's byte order.
    ValueError
        It is not C-contiguous, not aligned, or read-only where it must be written.
    """
    found = memory.as_array(array)
    if found is None:
        raise TypeError(f"{label} must be {memory.ARRAYS}, got {describe_type(array)}")
    if not found.dtype.isnative:
        raise TypeError(f"{label} must be in this machine's byte order, got dtype {found.dtype.str!r}")
    if found.dtype not in DTYPES and not is_half(found.dtype):
        raise TypeError(f"{label} must be of dtype {listed((*registry.REALS, *HALVES))}, got {found.dtype}")
    if not memory.is_contiguous(found):
        raise ValueError(
            f"{label} must be C-contiguous, got shape {tuple(found.shape)} with strides {found.strides}; {instead}"
        )
    if found.size and memory.address(found) % found.dtype.alignment:
        raise ValueError(f"{label} must be aligned to its itemsize, got address {memory.address(found):#x}")
    if writable and not memory.is_writable(found):
        raise ValueError(f"{label} must be writable, got a read-only array")
    return found


def listed(names: Sequence[str]) -> str:
    """Names in a message: "a, b or c"."""
    return ", ".join(names[:-1]) + f" or {names[-1]}"


def check_gradient(
    label: str,
    gradient: object,
    param: Any,
    *,
    bound: bool = False,
    zeroed: bool = False,
    memory: Memory = host_memory,
) -> Any:
    """Check a gradient and return it as an array: of its parameter's dtype and shape, in the same place.

    Gradients of bfloat16 and float16 parameters can be float32 as well.

    NumPy's arithmetic turns arrays without dimensions into scalars. Such a scalar is taken as the gradient of a
    parameter without dimensions, except where a later change of the gradient would be lost: `bound` gradients are read
    again in each step, and `zeroed` ones are written.
    """
    if param.ndim == 0 and memory is host_memory and not (bound or zeroed):
        if isinstance(gradient, np.generic):
            gradient = np.asarray(gradient)
        elif isinstance(gradient, (int, float)):
            got = describe_type(gradient)
            raise TypeError(f"{label} must be a numpy.ndarray or a scalar of NumPy's of dtype {param.dtype}, got {got}")
    instead = (
        f"bind a gradient made by {memory.CONTIGUOUS_COPY}, and write each new gradient into it"
        if bound
        else f"pass {memory.CONTIGUOUS_COPY} of this gradient" + " and zero the original yourself" * zeroed
    )
    checked = check_array(label, gradient, writable=zeroed, memory=memory, instead=instead)
    working = working_dtype(param.dtype)
    if checked.dtype != param.dtype and checked.dtype != working:
        wider = f" or {working}" if working != param.dtype else ""
        raise TypeError(f"{label} must be of its parameter's dtype {param.dtype}{wider}, got {checked.dtype}")
    if tuple(checked.shape) != tuple(param.shape):
        raise ValueError(f"{label} must be of its parameter's shape {tuple(param.shape)}, got {tuple(checked.shape)}")
    if memory.place(checked) != memory.place(param):
        raise ValueError(f"{label} must be where its parameter is, {memory.place(param)}, got {memory.place(checked)}")
    return checked


def memory_span(array: Any, memory: Memory = host_memory) -> tuple[int, int]:
    """The addresses [begin, end) of a contiguous array."""
    begin = memory.address(array)
    return begin, begin + array.nbytes


def check_no_overlap(arrays: Sequence[tuple[str, Any]], memory: Memory = host_memory) -> None:
    """Check that no two of these contiguous arrays share memory; O(n log n)."""
    spans = sorted((*memory_span(array, memory), label) for label, array in arrays if array.nbytes)
    for (_, end, label), (begin, _, other) in itertools.pairwise(spans):
        if begin < end:
            raise ValueError(f"{label} and {other} share memory; every parameter needs its own")


FOR_TORCH = "PyTorch's tensors and modules have optimizers of their own: fastopt.torch.Adam(model.parameters())"


def is_torchs(value: object) -> bool:
    """Whether something is of a class of PyTorch's, or of one that inherits from it, such as a user's module."""
    return any(base.__module__.partition(".")[0] == "torch" for base in type(value).__mro__)


def describe_type(value: object) -> str:
    """The type of something that should have been an array, for a message, with advice where there is some."""
    name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    if host_memory.is_masked(value):
        name += " (its mask would be ignored; array.filled(0) is an array with zeros where it is masked)"
    elif is_torchs(value) and not getattr(value, "is_cuda", False):
        name += f" ({FOR_TORCH}; for a CPU tensor, tensor.detach().numpy() shares its memory)"
    elif is_device_array(value):
        name += " in the memory of a CUDA device (for optimizers with backend='cuda', all of whose arrays are on one)"
    return name

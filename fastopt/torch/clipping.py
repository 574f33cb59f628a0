"""torch.nn.utils.clip_grad_norm_ and clip_grad_value_ in native code."""

from __future__ import annotations

import functools
import itertools
import math
import types
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..checks import real_number
from ..kernels import backends
from ..kernels.engine.plan import Codec
from ..step.storage import codec
from ..threads import get_num_threads
from .stepping import devices, shards, tensors
from .stepping.exchange import Exchange, Path, exchange_of_gradients, path_of


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients together, in place, to an L2 norm of at most `max_norm`; as torch.nn.utils.clip_grad_norm_.

    grad = grad * min(1, max_norm / (norm + 1e-6)). Squares are added up in float64 in a fixed order, so that the result
    has the same bits on any number of threads. Gradients whose norm is small enough are not written to. Torch's own
    function clips gradients on a CUDA device.

    Gradients that are DTensors are clipped by the norm over all processes, each of which must call this.

    The optimizers' `max_grad_norm=` does the same without writing to the gradients.

    Parameters
    ----------
    parameters: tensor or iterable of tensors
        Parameters without a gradient are left out.
    max_norm: float
        At least 0.
    norm_type: float, default 2
        Torch's own function takes any other norm.
    error_if_nonfinite: bool, default False
        Raise a RuntimeError, and change nothing, if the norm is NaN or infinite.
    foreach: bool, optional
        Accepted as by torch, then ignored.

    Returns
    -------
    norm: tensor of no dimensions
        The norm of all gradients before clipping; 0 without gradients. float64 if one of them is, else float32, for
        bfloat16 and float16, too.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        `max_norm` is negative or not a number, a gradient is not dense in main memory or not of float32, float64,
        bfloat16 or float16, or the norm is not finite and `error_if_nonfinite` is set. Nothing has been changed.

    Examples
    --------
    >>> import torch
    >>> from fastopt.torch import clip_grad_norm_
    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> w.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm_([w], max_norm=1.0)
    tensor(5.)
    >>> w.grad
    tensor([0.6000, 0.8000])
    """
    parameters = _listed(parameters)
    max_norm = _limit("max_norm", max_norm)
    if float(norm_type) != 2:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)
    owner = "fastopt.torch.clip_grad_norm_"
    exchange = exchange_of_gradients(owner, parameters)
    with nullcontext() if exchange is None else exchange.telling_of_errors():
        gradients = Gradients(owner, parameters)
        if gradients.on_device:
            return torch.nn.utils.clip_grad_norm_(parameters, max_norm, 2.0, error_if_nonfinite, foreach)
        sum_of_squares = gradients.add_up("square", exchange)
    norm = torch.tensor(math.sqrt(sum_of_squares), dtype=gradients.dtype)
    if error_if_nonfinite and not math.isfinite(sum_of_squares):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    coefficient = _clip_coefficient(sum_of_squares, max_norm)
    if coefficient != 1:
        gradients.change("scale", (coefficient,))
    return norm


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Limit each element of the gradients to [-clip_value, clip_value], in place; as torch.nn.utils.clip_grad_value_.

    NaN stays NaN. Torch's own function clips gradients on a CUDA device. The optimizers' `clip_value=` does the same
    without writing to the gradients.

    Parameters
    ----------
    parameters: tensor or iterable of tensors
        Parameters without a gradient are left out.
    clip_value: float
        At least 0.
    foreach: bool, optional
        Accepted as by torch, then ignored.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        `clip_value` is negative or not a number, or a gradient is not dense in main memory or not of float32, float64,
        bfloat16 or float16. Nothing has been changed.

    Examples
    --------
    >>> import torch
    >>> from fastopt.torch import clip_grad_value_
    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> w.grad = torch.tensor([3.0, -0.5])
    >>> clip_grad_value_([w], clip_value=1.0)
    >>> w.grad
    tensor([ 1.0000, -0.5000])
    """
    clip_value = _limit("clip_value", clip_value)
    listed = _listed(parameters, warns=False)
    gradients = Gradients("fastopt.torch.clip_grad_value_", listed)
    if gradients.on_device:
        torch.nn.utils.clip_grad_value_(listed, clip_value, foreach)
    else:
        gradients.change("box", (-clip_value, clip_value))


def _limit(name: str, value: Any) -> float:
    number = real_number(name, value.item() if isinstance(value, Tensor) else value)
    if not number >= 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")
    return number


def _listed(parameters: Tensor | Iterable[Tensor], warns: bool = True) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        return [parameters]
    listed = list(parameters)
    if warns and not listed and isinstance(parameters, types.GeneratorType):  # as torch warns: it has been used up
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=3)
    return listed


class Gradients:
    """The gradients of some parameters, checked; one native call for each dtype adds them up or changes them."""

    def __init__(self, owner: str, parameters: list[Tensor]) -> None:
        alike: dict[tuple[torch.dtype, Path], list[tuple[int, Tensor]]] = {}
        for index, param in enumerate(parameters):
            gradient = param.grad
            if gradient is not None:
                if shards.is_sharded(gradient):
                    tensors.check_gradient(owner, f"parameters[{index}]", param, gradient)
                if gradient.dtype in tensors.DTYPES:
                    key = (gradient.dtype, tuple(path_of(gradient)))
                    alike.setdefault(key, []).append((index, gradient))
                else:
                    tensors.check_gradient(owner, f"parameters[{index}]", param, gradient)
        self.dtype = torch.float64 if any(dtype is torch.float64 for dtype, _ in alike) else torch.float32
        self.parts = {key: Part(owner, parameters, key[0], gradients) for key, gradients in alike.items()}
        self.on_device = any(part.on_device for part in self.parts.values())

    def add_up(self, name: str, exchange: Exchange | None) -> float:
        """The sum over all elements, each of them once, of all processes that have some."""
        sums: dict[Path, list[float]] = {}
        for (_, path), part in self.parts.items():
            sums.setdefault(path, []).append(part.add_up(name))
        if exchange is not None:
            return exchange.total({path: math.fsum(found) for path, found in sums.items()})
        return math.fsum(itertools.chain.from_iterable(sums.values()))

    def change(self, loop: str, coefficients: tuple[float, ...]) -> None:
        for part in self.parts.values():
            part.change(loop, coefficients)


class Part:
    """The gradients of one dtype, with their positions; of DTensors the shards.

    `others` are not contiguous in memory, and are read and written through contiguous copies, of float32 for halves. If
    some gradients are `on_device`, nothing here is used.
    """

    def __init__(
        self, owner: str, parameters: list[Tensor], dtype: torch.dtype, found: list[tuple[int, Tensor]]
    ) -> None:
        gradients: list[Tensor] = [shards.local(gradient) for _, gradient in found]
        self.gradients = [*gradients, *(gradient for _, gradient in found if shards.is_sharded(gradient))]
        self.repeated = len({id(gradient) for gradient in gradients}) < len(gradients)  # changed as often, as by torch
        self.dtype = tensors.working_dtype(dtype)
        self.backend = backends.load("auto")
        stored = tensors.HALVES.get(dtype)
        self.pieces, self.others = _pieces(
            gradients, dtype.itemsize, codec(self.backend, stored, False) if stored else None
        )
        self.others = [gradient for gradient in self.others if not gradient._is_zerotensor()]  # they stay as they are
        self.on_device = any(devices.kind(gradient) == "cuda" for gradient in self.others)
        for gradient in () if self.on_device else self.others:
            index = next(index for (index, _), each in zip(found, gradients, strict=True) if each is gradient)
            whole: Any = parameters[index].grad
            tensors.check_gradient(owner, f"parameters[{index}]", parameters[index], whole)
            if any(size > 1 and stride == 0 for size, stride in zip(gradient.shape, gradient.stride(), strict=True)):
                raise RuntimeError(
                    f"{owner}: the gradient of parameters[{index}] is expanded: several of its elements share "
                    "memory, so it cannot be written to; clone() it first"
                )
        copied = () if self.on_device else self.others
        self.copies = [
            torch.empty(gradient.shape, dtype=torch.float32 if stored else dtype).copy_(gradient.detach())
            for gradient in copied
        ]
        self.arrays = [tensors.flat_array(copy) for copy in self.copies]

    def add_up(self, name: str) -> float:
        sum_over = self.backend.sum_over(name, self.dtype)
        total = self.backend.add_up_arrays(self.arrays, sum_over, get_num_threads())
        return total if self.pieces is None else total + self.pieces.add_up(sum_over, get_num_threads())

    def change(self, name: str, coefficients: tuple[float, ...]) -> None:
        loop = self.backend.loop(name, self.dtype)
        if self.pieces is not None:
            self.pieces.change(loop, coefficients, 1 if self.repeated else get_num_threads())
        self.backend.change_arrays(self.arrays, loop, coefficients, get_num_threads())
        torch.autograd.graph.increment_version(self.gradients)
        with torch.no_grad():
            for gradient, copy in zip(self.others, self.copies, strict=True):
                gradient.copy_(copy)


def _pieces(gradients: list[Tensor], itemsize: int, stored: Codec | None) -> tuple[Any, list[Tensor]]:
    """Native pieces for contiguous gradients, and the other gradients: all of them without the compiled module."""
    if backends.compiled_module_error() is not None:
        return None, gradients
    from .stepping import native_walk  # type: ignore[attr-defined]

    pieces: tuple[Any, list[Tensor]] = native_walk.pieces_of_tensors(Tensor, gradients, itemsize, stored)
    return pieces


def _clip_coefficient(sum_of_squares: float, max_norm: float) -> float:
    return _clipping()(sum_of_squares, 1.0, max_norm)


@functools.cache
def _clipping() -> Callable[[float, float, float], float]:
    """The optimizers' own formula, as a function of floats."""
    import numpy as np

    from ..kernels.python import reference

    formula = reference.coefficient_function("clipping_torch")

    def clip_coefficient(*arguments: float) -> float:
        with np.errstate(all="ignore"):
            return float(formula(*map(np.float64, arguments)))

    return clip_coefficient

"""Parameters, gradients and states of a group in one buffer each, for `flatten=True`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...state.arrays import ALIGNMENT
from . import tensors


class Buffer:
    """Parameters of one group and dtype, moved into one buffer, and their gradients in another.

    Each starts on a cache line. The gaps between them are zero, and stay zero as long as steps are finite.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        per_line = ALIGNMENT // params[0].element_size()
        self.offsets: list[int] = []
        size = 0
        for param in params:
            self.offsets.append(size)
            size += -(-param.numel() // per_line) * per_line
        self.param = torch.zeros(size, dtype=params[0].dtype)
        self.grad = torch.zeros_like(self.param)
        self.states: dict[str, Tensor] = {}
        param_views, self.grad_views = self.views(self.param), self.views(self.grad)
        with torch.no_grad():
            for param, view, grad in zip(params, param_views, self.grad_views, strict=True):
                view.copy_(param)
                if param.grad is not None:
                    grad.copy_(param.grad)
        self.addresses = self.grad_addresses()
        for param, view, grad in zip(params, param_views, self.grad_views, strict=True):  # nothing can fail from here
            param.data = view
            param.grad = grad

    def views(self, flat: Tensor) -> list[Tensor]:
        """The part of each parameter, with its shape and strides."""
        return [
            torch.as_strided(flat, param.shape, param.stride(), offset)
            for param, offset in zip(self.params, self.offsets, strict=True)
        ]

    def grad_addresses(self) -> list[int]:
        """Where each gradient begins, those without elements too."""
        return [self.grad.data_ptr() + offset * self.grad.element_size() for offset in self.offsets]

    def holds_params(self) -> bool:
        """Whether the parameters are still where they were put."""
        starts = (self.param.data_ptr() + offset * self.param.element_size() for offset in self.offsets)
        return all(
            param.data_ptr() == start or not param.numel() for param, start in zip(self.params, starts, strict=True)
        )

    def take_states(self, states_of: Mapping[Tensor, dict[str, Any]], names: Iterable[str]) -> None:
        """Move all states of each of these names into a buffer; views replace them in the parameters' dicts."""
        for name in names:
            flat = self.states.get(name)
            states = [states_of[param] for param in self.params]
            if flat is not None and all(
                state[name].data_ptr() == view.data_ptr() or not view.numel()
                for state, view in zip(states, self.views(flat), strict=True)
            ):
                continue
            dtypes = {state[name].dtype for state in states}
            dtype = torch.float32 if len(dtypes) > 1 else dtypes.pop()  # one was loaded, and has more digits
            flat = torch.zeros_like(self.param, dtype=dtype)
            for state, view in zip(states, self.views(flat), strict=True):
                state[name] = view.copy_(state[name])
            self.states[name] = flat

    def zero_grad(self) -> None:
        """Zero all gradients, and put those that were replaced back in their place."""
        self.grad.zero_()
        for index, (param, address) in enumerate(zip(self.params, self.addresses, strict=True)):
            grad = self.grad_views[index]
            if grad.data_ptr() != address and param.numel():  # its `data` was assigned
                grad = self.grad_views[index] = self.views(self.grad)[index]
            if param.grad is not grad:
                param.grad = grad


def flatten(owner: str, groups: Sequence[dict[str, Any]], buffers: Sequence[Buffer]) -> list[Buffer]:
    """Move the parameters of each group that are not in one of these buffers into a new one for each dtype.

    Returns the buffers that still hold their parameters, then the new ones; `owner` is the optimizer's name for
    messages.

    Raises
    ------
    ValueError
        A parameter has gaps between its elements, or shares memory with another. Nothing has been changed.
    """
    labels = tensors.labels(groups)
    placed = {id(param) for buffer in buffers if buffer.holds_params() for param in buffer.params}
    spans: list[tuple[int, int, str]] = []
    wanted: list[list[Tensor]] = []
    for group in groups:
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for param in group["params"]:
            label = next(labels)
            if torch.nn.parameter.is_lazy(param):
                raise ValueError(f"{owner}: flatten=True needs to know shapes; {label} has none before a forward pass")
            if not param.requires_grad and not tensors.can_update(param):
                continue
            if param.requires_grad and not tensors.is_dense(param):
                raise ValueError(
                    f"{owner}: flatten=True needs parameters without gaps between their elements; "
                    f"{label} has shape {tuple(param.shape)} and strides {param.stride()}"
                )
            if param.numel():
                reach = sum((size - 1) * stride for size, stride in zip(param.shape, param.stride(), strict=True))
                spans.append((param.data_ptr(), param.data_ptr() + (reach + 1) * param.element_size(), label))
            if param.requires_grad and id(param) not in placed:
                by_dtype.setdefault(param.dtype, []).append(param)
        wanted += by_dtype.values()
    spans.sort()
    for (_, end, label), (begin, _, other) in itertools.pairwise(spans):
        if begin < end:
            raise ValueError(f"{owner}: flatten=True needs parameters that share no memory; {label} and {other} do")
    kept = [buffer for buffer in buffers if buffer.holds_params()]
    return kept + [Buffer(params) for params in wanted]

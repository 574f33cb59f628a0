"""Hooks that torch calls when a parameter's gradient is complete, for steps in the backward pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from . import shards, tensors

HOLDER = "_stepped_in_backward_by"


class Holder:
    """Keeps an optimizer alive as an attribute of its parameters; it is not pickled with them."""

    def __init__(self, optimizer: object) -> None:
        self.optimizer = optimizer

    def __reduce__(self) -> Any:
        return OrderedDict, ()  # which torch.load(weights_only=True) knows


class GradientHooks:
    """The hooks of one optimizer's parameters."""

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []
        self.params: list[Tensor] = []

    def put_on(self, params: Sequence[Tensor], hook: Callable[[Tensor], None], optimizer: object) -> None:
        """Have `hook` called with each of these parameters when its gradient is complete; they keep the optimizer.

        The hook must not keep it: torch holds hooks where the garbage collector does not look.
        """
        for param in params:
            handle = param.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
            self.handles.append(handle)
            self.params.append(param)
            setattr(param, HOLDER, Holder(optimizer))

    def take_off(self) -> None:
        """Remove all hooks."""
        for handle in self.handles:
            handle.remove()
        for param in self.params:
            param.__dict__.pop(HOLDER, None)
        self.handles, self.params = [], []


def check_params(owner: str, groups: Sequence[dict[str, Any]], clip_norm: float | None) -> None:
    """Check that all parameters can be stepped in the backward pass; `owner` is the optimizer's name for messages.

    Raises
    ------
    ValueError
        One has no gradients, or no shape yet.
    NotImplementedError
        One is a DTensor, and `clip_norm` asks for its norm: processes can step parameters in different orders.
    """
    params = [param for group in groups for param in group["params"]]
    for label, param in zip(tensors.labels(groups), params, strict=True):
        if not param.requires_grad:
            raise ValueError(f"{owner}: {label} does not require gradients, so no backward pass can step it")
        if torch.nn.parameter.is_lazy(param):
            raise ValueError(f"{owner}: {label} has no shape yet; do a forward pass first")
        if clip_norm is not None and shards.is_sharded(param):
            raise NotImplementedError(
                f"{owner}: clip_norm={clip_norm!r} in the backward pass is not for DTensors, and {label} is one: "
                "processes may step parameters in different orders, in which they cannot add up their norms"
            )

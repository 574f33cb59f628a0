"""Hooks of parameters whose gradients are complete, for steps in the backward pass."""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import states, tensors

if TYPE_CHECKING:
    from .base import NativeOptimizer

HOLDER = "_stepped_in_backward_by"


class Holder:
    """Keeps an optimizer alive as an attribute of its parameters; it is not pickled with them."""

    def __init__(self, optimizer: NativeOptimizer) -> None:
        self.optimizer = optimizer

    def __reduce__(self) -> Any:
        return OrderedDict, ()  # which torch.load(weights_only=True) knows


def put_on(optimizer: NativeOptimizer, groups: list[dict[str, Any]]) -> None:
    """Step the parameters of these groups whenever their gradients are complete.

    Raises
    ------
    ValueError
        One has no gradients. None is hooked.
    """
    params = [param for group in groups for param in group["params"]]
    for label, param in zip(tensors.labels(groups), params, strict=True):
        if not param.requires_grad:
            raise ValueError(f"{optimizer.name}: {label} does not require gradients, so no backward pass can step it")
    states.make_states_early(optimizer)
    for param in params:
        hook = functools.partial(_step_one, weakref.ref(optimizer))
        optimizer._handles.append(param.register_post_accumulate_grad_hook(hook))
        optimizer._hooked.append(param)
        # The parameters keep the optimizer, not the hooks: those are torch's, where no garbage collector looks.
        setattr(param, HOLDER, Holder(optimizer))


def take_off(optimizer: NativeOptimizer) -> None:
    """Leave all parameters to `step()` again."""
    for handle in optimizer._handles:
        handle.remove()
    for param in optimizer._hooked:
        param.__dict__.pop(HOLDER, None)
    optimizer._handles, optimizer._hooked = [], []


def _step_one(reference: weakref.ref[NativeOptimizer], param: Tensor) -> None:
    """Step a parameter whose gradient is complete, and free the gradient."""
    optimizer = reference()
    if optimizer is None or param.grad is None:
        return
    update = optimizer._update
    position = None if update is None else update.positions.get(id(param))
    if position is None or not optimizer._step_natively(position):
        position = optimizer._position(param)  # It can be in another place by now, or in none.
        if position is None:
            return
        optimizer._settle(position)
    param.grad = None

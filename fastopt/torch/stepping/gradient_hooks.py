"""Hooks that torch calls when a parameter's gradient is complete, for steps in the backward pass."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from . import shards, tensors
from .wrappers import is_flattened

if TYPE_CHECKING:
    from .buckets import CommHook, Step

HOLDER = "_stepped_in_backward_by"

AVERAGING = {"DistributedDataParallel", "FullyShardedDataParallel"}
"""Modules of torch that average gradients after the hooks of parameters have run, or do not run them."""


class Holder:
    """Keeps an optimizer alive as an attribute of its parameters, with what steps one; it is not pickled with them."""

    def __init__(self, optimizer: object, step: Step, label: str, is_averaged: bool) -> None:
        self.optimizer = optimizer
        self.step = step
        self.label = label
        """What messages call the parameter."""
        self.is_averaged = is_averaged
        """Whether it is stepped once DistributedDataParallel has averaged its gradient."""

    def __reduce__(self) -> Any:
        return OrderedDict, ()  # which torch.load(weights_only=True) knows


def holder_of(param: Tensor) -> Holder | None:
    """What steps a parameter in the backward pass, if anything does."""
    holder = param.__dict__.get(HOLDER)
    return holder if isinstance(holder, Holder) else None


class GradientHooks:
    """The hooks of one optimizer's parameters.

    Parameters
    ----------
    comm_hook, comm_state: what averages the gradients of a DistributedDataParallel module, and its first argument; by
        default what the module does itself.
    """

    def __init__(self, comm_hook: CommHook | None = None, comm_state: object = None) -> None:
        self.comm_hook, self.comm_state = comm_hook, comm_state
        self.handles: list[RemovableHandle] = []
        self.params: list[Tensor] = []

    def put_on(
        self,
        owner: str,
        labels: Mapping[Tensor, str],
        step: Step,
        optimizer: object,
        within: torch.nn.Module | None = None,
    ) -> None:
        """Have these parameters stepped when their gradients are complete; they keep the optimizer.

        Under DistributedDataParallel that is once they are averaged. `labels` has what messages call each parameter,
        and `owner` is the optimizer's name. `step` must not keep the optimizer: torch holds hooks where the garbage
        collector does not look. `within` is where to look for modules that average gradients first.

        Raises
        ------
        ValueError
            A DistributedDataParallel module has a communication hook already, or none has the parameters for which
            there is one.
        """
        averaged = self._averaged(owner, labels, within)
        for param, label in labels.items():
            if param not in averaged:
                handle = param.register_post_accumulate_grad_hook(functools.partial(_step_and_free, step))  # type: ignore[no-untyped-call]
                self.handles.append(handle)
                _watch_modules()
            self.params.append(param)
            setattr(param, HOLDER, Holder(optimizer, step, label, param in averaged))

    def _averaged(self, owner: str, labels: Mapping[Tensor, str], within: torch.nn.Module | None) -> set[Tensor]:
        """Those parameters whose gradients DistributedDataParallel modules average; these get their hooks."""
        found: set[Tensor] = set()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            from . import buckets  # which not every build of torch can import

            found = buckets.take_over(owner, labels, self.comm_hook, self.comm_state, _step_of, within)
        if self.comm_hook is not None and not found:
            raise ValueError(f"{owner}: comm_hook is for DistributedDataParallel, and no such module has a parameter")
        return found

    def take_off(self) -> None:
        """Remove all hooks. Those of DistributedDataParallel modules stay, and average gradients only."""
        for handle in self.handles:
            handle.remove()
        for param in self.params:
            param.__dict__.pop(HOLDER, None)
        self.handles, self.params = [], []

    @property
    def is_averaged(self) -> bool:
        """Whether one of the parameters is stepped by the hook of a DistributedDataParallel module."""
        holders = map(holder_of, self.params)
        return any(holder is not None and holder.is_averaged for holder in holders)


def _step_and_free(step: Step, param: Tensor) -> None:
    if step(param):
        param.grad = None


def _step_of(param: Tensor) -> Step | None:
    holder = holder_of(param)
    return holder.step if holder is not None and holder.is_averaged else None


@functools.cache
def _watch_modules() -> None:
    """Have every module that gets another one checked, from now on."""
    register_module_module_registration_hook(_check_wrapped)


def _check_wrapped(wrapper: torch.nn.Module, name: str, module: torch.nn.Module | None) -> None:
    """Check that no module that averages gradients gets parameters that are stepped as soon as they have some.

    Raises
    ------
    RuntimeError
        It would: processes would drift apart.
    """
    kinds = {each.__name__ for each in type(wrapper).__mro__ if each.__module__.startswith("torch.")}
    if module is None or kinds.isdisjoint(AVERAGING):
        return
    ignored = getattr(module, "_ddp_params_and_buffers_to_ignore", ())
    for each, param in module.named_parameters():
        holder = holder_of(param)
        if holder is not None and not holder.is_averaged and each not in ignored:
            raise RuntimeError(
                f"{holder.label} ({each!r} of the module) is stepped in the backward pass by its gradient in this "
                f"process, before {type(wrapper).__name__} averages gradients; wrap the module first, then call "
                "step_in_backward"
            )


def check_params(owner: str, groups: Sequence[dict[str, Any]], clip_norm: float | None) -> None:
    """Check that all parameters can be stepped in the backward pass; `owner` is the optimizer's name for messages.

    Raises
    ------
    ValueError
        One has no gradients, or no shape yet, or torch calls no hooks when it has its gradient.
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
        if is_flattened(param):
            raise ValueError(
                f"{owner}: {label} is a part of a FullyShardedDataParallel module, which calls no hook when it has "
                "its gradient; use fully_shard, or step() after backward()"
            )

"""States in torch's form: made by torch, when they are needed."""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .hyperparameters import read_hyperparameters

if TYPE_CHECKING:
    from .base import NativeOptimizer


def has_state(owner: NativeOptimizer, param: Tensor) -> bool:
    return any(value is not None for value in owner.known_states.get(param, {}).values())


def make_states(owner: NativeOptimizer, group: dict[str, Any], params: list[Tensor]) -> None:
    """Let torch make the states of parameters of a group; they must have gradients."""
    lists: list[list[Any]] = [[] for _ in range(len(inspect.signature(owner._init_group).parameters) - 1)]
    with torch.no_grad():
        owner._init_group({**group, "params": params}, *lists)
        if not owner.spec.counts_steps:  # torch makes them in the midst of a step
            names = owner.spec.states(read_hyperparameters(owner, group))
            for param in params if names else ():
                owner.known_states[param].update({name: torch.zeros_like(param) for name in names})
                owner.fresh.add(id(param))


def make_states_early(owner: NativeOptimizer) -> None:
    """Make the states of all parameters, before there are gradients."""
    for group in owner.param_groups:
        new = [param for param in group["params"] if not has_state(owner, param)]
        gradients = [param.grad for param in new]
        try:
            for param in new:
                param.grad = param.detach()  # torch makes states only for what has a gradient
            if new:
                make_states(owner, group, new)
        finally:
            for param, gradient in zip(new, gradients, strict=True):
                param.grad = gradient


def steps_before(owner: NativeOptimizer) -> dict[int, int]:
    """How many steps were done of parameters, by their ids, where torch keeps no count; 1 stands for any number."""
    known = (
        {
            id(entry.param): int(count)
            for each in owner._update.rounds
            for entry, count in zip(each.entries, each.records.steps, strict=True)
        }
        if owner._update is not None
        else {}
    )
    return {**known, **dict.fromkeys(owner.fresh, 0)}


def states_in_use(owner: NativeOptimizer) -> defaultdict[Any, Any]:
    """The states without those that were made for a step that was not done: skipped, or still to come."""
    if owner.spec.counts_steps:
        return owner.state
    counts = steps_before(owner)
    return defaultdict(dict, {param: state for param, state in owner.state.items() if counts.get(id(param), 1)})

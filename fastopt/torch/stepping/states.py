"""The states of parameters: torch's own tensors, which torch makes when they are needed."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...definitions.specs import Spec
from ...kernels.engine.contract import SegmentRecords
from .host import Group, Host, InitGroup, States
from .hyperparameters import read_hyperparameters


class StateNumbers:
    """The numbers in torch's states: a segment's count of steps, where torch keeps one, then the carried ones.

    A step reads them from torch's tensors before, and writes them there after; engines keep them in their records.
    """

    def __init__(self, spec: Spec) -> None:
        self.counts_steps = spec.counts_steps
        self.names = ("step",) * spec.counts_steps + tuple(spec.carried)

    def get(self, records: SegmentRecords, index: int) -> list[float]:
        """The numbers of a segment, in the order of `names`."""
        count = [float(records.steps[index])] * self.counts_steps
        return count + [float(each) for each in records.carried[index]]

    def set(self, records: SegmentRecords, index: int, values: Sequence[float]) -> None:
        """Write a segment's numbers to the records."""
        if self.counts_steps:
            records.steps[index] = values[0]
        records.carried[index] = values[self.counts_steps :]


def has_state(states: Mapping[Tensor, dict[str, Any]], param: Tensor) -> bool:
    return any(value is not None for value in states.get(param, {}).values())


def make_states(host: Host, states: States, init_group: InitGroup, group: Group, params: list[Tensor]) -> None:
    """Let torch make the states of parameters of a group; they must have gradients."""
    lists: list[list[Any]] = [[] for _ in range(len(inspect.signature(init_group).parameters) - 1)]
    with torch.no_grad():
        init_group({**group, "params": params}, *lists)
        if not host.spec.counts_steps:  # torch makes them in the middle of a step
            names = host.spec.states(read_hyperparameters(host.name, host.spec, group))
            for param in params if names else ():
                states[param].update({name: torch.zeros_like(param) for name in names})
                host.fresh.add(id(param))


def make_states_early(host: Host, states: States, init_group: InitGroup, groups: Sequence[Group]) -> None:
    """Make the states of all parameters, before there are gradients."""
    for group in groups:
        new = [param for param in group["params"] if not has_state(states, param)]
        gradients = [param.grad for param in new]
        try:
            for param in new:
                param.grad = param.detach()  # torch makes states only for what has a gradient
            if new:
                make_states(host, states, init_group, group, new)
        finally:
            for param, gradient in zip(new, gradients, strict=True):
                param.grad = gradient


def states_in_use(spec: Spec, states: States, steps: Mapping[int, int]) -> States:
    """The states without those that were made for a step that was not done: skipped, or still to come.

    `steps` has the number of steps of parameters by id; it is needed where torch keeps no count.
    """
    if spec.counts_steps:
        return states
    return defaultdict(dict, {param: state for param, state in states.items() if steps.get(id(param), 1)})

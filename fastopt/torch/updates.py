"""From a torch optimizer's groups, parameters and states to engines that step them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import devices, tensors
from .device_rounds import DeviceRound
from .entries import Entry, assign_rounds
from .hyperparameters import read_hyperparameters
from .rounds import READY, REBUILD, REPLACE, Replacements, Round
from .states import has_state, make_states, steps_before

if TYPE_CHECKING:
    from .base import NativeOptimizer


class Update:
    """The engines for a torch optimizer as it now is; made anew when its parameters, states or their memory change.

    Making one checks everything first, then lets torch make the states of parameters that have their first gradient.
    """

    def __init__(self, owner: NativeOptimizer) -> None:
        self.owner = owner
        self.hyperparameters = [read_hyperparameters(owner, group) for group in owner.param_groups]
        self.check_states_are_dicts()
        labels = tensors.labels(owner.param_groups)
        entries: list[Entry | None] = []
        for index, group in enumerate(owner.param_groups):
            entries += [
                self.entry(next(labels), position, index, param)
                for position, param in enumerate(group["params"], start=len(entries))
            ]
        active = [entry for entry in entries if entry is not None]
        self.positions = {id(entry.param): entry.position for entry in reversed(active)}  # the first of equal ones
        for entry in active:
            if not entry.in_place and entry.param.grad is not None:
                with torch.no_grad():
                    # Whatever keeps torch from writing to it shows now, before anything has changed.
                    entry.param.copy_(entry.memory.copy_(entry.param))
        self.made: list[Tensor] = []
        try:
            self.make_states(active)
            for entry in active:
                self.find_states(entry)
            self.flatten_states(active)
            n_rounds = assign_rounds(active)
            self.check_rounds(active, n_rounds)
            steps = steps_before(owner)
            on_device = {entry.round for entry in active if devices.kind(entry.param) == "cuda"}
            self.rounds = [
                (DeviceRound if number in on_device else Round)(self, entries, number, steps)
                for number in range(n_rounds)
            ]
        except BaseException:
            self.drop_made_states()
            raise
        owner.nonfinite.labels = [entry.label for entry in active]
        owner.nonfinite.sizes = [entry.param.numel() for entry in active]
        owner.fresh.clear()
        natives = [each.native for each in self.rounds]
        self.is_native = all(each is not None for each in natives)
        self.single = natives[0] if len(natives) == 1 and all(entry.in_place for entry in active) else None

    def check_states_are_dicts(self) -> None:
        for state in self.owner.known_states.values():
            if not isinstance(state, dict):
                raise TypeError(f"{self.owner.name}: a parameter's state must be a dict, got {state!r}")

    def entry(self, label: str, position: int, group: int, param: Tensor) -> Entry | None:
        """What is to be stepped, now or later; None for a parameter that has neither gradient nor states."""
        owner = self.owner
        if param.grad is not None:
            tensors.check_gradient(owner.name, label, param, param.grad)
        elif not has_state(owner, param) and owner.spec.states(self.hyperparameters[group]):
            return None
        tensors.check_param(owner.name, label, param)
        return Entry(label, position, group, param)

    def make_states(self, entries: Sequence[Entry]) -> None:
        """Let torch make the states of parameters that have none, but have a gradient."""
        for index, group in enumerate(self.owner.param_groups):
            own = (entry.param for entry in entries if entry.group == index)
            new = [param for param in own if param.grad is not None and not has_state(self.owner, param)]
            if new:
                self.made += new
                make_states(self.owner, group, new)

    def drop_made_states(self) -> None:
        """Leave the states as they were: a step that is not done makes none."""
        for param in self.made:
            self.owner.known_states.pop(param, None)

    def find_states(self, entry: Entry) -> None:
        """The states of an entry, where they must be.

        Raises
        ------
        TypeError, ValueError
            One is missing, or is no tensor like the parameter.
        """
        owner, state = self.owner, self.owner.known_states.get(entry.param, {})
        hyperparameters = self.hyperparameters[entry.group]
        for name in owner.spec.states(hyperparameters):
            value = state.get(name)
            if not isinstance(value, Tensor):
                variants = ", ".join(f"{key}={hyperparameters[key]!r}" for key in owner.spec.variants)
                raise ValueError(
                    f"{owner.name}: the state of {entry.label} has no {name!r}, which {variants or 'a step'} needs "
                    f"(it has {', '.join(map(repr, state)) or 'nothing'})"
                )
            label = f"{name!r} in the state of {entry.label}"
            tensors.check_param(owner.name, label, value)
            if value.dtype != entry.param.dtype or value.shape != entry.param.shape:
                raise ValueError(
                    f"{owner.name}: {label} must be of its parameter's dtype and shape, {entry.param.dtype} "
                    f"{tuple(entry.param.shape)}, got {value.dtype} {tuple(value.shape)}"
                )
            if value.device != entry.param.device:
                raise ValueError(
                    f"{owner.name}: {label} must be on its parameter's device {entry.param.device}, got {value.device}"
                )
            if not tensors.is_dense(value) or not tensors.lies_like(value, entry.memory):
                value = state[name] = tensors.laid_out_like(value, entry.memory)
            entry.states.append(value)

    def flatten_states(self, entries: Sequence[Entry]) -> None:
        """Where parameters are in a buffer, move their states into others, once each has some."""
        by_param = {id(entry.param): entry for entry in entries}
        for buffer in self.owner.buffers:
            own = [by_param[id(param)] for param in buffer.params if id(param) in by_param]
            if len(own) == len(buffer.params) and len({entry.group for entry in own}) == 1 and buffer.holds_params():
                names = self.owner.spec.states(self.hyperparameters[own[0].group])
                buffer.take_states(self.owner, names)
                for entry in own:
                    entry.states = [self.owner.known_states[entry.param][name] for name in names]
                    entry.buffer = buffer

    def check_rounds(self, entries: Sequence[Entry], n_rounds: int) -> None:
        """Options that look at all gradients first need all of them in one engine."""
        options = self.owner.options
        wanted = [f"max_grad_norm={options['max_grad_norm']!r}"] * (options["max_grad_norm"] is not None)
        wanted += [f"nonfinite={options['nonfinite']!r}"] * (options["nonfinite"] != "propagate")
        if n_rounds > 1 and wanted:
            other = next(entry for entry in entries if entry.round)
            raise ValueError(
                f"{self.owner.name}: {wanted[0]} needs all parameters to be of one dtype, on one device, and none to "
                f"share memory; {other.label} is {other.param.dtype} on {other.param.device}, or shares memory with "
                "another"
            )

    def reread(self) -> bool:
        """Take over changed hyperparameters; whether that was possible without new engines."""
        owner = self.owner
        if len(owner.param_groups) != len(self.hyperparameters):
            return False
        for index, group in enumerate(owner.param_groups):
            known, values = self.hyperparameters[index], read_hyperparameters(owner, group)
            if values != known:
                if owner.spec.rule(values) != owner.spec.rule(known):
                    return False
                only_lr = {**known, "lr": values["lr"]} == values
                for each in self.rounds:
                    each.set_hyperparameters(index, values, only_lr)
                self.hyperparameters[index] = values
            for each in self.rounds:
                each.set_known_values(index, group)
        return True

    def look(self, only: int) -> list[Replacements] | None:
        """For each round what stands for gradients that it cannot read as they are; None if this is out of date.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            A gradient is not usable.
        """
        owner = self.owner
        replacements: list[Replacements] = []
        try:
            for each in self.rounds:
                found = (
                    READY
                    if each.native is None
                    else each.native.look(owner.param_groups, owner.known_states, None, True, only)
                )
                if found == REBUILD:
                    return None
                replacements.append(each.readable_gradients() if found == REPLACE else {})
        except BaseException:
            self.drop_made_states()
            raise
        self.made = []
        return replacements

    def step(self, replacements: Sequence[Replacements], only: int) -> None:
        """A step of what `look` has looked at."""
        for each, own in zip(self.rounds, replacements, strict=True):
            each.step(own, only)

    def set_scale(self) -> None:
        """Take over a changed gradient scale."""
        for each in self.rounds:
            for engine in each.engines:
                engine.set_scale(each.planner.step_plan())
            for index, values in enumerate(self.hyperparameters):
                each.set_hyperparameters(index, values, False)

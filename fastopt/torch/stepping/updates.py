"""From a torch optimizer's groups, parameters and states to engines that step them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...step.param_storage import operand_names
from ...step.storage import REST
from . import devices, shards, tensors, wrappers
from .coded_states import CodedState, encoded, stored_tensor, stored_tensors
from .common import check_groups
from .device_rounds import DeviceRound
from .entries import Entry, assign_rounds, check_state
from .exchange import Exchange
from .host import Group, Host, InitGroup, States
from .hyperparameters import n_sums
from .rounds import Contents, Round
from .states import (
    StateNumbers,
    add_missing,
    follow_hyperparameters,
    has_begun,
    has_state,
    make_states,
    new_number,
    new_rest,
    new_state,
    optional_states,
    state_names,
    state_of,
)
from .walks import REBUILD, REPLACE, Replacements


class Update:
    """The engines for a torch optimizer as it now is; replaced when its parameters, states or their memory change.

    The constructor checks everything first, then lets torch make the states of parameters that have their first
    gradient. `steps` is the number of steps of each parameter by id, where torch keeps no count.
    """

    def __init__(
        self,
        host: Host,
        groups: list[Group],
        states: States,
        init_group: InitGroup,
        steps: dict[int, int],
        exchange: Exchange | None = None,
    ) -> None:
        self.host = host
        self.exchange = exchange
        self.hyperparameters = check_groups(host.name, host.spec, groups)
        self.names = state_names(host.spec, host.counts_steps)
        self.optional = optional_states(host.spec)
        labels = tensors.labels(groups)
        entries: list[Entry | None] = []
        for index, group in enumerate(groups):
            entries += [
                self.entry(states, next(labels), position, index, param)
                for position, param in enumerate(group["params"], start=len(entries))
            ]
        active = [entry for entry in entries if entry is not None]
        self.positions = {id(entry.param): entry.position for entry in reversed(active)}  # the first of equal ones
        for entry in active:
            if not entry.in_place and entry.param.grad is not None:
                with torch.no_grad():
                    # If torch cannot write to it, the error comes now, before anything has changed.
                    entry.local.copy_(entry.memory.copy_(entry.local))
        self.before: dict[Tensor, dict[str, Any] | None] = {}
        """What was in the states to which this update has added, until a step has used them; None: there was none."""
        try:
            self.make_states(groups, states, init_group, active)
            for entry in active:
                self.find_states(states, entry)
            self.flatten_states(states, active)
            for index, values in enumerate(self.hyperparameters):
                own = [entry.param for entry in active if entry.group == index]
                follow_hyperparameters(host, states, own if host.early else (), values)
            n_rounds = assign_rounds(active)
            self.check_rounds(active, n_rounds)
            on_device = {entry.round for entry in active if devices.kind(entry.local) == "cuda"}
            counts = self.counts(states, active, steps)
            contents = Contents(groups, states, self.hyperparameters, entries, counts, exchange)
            self.rounds = [
                (DeviceRound if number in on_device else Round)(host, contents, number) for number in range(n_rounds)
            ]
        except BaseException:
            self.drop_made_states(states)
            raise
        host.report.labels = [entry.label for entry in active]
        host.report.sizes = [entry.param.numel() for entry in active]
        walks = [each.walk for each in self.rounds]
        self.single = walks[0] if len(walks) == 1 and all(entry.in_place for entry in active) else None
        """The one walk that steps all parameters, if there is nothing to do around it."""

    def entry(self, states: States, label: str, position: int, group: int, param: Tensor) -> Entry | None:
        """A parameter to step, now or later; None if it has no gradient, and no states or no memory."""
        host = self.host
        state = states.get(param, {})
        if not isinstance(state, dict):
            raise TypeError(f"{host.name}: the state of {label} must be a dict, got {state!r}")
        if param.grad is None and (
            not tensors.can_update(param)
            or (not has_state(self.names, states, param) and host.spec.states(self.hyperparameters[group]))
            or not tensors.has_memory(param)
            or not all(tensors.has_memory(value) for value in stored_tensors(state))
        ):
            return None
        tensors.check_param(host.name, label, param)
        tensors.check_memory(host.name, label, param)
        devices.check_backend(host.name, label, param, host.options["backend"])
        shards.check_options(host.name, label, param, host.options)
        values = self.hyperparameters[group]
        wrappers.check_sums(host.name, host.spec, [{**values, "params": [param]}])
        if param.grad is not None:
            tensors.check_gradient(host.name, label, param, param.grad)
        storage = host.storage(param, values, label)
        names = operand_names(host.spec.states(values), storage)
        return Entry(label, position, group, param, storage, names)

    def make_states(
        self, groups: Sequence[Group], states: States, init_group: InitGroup, entries: Sequence[Entry]
    ) -> None:
        """Let torch make the states of parameters that have none, but have a gradient."""
        for index, group in enumerate(groups):
            own = (entry.param for entry in entries if entry.group == index)
            new = [param for param in own if param.grad is not None and not has_state(self.names, states, param)]
            if new:
                for param in new:
                    self.remember(states, param)
                make_states(self.host, states, init_group, group, new)

    def remember(self, states: States, param: Tensor) -> None:
        """Note what is in a parameter's state before something is added."""
        if param not in self.before:
            self.before[param] = encoded(states[param]) if param in states else None

    def drop_made_states(self, states: States) -> None:
        """Leave the states as they were: a step that is not done makes none."""
        for param, before in self.before.items():
            if before is None:
                states.pop(param, None)
            else:
                states[param].clear()
                states[param].update(before)
        self.before = {}

    def counts(self, states: States, entries: Sequence[Entry], known: dict[int, int]) -> dict[int, int]:
        """The number of steps of each parameter by id, where torch keeps no count; 1 stands for any above 0."""
        if self.host.counts_steps:
            return {}
        return {
            id(entry.param): 0
            if entry.param in self.before
            else known.get(id(entry.param), 0) or int(has_begun(states.get(entry.param, {}), entry.names))
            for entry in entries
        }

    def find_states(self, states: States, entry: Entry) -> None:
        """Find an entry's states and numbers; states that lie in memory differently from the parameter are replaced.

        Raises
        ------
        TypeError, ValueError
            One is missing, or is not a tensor like the parameter.
        """
        host, state = self.host, states.get(entry.param, {})
        hyperparameters = self.hyperparameters[entry.group]
        if state:
            state = state_of(states, entry.param, entry.storage)
        missing = {name for name in host.spec.states(hyperparameters) if dict.get(state, name) is None}
        if missing and missing <= self.optional:  # Something was turned on, and begins as in a new optimizer.
            self.remember(states, entry.param)
            state = state_of(states, entry.param, entry.storage)
            dtype = host.state_dtype(entry.param)
            add_missing(host.spec, hyperparameters, state, entry.param, dtype, entry.storage.formats)
            if host.counts_steps and not host.spec.counts_steps:
                state["step"] = new_number(0.0)  # torch's SGD takes the first gradient of a momentum undampened
        for name in host.spec.states(hyperparameters):
            label = f"{name!r} in the state of {entry.label}"
            value = self.in_format(entry, label, dict.get(state, name), entry.storage.formats.get(name))
            if isinstance(value, CodedState):
                state[name] = value
                entry.add_state(value.codes)
                continue
            if not isinstance(value, Tensor):
                on = [key for key in host.spec.variants if hyperparameters[key]]
                variants = ", ".join(f"{key}={hyperparameters[key]!r}" for key in on)
                raise ValueError(
                    f"{host.name}: the state of {entry.label} has no {name!r}, which {variants or 'a step'} needs "
                    f"(it has {', '.join(map(repr, state)) or 'nothing'})"
                )
            check_state(self.host.name, entry, label, value)
            own = shards.local(value)
            if host.makes_states(entry.param) and own.dtype is not torch.float32:
                is_new = name in host.spec.initial and dict.get(state, "step") == 0  # Adagrad's constructor makes it
                like = entry.param
                made = new_state(host.spec, hyperparameters, name, like, torch.float32) if is_new else own.float()
                own = shards.local(made)
            if not tensors.is_dense(own) or not tensors.lies_like(own, entry.memory):
                own = tensors.laid_out_like(own, entry.memory)
            if own is not shards.local(value):
                value = shards.wrapped(own, entry.param)
            if value is not dict.get(state, name):
                state[name] = value
            entry.add_state(value)
        if entry.storage.split:
            entry.add_state(self.rest(states, entry))
            state = states[entry.param]
        if host.counts_steps and not host.spec.counts_steps and state.get("step") is None:
            self.remember(states, entry.param)
            state = states[entry.param]
            state["step"] = new_number(float(has_begun(state, entry.names)))
        for name in StateNumbers(host.spec, host.counts_steps).names:
            value, label = state.get(name), f"{name!r} in the state of {entry.label}"
            dtypes = tensors.COUNT_DTYPES if name == "step" else tensors.DTYPES
            if not isinstance(value, Tensor) or value.numel() != 1 or value.dtype not in dtypes:
                kinds = "float32, float64, int32 or int64" if name == "step" else "float32 or float64"
                raise TypeError(f"{host.name}: {label} must be a {kinds} tensor of one element, got {value!r}")
            tensors.check_param(host.name, label, value, dtypes)
            tensors.check_memory(host.name, label, value)
            if devices.kind(entry.local) == "cpu" and devices.kind(value) != "cpu":
                raise ValueError(
                    f"{host.name}: {label} is on {value.device}; it must be in main memory, as its parameter is"
                )
            entry.numbers.append(value)

    def in_format(self, entry: Entry, label: str, value: Any, codec: str | None) -> Any:
        """A state as it is stored with `state_dtype`, if it is a state at all."""
        if isinstance(value, CodedState):
            if value.codec == codec and value.fits(entry.param) and value.lies_like(entry.memory):
                return value
            value = value.decoded()
        if codec is None or not isinstance(value, Tensor):
            return value
        check_state(self.host.name, entry, label, value)
        return CodedState.of(codec, value, entry.memory, shards.spec_of(entry.param))

    def rest(self, states: States, entry: Entry) -> Tensor:
        """What a bfloat16 parameter does not hold of its float32: nothing at first.

        Raises
        ------
        ValueError
            There is something else in its place.
        """
        value, label = states.get(entry.param, {}).get(REST), f"{REST!r} in the state of {entry.label}"
        if value is None:
            self.remember(states, entry.param)
            value = new_rest(entry.param)
        elif not isinstance(value, Tensor) or value.dtype is not tensors.REST_DTYPE or value.shape != entry.param.shape:
            raise ValueError(
                f"{self.host.name}: {label} must be a {tensors.REST_DTYPE} tensor of its parameter's shape "
                f"{tuple(entry.param.shape)}, got {value!r}"
            )
        else:
            tensors.check_param(self.host.name, label, value, [tensors.REST_DTYPE])
            tensors.check_memory(self.host.name, label, value)
            shards.check_state(self.host.name, label, entry.param, value)
            own = shards.local(value)
            if not tensors.is_dense(own) or not tensors.lies_like(own, entry.memory):
                there = torch.empty_strided(entry.memory.shape, entry.memory.stride(), dtype=own.dtype)
                value = shards.wrapped(there.copy_(own), entry.param)
        states[entry.param][REST] = value
        return value

    def flatten_states(self, states: States, entries: Sequence[Entry]) -> None:
        """Where parameters are in a buffer, move their states into others, once each has some."""
        by_param = {id(entry.param): entry for entry in entries}
        for buffer in self.host.buffers:
            own = [by_param[id(param)] for param in buffer.params if id(param) in by_param]
            if len(own) == len(buffer.params) and len({entry.group for entry in own}) == 1 and buffer.holds_params():
                coded = {name for entry in own for name in entry.storage.formats}
                buffer.take_states(states, [name for name in own[0].names if name not in coded])
                for entry in own:
                    state = states.get(entry.param, {})
                    entry.states = [stored_tensor(dict.__getitem__(state, name)) for name in entry.names]
                    entry.buffer = buffer

    def check_rounds(self, entries: Sequence[Entry], n_rounds: int) -> None:
        """Check that there is one round if an option or the rule looks at all gradients first.

        Raises
        ------
        ValueError
            There are several.
        """
        options = self.host.options
        wanted = [f"max_grad_norm={options['max_grad_norm']!r}"] * (options["max_grad_norm"] is not None)
        wanted += [f"nonfinite={options['nonfinite']!r}"] * (options["nonfinite"] != "propagate")
        if self.exchange is not None and options["clip_norm"] is not None:
            wanted.append(f"clip_norm={options['clip_norm']!r} of DTensors")
        if self.exchange is not None and self.exchange.n_sums:
            wanted.append("adding up DTensors")
        elif self.host.spec.has_sums_over_all:
            wanted.append("adding up over all parameters")
        if n_rounds > 1 and wanted:
            other = next(entry for entry in entries if entry.round)
            raise ValueError(
                f"{self.host.name}: {wanted[0]} needs all parameters to be of one dtype (float32, bfloat16 and float16 "
                f"count as one), on one device, and none to share memory; {other.label} is {other.param.dtype} on "
                f"{other.param.device}, or shares memory with another"
            )

    def steps(self) -> Iterator[tuple[int, int]]:
        """(id, number of steps) of each parameter."""
        for each in self.rounds:
            for entry, count in zip(each.entries, each.records.steps, strict=True):
                yield id(entry.param), int(count)

    def reread(self, groups: list[Group], states: States) -> bool:
        """Take over changed hyperparameters; whether that was possible without new engines."""
        if len(groups) != len(self.hyperparameters):
            return False
        spec = self.host.spec
        found = check_groups(self.host.name, spec, groups)
        for index, (group, values) in enumerate(zip(groups, found, strict=True)):
            known = self.hyperparameters[index]
            if values != known:
                if spec.rule(values) != spec.rule(known) or n_sums(spec, values) != n_sums(spec, known):
                    return False
                only_lr = {**known, "lr": values["lr"]} == values
                for each in self.rounds:
                    each.set_hyperparameters(index, values, only_lr)
                self.hyperparameters[index] = values
                if self.host.early:
                    follow_hyperparameters(self.host, states, group["params"], values)
        self.note_values(groups)
        return True

    def note_values(self, groups: list[Group]) -> None:
        """Have walks know the values in groups as they now are, which were taken over or which a step has written."""
        for index, group in enumerate(groups):
            for each in self.rounds:
                each.set_known_values(index, group)

    def look(self, groups: list[Group], states: States, only: int) -> list[Replacements] | None:
        """For each round the copies of gradients that it cannot read as they are; None if this is out of date.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            A gradient is not usable.
        """
        replacements: list[Replacements] = []
        try:
            for each in self.rounds:
                each.check_memory()
                found = each.walk.look(groups, states, None, True, only)
                if found == REBUILD:
                    return None
                replacements.append(each.readable_gradients() if found == REPLACE else {})
        except BaseException:
            self.drop_made_states(states)
            raise
        return replacements

    def step(self, groups: list[Group], states: States, replacements: Sequence[Replacements], only: int) -> bool:
        """A step of what `look` has looked at; whether it was done, not declined because of its gradients."""
        calls = int(self.host.progress.calls[0])
        try:
            for each, own in zip(self.rounds, replacements, strict=True):
                each.step(groups, states, own, only)
        except BaseException:
            self.drop_made_states(states)
            raise
        done = int(self.host.progress.calls[0]) != calls or any(each.on_device for each in self.rounds)
        if done:
            self.before = {}
        return done

    def set_scale(self) -> None:
        """Take over a changed gradient scale."""
        for each in self.rounds:
            each.set_scale()
            for index, values in enumerate(self.hyperparameters):
                each.set_hyperparameters(index, values, False)

    def write_numbers(self) -> None:
        """Bring the numbers that devices keep to torch's states; waits for the devices."""
        for each in self.rounds:
            if isinstance(each, DeviceRound):
                each.write_numbers()

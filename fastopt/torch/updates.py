"""From a torch optimizer's groups, parameters and states to engines that step them."""

from __future__ import annotations

import inspect
import itertools
import numbers
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..kernels import backends
from ..kernels.plan import Segment, SegmentSettings
from ..options import check_group_options
from ..planning import Planner
from ..specs import HYPERPARAMETERS
from . import tensors
from .flattening import Buffer

if TYPE_CHECKING:
    from .optimizers import NativeOptimizer

Hyperparameters = dict[str, Any]
Replacements = dict[int, Tensor]
"""By segment, copies of gradients that lie differently from their parameters, or in memory that is written."""

READY, REBUILD, REPLACE = 0, 1, 3
"""What native.Tensors finds (native.FOUND); hyperparameters have been reread before it looks here."""

UNSUPPORTED = ("differentiable", "capturable")
"""Flags of torch's groups that ask for what a native step cannot give."""

NOT_VALUES = ("params", "param_names")

WITHOUT_GRADIENT, ELSEWHERE = -1, -2
"""In place of a segment: of a parameter that has had no gradient yet, and of one that another engine steps."""


def check_flags(owner: str, group: dict[str, Any]) -> None:
    """Check that nothing is asked for that a native step cannot give.

    Raises
    ------
    ValueError
        Something is.
    """
    for name in UNSUPPORTED:
        if group.get(name):
            raise ValueError(f"{owner} does not support {name}=True: its step is native; use torch.optim for it")


def _number(name: str, value: Any) -> Any:
    hyperparameter = HYPERPARAMETERS[name]
    if hyperparameter.flag:
        return bool(value)
    return tuple(map(float, value)) if hyperparameter.length else float(value)


def read_hyperparameters(owner: NativeOptimizer, group: dict[str, Any]) -> Hyperparameters:
    """A group's hyperparameters as plain numbers; torch checks none that are changed later, nor is any checked here."""
    check_flags(owner.name, group)
    return {name: _number(name, group.get(name, default)) for name, default in owner.spec.defaults.items()}


def known_values(group: dict[str, Any]) -> tuple[tuple[Any, ...], bool]:
    """What is in a group, and whether any of it can change without being replaced."""
    changes = not all(is_constant(value) for name, value in group.items() if name not in NOT_VALUES)
    return tuple(group.values()), changes


def is_constant(value: Any) -> bool:
    """Whether a value is known to stay what it is, as tensors and lists do not, nor tuples of them."""
    if isinstance(value, tuple):
        return all(map(is_constant, value))
    return value is None or isinstance(value, (numbers.Number, str))


@dataclass(eq=False)
class Entry:
    """A parameter that is stepped: what stands for it in memory, and its states in the rule's order."""

    label: str
    position: int
    group: int
    param: Tensor
    states: list[Tensor] = field(default_factory=list)
    memory: Tensor = field(init=False)
    buffer: Buffer | None = None
    round: int = 0

    def __post_init__(self) -> None:
        self.memory = self.param if tensors.is_dense(self.param) else torch.empty_like(self.param, requires_grad=False)

    @property
    def in_place(self) -> bool:
        return self.memory is self.param

    def spans(self) -> list[tuple[int, int]]:
        """The addresses [begin, end) of all that is written; around the gaps, where a parameter has some."""
        spans = []
        for tensor in (self.param, *self.states):
            if tensor.numel():
                reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
                spans.append((tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()))
        return spans


def assign_rounds(entries: Sequence[Entry]) -> int:
    """Number the entries so that those of one round are of one dtype and share no memory, and sharers keep their order.

    Returns how many rounds there are, at least one; O(n log n) where nothing is shared.
    """
    spans = sorted((begin, end, index) for index, entry in enumerate(entries) for begin, end in entry.spans())
    sharers: set[int] = set()
    reach, last = 0, -1
    for begin, end, index in spans:
        if begin < reach and index != last:
            sharers |= {index, last}
        if end > reach:
            reach, last = end, index
    seen: list[tuple[Entry, list[tuple[int, int]]]] = []
    depths: dict[int, int] = {}
    for index in sorted(sharers):
        own = entries[index].spans()
        overlapped = [
            depths[id(entry)]
            for entry, others in seen
            if any(begin < stop and start < end for begin, end in own for start, stop in others)
        ]
        depths[id(entries[index])] = 1 + max(overlapped, default=-1)
        seen.append((entries[index], own))
    rounds: dict[Any, int] = {}
    for key in sorted({(depths.get(id(entry), 0), str(entry.param.dtype)) for entry in entries}):
        rounds[key] = len(rounds)
    for entry in entries:
        entry.round = rounds[depths.get(id(entry), 0), str(entry.param.dtype)]
    return max(len(rounds), 1)


def has_state(owner: NativeOptimizer, param: Tensor) -> bool:
    return any(value is not None for value in owner.state.get(param, {}).values())


def make_states(owner: NativeOptimizer, group: dict[str, Any], params: list[Tensor]) -> None:
    """Let torch make the states of parameters of a group; they must have gradients."""
    lists: list[list[Any]] = [[] for _ in range(len(inspect.signature(owner._init_group).parameters) - 1)]
    with torch.no_grad():
        owner._init_group({**group, "params": params}, *lists)
        if not owner.spec.counts_steps:  # torch makes them in the midst of a step
            names = owner.spec.states(read_hyperparameters(owner, group))
            for param in params if names else ():
                owner.state[param].update({name: torch.zeros_like(param) for name in names})
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
            for entry, count in zip(each.entries, each.steps, strict=True)
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


class Update:
    """The engines for a torch optimizer as it now is; made anew when its parameters, states or their memory change.

    Making one checks everything first, then lets torch make the states of parameters that have their first gradient.
    """

    def __init__(self, owner: NativeOptimizer) -> None:
        self.owner = owner
        self.hyperparameters = [read_hyperparameters(owner, group) for group in owner.param_groups]
        self.backend = backends.load(owner.options["backend"])
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
            self.rounds = [Round(self, entries, number, steps_before(owner)) for number in range(n_rounds)]
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
        for state in self.owner.state.values():
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
            self.owner.state.pop(param, None)

    def find_states(self, entry: Entry) -> None:
        """The states of an entry, where they must be.

        Raises
        ------
        TypeError, ValueError
            One is missing, or is no tensor like the parameter.
        """
        owner, state = self.owner, self.owner.state.get(entry.param, {})
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
                    entry.states = [self.owner.state[entry.param][name] for name in names]
                    entry.buffer = buffer

    def check_rounds(self, entries: Sequence[Entry], n_rounds: int) -> None:
        """Options that look at all gradients first need all of them in one engine."""
        options = self.owner.options
        wanted = [f"max_grad_norm={options['max_grad_norm']!r}"] * (options["max_grad_norm"] is not None)
        wanted += [f"nonfinite={options['nonfinite']!r}"] * (options["nonfinite"] != "propagate")
        if n_rounds > 1 and wanted:
            other = next(entry for entry in entries if entry.round)
            raise ValueError(
                f"{self.owner.name}: {wanted[0]} needs all parameters to be of one dtype and none to share memory; "
                f"{other.label} is {other.param.dtype}, or shares memory with another"
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
                    else each.native.look(owner.param_groups, owner.state, None, True, only)
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


class Round:
    """An engine for some of the parameters: all of one dtype, none of which shares memory with another."""

    def __init__(
        self, update: Update, entries: Sequence[Entry | None], number: int, steps_before: dict[int, int]
    ) -> None:
        owner = update.owner
        self.owner = owner
        self.entries = [entry for entry in entries if entry is not None and entry.round == number]
        self.dtype = tensors.DTYPES[self.entries[0].param.dtype] if self.entries else np.dtype(np.float32)
        self.planner = Planner(owner.spec, update.backend, self.dtype, owner.options)
        self.group_options = check_group_options(owner.options, owner.options["max_grad_norm"])
        self.keep = [state for entry in self.entries for state in entry.states]
        self.step_counts = [self.step_count(entry) for entry in self.entries]
        self.table = [
            Segment(entry.group, tensors.flat_array(entry.memory), [tensors.flat_array(each) for each in entry.states])
            for entry in self.entries
        ]
        self.steps = np.array([steps_before.get(id(entry.param), 1) for entry in self.entries], np.int64)
        self.engine = self.make_engine(update, self.table, self.steps)
        self.engines = [self.engine]
        self.native = self.make_native(entries, number)
        if self.native is not None and self.is_flat():
            self.make_flat(update)

    def make_engine(self, update: Update, table: list[Segment], steps: np.ndarray) -> Any:
        return update.backend.engine(
            self.dtype,
            [self.planner.group_plan({**values, **self.group_options}) for values in update.hyperparameters],
            table,
            steps,
            SegmentSettings.of(len(table)),
            self.owner.progress,
            self.planner.step_plan(),
            _accept,
            self.owner.nonfinite,
        )

    def is_flat(self) -> bool:
        """Whether buffers hold all of it, and nothing has to be known of each parameter by itself."""
        return (
            bool(self.entries)
            and all(entry.buffer is not None for entry in self.entries)
            and self.owner.options["clip_norm"] is None
            and self.owner.options["nonfinite"] == "propagate"
        )

    def make_flat(self, update: Update) -> None:
        """Another engine, with one segment for each buffer."""
        buffers: dict[Buffer, list[Entry]] = {}
        for entry in self.entries:
            if entry.buffer is not None:
                buffers.setdefault(entry.buffer, []).append(entry)
        table = []
        for buffer, entries in buffers.items():
            names = self.owner.spec.states(update.hyperparameters[entries[0].group])
            states = [tensors.flat_array(buffer.states[name]) for name in names]
            table.append(Segment(entries[0].group, tensors.flat_array(buffer.param), states))
        flat = self.make_engine(update, table, np.zeros(len(table), np.int64))
        self.engines.append(flat)
        gradients = [view for buffer in buffers for view in buffer.grad_views]
        addresses = [address for buffer in buffers for address in buffer.grad_addresses()]
        self.native.set_flat(flat, [len(buffer.params) for buffer in buffers], gradients, addresses)

    def step_count(self, entry: Entry) -> np.ndarray | None:
        """The memory of torch's own count of steps, where the optimizer has one."""
        if not self.owner.spec.counts_steps:
            return None
        step = self.owner.state[entry.param].get("step")
        if not isinstance(step, Tensor) or step.numel() != 1 or step.dtype not in tensors.DTYPES:
            raise TypeError(
                f"{self.owner.name}: 'step' in the state of {entry.label} must be a float32 or float64 tensor of one "
                f"element, got {step!r}"
            )
        tensors.check_param(self.owner.name, f"'step' in the state of {entry.label}", step)
        return tensors.flat_array(step)

    def kept(self, entry: Entry) -> list[Tensor]:
        """The tensors beside the parameter that the engine knows the memory of."""
        counts = [self.owner.state[entry.param]["step"]] if self.owner.spec.counts_steps else []
        return [*entry.states, *counts]

    def make_native(self, entries: Sequence[Entry | None], number: int) -> Any:
        """What finds gradients without Python; None for engines that are Python themselves."""
        if backends.compiled_module_error() is not None:
            return None
        from ..kernels import native

        if not isinstance(self.engine, native.Engine):
            return None
        positions = itertools.count()
        segments = [
            WITHOUT_GRADIENT if entry is None else next(positions) if entry.round == number else ELSEWHERE
            for entry in entries
        ]
        return native.Tensors(
            Tensor,
            inspect.getattr_static(Tensor, "grad"),
            self.engine,
            [(group, *known_values(group)) for group in self.owner.param_groups],
            segments,
            [entry.memory for entry in self.entries],
            self.step_counts,
            [self.kept(entry) for entry in self.entries],
            self.owner.state,
            torch.autograd.graph.increment_version,
        )

    def set_hyperparameters(self, index: int, values: Hyperparameters, only_lr: bool) -> None:
        if only_lr and self.native is not None:
            for engine in self.engines:
                engine.set_lr(index, values["lr"])
            return
        plan = self.planner.group_plan({**values, **self.group_options})
        for engine in self.engines:
            engine.set_hyperparameters(index, plan)

    def set_known_values(self, index: int, group: dict[str, Any]) -> None:
        if self.native is not None:
            self.native.set_values(index, *known_values(group))

    def step(self, replacements: Replacements, only: int) -> None:
        """A step of all parameters that have a gradient, or of `only` the one at this position."""
        gapped = [entry for entry in self.entries if not entry.in_place and entry.param.grad is not None]
        for entry in gapped:  # They are stepped in memory without gaps.
            entry.memory.copy_(entry.param)
        if self.native is None:
            self.step_in_python(only)
        else:
            owner = self.owner
            found = self.native.step(owner.param_groups, owner.state, owner._threads(), False, replacements, True, only)
            if found != READY:
                raise RuntimeError(f"{owner.name}: parameters, gradients or states were changed during a step")
        for entry in gapped:
            entry.param.copy_(entry.memory)

    def readable_gradients(self) -> Replacements:
        return {
            segment: self.readable_copy(self.entries[segment], gradient) for segment, _, gradient in self.native.odd
        }

    def readable_copy(self, entry: Entry, gradient: Tensor) -> Tensor:
        tensors.check_gradient(self.owner.name, entry.label, entry.param, gradient)
        if self.owner.options["zero_grads"]:
            raise ValueError(
                f"{self.owner.name}: zero_grads=True needs gradients that lie in memory as their parameters do, and "
                f"apart from them; that of {entry.label} has strides {gradient.stride()}"
            )
        return tensors.laid_out_like(gradient, entry.memory)

    def step_in_python(self, only: int) -> None:
        """`step` of an engine that takes NumPy arrays."""
        gradients: list[np.ndarray | None] = []
        written: list[Tensor] = []
        for index, entry in enumerate(self.entries):
            gradient = entry.param.grad if only in (-1, entry.position) else None
            count = self.step_counts[index]
            if count is not None:
                self.steps[index] = count[0]
            if gradient is None:
                gradients.append(None)
                continue
            if not tensors.lies_like(gradient, entry.memory) or gradient.is_neg():
                gradient = self.readable_copy(entry, gradient)
            gradients.append(tensors.flat_array(gradient))
            written.append(entry.param)
        self.engine.step(gradients)
        for index, count in enumerate(self.step_counts):
            if count is not None:
                count[0] = self.steps[index]
        torch.autograd.graph.increment_version(written)


def _accept(index: int, gradient: object) -> None:
    """Engines in Python ask this of each gradient; it has been checked."""

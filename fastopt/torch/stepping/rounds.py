"""An engine, and how torch's tensors get to it."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...kernels.engine.contract import EngineInputs, SegmentRecords, SegmentSettings
from ...kernels.engine.plan import OperandForm, Segment, StepPlan
from ...step.options import check_group_options
from ...step.planning import Planner
from . import devices, shards, tensors
from .entries import Entry
from .exchange import Exchange
from .flattening import Buffer
from .formats import operand_forms
from .found import NoSegment
from .host import Group, Host, States
from .hyperparameters import Hyperparameters, known_values, n_sums
from .references import are_storages_held
from .states import StateNumbers
from .walks import READY, ArrayWalk, KnownGroup, Replacements, TensorWalk


class Contents(NamedTuple):
    """What an optimizer has when engines are made for it."""

    groups: list[Group]
    states: States
    hyperparameters: list[Hyperparameters]
    """Each group's, as plain numbers."""
    entries: list[Entry | None]
    """For each parameter of all groups; None for those that have neither a gradient nor states yet."""
    steps: dict[int, int]
    """The number of steps of each parameter by id, where torch keeps no count."""
    exchange: Exchange | None = None
    """How sums are added up over processes, if steps need that."""

    @property
    def known_groups(self) -> list[KnownGroup]:
        return [(group, *known_values(group)) for group in self.groups]


class Round:
    """An engine for some of the parameters: all are computed in one dtype, on one device, and none shares memory with
    another."""

    on_device = False
    """Whether the device counts steps, so that the numbers in torch's state have to be fetched."""

    def __init__(self, host: Host, contents: Contents, number: int) -> None:
        self.host = host
        self.hyperparameters = contents.hyperparameters
        self.entries = [entry for entry in contents.entries if entry is not None and entry.round == number]
        if self.is_flat():  # Segments of a buffer follow each other, although each dtype has one.
            places = {entry.buffer: entry.position for entry in reversed(self.entries)}
            self.entries.sort(key=lambda entry: places[entry.buffer])
        self.gapped = [entry for entry in self.entries if not entry.in_place]
        """They are stepped in memory without gaps."""
        self.backend = self.load_backend()
        self.dtype = tensors.working_dtype(self.entries[0].local.dtype if self.entries else torch.float32)
        self.planner = Planner(host.spec, self.backend, self.dtype, host.options)
        options = {**host.options, "state_dtype": None}  # which segments have
        self.group_options = check_group_options(options, host.options["max_grad_norm"])
        table = [
            Segment(
                entry.group,
                self.array(entry.memory),
                [self.array(each) for each in entry.states],
                forms=self.forms(entry, [entry.memory, *entry.states]),
                number=entry.position,
                offset=shards.first_element(entry.param),
                numel=entry.param.numel(),
            )
            for entry in self.entries
        ]
        self.state_arrays = [state for segment in table for state in segment.states]
        self.numbers = StateNumbers(host.spec, host.counts_steps)
        self.records = SegmentRecords.of(len(table), host.spec.carried.values())
        self.records.steps[:] = [contents.steps.get(id(entry.param), 1) for entry in self.entries]
        self.read_numbers()
        self.engine = self.make_engine(contents, table, self.records)
        self.engines = [self.engine]
        self.walk = self.make_walk(contents, self.segments(contents.entries))

    # --- what differs between devices ---------------------------------------------------------------------------------

    def load_backend(self) -> Any:
        return devices.backend_for("cpu", self.host.options["backend"], self.host.spec.custom)

    def array(self, tensor: Tensor) -> Any:
        """The memory of a dense tensor, as engines take it."""
        return tensors.flat_array(tensor)

    def forms(self, entry: Entry, memory: Sequence[Tensor]) -> tuple[OperandForm, ...] | None:
        """The forms of a segment's operands, given the tensors of its parameter and its states."""
        stochastic = self.host.options["stochastic_rounding"]
        return operand_forms(self.backend, entry.names, memory, entry.storage.formats, stochastic)

    def step_plan(self) -> StepPlan:
        plan = self.planner.step_plan()
        plan.seed = self.host.options["seed"]
        return plan

    def read_numbers(self) -> None:
        """Find the numbers in torch's state; the walk reads them at each step."""
        self.number_arrays = [[tensors.flat_array(each) for each in entry.numbers] for entry in self.entries]
        self.state_arrays += itertools.chain.from_iterable(self.number_arrays)

    def make_walk(self, contents: Contents, segments: list[int]) -> TensorWalk:
        kept = [[*entry.states, *entry.numbers] for entry in self.entries]
        memory = [entry.memory for entry in self.entries]
        if self.is_native():
            return self.native_walk(contents, segments, memory, kept)
        return ArrayWalk(
            self.engine,
            contents.known_groups,
            segments,
            memory,
            kept,
            contents.states,
            self.wholes(),
            numbers=self.numbers,
            arrays=self.number_arrays,
            records=self.records,
            progress=self.host.progress,
        )

    def wholes(self) -> list[tuple[Tensor, Tensor]]:
        """The states that are DTensors, with their shards."""
        both = [pair for entry in self.entries for pair in zip(entry.wholes, entry.states, strict=True)]
        return [(whole, shard) for whole, shard in both if whole is not None]

    # --- engines ------------------------------------------------------------------------------------------------------

    def make_engine(self, contents: Contents, table: list[Segment], records: SegmentRecords) -> Any:
        report: Any = self.host.report
        exchange = exchange_sums = None
        if contents.exchange is not None:
            positions = [entry.position for entry in self.entries]
            report = functools.partial(contents.exchange.report, positions, report)
            if contents.exchange.adds:
                exchange = functools.partial(contents.exchange.add_up, positions)
            if contents.exchange.n_sums:
                exchange_sums = functools.partial(contents.exchange.add_up_rules, positions)
        return self.backend.engine(
            EngineInputs(
                dtype=self.dtype,
                plans=[
                    self.planner.group_plan({**values, **self.group_options}, values["lr"])
                    for values in contents.hyperparameters
                ],
                segments=table,
                settings=SegmentSettings.of(len(table)),
                records=records,
                progress=self.host.progress,
                plan=self.step_plan(),
                reject=_accept,
                report=report,
                exchange=exchange,
                exchange_sums=exchange_sums,
            )
        )

    def is_native(self) -> bool:
        return bool(self.backend.native)

    def native_walk(
        self, contents: Contents, segments: list[int], memory: list[Tensor], kept: list[list[Tensor]]
    ) -> TensorWalk:
        """The compiled walk; where buffers hold all parameters, with another engine that steps buffers as a whole."""
        from . import native_walk  # type: ignore[attr-defined]

        walk: Any = native_walk.NativeWalk(
            Tensor,
            inspect.getattr_static(Tensor, "grad"),
            self.engine,
            contents.known_groups,
            segments,
            memory,
            self.host.counts_steps,
            self.number_arrays,
            kept,
            contents.states,
            torch.autograd.graph.increment_version,
            self.shard_access(contents),
            torch.overrides.has_torch_function([param for group in contents.groups for param in group["params"]]),
        )
        if self.is_flat():
            buffers: dict[Buffer, list[Entry]] = {}
            for entry in self.entries:
                if entry.buffer is not None:
                    buffers.setdefault(entry.buffer, []).append(entry)
            flat = self.make_flat_engine(contents, buffers)
            self.engines.append(flat)
            addresses = [address for buffer in buffers for address in buffer.addresses]
            walk.set_flat(flat, [len(buffer.params) for buffer in buffers], addresses)
        found: TensorWalk = walk
        return found

    def shard_access(self, contents: Contents) -> shards.Access | None:
        """How the compiled walk gets to the shards of DTensors, if parameters are some."""
        own = [
            entry.local if entry is not None and shards.is_sharded(entry.param) else None for entry in contents.entries
        ]
        return shards.access(own, [[*entry.wholes, *(None for _ in entry.numbers)] for entry in self.entries])

    def is_flat(self) -> bool:
        """Whether buffers hold all parameters, and no option needs to know of each parameter by itself."""
        return (
            bool(self.entries)
            and all(entry.buffer is not None for entry in self.entries)
            and self.host.options["clip_norm"] is None
            and self.host.options["nonfinite"] == "propagate"
            and not any(n_sums(self.host.spec, values) for values in self.hyperparameters)  # over each parameter
            and not self.host.options["stochastic_rounding"]  # whose random bits are each parameter's own
            and not any(entry.storage.formats for entry in self.entries)  # as are blocks of codes
        )

    def make_flat_engine(self, contents: Contents, buffers: dict[Buffer, list[Entry]]) -> Any:
        """An engine with one segment for each buffer."""
        table = []
        for buffer, entries in buffers.items():
            group = entries[0].group
            memory = [buffer.param, *(buffer.states[name] for name in entries[0].names)]
            param, *states = map(tensors.flat_array, memory)
            table.append(Segment(group, param, states, forms=self.forms(entries[0], memory)))
            self.state_arrays += states
        return self.make_engine(contents, table, SegmentRecords.of(len(table), self.host.spec.carried.values()))

    def segments(self, entries: Sequence[Entry | None]) -> list[int]:
        """For each parameter of all groups its segment in this round, or why it has none."""
        own = {id(entry): segment for segment, entry in enumerate(self.entries)}
        return [
            NoSegment.WITHOUT_GRADIENT if entry is None else own.get(id(entry), NoSegment.ELSEWHERE)
            for entry in entries
        ]

    def are_states_held(self, owner: dict[str, Any], n_rounds: int) -> bool:
        """Whether anybody can reach the memory of states without reading `owner["state"]` again.

        Then walks have to look at each step where it is. The walks in Python do so in any case.
        """
        if not self.is_native():
            return False
        walk: Any = self.walk
        if walk.are_states_held(owner, n_rounds):
            return True
        own = [each for entry in self.entries for each in (*entry.states, *entry.numbers)]
        own += [
            flat for buffer in {entry.buffer for entry in self.entries} if buffer for flat in buffer.states.values()
        ]
        own += [tensors.tensor_below(array) for array in self.state_arrays]
        return are_storages_held(own)

    # --- changes ------------------------------------------------------------------------------------------------------

    def set_hyperparameters(self, index: int, values: Hyperparameters, only_lr: bool) -> None:
        if only_lr:
            for engine in self.engines:
                engine.set_lr(index, values["lr"])
            return
        plan = self.planner.group_plan({**values, **self.group_options}, values["lr"])
        for engine in self.engines:
            engine.set_hyperparameters(index, plan)

    def set_known_values(self, index: int, group: Group) -> None:
        self.walk.set_values(index, *known_values(group))

    def set_scale(self) -> None:
        """Take over a changed gradient scale, as far as groups do not have it in their plans."""
        for engine in self.engines:
            engine.set_scale(self.step_plan())

    # --- a step -------------------------------------------------------------------------------------------------------

    def step(self, groups: list[Group], states: States, replacements: Replacements, only: int) -> None:
        """Step all parameters that have a gradient, or `only` the one at this position."""
        gapped = [entry for entry in self.gapped if entry.param.grad is not None]
        for entry in gapped:
            entry.memory.copy_(entry.local)
        found = self.walk.step(groups, states, self.host.n_threads(), False, replacements, True, only)
        if found != READY:
            raise RuntimeError(f"{self.host.name}: parameters, gradients or states were changed during a step")
        for entry in gapped:
            entry.local.copy_(entry.memory)

    def check_memory(self) -> None:
        """Check that parameters that are copied have memory to copy; walks look at all others."""
        for entry in self.gapped:
            if entry.param.grad is not None:
                tensors.check_memory(self.host.name, entry.label, entry.param)

    def readable_gradients(self) -> Replacements:
        """Copies of the gradients that the walk found that it cannot read as they are."""
        return {segment: self.readable_copy(self.entries[segment], gradient) for segment, gradient in self.walk.odd}

    def readable_copy(self, entry: Entry, gradient: Tensor) -> Tensor:
        whole: Any = entry.param.grad if shards.is_sharded(entry.param) else gradient
        tensors.check_gradient(self.host.name, entry.label, entry.param, whole)
        gradient = shards.local(whole)
        if self.host.options["zero_grads"]:
            raise ValueError(
                f"{self.host.name}: zero_grads=True needs gradients with their parameters' strides and memory of their "
                f"own; the gradient of {entry.label} has strides {gradient.stride()}"
            )
        return tensors.laid_out_like(gradient, entry.memory)


def _accept(index: int, gradient: Any) -> Any:
    """Engines in Python call this with each gradient; it has been checked."""
    return gradient

"""An engine, and what brings torch's tensors to it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..kernels import backends
from ..kernels.engine.contract import EngineInputs, SegmentRecords, SegmentSettings
from ..kernels.engine.plan import Segment
from ..step.options import check_group_options
from ..step.planning import Planner
from . import devices, tensors
from .entries import Entry
from .flattening import Buffer
from .hyperparameters import Hyperparameters, known_values

if TYPE_CHECKING:
    from .updates import Update

Replacements = dict[int, Tensor]
"""By segment, copies of gradients that lie differently from their parameters, or in memory that is written."""

READY, REBUILD, REREAD, REPLACE = range(4)
"""What native.Tensors finds: native.FOUND, in its order."""

WITHOUT_GRADIENT, ELSEWHERE = -1, -2
"""In place of a segment: of a parameter that has had no gradient yet, and of one that another engine steps."""


class Round:
    """An engine for some of the parameters: all of one dtype and device, none of which shares memory with another."""

    on_device = False
    """Whether the device counts steps, and the numbers in torch's state have to be fetched."""

    def __init__(
        self, update: Update, entries: Sequence[Entry | None], number: int, steps_before: dict[int, int]
    ) -> None:
        owner = update.owner
        self.owner = owner
        self.update = update
        self.entries = [entry for entry in entries if entry is not None and entry.round == number]
        self.backend = self.load_backend()
        self.dtype = tensors.DTYPES[self.entries[0].param.dtype] if self.entries else np.dtype(np.float32)
        self.planner = Planner(owner.spec, self.backend, self.dtype, owner.options)
        self.group_options = check_group_options(owner.options, owner.options["max_grad_norm"])
        self.table = [
            Segment(entry.group, self.array(entry.memory), [self.array(each) for each in entry.states])
            for entry in self.entries
        ]
        self.records = SegmentRecords.of(len(self.table), owner.spec.carried.values())
        self.records.steps[:] = [steps_before.get(id(entry.param), 1) for entry in self.entries]
        self.read_numbers()
        self.engine = self.make_engine(update, self.table, self.records)
        self.engines = [self.engine]
        self.native = self.make_native(entries, number)
        if self.native is not None and self.is_flat():
            self.make_flat(update)

    def load_backend(self) -> Any:
        return devices.backend_for("cpu", self.owner.options["backend"], self.owner.spec.custom)

    def array(self, tensor: Tensor) -> Any:
        """The memory of a dense tensor, as engines take it."""
        return tensors.flat_array(tensor)

    def read_numbers(self) -> None:
        """Find the numbers in torch's state."""
        self.step_counts = [self.number_array(entry, "step") for entry in self.entries]
        self.carried: list[list[Any]] = [
            [self.number_array(entry, name) for name in self.owner.spec.carried] for entry in self.entries
        ]

    def make_engine(self, update: Update, table: list[Segment], records: SegmentRecords) -> Any:
        return self.backend.engine(
            EngineInputs(
                dtype=self.dtype,
                plans=[
                    self.planner.group_plan({**values, **self.group_options}, values["lr"])
                    for values in update.hyperparameters
                ],
                segments=table,
                settings=SegmentSettings.of(len(table)),
                records=records,
                progress=self.owner.progress,
                plan=self.planner.step_plan(),
                reject=_accept,
                report=self.owner.nonfinite,
            )
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
        flat = self.make_engine(update, table, SegmentRecords.of(len(table), self.owner.spec.carried.values()))
        self.engines.append(flat)
        addresses = [address for buffer in buffers for address in buffer.addresses]
        self.native.set_flat(flat, [len(buffer.params) for buffer in buffers], addresses)

    def number(self, entry: Entry, name: str) -> Tensor | None:
        """A number in torch's state, where the optimizer has it."""
        if name not in self.numbers:
            return None
        value = self.owner.known_states[entry.param].get(name)
        label = f"{name!r} in the state of {entry.label}"
        if not isinstance(value, Tensor) or value.numel() != 1 or value.dtype not in tensors.DTYPES:
            raise TypeError(
                f"{self.owner.name}: {label} must be a float32 or float64 tensor of one element, got {value!r}"
            )
        tensors.check_param(self.owner.name, label, value)
        return value

    def number_array(self, entry: Entry, name: str) -> np.ndarray | None:
        """The memory of such a number."""
        value = self.number(entry, name)
        if value is None:
            return None
        if devices.kind(value) != "cpu":
            raise ValueError(
                f"{self.owner.name}: {name!r} in the state of {entry.label} is on {value.device}; it must be in main "
                "memory, as its parameter is"
            )
        return tensors.flat_array(value)

    @property
    def numbers(self) -> list[str]:
        """What is in torch's state beside tensors like the parameter: read before a step, written after it."""
        spec = self.owner.spec
        return ["step"] * spec.counts_steps + list(spec.carried)

    def kept(self, entry: Entry) -> list[Tensor]:
        """The tensors beside the parameter that the engine knows the memory of."""
        return [*entry.states, *(self.owner.known_states[entry.param][name] for name in self.numbers)]

    def make_native(self, entries: Sequence[Entry | None], number: int) -> Any:
        """What finds gradients without Python; None for engines that are Python themselves."""
        if backends.compiled_module_error() is not None:
            return None
        from ..kernels import native

        if not isinstance(self.engine, native.Engine):
            return None
        return native.Tensors(
            Tensor,
            inspect.getattr_static(Tensor, "grad"),
            self.engine,
            [(group, *known_values(group)) for group in self.owner.param_groups],
            self.segments(entries, number),
            [entry.memory for entry in self.entries],
            self.step_counts,
            self.carried,
            [self.kept(entry) for entry in self.entries],
            self.owner.known_states,
            torch.autograd.graph.increment_version,
        )

    def segments(self, entries: Sequence[Entry | None], number: int) -> list[int]:
        """For each parameter of all groups its segment here, or what stands for it."""
        positions = itertools.count()
        return [
            WITHOUT_GRADIENT if entry is None else next(positions) if entry.round == number else ELSEWHERE
            for entry in entries
        ]

    def set_hyperparameters(self, index: int, values: Hyperparameters, only_lr: bool) -> None:
        if only_lr and self.native is not None:
            for engine in self.engines:
                engine.set_lr(index, values["lr"])
            return
        plan = self.planner.group_plan({**values, **self.group_options}, values["lr"])
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
            found = self.native.step(
                owner.param_groups, owner.known_states, owner._threads(), False, replacements, True, only
            )
            if found != READY:
                raise RuntimeError(f"{owner.name}: parameters, gradients or states were changed during a step")
        for entry in gapped:
            entry.param.copy_(entry.memory)

    def readable_gradients(self) -> Replacements:
        return {segment: self.readable_copy(self.entries[segment], gradient) for segment, gradient in self.native.odd}

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
                self.records.steps[index] = count[0]
            self.records.carried[index] = [number[0] for number in self.carried[index]]
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
                count[0] = self.records.steps[index]
            for number, value in zip(self.carried[index], self.records.carried[index], strict=True):
                number[0] = value
        torch.autograd.graph.increment_version(written)


def _accept(index: int, gradient: object) -> None:
    """Engines in Python ask this of each gradient; it has been checked."""

"""Walks over tensors: they compare what can change between steps with what it was, and step an engine if nothing has.

`TensorWalk` is the interface. Beside the compiled walk there are two in Python, which share `PythonWalk`: `ArrayWalk`
here, and `DeviceWalk`.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ...kernels.engine.contract import Progress, SegmentRecords
from ...kernels.floating_point import with_denormals
from . import shards, tensors
from .found import LOW_ADDRESS, Found, NoSegment
from .host import Group, States
from .states import StateNumbers

READY, REBUILD, REREAD, REPLACE = Found
WITHOUT_GRADIENT, ELSEWHERE = NoSegment

Replacements = Mapping[int, Tensor]
"""Copies of gradients that the kernels cannot read as they are, by segment."""

KnownGroup = tuple[Group, tuple[Any, ...], bool]
"""One of torch's groups, its values when they were last read, and whether any of them can change in place."""


class TensorWalk(Protocol):
    """Steps an engine whose parameters and gradients are tensors.

    A walk is made for certain groups, parameters, states and memory, and compares them by identity and address at every
    step. `only` restricts a call to the parameter at this position among all groups'; -1 stands for all.
    """

    @property
    def odd(self) -> Sequence[tuple[int, Tensor]]:
        """(segment, gradient) of the gradients for which the last call returned REPLACE."""

    def look(
        self,
        param_groups: list[Group],
        states: States,
        replacements: Replacements | None = None,
        reread: bool = False,
        only: int = -1,
    ) -> int:
        """Whether a step can be done, as a `Found`. Nothing is written.

        `replacements` are read in place of gradients. `reread` says that hyperparameters were just read, so that they
        are not compared.
        """

    def step(
        self,
        param_groups: list[Group],
        states: States,
        n_threads: int,
        thorough: int,
        replacements: Replacements | None = None,
        reread: bool = False,
        only: int = -1,
    ) -> int:
        """Do a step, unless `look` would find something; return a `Found`.

        `thorough` says whether to compare the addresses of states, too, as `look` does.
        """

    def set_values(self, index: int, values: tuple[Any, ...], changes_in_place: bool) -> None:
        """Set what the values of a group are compared with."""


class Form(NamedTuple):
    """What a gradient must have in common with its parameter, and the parameter's address."""

    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    strides: tuple[int, ...]
    address: int


class PythonWalk(ABC):
    """A `TensorWalk` in Python.

    Parameters
    ----------
    engine: the engine that `advance` steps
    groups: list of KnownGroup
    segments: list of int
        For each parameter of all groups its segment in the engine, or a `NoSegment`.
    memory: list of tensors, one a segment
        The engine's segments: the parameters, or tensors that stand in for them.
    kept: list of lists of tensors, one a segment
        The engine's states, and whatever else must stay at its address.
    states: dict
        The optimizer's, from parameter to the dict of its states.
    wholes: list of (DTensor, tensor)
        The states that are DTensors, and their shards, which are in `kept`.
    """

    def __init__(
        self,
        engine: Any,
        groups: list[KnownGroup],
        segments: Sequence[int],
        memory: Sequence[Tensor],
        kept: Sequence[Sequence[Tensor]],
        states: States,
        wholes: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        self.engine = engine
        self.wholes = wholes
        self.groups = groups
        self.params = [param for group, _, _ in groups for param in group["params"]]
        self.shards = [shards.local(param) for param in self.params]
        self.segments = list(segments)
        self.memory = list(memory)
        self.kept = [(tensor, tensor.data_ptr()) for each in kept for tensor in each]
        params = set(map(id, self.params))
        self.states = [(key, own if id(key) in params else None) for key, own in states.items()]
        """The keys, and the states of parameters; what others keep under other keys may change."""
        # dict's own functions see codes where those of `CodedStates` show numbers.
        self.state_values = [[] if own is None else list(dict.values(own)) for _, own in self.states]
        self.forms = [Form(each.dtype, each.device, each.shape, each.stride(), each.data_ptr()) for each in self.memory]
        self.written = sorted(
            (each.data_ptr(), each.data_ptr() + each.numel() * each.element_size())
            for each in (*self.memory, *(tensor for tensor, _ in self.kept))
            if each.numel()
        )
        self.apart: list[tuple[int, int]] = [(-1, -1)] * len(self.memory)
        """Where the last gradient of each segment began and ended, apart from everything that is written."""
        self.odd: list[tuple[int, Tensor]] = []
        self.gradients: list[Tensor | None] = []
        self.addresses: list[int | None] = []
        self.stepped: list[Tensor] = []

    @abstractmethod
    def advance(self, n_threads: int) -> bool:
        """Step the engine with `gradients`, which are at `addresses`; whether the step may have been done."""

    def set_values(self, index: int, values: tuple[Any, ...], changes_in_place: bool) -> None:
        self.groups[index] = (self.groups[index][0], values, changes_in_place)

    def look(
        self,
        param_groups: list[Group],
        states: States,
        replacements: Replacements | None = None,
        reread: bool = False,
        only: int = -1,
    ) -> int:
        return self.find(param_groups, states, replacements, reread, only, True)

    def step(
        self,
        param_groups: list[Group],
        states: States,
        n_threads: int,
        thorough: int,
        replacements: Replacements | None = None,
        reread: bool = False,
        only: int = -1,
    ) -> int:
        found = self.find(param_groups, states, replacements, reread, only, bool(thorough))
        if found == READY and self.advance(n_threads):
            written = self.stepped
            if self.engine.plan.clears:
                written = [*written, *(param.grad for param in written if param.grad is not None)]
            written = [*written, *(shards.local(each) for each in written if shards.is_sharded(each))]
            torch.autograd.graph.increment_version(written)
        return found

    def find(
        self,
        param_groups: list[Group],
        states: States,
        replacements: Replacements | None,
        reread: bool,
        only: int,
        thorough: bool,
    ) -> int:
        found = self.compare(param_groups, states, reread)
        return found or self.gather(replacements, only, thorough)

    def compare(self, param_groups: list[Group], states: States, reread: bool) -> int:
        if len(param_groups) != len(self.groups) or len(states) != len(self.states):
            return REBUILD
        result, start = READY, 0
        for group, (known, values, changes_in_place) in zip(param_groups, self.groups, strict=True):
            if group is not known:
                return REBUILD
            if not reread and (
                changes_in_place or len(group) != len(values) or not all(map(is_, group.values(), values))
            ):
                result = REREAD
            params = group["params"]
            stop = start + len(params)
            if stop > len(self.params) or not all(map(is_, params, self.params[start:stop])):
                return REBUILD
            start = stop
        if start != len(self.params):
            return REBUILD
        for (key, state), (known_key, its), values_in_it in zip(
            states.items(), self.states, self.state_values, strict=True
        ):
            if key is not known_key:
                return REBUILD
            if its is not None and (
                state is not its
                or len(state) != len(values_in_it)
                or not all(map(is_, dict.values(state), values_in_it))
            ):
                return REBUILD
        return result

    def is_kept(self, thorough: bool) -> bool:
        """Whether the engine still has the states: their memory and, if `thorough`, numbers that it keeps itself."""
        return all(tensor.data_ptr() == address for tensor, address in self.kept) and all(
            shards.local(whole) is shard for whole, shard in self.wholes
        )

    def overlaps_written(self, begin: int, end: int) -> bool:
        position = bisect.bisect_left(self.written, (end,)) - 1
        return begin < end and position >= 0 and self.written[position][1] > begin

    def gather(self, replacements: Replacements | None, only: int, thorough: bool) -> int:
        """Note where the gradients are."""
        addresses: list[int | None] = [None] * len(self.memory)
        gradients: list[Tensor | None] = [None] * len(self.memory)
        self.odd, self.addresses, self.gradients, self.stepped = [], addresses, gradients, []
        if not self.is_kept(thorough):
            return REBUILD
        for index, param in enumerate(self.params) if only < 0 else ((only, self.params[only]),):
            segment, gradient = self.segments[index], param.grad
            if segment == ELSEWHERE or gradient is None:
                continue
            if segment == WITHOUT_GRADIENT:
                return REBUILD
            form, own = self.forms[segment], shards.local(param)
            if own is not param and own is not self.shards[index]:
                return REBUILD
            if self.memory[segment] is own and (
                own.data_ptr() != form.address or own.stride() != form.strides or own.shape != form.shape
            ):
                return REBUILD
            found = gradient if own is param else shards.readable(param, gradient)
            if replacements:
                found = replacements.get(segment, found)
            if (
                type(found) is not Tensor
                or found.layout is not torch.strided
                or found.shape != form.shape
                or (found.stride() != form.strides and not tensors.lies_like(found, self.memory[segment]))
                or not tensors.fits(found.dtype, form.dtype)
                or found.device != form.device
                or found.is_neg()
            ):
                self.odd.append((segment, gradient))
                continue
            address = found.data_ptr()
            if address < LOW_ADDRESS and not tensors.has_memory(found):
                self.odd.append((segment, gradient))
                continue
            span = (address, address + found.numel() * found.element_size())
            if span != self.apart[segment] and self.overlaps_written(*span):
                self.odd.append((segment, gradient))
                continue
            addresses[segment] = address
            gradients[segment] = found
            self.apart[segment] = span
            self.stepped.append(param)
        return REPLACE if self.odd else READY


class ArrayWalk(PythonWalk):
    """The walk of an engine in Python, which takes gradients as NumPy arrays.

    Beyond `PythonWalk`'s arguments it takes arrays of one element with each segment's numbers in torch's state, and the
    records and the progress that the engine writes.
    """

    def __init__(
        self,
        *arguments: Any,
        numbers: StateNumbers,
        arrays: Sequence[Sequence[np.ndarray]],
        records: SegmentRecords,
        progress: Progress,
    ) -> None:
        super().__init__(*arguments)
        self.numbers = numbers
        self.arrays = arrays
        self.records = records
        self.progress = progress

    def advance(self, n_threads: int) -> bool:
        stepped = [(index, arrays) for index, arrays in enumerate(self.arrays) if self.gradients[index] is not None]
        for index, arrays in stepped:
            self.numbers.set(self.records, index, [array[0] for array in arrays])
        calls = int(self.progress.calls[0])
        self.engine.n_threads = n_threads
        self.engine.step([None if each is None else tensors.flat_array(each) for each in self.gradients])
        if int(self.progress.calls[0]) == calls:  # a skipped step
            return False

        def write() -> None:
            for index, arrays in stepped:
                for array, number in zip(arrays, self.numbers.get(self.records, index), strict=True):
                    array[0] = number

        with_denormals(False, write)  # numbers of 32 bits are rounded to nearest, as all that a step computes
        return True

"""What finds the gradients of tensors on a device, and has the engine step them: `native.Tensors`, for a device."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import devices, tensors

READY, REBUILD, REREAD, REPLACE = range(4)
"""As in `rounds`."""


class Form(NamedTuple):
    """What a gradient must have in common with its parameter, and where that is."""

    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    strides: tuple[int, ...]
    address: int


class DeviceTensors:
    """Steps an engine on a device, whose parameters and gradients are tensors.

    It promises what `native.Tensors` does: whatever can change from one step to the next is compared with what it was,
    by identity and address. Arguments with the same names are the same; `counts` and `carried` are not needed
    here: the device counts.
    """

    def __init__(
        self,
        engine: Any,
        groups: list[tuple[dict[str, Any], tuple[Any, ...], bool]],
        segments: Sequence[int],
        memory: Sequence[Tensor],
        kept: Sequence[Sequence[Tensor]],
        states: Mapping[Tensor, dict[str, Any]],
        increment_version: Callable[[list[Tensor]], None],
        counts_changed: Callable[[], bool],
        scaler: Callable[[], tuple[int, int]],
    ) -> None:
        self.engine = engine
        self.groups = groups
        self.params = [param for group, _, _ in groups for param in group["params"]]
        self.segments = list(segments)
        self.memory = list(memory)
        self.kept = [(tensor, tensor.data_ptr()) for each in kept for tensor in each]
        self.states = list(states.values())
        self.state_values = [list(own.values()) for own in self.states]
        self.increment_version = increment_version
        self.counts_changed = counts_changed
        self.scaler = scaler
        self.forms = [Form(each.dtype, each.device, each.shape, each.stride(), each.data_ptr()) for each in self.memory]
        written = (*self.memory, *(tensor for each in kept for tensor in each))
        self.written = sorted(
            (each.data_ptr(), each.data_ptr() + each.numel() * each.element_size()) for each in written if each.numel()
        )
        self.apart: list[int] = [-1] * len(self.memory)
        """Where the last gradient of each segment was, apart from all that is written."""
        self.odd: list[tuple[int, Tensor]] = []
        self.addresses: list[int | None] = []
        self.stepped: list[Tensor] = []

    def set_values(self, index: int, values: tuple[Any, ...], changes_in_place: bool) -> None:
        """What the hyperparameters of a group now are."""
        self.groups[index] = (self.groups[index][0], values, changes_in_place)

    # --- what has changed ---------------------------------------------------------------------------------------------

    def compare(self, param_groups: list[dict[str, Any]], states: Mapping[Tensor, Any], reread: bool) -> int:
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
        if start != len(self.params) or not all(map(is_, states.values(), self.states)):
            return REBUILD
        for own, values_of_param in zip(self.states, self.state_values, strict=True):
            if len(own) != len(values_of_param) or not all(map(is_, own.values(), values_of_param)):
                return REBUILD
        return result

    def is_kept(self) -> bool:
        """Whether states are where they were, and counts what the device's are."""
        return all(tensor.data_ptr() == address for tensor, address in self.kept) and not self.counts_changed()

    def overlaps_written(self, begin: int, end: int) -> bool:
        position = bisect.bisect_left(self.written, (end,)) - 1
        return begin < end and position >= 0 and self.written[position][1] > begin

    def gather(self, replacements: Mapping[int, Tensor] | None, only: int, thorough: bool) -> int:
        """Note where the gradients are; `replacements` are tensors in place of some, by segment."""
        addresses: list[int | None] = [None] * len(self.memory)
        self.odd, self.addresses, self.stepped = [], addresses, []
        if thorough and not self.is_kept():
            return REBUILD
        for index, param in enumerate(self.params) if only < 0 else ((only, self.params[only]),):
            segment, gradient = self.segments[index], param.grad
            if segment == -2 or gradient is None:
                continue
            if segment < 0:
                return REBUILD
            form = self.forms[segment]
            if self.memory[segment] is param and (
                param.data_ptr() != form.address or param.stride() != form.strides or param.shape != form.shape
            ):
                return REBUILD
            if replacements:
                gradient = replacements.get(segment, gradient)
            address = gradient.data_ptr()
            if (
                type(gradient) is not Tensor
                or gradient.shape != form.shape
                or (gradient.stride() != form.strides and not tensors.lies_like(gradient, self.memory[segment]))
                or gradient.dtype is not form.dtype
                or gradient.device != form.device
                or gradient.is_neg()
                or (
                    address != self.apart[segment]
                    and self.overlaps_written(address, address + gradient.numel() * gradient.element_size())
                )
            ):
                self.odd.append((segment, gradient))
                continue
            addresses[segment] = address
            self.apart[segment] = address
            self.stepped.append(param)
        return REPLACE if self.odd else READY

    def find(
        self,
        param_groups: list[dict[str, Any]],
        states: Mapping[Tensor, Any],
        replacements: Mapping[int, Tensor] | None,
        reread: bool,
        only: int,
        thorough: bool,
    ) -> int:
        found = self.compare(param_groups, states, reread)
        return found or self.gather(replacements, only, thorough)

    def look(
        self,
        param_groups: list[dict[str, Any]],
        states: Mapping[Tensor, Any],
        replacements: Mapping[int, Tensor] | None = None,
        reread: bool = False,
        only: int = -1,
    ) -> int:
        """Whether a step can be done: READY, or what else it finds. Nothing is written."""
        return self.find(param_groups, states, replacements, reread, only, True)

    def step(
        self,
        param_groups: list[dict[str, Any]],
        states: Mapping[Tensor, Any],
        n_threads: int,
        thorough: bool,
        replacements: Mapping[int, Tensor] | None = None,
        reread: bool = False,
        only: int = -1,
    ) -> int:
        """One step on torch's current stream; as `look`, and unless it is READY nothing was done."""
        found = self.find(param_groups, states, replacements, reread, only, thorough)
        if found == READY and self.memory:
            stream = devices.current_stream(self.forms[0].device)
            if stream != self.engine.stream:
                self.engine.stream = stream
            self.engine.set_scaler(*self.scaler())
            self.engine.step_at(self.addresses)
            written = self.stepped
            if self.engine.plan.clears:
                written = [*written, *(param.grad for param in written if param.grad is not None)]
            self.increment_version(written)
        return found

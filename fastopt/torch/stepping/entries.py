"""The parameters of a step, and which of them can be stepped together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...step.param_storage import ParamStorage
from . import shards, tensors
from .flattening import Buffer


@dataclass(eq=False)
class Entry:
    """A parameter that is stepped: its own tensor or, of a DTensor, its shard in this process; the tensor that stands
    for that in memory; the names of its states and their memory (codes, for those in a format), and the numbers in its
    state in the order of `StateNumbers.names`."""

    label: str
    position: int
    group: int
    param: Tensor
    storage: ParamStorage
    names: tuple[str, ...]
    states: list[Tensor] = field(default_factory=list)
    wholes: list[Tensor | None] = field(default_factory=list)
    """For each of `states` the DTensor whose shard it is; None: it is plain."""
    numbers: list[Tensor] = field(default_factory=list)
    local: Tensor = field(init=False)
    memory: Tensor = field(init=False)
    buffer: Buffer | None = None
    round: int = 0

    def __post_init__(self) -> None:
        self.local = shards.local(self.param)
        self.memory = self.local if tensors.is_dense(self.local) else torch.empty_like(self.local, requires_grad=False)

    def add_state(self, value: Tensor) -> None:
        """Note the next state; of a DTensor, a step writes to its shard."""
        self.states.append(shards.local(value))
        self.wholes.append(value if shards.is_sharded(value) else None)

    @property
    def in_place(self) -> bool:
        return self.memory is self.local

    def spans(self) -> list[tuple[int, int]]:
        """The ranges of addresses [begin, end) that a step writes to, gaps between elements included."""
        spans = []
        for tensor in (self.local, *self.states):
            if tensor.numel():
                reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
                spans.append((tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()))
        return spans


def assign_rounds(entries: Sequence[Entry]) -> int:
    """Assign entries to rounds: those of one round are computed in one dtype, on one device, and share no memory.

    Entries that share memory keep their order. Returns the number of rounds, at least one. O(n log n) where nothing is
    shared.
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
    keys = [
        (depths.get(id(entry), 0), tensors.working_dtype(entry.local.dtype).name, str(entry.local.device))
        for entry in entries
    ]
    for key in sorted(set(keys)):
        rounds[key] = len(rounds)
    for entry, key in zip(entries, keys, strict=True):
        entry.round = rounds[key]
    return max(len(rounds), 1)


def check_state(owner: str, entry: Entry, label: str, value: Tensor) -> None:
    """Check that a state is a tensor like its parameter.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        It is not.
    """
    param = entry.local
    tensors.check_param(owner, label, value)
    tensors.check_memory(owner, label, value)
    shards.check_state(owner, label, entry.param, value)
    value = shards.local(value)
    if not tensors.fits(value.dtype, param.dtype) or value.shape != param.shape:
        cure = "; optimizer.load_state_dict(optimizer.state_dict()) converts the states"
        raise ValueError(
            f"{owner}: {label} must be of its parameter's dtype and shape, {param.dtype} {tuple(param.shape)}, got "
            f"{value.dtype} {tuple(value.shape)}" + cure * (value.shape == param.shape)
        )
    if value.device != param.device:
        raise ValueError(f"{owner}: {label} must be on its parameter's device {param.device}, got {value.device}")

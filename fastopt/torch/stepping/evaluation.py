"""The exchange of a torch optimizer's parameters with their average; see `step.evaluation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels.engine.contract import Progress
from ...step import evaluation
from ...step.evaluation import TRAIN_MODE, Y, Z
from ...step.storage import REST
from . import devices, shards, tensors
from .entries import Entry, assign_rounds, check_state
from .formats import operand_forms
from .host import Group, Host, States
from .hyperparameters import read_hyperparameters


def exchange(host: Host, groups: Sequence[Group], states: States) -> None:
    """Let the parameters be their average or, if they are, what they were before: all of them or, if that fails, none.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        A parameter or a state is not usable. Nothing has been changed.
    """
    shown = bool(host.progress.swapped[0])
    values = [read_hyperparameters(host.name, host.spec, group) for group in groups]
    entries = _entries(host, groups, states, shown)
    rounds: list[list[Entry]] = [[] for _ in range(assign_rounds(entries))]
    for entry in entries:
        rounds[entry.round].append(entry)
    if shown:
        rounds.reverse()  # Where parameters share memory, the last that was changed is restored first.
    progresses = [_progress(shown) for _ in rounds] if len(rounds) > 1 else [host.progress]
    engines = [_engine(host, values, states, *each) for each in zip(rounds, progresses, strict=True)]
    for entry in entries:
        states[entry.param][Y] = shards.wrapped(entry.states[1], entry.param)
    try:
        for each, engine in zip(rounds, engines, strict=True):
            _swap(each, engine)
        host.progress.swapped[0] = not shown
    except BaseException:
        if len(rounds) > 1:
            for each, progress in reversed(list(zip(rounds, progresses, strict=True))):
                if progress.swapped[0] != shown:
                    _swap(each, _engine(host, values, states, each, progress))
        raise
    finally:
        for group in groups:
            group[TRAIN_MODE] = not host.progress.swapped[0]
        if not host.progress.swapped[0]:
            for entry in entries:
                states[entry.param].pop(Y, None)


def _entries(host: Host, groups: Sequence[Group], states: States, shown: bool) -> list[Entry]:
    """The parameters that have a state; the others are their own average."""
    labels = tensors.labels(groups)
    found: dict[int, Entry] = {}
    position = 0
    for index, group in enumerate(groups):
        for param in group["params"]:
            label = next(labels)
            position += 1
            state = states.get(param, {})
            if dict.get(state, Z) is None or id(param) in found:
                continue
            tensors.check_param(host.name, label, param)
            tensors.check_memory(host.name, label, param)
            storage = host.storage(param, host.spec.defaults, label)
            names = evaluation.operands(storage.split)[2:]
            entry = found[id(param)] = Entry(label, position - 1, index, param, storage, names)
            z = dict.__getitem__(state, Z)
            check_state(host.name, entry, f"{Z!r} in the state of {label}", z)
            entry.add_state(_like(entry.memory, shards.local(z)))
            kept = dict.get(state, Y) if shown else None
            if kept is not None:
                check_state(host.name, entry, f"{Y!r} in the state of {label}", kept)
                entry.add_state(_like(entry.memory, shards.local(kept)))
            else:
                dtype = torch.float32 if storage.split else entry.memory.dtype
                entry.add_state(torch.full_like(entry.memory, torch.nan, dtype=dtype, requires_grad=False))
            if storage.split:
                entry.add_state(_like(entry.memory, shards.local(dict.__getitem__(state, REST))))
    return list(found.values())


def _like(memory: Tensor, value: Tensor) -> Tensor:
    """A tensor that lies like a parameter's memory: itself, or a copy."""
    if tensors.is_dense(value) and tensors.lies_like(value, memory):
        return value
    there = torch.empty_strided(memory.shape, memory.stride(), dtype=value.dtype, device=value.device)
    return there.copy_(value)


def _progress(shown: bool) -> Progress:
    found = Progress.new()
    found.swapped[0] = shown
    return found


def _engine(
    host: Host, values: Sequence[dict[str, Any]], states: States, entries: Sequence[Entry], progress: Progress
) -> Any:
    kind = devices.kind(entries[0].local) if entries else "cpu"
    if kind == "cuda":
        devices.check_current(host.name, entries[0].label, entries[0].param)
    backend = devices.backend_for(kind, host.options["backend"], host.spec.custom)
    as_array = devices.device_array if kind == "cuda" else tensors.flat_array
    rows = []
    for entry in entries:
        arrays: list[Any] = [as_array(each) for each in (entry.memory, *entry.states)]
        split = entry.storage.split
        rows.append(
            evaluation.Exchanged(
                group=values[entry.group],
                param=arrays[0],
                z=arrays[1],
                y=arrays[2],
                rest=arrays[3] if split else None,
                steps=int(states[entry.param]["step"]),
                forms=operand_forms(backend, entry.names, [entry.memory, *entry.states], {}, stochastic=False),
                stored="" if split else tensors.HALVES.get(entry.memory.dtype, ""),
            )
        )
    dtype: np.dtype[Any] = tensors.working_dtype(entries[0].local.dtype if entries else torch.float32)
    engine = evaluation.exchange(host.spec, backend, rows, dtype, progress, host.n_threads())
    if kind == "cuda":
        engine.stream = devices.current_stream(entries[0].local.device)
    return engine


def _swap(entries: Sequence[Entry], engine: Any) -> None:
    gapped = [entry for entry in entries if not entry.in_place]
    for entry in gapped:
        entry.memory.copy_(entry.local)
    try:
        engine.swap()
    finally:
        for entry in gapped:
            entry.local.copy_(entry.memory)
        written = [entry.local for entry in entries if entry.in_place]
        if written:
            torch.autograd.graph.increment_version(written)

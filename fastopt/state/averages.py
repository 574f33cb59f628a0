"""The exchange of parameters with their averages: with those of `ema_decay` where parameters cannot hold them to the
last bit, and with averages that follow from the parameter and a state."""

from __future__ import annotations

import collections
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.backends import Backend
from ..kernels.engine import host_memory
from ..step import evaluation
from ..step.operations import AVERAGE
from ..step.storage import HALVES, REST, formats_of, operand_forms, working_dtype
from . import coded
from .contents import Contents
from .states import States, allocate


def loses_bits(contents: Contents) -> bool:
    """Whether an exchange would round the average of a parameter, so that a second one would not bring it back."""
    pairs = zip(contents.params.arrays, contents.storages, strict=True)
    return True in [param.dtype != working_dtype(param.dtype) and not storage.split for param, storage in pairs]


def exchange(contents: Contents) -> None:
    """Exchange all parameters with their averages, all or, if that fails, none.

    What a parameter of 16 bits does not hold of its average is kept until the second exchange, in memory that is
    allocated for it.
    """
    kept, memory = contents.kept_averages, contents.params.memory
    swapped_in = bool(contents.progress.swapped[0])
    averages = [memory.to_host(states[AVERAGE]) for states in contents.states]
    pairs: list[tuple[Any, Any]] = [(contents.progress.swapped, not swapped_in)]
    for index, (param, states) in enumerate(zip(contents.params.arrays, contents.states, strict=True)):
        average = averages[index]
        if contents.storages[index].split:
            codes, rest = coded.split(average)
            pairs += [(states[AVERAGE], coded.joined(param, states[REST])), (states[REST], rest)]
            pairs += [(param.view(codes.dtype), codes)]
        else:
            with np.errstate(all="ignore"):
                rounded = average.astype(param.dtype)
            value = kept[index] if swapped_in else memory.to_host(param).astype(average.dtype)
            pairs += [(states[AVERAGE], value), (param, rounded)]
    contents.kept_averages = [] if swapped_in else averages
    if memory is not host_memory:
        (swapped, value), *pairs = pairs
        for target, source in pairs:
            memory.copy(target, source)
        swapped[...] = value
        return
    # One call of C code, within which no signal handler runs.
    collections.deque(map(operator.setitem, *_columns(pairs)), maxlen=0)


def _columns(pairs: list[tuple[Any, Any]]) -> tuple[Any, Any, Any]:
    targets, values = zip(*pairs, strict=True)
    return targets, itertools.repeat(...), values


# --- averages that follow from the parameter and a state, see `step.evaluation` ---------------------------------------


def _new_kept(contents: Contents) -> list[Any]:
    """What keeps each parameter while it shows its average: uninitialized arrays of its shape."""
    made: list[States] = [{} for _ in contents.params.arrays]
    pairs = zip(contents.params.arrays, contents.storages, strict=True)
    forms = [(kept_dtype(param, storage.split), tuple(param.shape)) for param, storage in pairs]
    allocate(evaluation.Y, forms, made, contents.params.memory)
    return [each[evaluation.Y] for each in made]


def kept_on_host(contents: Contents, index: int) -> np.ndarray:
    """What a parameter was before it showed its average: a new array of the dtype that kernels compute in."""
    kept = contents.params.memory.to_host(contents.kept_averages[index])
    return kept.astype(working_dtype(kept.dtype), copy=False)


def keep(contents: Contents, found: Sequence[np.ndarray | None]) -> None:
    """Have contents whose parameters show their averages keep what they were before; None where that is not known."""
    contents.kept_averages = _new_kept(contents)
    for kept, value in zip(contents.kept_averages, found, strict=True):
        missing = np.full(kept.shape, np.nan) if value is None else value  # see the operation `hide_average`
        contents.params.memory.copy(kept, missing.astype(kept.dtype))


def kept_dtype(param: Any, split: bool) -> np.dtype[Any]:
    """The dtype that holds all bits of a parameter; `split` says whether it has master weights."""
    found: np.dtype[Any] = working_dtype(param.dtype) if split else param.dtype
    return found


def show_or_hide(contents: Contents, backend: Backend, stream: Any = None) -> None:
    """Let all parameters be their averages or, if they are, what they were before: all of them or, if that fails, none.

    What is kept meanwhile says something while `progress.swapped` alone.
    """
    if not contents.progress.swapped[0]:
        contents.kept_averages = _new_kept(contents)
    kept = contents.kept_averages
    rows = []
    for group, span in zip(contents.groups, contents.params.spans, strict=True):
        for index in span:
            param, states, storage = contents.params.arrays[index], contents.states[index], contents.storages[index]
            arrays = [param, param, states[evaluation.Z], kept[index], *([states[REST]] if storage.split else [])]
            names = evaluation.operands(storage.split)
            stored = param.dtype.name if param.dtype.name in HALVES and not storage.split else ""
            formats = formats_of(names, param.dtype.name, {evaluation.Y: stored} if stored else {})
            forms = operand_forms(backend, names, [each.dtype for each in arrays], formats)
            steps = int(contents.records.steps[index])
            rows.append(
                evaluation.Exchanged(
                    group, param, states[evaluation.Z], kept[index], states.get(REST), steps, forms, stored
                )
            )
    threads = contents.options["n_threads"] or 0
    engine = evaluation.exchange(contents.spec, backend, rows, contents.params.dtype, contents.progress, threads)
    if stream is not None:
        engine.stream = stream
    engine.swap()
    if not contents.progress.swapped[0]:
        contents.kept_averages = []

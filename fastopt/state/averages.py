"""The exchange of parameters with their averages where parameters cannot hold the averages to the last bit."""

from __future__ import annotations

import collections
import itertools
import operator
from typing import Any

import numpy as np

from ..kernels.engine import host_memory
from ..step.operations import AVERAGE
from ..step.storage import REST, working_dtype
from . import coded
from .contents import Contents


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

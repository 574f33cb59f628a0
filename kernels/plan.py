"""What an optimizer tells an engine: for each group a loop and its coefficients, for each parameter its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Stage:
    """A coefficient function and the hyperparameters it gets: `function(*arguments)`."""

    function: Any  # an address for the native engine, a callable for the Python one
    arguments: tuple[float, ...]
    step_argument: int  # which argument is the step count, or -1


@dataclass(frozen=True)
class GroupPlan:
    """How the parameters of a group are updated."""

    loop: Any  # an address for the native engine, a callable for the Python one
    stages: tuple[Stage, ...]
    pick: tuple[tuple[int, int], ...]  # what the loop takes, in its order: (stage, which of its results)
    n_states: int
    cost: float  # nanoseconds an element on one thread, in cache


@dataclass(frozen=True)
class Segment:
    """One parameter: its group, its memory and the memory of its states, in the order of the rule."""

    group: int
    param: np.ndarray
    states: Sequence[np.ndarray]


def with_owners(arrays: Iterable[np.ndarray | None]) -> list[np.ndarray]:
    """These arrays and those that own their memory: what must stay in place while its addresses are held."""
    watched: dict[int, np.ndarray] = {}
    for array in arrays:
        each: object = array
        while isinstance(each, np.ndarray):
            watched[id(each)] = each
            each = each.base
    return list(watched.values())


def resized_message(array: np.ndarray) -> str:
    return (
        "an array was resized or its memory replaced after it was given to the optimizer "
        f"(now of shape {array.shape}); nothing was changed, create a new optimizer"
    )


BUSY = (
    "this optimizer is in the middle of a step, or of being saved or changed, in another thread "
    "(or was, when this process was forked: its memory may be half stepped, create a new one)"
)

Reject = Callable[[int, object], None]
"""Called with the index of a segment and a gradient that will not do; raises the error that says why."""

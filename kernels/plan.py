"""What an optimizer tells an engine: for each group a loop and its coefficients, for each parameter its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_RESULTS = 24
"""Coefficients that one stage may give; where the results of the next stage begin."""


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
    pick: tuple[int, ...]  # which of the stages' results the loop takes; stage k's begin at k * MAX_RESULTS
    n_states: int
    cost: float  # nanoseconds an element on one thread, in cache


@dataclass(frozen=True)
class Segment:
    """One parameter: its group, its memory and the memory of its states, in the order of the rule."""

    group: int
    param: np.ndarray
    states: Sequence[np.ndarray]


Reject = Callable[[int, object], None]
"""Called with the index of a segment and a gradient that will not do; raises the error that says why."""

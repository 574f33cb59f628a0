"""What an optimizer tells an engine: for each group a loop and its coefficients, for each parameter its memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(eq=False, repr=False)  # three times as fast to define as a frozen one
class Stage:
    """A coefficient function and the hyperparameters it gets: `function(*arguments)`."""

    function: Any  # an address for the native engine, a callable for the Python one
    arguments: tuple[float, ...]
    positions: tuple[int, ...]  # of each of constants.ENGINE_ARGUMENTS among the arguments, or -1
    carried: tuple[int, ...] = ()  # of each carried number among the arguments, or -1


@dataclass(eq=False, repr=False)
class Operation:
    """A loop, what it walks over, and what it takes."""

    loop: Any  # an address for the native engine, a callable for the Python one
    streams: tuple[int, ...]  # positions in a segment's streams, or PREPARED or CLIPPED
    pick: tuple[tuple[int, int], ...]  # its coefficients, in its order: (stage, which of its results)


@dataclass(eq=False, repr=False)
class RowOperation:
    """What is done to each row of a parameter after its update.

    Rows are added up by `sum`, `function(sum, count, argument, lr)` says what the loop takes. Where it `iterates`, that
    is a threshold, from which the sum is taken again until it counts no fewer elements.
    """

    sum: Any
    function: Any
    argument: float
    loop: Any
    start: float
    iterates: bool


@dataclass(eq=False, repr=False)
class GroupPlan:
    """How the parameters of a group are updated."""

    stages: tuple[Stage, ...]
    programs: Mapping[str, tuple[Operation, ...]]
    n_streams: int
    cost: float  # nanoseconds an element on one thread, in cache
    lr: float = 0.0
    rows: tuple[RowOperation, ...] = ()
    rows_after: int = 0  # how many of the operations of an update come before those on rows
    sum: Any = None  # what is added up over the gradient before the update, or None
    sum_of_squares: bool = False  # whether that is the squares; else it counts what cannot be used
    limit: float = math.inf  # of a gradient's elements, beyond which they cannot be used
    clip_norm: float = 0.0  # of each segment, or 0
    accumulator: int = -1  # which of the streams holds the gradients of calls before
    carried: tuple[tuple[int, int], ...] = ()  # for each carried number (stage, which of its results) is the next
    divisor: str = "update_divisor"  # the argument that divides a gradient by its scale, where it is read first


@dataclass(eq=False, repr=False)
class Segment:
    """One parameter: its group, and its memory in the order of its streams, without the gradient."""

    group: int
    param: np.ndarray
    states: Sequence[np.ndarray]
    row: int = 0  # elements of what its row operations take together, or 0 without any


@dataclass(eq=False, repr=False)
class StepPlan:
    """What all groups have in common."""

    flush_denormals: bool = True
    n_threads: int = 0
    accumulate_steps: int = 1
    max_grad_norm: float = 0.0  # of all segments together, or 0
    clipping: Any = None  # the coefficient function (sum of squares, divisor, largest norm)
    divisor: float = 1.0  # of the gradients that are added up
    checks: bool = False  # whether gradients that cannot be used stop the step
    unusable: Any = None  # the sum that counts them
    clears: bool = False  # whether a step zeroes the gradients
    waits: bool = True  # whether a step that is stopped is reported at once, also where that means to wait for a device

"""What an optimizer tells an engine: for each group a loop and its coefficients, for each parameter its memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(eq=False, repr=False)  # three times as fast to define as a frozen one
class Stage:
    """A coefficient function and the hyperparameters it gets: `function(*arguments)`."""

    function: Any  # an address for the native engine, a callable for the Python one
    arguments: tuple[float, ...]
    positions: tuple[int, ...]  # of each of constants.ENGINE_ARGUMENTS among the arguments, or -1
    carried: tuple[int, ...] = ()  # of each carried number among the arguments, or -1


class OperandForm(NamedTuple):
    """How an operand of a segment lies in memory: an array of items, each of which stands for some elements.

    Loops compute with elements of the engine's dtype and read every operand as it lies, so today each form has that
    dtype and one element an item. This is where a storage format comes in: an operand of another form gets a codec,
    which decodes a block of it into the thread's own memory before the loops of that block, as `PREPARED` and `CLIPPED`
    are such blocks, and encodes it after them.
    """

    name: str
    dtype: np.dtype[Any]
    elements_per_item: int = 1
    """A power of 2, at most `constants.BOUNDARY`: threads then never meet within an item."""


@dataclass(eq=False, repr=False)
class Operation:
    """A loop, what it walks over, and what it takes."""

    loop: Any  # an address for the native engine, a callable for the Python one
    operands: tuple[int, ...]  # positions among a segment's operands, or PREPARED or CLIPPED
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
    operands: tuple[OperandForm, ...]  # of its segments: the parameter, the gradient, each state
    cost: float  # nanoseconds an element on one thread, in cache
    lr: float = 0.0
    rows: tuple[RowOperation, ...] = ()
    rows_after: int = 0  # how many of the operations of an update come before those on rows
    sum: Any = None  # what is added up over the gradient before the update, or None
    sum_of_squares: bool = False  # whether that is the squares; else it counts what cannot be used
    limit: float = math.inf  # of a gradient's elements, beyond which they cannot be used
    clip_norm: float = 0.0  # of each segment, or 0
    accumulator: int = -1  # which of the operands holds the gradients of calls before
    carried: tuple[tuple[int, int], ...] = ()  # for each carried number (stage, which of its results) is the next
    divisor: str = "update_divisor"  # the argument that divides a gradient by its scale, where it is read first


@dataclass(eq=False, repr=False)
class Segment:
    """One parameter: its group, and its memory in the order of its operands, without the gradient."""

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


def check_operands(plans: Sequence[GroupPlan], dtype: np.dtype[Any]) -> None:
    """Raise where loops that compute in this dtype could not read an operand as it lies.

    Raises
    ------
    ValueError
        An operand is of another form.
    """
    for plan in plans:
        for form in plan.operands:
            if (form.dtype, form.elements_per_item) != (dtype, 1):
                raise ValueError(
                    f"the engine reads operands of {dtype}, one element an item; {form.name!r} is of {form.dtype}, "
                    f"{form.elements_per_item} elements an item"
                )

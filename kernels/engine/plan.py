"""An optimizer's instructions to an engine: each group's loops and coefficients, and each parameter's memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(eq=False, repr=False)  # three times as fast to define as a frozen one
class Stage:
    """A coefficient function and its arguments, the hyperparameters: `function(*arguments)`."""

    function: Any  # an address for the native engine, a callable for the Python one
    arguments: tuple[float, ...]
    positions: tuple[int, ...]  # of constants.ENGINE_ARGUMENTS among the arguments; -1: not an argument
    carried: tuple[int, ...] = ()  # positions of carried numbers among the arguments; -1: not an argument
    common: tuple[int, ...] = ()  # positions of common numbers among the arguments; -1: not an argument
    sums: tuple[int, ...] = ()  # positions of the rule's sums and of the parameter's size; -1: not an argument


class Codec(NamedTuple):
    """How an operand is stored in another format than the one that loops compute in."""

    name: str
    """A row of `formulas.storage.FORMATS`."""
    stochastic: bool
    """Whether a step rounds up or down at random, rather than to the nearest code."""
    decode: Any
    """An address for the native engine, a callable for the Python one; so is `encode`."""
    encode: Any


class OperandForm(NamedTuple):
    """The memory format of a segment's operand.

    Loops compute with elements of the engine's dtype. An operand that has a codec is decoded into a block of the
    thread's own memory before the loops run on that block (as `PREPARED` and `CLIPPED` are blocks in it), and encoded
    after them if they wrote to it.
    """

    name: str
    dtype: np.dtype[Any]
    """Of the array that holds it; for codes, any of the codes' size."""
    codec: Codec | None = None
    """None: elements of the engine's dtype, which loops read directly."""
    rest: int = -1
    """The operand that holds the rest of each element, for a codec that needs one; else -1."""


@dataclass(eq=False, repr=False)
class Operation:
    """A loop, the operands that it walks over, and the coefficients that it takes."""

    loop: Any  # an address for the native engine, a callable for the Python one
    operands: tuple[int, ...]  # positions among a segment's operands, or PREPARED or CLIPPED
    pick: tuple[tuple[int, int], ...]  # the loop's coefficients, in order: (stage, result)
    writes: tuple[int, ...]  # those of the operands that it writes
    over_bfloat16: tuple[Any, Any] | None = None
    """The same loop over operands that are all stored as bfloat16: the addresses of the one that rounds to nearest, and
    of the one that rounds stochastically. None if there is none: then operands are decoded first."""


@dataclass(eq=False, repr=False)
class RowOperation:
    """An operation on each row of a parameter after its update.

    `sum` adds up the row, and `function(sum, count, argument, lr)` returns the coefficient of `loop`. If `iterates`,
    the coefficient is a threshold: the sum is computed again with it, until the count of elements stops falling.
    """

    sum: Any
    function: Any
    argument: float
    loop: Any
    start: float
    iterates: bool


class RuleSum(NamedTuple):
    """A sum that the coefficients of a rule depend on, over terms that the program "terms" computes."""

    function: Any  # a sum over a block of terms: an address for the native engine, a callable for the Python one
    over_all: bool  # whether it is over all parameters that a step updates, rather than over each


@dataclass(eq=False, repr=False)
class GroupPlan:
    """How the parameters of a group are updated."""

    stages: tuple[Stage, ...]
    programs: Mapping[str, tuple[Operation, ...]]
    operands: tuple[OperandForm, ...]  # of each segment: the parameter, the gradient, each state
    cost: float  # nanoseconds per element on one thread, in cache
    lr: float = 0.0
    rows: tuple[RowOperation, ...] = ()
    rows_after: int = 0  # how many operations of an update come before the row operations
    sum: Any = None  # the sum over the gradient that is computed before the update, or None
    sum_of_squares: bool = False  # whether `sum` adds up squares; else it counts unusable elements
    limit: float = math.inf  # an element of the gradient beyond this limit is unusable
    clip_norm: float = 0.0  # the largest gradient norm of each segment, or 0
    accumulator: int = -1  # the operand that accumulates the gradients of earlier calls, or -1
    carried: tuple[tuple[int, int], ...] = ()  # for each carried number: (stage, result) that is its next value
    common: tuple[tuple[int, int], ...] = ()  # the same for numbers that all parameters have in common
    divisor: str = "update_divisor"  # the argument that divides a gradient by its scale when it is first read
    sums: tuple[RuleSum, ...] = ()  # of the rule, in the order of their operands


@dataclass(eq=False, repr=False)
class Segment:
    """One parameter: its group, and its arrays in the order of the group's operands, without the gradient."""

    group: int
    param: np.ndarray
    states: Sequence[np.ndarray]
    row: int = 0  # the number of elements that its row operations take together; 0 without row operations
    forms: tuple[OperandForm, ...] | None = None  # those of its operands, if one has a codec; else the group's
    number: int = 0  # which parameter it is, for random bits: its position among all parameters of the optimizer
    offset: int = 0  # the number of its first element, for random bits: of a part of a parameter, that in the whole
    numel: int = -1  # of a part of a parameter, the number of elements of the whole; -1: it is the whole

    @property
    def whole_size(self) -> int:
        """The number of elements of the whole parameter."""
        return self.numel if self.numel >= 0 else int(self.param.size)


@dataclass(eq=False, repr=False)
class StepPlan:
    """The part of a step's plan that all groups share."""

    flush_denormals: bool = True
    n_threads: int = 0
    accumulate_steps: int = 1
    max_grad_norm: float = 0.0  # the largest gradient norm of all segments together, or 0
    clipping: Any = None  # the coefficient function (sum of squares, divisor, largest norm)
    divisor: float = 1.0  # divides the gradients that are added up
    checks: bool = False  # whether unusable gradients stop the step
    unusable: Any = None  # the sum that counts unusable elements
    clears: bool = False  # whether a step zeroes the gradients
    waits: bool = True  # whether a stopped step is reported at once, even if that means waiting for a device
    seed: int = 0  # of stochastic rounding, 64 bits


def check_operands(plans: Sequence[GroupPlan], segments: Sequence[Segment], dtype: np.dtype[Any]) -> None:
    """Raise if an operand can neither be read directly by loops that compute in this dtype nor decoded.

    Raises
    ------
    ValueError
        It cannot.
    """
    for forms in (*(plan.operands for plan in plans), *(each.forms for each in segments if each.forms)):
        for form in forms:
            readable = form.dtype == dtype if form.codec is None else dtype == np.float32
            if not readable and not (form.codec is None and _is_a_rest(form, forms)):
                raise ValueError(
                    f"the engine computes in {dtype} and reads {form.name!r} directly, which is of {form.dtype}; "
                    "only float32 can be stored in other formats"
                )


def _is_a_rest(form: OperandForm, forms: Sequence[OperandForm]) -> bool:
    return any(each.rest >= 0 and forms[each.rest] is form for each in forms)

"""What an optimizer tells an engine: for each group a loop and its coefficients, for each parameter its memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

PARAM, GRAD = 0, 1
"""The first two of a segment's streams; its states follow."""

PREPARED, CLIPPED = -1, -2
"""Streams that are a thread's own block: the gradient as it was gathered, and with its values clipped."""

ENGINE_ARGUMENTS = ("step", "lr", "weight_decay", "clip_coefficient", "mu_product")
"""Arguments of coefficient functions whose values the engine puts in, because they differ by step or by segment."""

PROGRAMS = ("update", "gather", "clear", "swap")
"""What a call can do to a segment: a whole step, only keep its gradient, only zero it, exchange it with its average."""


@dataclass(eq=False, repr=False)  # three times as fast to define as a frozen one
class Stage:
    """A coefficient function and the hyperparameters it gets: `function(*arguments)`."""

    function: Any  # an address for the native engine, a callable for the Python one
    arguments: tuple[float, ...]
    positions: tuple[int, ...]  # of each of ENGINE_ARGUMENTS among the arguments, or -1


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
    mu_product: tuple[int, int] = (-1, -1)  # (stage, which of its results) is the next, or none


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


@dataclass(eq=False, repr=False)
class Progress:
    """Where an optimizer is, one value each, in arrays that engines write together with everything else."""

    accumulated: np.ndarray  # int64: calls since the last update
    calls: np.ndarray  # int64: that were not declined
    swapped: np.ndarray  # bool: whether parameters are exchanged with their averages
    grad_norm: np.ndarray  # float64: of the last update that took it; NaN before
    iterations: np.ndarray  # int64: updates, whichever parameters had a part in them

    @staticmethod
    def new() -> Progress:
        return Progress(
            accumulated=np.zeros(1, np.int64),
            calls=np.zeros(1, np.int64),
            swapped=np.zeros(1, np.bool_),
            grad_norm=np.full(1, np.nan),
            iterations=np.zeros(1, np.int64),
        )


@dataclass(eq=False, repr=False)
class SegmentSettings:
    """What can differ by segment, one value each; engines read these arrays at every step, and write the
    last two."""

    lr_scale: np.ndarray  # float64
    weight_decay: np.ndarray  # float64; NaN: its group's
    frozen: np.ndarray  # bool
    pending: np.ndarray  # bool: whether it holds gradients of calls since the last update
    mu_product: np.ndarray  # float64: what coefficients carry from step to step, beside its count

    def extended(self, n: int) -> SegmentSettings:
        """With so many more segments."""
        more = SegmentSettings.of(n)
        pairs = ((getattr(self, each.name), getattr(more, each.name)) for each in fields(self))
        return SegmentSettings(*(np.concatenate(pair) for pair in pairs))

    @staticmethod
    def of(n: int) -> SegmentSettings:
        return SegmentSettings(np.ones(n), np.full(n, np.nan), np.zeros(n, np.bool_), np.zeros(n, np.bool_), np.ones(n))


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
    "this optimizer is in the middle of a step, or of being saved or changed, in another thread or around this call "
    "(or was, when this process was forked: its memory may be half stepped, create a new one)"
)

SWAPPED = (
    "the averages are swapped in, so this is not possible; call swap_averages() again, or leave the block of "
    "averaged_params()"
)

SHARED = "gradients that zero_grads=True is to zero share memory; each needs its own"

Reject = Callable[[int, object], None]
"""Called with the index of a segment and a gradient that will not do; raises the error that says why."""

Report = Callable[[list[tuple[int, int]], int], None]
"""Called before anything is written, with (segment, how many elements of its gradient cannot be used) for each that
has some, and the number of calls that went well before; may raise."""

"""What every engine is given and must do, whether it is compiled, plain Python or on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np

from .plan import GroupPlan, Segment, StepPlan

Result = TypeVar("Result")


@dataclass(eq=False, repr=False)
class SegmentSettings:
    """What a user sets of each segment, one value each.

    Whoever owns these arrays writes them in place, and then calls the engine's `settings_changed()`.
    """

    lr_scale: np.ndarray  # float64
    weight_decay: np.ndarray  # float64; NaN: its group's
    frozen: np.ndarray  # bool

    @staticmethod
    def of(n: int) -> SegmentSettings:
        return SegmentSettings(np.ones(n), np.full(n, np.nan), np.zeros(n, np.bool_))

    def extended(self, more: SegmentSettings) -> SegmentSettings:
        """These, followed by more segments'."""
        return SegmentSettings(*_concatenated(self, more))


@dataclass(eq=False, repr=False)
class SegmentRecords:
    """What an engine keeps of each segment; it writes these arrays in place."""

    steps: np.ndarray  # int64: updates so far
    pending: np.ndarray  # bool: whether it holds gradients of calls since the last update
    carried: np.ndarray  # float64, a row for each segment: numbers that coefficients carry from update to update

    @staticmethod
    def of(n: int, starts: Iterable[float] = ()) -> SegmentRecords:
        """Of segments before their first update; `starts` are what the carried numbers start with."""
        first = np.array(tuple(starts), np.float64)
        carried = np.empty((n, len(first)))  # not np.tile: it leaves a generator, which an interrupt can come into
        carried[:] = first
        return SegmentRecords(np.zeros(n, np.int64), np.zeros(n, np.bool_), carried)

    def extended(self, more: SegmentRecords) -> SegmentRecords:
        """These, followed by more segments'."""
        return SegmentRecords(*_concatenated(self, more))


def _concatenated(first: Any, second: Any) -> list[np.ndarray]:
    return [np.concatenate([getattr(first, each.name), getattr(second, each.name)]) for each in fields(first)]


@dataclass(eq=False, repr=False)
class Progress:
    """Where an optimizer is, one value each; engines write these arrays together with the records."""

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


class Reject(Protocol):
    """Raises the error that says what is wrong with a gradient."""

    def __call__(self, index: int, gradient: object, /) -> None: ...


class Report(Protocol):
    """Hears of steps that are declined because gradients cannot be used, and keeps count of them."""

    skipped: int
    """How many steps were skipped."""

    def __call__(self, counts: list[tuple[int, int]], calls: int, /) -> None:
        """Called before anything is written; may raise.

        `counts` has (segment, elements of its gradient that cannot be used) for each segment that has some, `calls` is
        the number of calls before this one that went well.
        """

    def consecutive_after(self, calls: int, /) -> int:
        """How many steps in a row were skipped up to now, after this number of calls that went well."""

    def fetched(self, skipped: int, consecutive: int, calls: int, counts: list[tuple[int, int]], /) -> None:
        """Take over what a device has counted: the steps skipped, in all and in a row up to now, and the `counts` of
        the last of them, which are empty where none was skipped since the last call."""


@dataclass(eq=False, repr=False)
class EngineInputs:
    """Everything that an engine is made of."""

    dtype: np.dtype[Any]
    plans: list[GroupPlan]
    segments: list[Segment]
    settings: SegmentSettings
    records: SegmentRecords
    progress: Progress
    plan: StepPlan
    reject: Reject
    report: Report


class Engine(Protocol):
    """Steps all segments together; an engine is called with one argument, its `EngineInputs`.

    One step runs at a time. A step is done completely or not at all: errors come before the first write.
    """

    bound: bool
    """Whether gradients are bound."""
    n_threads: int
    """The largest number of threads that a step uses; 0 for the default."""

    def alone(self, function: Callable[[], Result], /) -> Result:
        """The result of `function()`, with other threads' steps kept out.

        Raises
        ------
        RuntimeError
            A step is under way.
        """

    def bind(self, gradients: list[Any], /) -> None:
        """Check gradients once, and use them in every step that is not given others."""

    def step(self, gradients: list[Any] | None = None, prepare: Callable[[], None] | None = None) -> None:
        """Update every segment that has a gradient; `prepare()` is called first, with other threads kept out."""

    def swap(self) -> None:
        """Exchange every parameter with its average."""

    def fetch(self) -> None:
        """Bring records, progress and what was skipped up to date in the host's arrays; waits for a device."""

    def upload(self) -> None:
        """Bring what was changed to where steps run, without waiting; a step does so by itself."""

    def set_hyperparameters(self, index: int, plan: GroupPlan, /) -> None:
        """Take new numbers of a group; they count from the next step."""

    def set_lr(self, index: int, lr: float, /) -> None:
        """Take a new rate of a group; it counts from the next step."""

    def set_scale(self, plan: StepPlan, /) -> None:
        """Take a new divisor and largest norm; they count from the next step."""

    def settings_changed(self) -> None:
        """Take over what was written to the settings; it counts from the next step."""


class DeviceEngine(Engine, Protocol):
    """An engine whose steps run on a device: of backends whose `on_device` is True."""

    stream: Any
    """The stream of the device on which steps run; it can be set between steps."""

    def step_at(self, addresses: Sequence[int | None], /) -> None:
        """`step` with gradients by their addresses, None where there is none: for callers who have checked them."""

    def set_scaler(self, found_inf: int, scale: int, /) -> None:
        """Take the addresses of two float32 numbers on the device, 0 for none; they count from the next step.

        Where `found_inf` is not 0 then, the step is left out: nothing is written, and nothing counted. By `scale`,
        gradients are divided, beside the divisor of the plan.
        """


BUSY = (
    "this optimizer is in the middle of a step, or of being saved or changed, in another thread or around this call "
    "(or was, when this process was forked: its memory may be half stepped, create a new one)"
)

SWAPPED = (
    "the averages are swapped in, so this is not possible; call swap_averages() again, or leave the block of "
    "averaged_params()"
)

SHARED = "gradients that zero_grads=True is to zero share memory; each needs its own"

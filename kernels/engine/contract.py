"""The inputs and methods of every engine, whether it is compiled, plain Python or on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np

from .plan import GroupPlan, Segment, StepPlan

Result = TypeVar("Result")


@dataclass(eq=False, repr=False)
class SegmentSettings:
    """Settings of segments that the user chooses; each array has one value per segment.

    The owner of these arrays writes them in place, and then calls the engine's `settings_changed()`.
    """

    lr_scale: np.ndarray  # float64
    weight_decay: np.ndarray  # float64; NaN: use the group's weight decay
    frozen: np.ndarray  # bool

    @staticmethod
    def of(n: int) -> SegmentSettings:
        return SegmentSettings(np.ones(n), np.full(n, np.nan), np.zeros(n, np.bool_))

    def extended(self, more: SegmentSettings) -> SegmentSettings:
        """These settings, followed by the settings of more segments."""
        return SegmentSettings(*_concatenated(self, more))


@dataclass(eq=False, repr=False)
class SegmentRecords:
    """An engine's records of each segment; the engine writes these arrays in place."""

    steps: np.ndarray  # int64: updates so far
    pending: np.ndarray  # bool: whether it holds gradients accumulated since the last update
    carried: np.ndarray  # float64, a row for each segment: numbers that coefficients carry from update to update

    @staticmethod
    def of(n: int, starts: Iterable[float] = ()) -> SegmentRecords:
        """Records of segments before their first update; `starts` are the initial values of the carried numbers."""
        first = np.array(tuple(starts), np.float64)
        carried = np.empty((n, len(first)))  # not np.tile: it leaves a generator that an interrupt can hit
        carried[:] = first
        return SegmentRecords(np.zeros(n, np.int64), np.zeros(n, np.bool_), carried)

    def extended(self, more: SegmentRecords) -> SegmentRecords:
        """These records, followed by the records of more segments."""
        return SegmentRecords(*_concatenated(self, more))


def _concatenated(first: Any, second: Any) -> list[np.ndarray]:
    return [np.concatenate([getattr(first, each.name), getattr(second, each.name)]) for each in fields(first)]


@dataclass(eq=False, repr=False)
class Progress:
    """The progress of an optimizer, in arrays; engines write these arrays together with the records.

    All but `common` have one value.
    """

    accumulated: np.ndarray  # int64: calls since the last update
    calls: np.ndarray  # int64: calls that were not declined
    swapped: np.ndarray  # bool: whether parameters are exchanged with their averages
    grad_norm: np.ndarray  # float64: the gradient norm of the last update that computed it; NaN before
    iterations: np.ndarray  # int64: updates, whichever parameters they changed
    common: np.ndarray  # float64: numbers that coefficients carry from update to update for all parameters together

    @staticmethod
    def new(common: Iterable[float] = ()) -> Progress:
        """That of a new optimizer; `common` are the initial values of the common numbers."""
        return Progress(
            accumulated=np.zeros(1, np.int64),
            calls=np.zeros(1, np.int64),
            swapped=np.zeros(1, np.bool_),
            grad_norm=np.full(1, np.nan),
            iterations=np.zeros(1, np.int64),
            common=np.array(tuple(common), np.float64),
        )

    def __setstate__(self, state: dict[str, np.ndarray]) -> None:
        """Pickles of earlier versions have no common numbers."""
        vars(self).update({"common": np.zeros(0), **state})


class Reject(Protocol):
    """Raises the error that says what is wrong with a gradient, or returns the array that stands for it."""

    def __call__(self, index: int, gradient: object, /) -> Any: ...


class Report(Protocol):
    """Receives the steps that are declined because gradients are unusable, and counts them."""

    skipped: int
    """The number of skipped steps."""

    def __call__(self, counts: list[tuple[int, int]], calls: int, /) -> None:
        """Report one declined step; engines call this before they write anything, and it may raise.

        `counts` has (segment, number of unusable elements in its gradient) for each segment with unusable elements;
        `calls` is the number of earlier calls that were not declined.
        """

    def consecutive_after(self, calls: int, /) -> int:
        """The number of skipped steps in a row up to now, after `calls` calls that were not declined."""

    def fetched(self, skipped: int, consecutive: int, calls: int, counts: list[tuple[int, int]], /) -> None:
        """Take over a device's counts: the steps skipped in all and in a row up to now, and the `counts` of the last
        skipped step, which are empty if no step was skipped since the last call of this method."""


class Exchange(Protocol):
    """Adds the sums over gradients to those of other processes, which step at the same time."""

    def __call__(self, totals: list[tuple[int, float]], usable: bool, /) -> tuple[list[float], float] | None:
        """Engines call this in each step, before they write anything, and it may raise.

        Parameters
        ----------
        totals: (segment, sum over its gradient) for each segment with a gradient
        usable: whether all these gradients are

        Returns
        -------
        totals, total: the sums in all processes of each of the same segments, and of all segments together
            None if gradients of any process are unusable: the step is declined.
        """


class ExchangeSums(Protocol):
    """Adds the sums of rules to those of other processes, which step at the same time."""

    def __call__(self, sums: list[tuple[int, list[float]]], /) -> tuple[list[list[float]], list[float]] | None:
        """Engines call this in each step, after the `Exchange` if there is one, and as that.

        Parameters
        ----------
        sums: (segment, the sums of its rule) for each segment with a gradient

        Returns
        -------
        sums, over_all: the sums in all processes of each of the same segments, and of all segments together
            None if a process declines the step.
        """


@dataclass(eq=False, repr=False)
class EngineInputs:
    """The argument that every engine is constructed with."""

    dtype: np.dtype[Any]
    plans: list[GroupPlan]
    segments: list[Segment]
    settings: SegmentSettings
    records: SegmentRecords
    progress: Progress
    plan: StepPlan
    reject: Reject
    report: Report
    lock: Any = None
    """The `lock` of the engine that the new one is to replace; None for the first engine of an optimizer."""
    exchange: Exchange | None = None
    """Where gradients are added up over processes; then gradients are not accumulated."""
    exchange_sums: ExchangeSums | None = None
    """Where the sums of rules are added up over processes; then gradients are not accumulated."""


class Engine(Protocol):
    """Steps all segments together; an engine's class is called with one argument, its `EngineInputs`.

    One step runs at a time. A step is done completely or not at all: all errors are raised before the first write.
    """

    bound: bool
    """Whether gradients are bound."""
    n_threads: int
    """The largest number of threads that a step uses; 0 for the default."""
    lock: Any
    """Lets in one caller at a time; the engines that an optimizer has one after the other share it."""
    replaced: bool
    """Whether another engine has taken the place of this one. Then `step` and `swap` raise `Replaced`: a thread that
    found this engine just before that must find the new one."""

    def alone(self, function: Callable[[], Result], /) -> Result:
        """The result of `function()`, which runs with other threads' steps kept out.

        Raises
        ------
        RuntimeError
            A step is under way.
        """

    def bind(self, gradients: list[Any], /) -> None:
        """Check gradients once, and use them in every step that receives no other gradients."""

    def step(self, gradients: list[Any] | None = None, prepare: Callable[[], None] | None = None) -> None:
        """Call `prepare()`, then update every segment that has a gradient, all with other threads kept out.

        What `prepare` and the gradients can run of the user's may change arrays, so arrays are checked after it.
        """

    def finish(self, prepare: Callable[[], None], restore: Callable[[], None], /) -> None:
        """Call `prepare()`, then do a step without new gradients, and then, whatever happened, call `restore()`.

        All of it with other threads kept out. `prepare` sets a plan by which the step ends an accumulation.
        """

    def swap(self) -> None:
        """Exchange every parameter with its average."""

    def fetch(self) -> None:
        """Bring the host's records, progress and counts of skipped steps up to date; waits for a device."""

    def send(self) -> None:
        """Go on from the host's records and progress, which were written since the last `fetch`; waits for a device."""

    def upload(self) -> None:
        """Copy changes to the device on which steps run, without waiting; a step does this itself."""

    def set_hyperparameters(self, index: int, plan: GroupPlan, /) -> None:
        """Set a group's numbers to those of this plan; they take effect at the next step."""

    def set_lr(self, index: int, lr: float, /) -> None:
        """Set the learning rate of a group; it takes effect at the next step."""

    def set_scale(self, plan: StepPlan, /) -> None:
        """Set the divisor, the largest norm and the length of an accumulation; they count from the next step."""

    def settings_changed(self) -> None:
        """Use the changed settings; they take effect at the next step."""


class DeviceEngine(Engine, Protocol):
    """An engine whose steps run on a device; backends with `on_device` True have one."""

    stream: Any
    """The stream of the device on which steps run; it can be set between steps."""

    def step_at(self, addresses: Sequence[int | None], /) -> None:
        """`step` with the addresses of gradients, None for no gradient: for callers who have checked the gradients."""

    def set_scaler(self, found_inf: int, scale: int, /) -> None:
        """Set the addresses of two float32 numbers on the device, 0 for none; they take effect at the next step.

        If the number at `found_inf` is not 0 during a step, that step is left out: it writes and counts nothing. Steps
        divide gradients by the number at `scale`, in addition to the divisor of the plan.
        """


class Replaced(RuntimeError):
    """The engine was replaced by another one, and does nothing any more."""


REPLACED = "another engine has taken the place of this one"

BUSY = (
    "this optimizer is in the middle of a step, or of being saved or changed, in another thread or around this call "
    "(or was, when this process was forked: its memory may be half stepped, create a new one)"
)

SWAPPED = (
    "the averages are swapped in, so this is not possible; call swap_averages() again (or train(), after eval()), "
    "or leave the block of averaged_params()"
)

SHARED = "gradients that zero_grads=True is to zero share memory; each needs its own"

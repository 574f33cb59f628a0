"""Reading of loss curves: ordered rules on the shape of a curve, which judge the rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .histories import DIVERGED_RATIO, History

MINIMUM_EPOCHS = 3
"""A shorter curve has no shape to read, unless it diverged."""

FLAT = 0.02
"""The loss is flat if it ends within this fraction of its start."""

STILL = 0.5
"""Parameters have moved if they moved by at least this fraction of their norm."""

RISES = 0.15
"""A curve oscillates or climbs if its rises add up to this fraction of its total fall ..."""

RISES_LEAST = 0.005
"""... and are above the noise of reshuffled batches: this fraction of the loss per epoch, on average."""

UNSTEADY = 0.1
"""Or if its rises are this fraction of the loss per epoch, on average, whatever its total fall."""

OVERSHOOT = 1.5
"""The rate is too high for the first steps if the loss reaches this many times its start."""

TURNS = 0.4
"""An oscillating curve changes direction in at least this fraction of its epochs."""

DECAYED = 0.1
"""The rate has decayed if it is below this fraction of its peak."""

FALLING = 0.03
"""The rate decayed too early if the epoch before brought at least this fraction of the total fall."""

STEADY = 0.1
"""The fall is not slowing down if the last quarter has this fraction of it. A straight line has 0.25."""

UNFINISHED = 0.04
"""The loss is still improving if the last quarter has this fraction of the total fall."""


@dataclass(frozen=True)
class Evidence:
    """The numbers that the rules use.

    Attributes
    ----------
    start, end, lowest: float
        The loss before training (or of the first epoch, if unknown), of the last epoch, and the lowest of all.
    highest: float
        The highest loss of all epochs.
    rises: float
        The sum of all rises from one epoch to the next, as a fraction of start - lowest.
    unsteadiness: float
        The mean rise per epoch in the second half of the epochs, as a fraction of the mean loss there.
    turns: float
        The fraction of epochs in which the curve changes between falling and rising.
    last_quarter: float
        The fraction of the fall from start to lowest in the last quarter of the epochs.
    held_out_last_quarter: float or None
        The same for the held-out loss.
    decayed_for: float
        The fraction of epochs with a rate below a tenth of its peak.
    before_decay: float
        The fraction of the fall from start to lowest in the last epoch before that.
    parameter_change: float or None
        The distance that the parameters moved, as a fraction of their norm.
    diverged: bool
    """

    start: float
    end: float
    lowest: float
    highest: float
    rises: float
    unsteadiness: float
    turns: float
    last_quarter: float
    held_out_last_quarter: float | None
    decayed_for: float
    before_decay: float
    parameter_change: float | None
    diverged: bool

    @property
    def fall(self) -> float:
        """The fall to the lowest loss as a fraction of the first loss."""
        return (self.start - self.lowest) / abs(self.start) if self.start else 0.0

    @property
    def is_flat(self) -> bool:
        return self.fall < FLAT and self.end <= self.start * (1 + FLAT)

    @property
    def overshoot(self) -> float:
        """The highest loss as a multiple of the first."""
        return self.highest / abs(self.start) if self.start else 0.0

    @property
    def is_rising(self) -> bool:
        return (self.rises >= RISES and self.unsteadiness >= RISES_LEAST) or self.unsteadiness >= UNSTEADY

    @property
    def unfinished(self) -> float:
        """The fraction of the fall in the last quarter; the smaller one of training and held-out loss."""
        if self.held_out_last_quarter is None:
            return self.last_quarter
        return min(self.last_quarter, self.held_out_last_quarter)


@dataclass(frozen=True)
class Reading:
    """The reading of a curve: its name, the reason, and what to do."""

    name: str
    reason: str
    advice: str


@dataclass(frozen=True)
class Rule:
    """A rule and its reading; `reason` is a format string over the attributes of `Evidence`."""

    name: str
    applies: Callable[[Evidence], bool]
    reason: str
    advice: str


def _decayed_too_early(seen: Evidence) -> bool:
    return seen.decayed_for >= 0.25 and seen.last_quarter < UNFINISHED and seen.before_decay >= FALLING


RULES = (
    Rule(
        "diverged",
        lambda seen: seen.diverged,
        f"the loss became NaN or infinite, or more than {DIVERGED_RATIO:g} times what it was",
        "divide the rate by 10, or by more",
    ),
    Rule(
        "too high",
        lambda seen: seen.is_flat and (seen.parameter_change or 0) >= STILL,
        "the loss stays at {start:.4g}, though the parameters moved by {parameter_change:.0%} of their norm",
        "divide the rate by 10",
    ),
    Rule(
        "too low",
        lambda seen: seen.is_flat,
        "the loss stays where it began, at {start:.4g}",
        "multiply the rate by 10, or by more",
    ),
    Rule(
        "too high",
        lambda seen: seen.end >= seen.start * (1 - FLAT) and seen.highest > seen.start * (1 + FLAT),
        "the loss ends at {end:.4g}, no better than {start:.4g} before training, and was {highest:.4g} in between",
        "divide the rate by 10",
    ),
    Rule(
        "oscillating",
        lambda seen: seen.is_rising and seen.turns >= TURNS,
        "the loss goes up and down: it turns in {turns:.0%} of the epochs, and rises by {unsteadiness:.1%} in one on "
        "average over the second half of them",
        "divide the rate by 3, or let it decay",
    ),
    Rule(
        "too high",
        lambda seen: seen.is_rising,
        "the loss climbs: it ends at {end:.4g} after {lowest:.4g}",
        "divide the rate by 3 to 10",
    ),
    Rule(
        "too high",
        lambda seen: seen.overshoot >= OVERSHOOT,
        "the loss first climbed to {overshoot:.1f} times its start of {start:.4g} before it fell",
        "divide the rate by 3, or let it grow over the first steps (warm-up)",
    ),
    Rule(
        "premature",
        _decayed_too_early,
        "the loss stands still since the rate decayed: it was below a tenth of its peak for {decayed_for:.0%} of the "
        "epochs, and {before_decay:.0%} of the fall came in the last epoch before",
        "let the rate decay later, or to less",
    ),
    Rule(
        "too low",
        lambda seen: seen.unfinished >= STEADY,
        "the loss falls as a straight line does, without slowing down: {last_quarter:.0%} of the fall came in the last "
        "quarter of the epochs",
        "multiply the rate by 3 to 10",
    ),
    Rule(
        "premature",
        lambda seen: seen.unfinished >= UNFINISHED,
        "training stopped while the loss was still falling: {last_quarter:.0%} of the fall came in the last quarter of "
        "the epochs",
        "train for more epochs, or try three times the rate",
    ),
    Rule(
        "good",
        lambda seen: True,
        "the loss fell by {fall:.0%} and levelled off: {last_quarter:.0%} of the fall came in the last quarter of the "
        "epochs",
        "keep the rate; a sweep tells whether another is better still",
    ),
)
"""The first rule that applies gives the reading."""

READINGS = tuple(dict.fromkeys(rule.name for rule in RULES))
"""The names of readings."""


def _share_of_last_quarter(start: float, curve: np.ndarray) -> float:
    """The fraction of the fall from `start` to the lowest value that comes after three quarters of the epochs."""
    points = np.minimum.accumulate(np.concatenate([[start], curve]))
    fall = points[0] - points[-1]
    before = float(np.interp(0.75 * curve.size, np.arange(points.size), points))
    return float((before - points[-1]) / fall) if fall > 0 else 0.0


def measure(history: History) -> Evidence:
    """Compute the numbers that the rules use.

    Raises
    ------
    ValueError
        The history has no "loss", or has fewer than three epochs without divergence.
    """
    if history.diverged:
        losses = [each for each in [history.start("loss"), *history.curve("loss")] if math.isfinite(each)] or [math.nan]
        ends = losses[0], losses[-1], min(losses), max(losses)
        return Evidence(*ends, 0, 0, 0, 0, None, 0, 0, history.parameter_change, True)
    if "loss" not in history.metrics:
        raise ValueError(f"a reading needs 'loss' in every epoch, got {', '.join(history.metrics) or 'none'}")
    n_epochs = len(history.epochs)
    if n_epochs < MINIMUM_EPOCHS:
        raise ValueError(
            f"a reading needs at least {MINIMUM_EPOCHS} epochs, got {n_epochs} (a training function returns or yields "
            "a dict for each epoch)"
        )
    start, curve = history.start("loss"), np.array(history.curve("loss"))
    points = np.concatenate([[start], curve])
    differences = np.diff(curve)
    fall = points[0] - points.min()
    rises = float(differences[differences > 0].sum())
    late = differences[n_epochs // 2 :]
    level = abs(float(curve[n_epochs // 2 :].mean()))
    directions = np.sign(differences[differences != 0])
    held_out = None
    if "val_loss" in history.metrics:
        held_out = _share_of_last_quarter(history.start("val_loss"), np.array(history.curve("val_loss")))
    decayed_for, before_decay = _decay(np.array(history.curve("lr")), points)
    return Evidence(
        start=start,
        end=float(curve[-1]),
        lowest=float(points.min()),
        highest=float(curve.max()),
        unsteadiness=float(np.maximum(late, 0).mean()) / level if late.size and level else 0.0,
        rises=rises / fall if fall > 0 else math.inf if rises > 0 else 0.0,
        turns=float(np.count_nonzero(np.diff(directions))) / max(1, n_epochs - 2),
        last_quarter=_share_of_last_quarter(start, curve),
        held_out_last_quarter=held_out,
        decayed_for=decayed_for,
        before_decay=before_decay,
        parameter_change=history.parameter_change,
        diverged=False,
    )


def _decay(rates: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """The fraction of epochs after the rate has decayed, and the fraction of the total fall in the epoch before."""
    if not np.isfinite(rates).all() or not rates.max(initial=0) > 0:
        return 0.0, 0.0
    peak = int(rates.argmax())
    low = np.flatnonzero(rates[peak:] < DECAYED * rates[peak]) + peak
    if not low.size:
        return 0.0, 0.0
    first = int(low[0])  # points[first] is the loss of the epoch before it
    before = points[first - 1] - points[first]
    fall = points[0] - points.min()
    return float(np.mean(rates < DECAYED * rates[peak])), float(before / fall) if fall > 0 else 0.0


def read_history(history: History) -> tuple[Reading, Evidence]:
    """The reading of a run, and the numbers behind it.

    Raises
    ------
    ValueError
        The history is too short, or has no "loss".

    Examples
    --------
    >>> read_history(History([{"loss": loss} for loss in (9, 8, 7, 6, 5)]))[0].name
    'too low'
    >>> read_history(History([{"loss": loss} for loss in (9, 3, 1.2, 1.02, 1.01, 1.0)]))[0].name
    'good'
    """
    seen = measure(history)
    rule = next(rule for rule in RULES if rule.applies(seen))
    return Reading(rule.name, rule.reason.format_map(_Attributes(seen)), rule.advice), seen


class _Attributes(Mapping[str, Any]):
    """An object's attributes as a mapping, properties included."""

    def __init__(self, owner: object) -> None:
        self._owner = owner

    def __getitem__(self, name: str) -> Any:
        return getattr(self._owner, name)

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def held_out_note(curve: Sequence[float]) -> str:
    """A note on overfitting if the held-out loss has risen since its lowest value; else an empty string."""
    lowest = int(np.argmin(curve))
    if curve[lowest] > 0 and curve[-1] > 1.05 * curve[lowest]:
        return (
            f"the held-out loss has been rising since epoch {lowest + 1}, from {curve[lowest]:.4g} to {curve[-1]:.4g}: "
            "overfitting, which other rates do not cure by themselves"
        )
    return ""

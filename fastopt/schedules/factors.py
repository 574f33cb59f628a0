"""The factor by which a learning rate was scaled: a schedule's `Scaled`, or a function's."""

from __future__ import annotations

import re
from typing import Any

from .base import Scaled, Schedule
from .composed import Lambda


def factor_of(lr: Any) -> float | None:
    """The factor of a schedule or a function; None for a number."""
    if isinstance(lr, Scaled):
        return lr.factor
    return 1.0 if callable(lr) else None


def unscaled(lr: Any) -> Any:
    """The schedule or the function without its factor."""
    schedule = lr.schedule if isinstance(lr, Scaled) else lr
    if isinstance(schedule, Lambda) and schedule.initial_learning_rate == 1 and schedule.per == "step":
        return schedule.lr_lambda
    return schedule


def as_schedule(lr: Any) -> Schedule:
    """The schedule, or a function as one."""
    return lr if isinstance(lr, Schedule) else Lambda(1.0, lr)


def with_factor(lr: Any, factor: float) -> Any:
    """The schedule or the function with this factor in place of its own."""
    if factor_of(lr) == factor:
        return lr
    return Scaled(lr.schedule if isinstance(lr, Scaled) else as_schedule(lr), factor)


def scaled(lr: Any, factor: float) -> Any:
    """A rate times a factor; it is a number, a schedule or another function of the step.

    Examples
    --------
    >>> from fastopt.schedules.factors import scaled
    >>> scaled(scaled(lambda step: 0.5**step, 0.5), 0.5)(1)
    0.125
    >>> scaled(0.5, 0.5)
    0.25
    """
    return as_schedule(lr) * factor if callable(lr) else lr * factor


def in_words(lr: Any) -> str:
    """A schedule or a function as text, which is the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(unscaled(lr)))

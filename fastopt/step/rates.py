"""Learning rates: a group's `lr` is a number, or a function of the number of updates done so far."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ..checks import real_number
from ..definitions.specs import Spec
from ..kernels.formulas import coefficients

decayed_rate: Callable[[float, float, float], float] = coefficients.decayed_rate

ROOT = __name__.partition(".")[0]

LearningRate: TypeAlias = "float | Callable[[int], float]"
"""What `lr` can be. A function gets 0 for the first update, 1 for the second, and so on."""


def is_scheduled(group: Mapping[str, Any]) -> bool:
    """Whether its rate can be another one in each update."""
    return callable(group["lr"]) or bool(group.get("decay"))


def scheduled_rate(lr: LearningRate, iteration: int) -> float:
    """What `lr` is in an update, after so many before it.

    Raises
    ------
    TypeError, ValueError
        It is a function, and what it returns is no number, negative, infinite or NaN.
    """
    if not callable(lr):
        return lr
    rate = lr(iteration)
    if type(rate) is not float:
        rate = real_number(f"what lr({iteration}) returns", rate)
    if not 0 <= rate < math.inf:
        raise ValueError(f"what lr({iteration}) returns must be a finite number >= 0, got {rate!r} from lr={lr!r}")
    return rate


def rate_at(group: Mapping[str, Any], iteration: int) -> float:
    """The rate of a group in an update, after so many before it, with legacy Keras' decay."""
    rate, decay = scheduled_rate(group["lr"], iteration), group.get("decay")
    # That counts the updates of the optimizer, not of each parameter.
    return decayed_rate(iteration + 1, rate, decay) if decay else rate


def current_rate(spec: Spec, group: Mapping[str, Any], iteration: int, step: int) -> float:
    """The same with what the optimizer's own coefficients do to it; `step` counts the parameter's updates from 1."""
    rate = rate_at(group, iteration)
    if spec.lr_decay is not None and group[spec.lr_decay]:
        rate = decayed_rate(step, rate, group[spec.lr_decay])
    return rate


def warn_without_effect(spec: Spec, lr: Any) -> None:
    """Warn, at the user's line, where `lr` is a function and the rate is no part of the optimizer's updates."""
    if callable(lr) and not spec.uses_lr:
        frame, depth = sys._getframe(), 1
        while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == ROOT:
            frame, depth = frame.f_back, depth + 1
        why = (
            "its coefficients do not take lr."
            if spec.custom
            else "lr is only what each element's own step size begins with. Schedule another optimizer's lr, or change "
            "step_sizes."
        )
        warnings.warn(
            f"lr={lr!r} has no effect on {spec.name} after its first update: {why}",
            UserWarning,
            stacklevel=depth,
        )

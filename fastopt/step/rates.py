"""Learning rates: the `lr` of a group is a number, or a function of the number of updates so far."""

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
"""The type of `lr`. A function gets 0 for the first update, 1 for the second, and so on."""


def is_scheduled(group: Mapping[str, Any]) -> bool:
    """Whether the rate of a group can change from update to update by itself."""
    return callable(group["lr"]) or bool(group.get("decay"))


def scheduled_rate(lr: LearningRate, iteration: int) -> float:
    """The value of `lr` in an update that comes after `iteration` others.

    Raises
    ------
    TypeError, ValueError
        It is a function that returns something other than a finite number >= 0.
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
    """The rate of a group in an update that comes after `iteration` others, with the decay of legacy Keras."""
    rate, decay = scheduled_rate(group["lr"], iteration), group.get("decay")
    # This decay counts the updates of the optimizer, not of each parameter.
    return decayed_rate(iteration + 1, rate, decay) if decay else rate


def current_rate(spec: Spec, group: Mapping[str, Any], iteration: int, step: int) -> float:
    """The rate of a group with the decay in its coefficients; `step` counts the updates of a parameter from 1."""
    rate = rate_at(group, iteration)
    if spec.lr_decay is not None and group[spec.lr_decay]:
        rate = decayed_rate(step, rate, group[spec.lr_decay])
    return rate


def warn_without_effect(spec: Spec, lr: Any) -> None:
    """Warn, at the user's line, if `lr` is a function and the updates of the optimizer do not use the rate."""
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

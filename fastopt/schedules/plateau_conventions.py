"""torch's and Keras' rules for `ReduceOnPlateau`, as functions of its settings and counters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

Change = Literal["reduced", "raised"]


class Settings(NamedTuple):
    """The arguments that the rules use; Keras' `min_delta` is an absolute threshold."""

    mode: str
    patience: int
    threshold: float
    threshold_mode: str
    eps: float


class Counters(NamedTuple):
    """The state between steps; `best` is None before the first metric."""

    best: float | None = None
    num_bad_epochs: int = 0
    cooldown_counter: int = 0
    num_reductions: int = 0
    last_change: Change | None = None


class Convention(NamedTuple):
    """A framework's rules.

    Attributes
    ----------
    defaults: the arguments that only this convention has.
    is_better: whether a metric, not NaN, improves on the best one.
    counted: the counters after a metric, better or not, and whether there is a plateau.
    lowers: whether to replace a rate by a lower one.
    acts_at_the_limit: whether the cooldown starts even if no rate could be reduced.
    """

    defaults: Mapping[str, Any]
    is_better: Callable[[Settings, float, float | None], bool]
    counted: Callable[[Settings, Counters, bool], tuple[Counters, bool]]
    lowers: Callable[[Settings, float, float], bool]
    acts_at_the_limit: bool


def _is_better_in_torch(settings: Settings, value: float, best: float | None) -> bool:
    sign = -1.0 if settings.mode == "min" else 1.0
    if best is None:
        best = -sign * math.inf
    relative = settings.threshold_mode == "rel"
    bound = best * (1.0 + sign * settings.threshold) if relative else best + sign * settings.threshold
    return value < bound if settings.mode == "min" else value > bound


def _is_better_in_keras(settings: Settings, value: float, best: float | None) -> bool:
    if best is None:
        return True
    return value + settings.threshold < best if settings.mode == "min" else value - settings.threshold > best


def _counted_by_torch(settings: Settings, counters: Counters, better: bool) -> tuple[Counters, bool]:
    bad, cooldown = 0 if better else counters.num_bad_epochs + 1, counters.cooldown_counter
    if cooldown:
        bad, cooldown = 0, cooldown - 1
    return counters._replace(num_bad_epochs=bad, cooldown_counter=cooldown), bad > settings.patience


def _counted_by_keras(settings: Settings, counters: Counters, better: bool) -> tuple[Counters, bool]:
    bad, cooldown = counters.num_bad_epochs, counters.cooldown_counter
    if cooldown:
        bad, cooldown = 0, cooldown - 1
    bad = 0 if better else bad + (not cooldown)
    plateau = not better and not cooldown and bad >= settings.patience
    return counters._replace(num_bad_epochs=bad, cooldown_counter=cooldown), plateau


CONVENTIONS = {
    "torch": Convention(
        {"threshold": 1e-4, "threshold_mode": "rel", "eps": 1e-8},
        _is_better_in_torch,
        _counted_by_torch,
        lambda settings, rate, new: rate - new > settings.eps,
        acts_at_the_limit=True,
    ),
    "keras": Convention(
        {"min_delta": 1e-4},
        _is_better_in_keras,
        _counted_by_keras,
        lambda settings, rate, new: new < rate,
        acts_at_the_limit=False,
    ),
}

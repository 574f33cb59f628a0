"""Which rates are about as good as the best: a tolerance in the metric's own terms, and the spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from .runs import RatePoint

HIGHER_IS_BETTER = ("acc", "auc", "f1", "r2", "precision", "recall")
"""In mode "auto", higher is better for metrics whose names contain one of these; for others lower is better."""

TOLERANCE = 0.05
"""A rate is about as good as the best if at most this fraction more is missing to the perfect value."""


def is_higher_better(metric: str) -> bool:
    return any(part in metric.lower() for part in HIGHER_IS_BETTER)


def perfect_value(metric: str, mode: str, values: Sequence[float]) -> float | None:
    """The best value that a metric can have: 0 for losses, 1 for accuracies, or 100 if they are in per cent.

    None if that is unknown: for metrics with both signs, and where higher is better for a metric of another name.

    Examples
    --------
    >>> perfect_value("val_loss", "min", [0.2, 0.3]), perfect_value("val_accuracy", "max", [0.93, 0.967])
    (0.0, 1.0)
    >>> perfect_value("accuracy", "max", [93.0, 96.7]), perfect_value("reward", "max", [12.0, 15.0])
    (100.0, None)
    """
    if not values:
        return None
    if mode == "max" and is_higher_better(metric):
        return next((bound for bound in (1.0, 100.0) if max(values) <= bound), None)
    one_sided = min(values) >= 0 if mode == "min" else max(values) <= 0
    return 0.0 if one_sided else None


def best_region(points: Sequence[RatePoint], best: RatePoint, mode: str, perfect: float | None) -> tuple[float, float]:
    """The lowest and the highest of the adjacent rates around the best one that are about as good.

    Their medians are no worse than the worst seed at the best rate, or miss the perfect value by at most 5 % more than
    the median there.
    """
    sign = 1 if mode == "min" else -1
    worst_seed = best.high if mode == "min" else best.low
    tolerance = 0.0 if perfect is None else TOLERANCE * abs(best.median - perfect)
    limit = max(sign * worst_seed, sign * best.median + tolerance)
    good = [not point.diverged and sign * point.median <= limit for point in points]
    first = last = points.index(best)
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(points) - 1 and good[last + 1]:
        last += 1
    return points[first].lr, points[last].lr

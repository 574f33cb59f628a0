"""The rates that a range test suggests, from its smoothed losses."""

from __future__ import annotations

import math

import numpy as np

SUGGESTIONS = {
    "steepest": "where the smoothed loss falls fastest",
    "minimum": "a tenth of the rate at which the smoothed loss is lowest",
}
"""The methods of suggesting a rate."""

LEAST_FALL = 0.02
"""A rate is suggested if the smoothed loss falls by at least this fraction of the first loss."""

MARKS = {"steepest": "steepest", "minimum": "minimum, a tenth of the lowest"}
"""What the suggestions are called in tables and plots: the rate of "minimum" is not where the loss is lowest."""


def most_counted(losses: list[float], limit: float) -> float:
    """What one loss counts for in the smoothed curve at most: an explosion at the end would lift all before it."""
    return losses[0] + (limit - 1) * abs(losses[0]) if losses else math.inf


def smooth(losses: np.ndarray, width: float) -> np.ndarray:
    """Means under a Gaussian window, truncated at the ends; `width` is its standard deviation in points."""
    if not width > 0 or not losses.size:
        return losses
    positions = np.arange(losses.size)
    weights = np.exp(-0.5 * np.square((positions[:, np.newaxis] - positions) / width))
    smoothed: np.ndarray = weights @ losses / weights.sum(axis=1)
    return smoothed


def suggest(rates: np.ndarray, smoothed: np.ndarray) -> dict[str, float]:
    """The suggested rate of each method; empty if the smoothed loss hardly falls.

    Examples
    --------
    >>> rates = np.geomspace(1e-3, 10, 5)
    >>> {name: round(rate, 6) for name, rate in suggest(rates, np.array([4.0, 3.9, 2, 1.5, 9])).items()}
    {'steepest': 0.1, 'minimum': 0.1}
    """
    if smoothed.size < 3:
        return {}
    lowest = int(smoothed.argmin())
    if not smoothed[0] - smoothed[lowest] > LEAST_FALL * abs(smoothed[0]):
        return {}
    slopes = np.gradient(smoothed, np.log(rates))
    steepest = int(slopes[: lowest + 1].argmin())
    return {"steepest": float(rates[steepest]), "minimum": float(rates[lowest]) / 10}

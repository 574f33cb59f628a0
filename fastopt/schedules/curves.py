"""The curves that schedules consist of: plain scalar functions that Python runs and Numba compiles."""

from __future__ import annotations

import math
import sys
from typing import Any

LARGEST = sys.float_info.max
_LOG_OF_LARGE = 709.0  # exp of it is a little less than the largest float


def power(base: float, exponent: float) -> float:
    """base ** exponent; on overflow the largest float, without an error. Unlike infinity, it gives 0 times 0."""
    if base > 1.0 and exponent * math.log(base) > _LOG_OF_LARGE:
        return LARGEST
    return float(base**exponent)


def half_cosine(fraction: float) -> float:
    """From 1 at 0 down to 0 at 1."""
    return 0.5 * (1.0 + math.cos(math.pi * fraction))


def straight(fraction: float) -> float:
    """From 1 at 0 down to 0 at 1."""
    return 1.0 - fraction


SHAPES = {"linear": straight, "cos": half_cosine, "cosine": half_cosine}
"""Shapes of the way from one value to another; torch says "cos" where optax says "cosine"."""


def between(start: float, end: float, weight: float) -> float:
    """From `start` at weight 1 to `end` at weight 0, both to the bit."""
    if weight == 1.0:  # start - end may be rounded
        return start
    return (start - end) * weight + end


def count_at_most(boundaries: Any, step: float) -> int:
    """The number of boundaries (in increasing order) that are <= step: bisect.bisect_right."""
    low = 0
    high = len(boundaries)
    while low < high:
        middle = (low + high) // 2
        if boundaries[middle] <= step:
            low = middle + 1
        else:
            high = middle
    return low

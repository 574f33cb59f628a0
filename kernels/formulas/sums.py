"""The terms of sums: functions of an element and a coefficient, added up over the elements of an array, in float64.

The sums named in COUNTS only count. Counts are exact in any precision, so they are computed in the array's own.

Terms are added in a fixed order (see `constants.LANES` and `reference.add_up`), so every backend, with any number of
threads, gives the same bits.
"""

from .vocabulary import select

COUNTS = ("unusable",)


def total(x, unused):
    return x


def square(x, unused):
    return x * x


def unusable(x, limit):
    """1 for NaN and for numbers whose magnitude exceeds the limit, else 0."""
    return select(x <= limit, select(x >= -limit, 0, 1), 1)


def above(x, threshold):
    """The element and 1 if it exceeds the threshold, else 0 and 0: the sums are their total and their count."""
    return select(x > threshold, x, 0), select(x > threshold, 1, 0)


def magnitude_above(x, threshold):
    magnitude = select(x < 0, -x, x)
    return select(magnitude > threshold, magnitude, 0), select(magnitude > threshold, 1, 0)

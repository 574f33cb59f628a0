"""The terms of sums: functions of an element and a coefficient, added up over the elements of an array, in float64.

COUNTS are those that only count: exact in any precision, so they are computed in that of the array.

They are added in a fixed order (see `constants.LANES` and `reference.add_up`): sums have the same bits from every
backend and with any number of threads.
"""

from .vocabulary import select

COUNTS = ("unusable",)


def square(x, unused):
    return x * x


def unusable(x, limit):
    """1 for NaN and for what is beyond the limit."""
    return select(x <= limit, select(x >= -limit, 0, 1), 1)


def above(x, threshold):
    """What is above the threshold, and how many they are."""
    return select(x > threshold, x, 0), select(x > threshold, 1, 0)


def magnitude_above(x, threshold):
    magnitude = select(x < 0, -x, x)
    return select(magnitude > threshold, magnitude, 0), select(magnitude > threshold, 1, 0)

"""The functions that the formulas may call, defined for NumPy and plain Python.

`render.cython_source` and `numba.compile` define each of them in C and for Numba, with the same bits. `maximum` and
`clip` use comparisons and not `min`/`max`, because libraries differ in how `min` and `max` treat NaN and signed zeros.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["clip", "floor", "log", "maximum", "select", "sign", "sqrt"]


def sqrt(x: Any) -> Any:
    """The correctly rounded square root."""
    return np.sqrt(x)


def floor(x: Any) -> Any:
    """The largest whole number that is not greater than `x`."""
    return np.floor(x)


def log(x: float) -> float:
    """The natural logarithm of a number above 0; for coefficients only, as it is not correctly rounded."""
    return math.log(x)  # the C library's: NumPy's differs in the last bit


def select(condition: Any, if_true: Any, if_false: Any) -> Any:
    """`if_true` where the condition holds, else `if_false`; both sides are evaluated."""
    return np.where(condition, if_true, if_false)[()]  # a number, of numbers: powers of arrays are not the C library's


def maximum(a: Any, b: Any) -> Any:
    """The larger of the two; `a` if they compare equal or either is NaN."""
    return select(a < b, b, a)


def clip(x: Any, low: Any, high: Any) -> Any:
    """`x` raised to at least `low`, then lowered to at most `high`; NaN stays NaN."""
    y = select(x < low, low, x)
    return select(y > high, high, y)


def sign(x: Any) -> Any:
    """-1, 0 or 1; 0 for NaN and for both zeros."""
    dtype = np.asarray(x).dtype.type
    return select(x > 0, dtype(1), dtype(0)) - select(x < 0, dtype(1), dtype(0))


def whole(word: Any) -> Any:
    """The bits of the float32 number with the value of this word, which is less than 2^24."""
    return np.asarray(word, np.uint32).astype(np.float32).view(np.uint32)


def larger(a: Any, b: Any) -> Any:
    """The larger of two words, taken as numbers with a sign."""
    return np.maximum(_signed(a), _signed(b)).view(np.uint32)


def smaller(a: Any, b: Any) -> Any:
    """The smaller of two words, taken as numbers with a sign."""
    return np.minimum(_signed(a), _signed(b)).view(np.uint32)


def shifted(word: Any, by: int) -> Any:
    """A word shifted to the right, with copies of its sign."""
    return (_signed(word) >> by).view(np.uint32)


def is_nan(word: Any) -> Any:
    """1 if a word is the bits of a NaN, else 0."""
    return ((np.asarray(word, np.uint32) & np.uint32(0x7FFFFFFF)) > 0x7F800000).astype(np.uint32)


def _signed(word: Any) -> Any:
    return np.asarray(word, np.uint32).view(np.int32)

"""What the functions in `rules` and `coefficients` may call, as NumPy (and plain Python) understands them.

`render_cython` and `numba_compile` give each of them a C and a Numba meaning with the same bits. They are defined
through comparisons, not through `min`/`max`, because those differ between libraries in what they do with NaN and signed
zeros.
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
    """The largest whole number that is not larger."""
    return np.floor(x)


def log(x: float) -> float:
    """The natural logarithm of a number above 0; for coefficients only, as it is not correctly rounded."""
    return math.log(x)  # the C library's: NumPy's differs in the last bit


def select(condition: Any, if_true: Any, if_false: Any) -> Any:
    """`if_true` where the condition holds, else `if_false`; both sides are evaluated."""
    return np.where(condition, if_true, if_false)


def maximum(a: Any, b: Any) -> Any:
    """The larger of the two; `a` when they compare equal or either is NaN."""
    return select(a < b, b, a)


def clip(x: Any, low: Any, high: Any) -> Any:
    """`x` limited to low, then to high; NaN stays NaN."""
    y = select(x < low, low, x)
    return select(y > high, high, y)


def sign(x: Any) -> Any:
    """-1, 0 or 1; 0 for NaN and for both zeros."""
    dtype = np.asarray(x).dtype.type
    return select(x > 0, dtype(1), dtype(0)) - select(x < 0, dtype(1), dtype(0))

"""Numbers and flags that users hand in, Python's or NumPy's scalars; and the arguments of calls."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np


def real_number(name: str, value: Any) -> float:
    """The value as a float.

    Raises
    ------
    TypeError
        It is no real number; True and False are none.
    ValueError
        It is an integer beyond float64.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r} of type {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that float64 can hold, got a larger one") from None


def whole_number(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = int(value)
    if not least <= number < 2**31:
        raise ValueError(f"{name} must be at least {least} and less than 2**31, got {value!r}")
    return number


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    return str(value)


def at_least_zero(name: str, value: Any) -> float:
    number = real_number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and >= 0, got {value!r}")
    return number


def above_zero(name: str, value: Any) -> float:
    number = real_number(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be finite and > 0, got {value!r}")
    return number


def one_of(*expected: str) -> Callable[[str, Any], str]:
    """A check that the value is one of these strings."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in expected:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, expected))}, got {value!r}")
        return str(value)

    return check


def bound_arguments(name: str, signature: inspect.Signature, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name.

    Raises
    ------
    TypeError
        They do not fit; the message is Python's.
    """
    try:
        return dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise TypeError(f"{name}(): {error}") from None

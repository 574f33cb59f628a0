"""Numbers and flags that users hand in, Python's or NumPy's scalars; and the arguments of calls."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np


def without_dimensions(value: Any) -> Any:
    """The number in an array without dimensions, of any library; all else, masked arrays too, as it is."""
    if isinstance(value, (numbers.Number, np.generic)) or getattr(value, "ndim", None) != 0 or hasattr(value, "mask"):
        return value
    if not hasattr(value, "item") and hasattr(value, "numpy"):  # TensorFlow's and Keras's
        value = value.numpy()
    return value.item() if hasattr(value, "item") else value


def real_number(name: str, value: Any) -> float:
    """The value as a float; an array or tensor without dimensions stands for its number.

    Raises
    ------
    TypeError
        It is no real number; True and False are none.
    ValueError
        It is an integer beyond float64.
    """
    number = without_dimensions(value)
    if isinstance(number, (bool, np.bool_)) or not isinstance(number, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r} of type {type(value).__name__}")
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{name} must be a number that float64 can hold, got a larger one") from None


def whole_number(name: str, value: Any, least: int = 1, *, bits: int = 31) -> int:
    """The value as an int, at least `least` and less than 2**bits."""
    given = without_dimensions(value)
    if isinstance(given, bool) or not isinstance(given, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = int(given)
    if not least <= number < 2**bits:
        raise ValueError(f"{name} must be at least {least} and less than 2**{bits}, got {value!r}")
    return number


def flag(name: str, value: Any) -> bool:
    given = without_dimensions(value)
    if not isinstance(given, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(given)


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


class Fixed:
    """An attribute that is fixed at construction: it can be read, and an assignment is an error, not ignored.

    Parameters
    ----------
    read: function of the object
        Returns the value.
    """

    def __init__(self, read: Callable[[Any], Any], name: str = "") -> None:
        self.read = read
        self.name = name

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else self.read(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        name = type(instance).__name__
        raise AttributeError(
            f"{name}.{self.name} is fixed at construction; make a new {name} with {self.name}={value!r}"
        )


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

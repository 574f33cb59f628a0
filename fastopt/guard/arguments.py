"""Checks of the arguments and state dicts that users pass to a guard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..checks import real_number


def check_like(name: str, value: Any, expected: Any) -> None:
    """Check that a saved value has the keys and types of `expected`, which is what would be saved now."""
    if isinstance(expected, Mapping) and name != "state_dict['quiet_until']":
        if not isinstance(value, Mapping) or set(value) != set(expected):
            raise ValueError(f"{name} must be a dict with {', '.join(map(repr, expected))}, got {value!r}")
        for key in expected:
            check_like(f"{name}[{key!r}]", value[key], expected[key])
    elif not isinstance(value, (int, float) if isinstance(expected, (int, float)) else type(expected)):
        raise TypeError(f"{name} must be of type {type(expected).__name__}, got {value!r}")


def read_loss(loss: Any) -> float:
    """The loss as a float.

    Raises
    ------
    TypeError
        It is not a single real number.
    """
    shape = getattr(loss, "shape", ())
    if len(shape) > 0:
        raise TypeError(f"loss must be a single number, got an array of shape {tuple(shape)}; take its mean or sum")
    return real_number("loss", loss)


def choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    return value


def between(name: str, value: Any, low: float, high: float) -> float:
    number = real_number(name, value)
    if not low < number < high and not number == high == math.inf:
        limit = f" and less than {high:g}" if high < math.inf else ""
        raise ValueError(f"{name} must be more than {low:g}{limit}, got {value!r}")
    return number

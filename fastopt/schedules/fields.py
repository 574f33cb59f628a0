"""Checks of the arguments of schedules, as metadata of dataclass fields: (name, value) -> the value that is kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from ..checks import at_least_zero, flag, whole_number


def at_least_zero_or_none(name: str, value: Any) -> float | None:
    return None if value is None else at_least_zero(name, value)


def steps(name: str, value: Any) -> int:
    return whole_number(name, value, least=1)


def steps_or_none(name: str, value: Any) -> int | None:
    return None if value is None else steps(name, value)


def steps_or_zero(name: str, value: Any) -> int:
    return whole_number(name, value, least=0)


def steps_or_zero_or_none(name: str, value: Any) -> int | None:
    return None if value is None else steps_or_zero(name, value)


def sequence_of(check: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    def check_each(name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__"):
            raise TypeError(f"{name} must be a sequence, got {value!r}")
        return tuple(check(f"{name}[{index}]", each) for index, each in enumerate(value))

    return check_each


def increasing(check: Callable[[str, Any], Any], *, strictly: bool = True) -> Callable[[str, Any], tuple[Any, ...]]:
    check_each = sequence_of(check)

    def check_order(name: str, value: Any) -> tuple[Any, ...]:
        checked = check_each(name, value)
        for earlier, later in itertools.pairwise(checked):
            if later < earlier or (strictly and later == earlier):
                raise ValueError(f"{name} must {'be increasing' if strictly else 'not decrease'}, got {value!r}")
        return checked

    return check_order


def check_function(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    return value


def check_function_or_none(name: str, value: Any) -> Any:
    return None if value is None else check_function(name, value)


def checked_by(check: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The metadata of a dataclass field that this function checks and converts."""
    return {"check": check}


RATE = checked_by(at_least_zero)
STEPS = checked_by(steps)
STEPS_OR_ZERO = checked_by(steps_or_zero)
FLAG = checked_by(flag)

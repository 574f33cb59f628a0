"""Default values for signatures that can be told apart from values that the user gave.

In `def __init__(self, params, lr: float = default(1e-3))`, the default reads and compares like 1e-3, and the convention
still decides the rate if the user gave none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")


class _Default:
    """A default value, which the user did not give."""


class _Number(float, _Default):
    __slots__ = ()


class _Pair(tuple[float, ...], _Default):
    __slots__ = ()


class _Flag(int, _Default):
    __slots__ = ()

    def __repr__(self) -> str:
        return repr(bool(self))


_KINDS: dict[type, type] = {float: _Number, tuple: _Pair, bool: _Flag}


def default(value: Value) -> Value:
    """The same value, marked as a default; a float, a tuple or a bool."""
    marked: Value = _KINDS[type(value)](value)
    return marked


def is_default(value: Any) -> bool:
    return isinstance(value, _Default)


def without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the user gave."""
    return {name: value for name, value in values.items() if not is_default(value)}

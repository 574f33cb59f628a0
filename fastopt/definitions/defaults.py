"""Default values in signatures that say of themselves that nobody gave them.

`def __init__(self, params, lr: float = default(1e-3))` reads and compares like 1e-3, and still lets the convention
decide when no lr was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")


class _Default:
    """A value that was not given."""


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
    """The same value, marked; a float, a tuple or a bool."""
    marked: Value = _KINDS[type(value)](value)
    return marked


def is_default(value: Any) -> bool:
    return isinstance(value, _Default)


def without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the user gave."""
    return {name: value for name, value in values.items() if not is_default(value)}

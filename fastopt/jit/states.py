"""The NamedTuple classes of states, by name; Numba's cache finds them here in another process."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from ..signatures import signatures
    from .making import state_class
    from .render import state_fields

    for each in signatures().values():
        made = state_class(each.rule, state_fields(each))
        if made.__name__ == name:
            return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The NamedTuple classes of states, by name; Numba's cache finds them here in another process."""

from __future__ import annotations

from typing import Any, NamedTuple


def find(name: str) -> Any:
    """The class of a built-in update's state, by its name; or None."""
    from ..definitions.signatures import signatures
    from .making import state_class
    from .render import state_fields

    made = (state_class(each.rule, state_fields(each)) for each in signatures().values())
    return next((each for each in made if each.__name__ == name), None)


def __getattr__(name: str) -> Any:
    found = find(name)
    if found is None and name.endswith("State"):
        # Of a rule that has changed since it was cached: equal to no class that there is, so Numba compiles again.
        return NamedTuple(name, [])
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found

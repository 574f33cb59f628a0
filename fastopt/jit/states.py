"""The NamedTuple classes of states. Numba's cache looks them up by name, in another process, too."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ..definitions.signatures import signatures
from .render import state_fields


@functools.cache
def state_class(rule: str, fields: tuple[str, ...]) -> Any:
    """The NamedTuple class of a rule's state, as an attribute of this module."""
    words = "".join(word[:1].upper() + word[1:] for word in rule.split("_"))
    usual = {state_fields(each) for each in signatures().values() if each.rule == rule}
    name = f"{words}State" if not usual or fields in usual else f"{words}StateOf{len(fields)}"
    made: Any = NamedTuple(name, [(field, np.ndarray) for field in fields])  # type: ignore[misc]
    made.__module__, made.__qualname__ = __name__, name
    made.__doc__ = f"The state of the update {rule!r}: arrays, and `step`, the number of updates so far, as one int64."
    globals()[name] = made
    return made


def find(name: str) -> Any:
    """The class of the state of a built-in update, by its name; None if there is none."""
    made = (state_class(each.rule, state_fields(each)) for each in signatures().values())
    return next((each for each in made if each.__name__ == name), None)


def __getattr__(name: str) -> Any:
    found = find(name)
    if found is None and name.endswith("State"):
        # The rule has changed since it was cached. This class differs from all others, so Numba compiles again.
        return NamedTuple(name, [])
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found

"""Numbers that all parameters of an optimizer have in common: what groups must agree on, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checks import real_number
from ..definitions.specs import COMMON_BOUNDS, Spec


def check_alike(owner: str, spec: Spec, groups: Sequence[Mapping[str, Any]], rates: Sequence[float]) -> None:
    """Check that groups agree on what the common numbers depend on; `rates` are those of the next step.

    Raises
    ------
    ValueError
        They do not; the message begins with `owner`.
    """
    if not spec.common:
        return
    why = f"{owner} estimates {', '.join(map(repr, spec.common))} for all parameters together"
    for index, group in enumerate(groups):
        for name in spec.alike:
            if group[name] != groups[0][name]:
                raise ValueError(
                    f"{why}, so {name} must be the same in all groups, got {groups[0][name]!r} in param_groups[0] and "
                    f"{group[name]!r} in param_groups[{index}]"
                )
    moving = [(index, rate) for index, rate in enumerate(rates) if rate != 0]
    for index, rate in moving:
        if rate != moving[0][1]:
            raise ValueError(
                f"{why}, so lr must be the same in all groups, or 0, got {moving[0][1]!r} in "
                f"param_groups[{moving[0][0]}] and {rate!r} in param_groups[{index}]"
            )


def read_common(spec: Spec, label: str, group: Mapping[str, Any]) -> dict[str, float] | None:
    """The common numbers in a group, in the order of the spec; None if it has none of them.

    Raises
    ------
    TypeError, ValueError
        One of them is missing or cannot be; messages begin with `label`.
    """
    if not any(name in group for name in spec.common):
        return None
    found = {}
    for name in spec.common:
        if name not in group:
            raise ValueError(f"{label} has no {name!r}, but others of {', '.join(map(repr, spec.common))}")
        value, (least, largest) = real_number(f"{label}[{name!r}]", group[name]), COMMON_BOUNDS[name]
        if value < least or value > largest:
            raise ValueError(f"{label}[{name!r}] must be at least {least:g} and at most {largest:g}, got {value}")
        found[name] = value
    return found

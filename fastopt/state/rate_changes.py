"""Learning rates in state dicts: their values, and how they were changed since construction.

A schedule belongs to construction. A state dict has its present value as `lr`, for whoever loads it without a schedule;
and what was assigned in its place, because the optimizer that loads it was constructed with the schedule:

- `lr_factor`: its factor, if it was scaled (by a guard, a plateau, or by hand).
- `lr_schedule`: None, if it was replaced by a number; or the text of the schedule that replaced it, or a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checks import at_least_zero

FACTOR, SCHEDULE = "lr_factor", "lr_schedule"

KEYS = (FACTOR, SCHEDULE)


def changes_since(constructed: Any, lr: Any) -> dict[str, Any]:
    """What to save, beside its value, of a rate that was `constructed` at first."""
    if not callable(lr):
        return {SCHEDULE: None} if callable(constructed) else {}
    if lr is constructed:
        return {}
    from ..schedules import factors  # slow to load, and not needed for numbers

    changes: dict[str, Any] = {}
    if not callable(constructed) or factors.unscaled(lr) != factors.unscaled(constructed):
        changes[SCHEDULE] = factors.in_words(lr)
    if changes or factors.factor_of(lr) != factors.factor_of(constructed):
        changes[FACTOR] = factors.factor_of(lr)
    return changes


def loaded_rate(label: str, own: Any, saved: Mapping[str, Any], value: float) -> Any:
    """The rate that an optimizer whose rate is `own` has after loading a group; `value` is the saved number.

    Raises
    ------
    TypeError, ValueError
        What was saved is damaged; or it had a schedule that was assigned after construction, which this one has not.
    """
    if SCHEDULE in saved:
        text = saved[SCHEDULE]
        if text is None:
            return value
        from ..schedules import factors

        if not callable(own) or factors.in_words(own) != text:
            raise ValueError(
                f"{label}['lr'] was {text} when the state dict was saved, assigned after construction, and is {own!r} "
                f"here: assign that schedule before loading, or remove {SCHEDULE!r} from the group"
            )
    if not callable(own):
        return value
    if saved.get(FACTOR) is None:
        return own
    from ..schedules import factors

    return factors.with_factor(own, at_least_zero(f"{label}[{FACTOR!r}]", saved[FACTOR]))

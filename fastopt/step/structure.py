"""What an engine is built for, as opposed to the numbers that it takes over from one step to the next."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from operator import itemgetter
from typing import Any

from ..definitions.specs import Spec
from .options import GROUP_OPTIONS, STEP_OPTIONS, is_a_number, the_value

BUILT_IN = itemgetter(*(name for name, option in STEP_OPTIONS.items() if option.structure is the_value))
"""The values of the options of a step that are structure as they are."""

OF_STEP = [
    (name, option.structure)
    for name, option in STEP_OPTIONS.items()
    if option.structure is not is_a_number and option.structure is not the_value
]
OF_GROUP = [(name, option.structure) for name, option in GROUP_OPTIONS.items()]


def structure_key(spec: Spec, group: Mapping[str, Any], options: Mapping[str, Any]) -> Hashable:
    """The part of a group's hyperparameters and options, and of the step's, that is no number.

    As long as the key of each group stays the same, all changes are numbers, which the engine takes over; otherwise
    another engine has to be built.
    """
    return (
        spec.rule(group),
        spec.terms(group) is None,
        BUILT_IN(options),
        *[structure(options[name]) for name, structure in OF_STEP],
        *[structure(group[name]) for name, structure in OF_GROUP],
    )

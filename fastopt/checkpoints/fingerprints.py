"""What a file says of the optimizer that it was saved from, and how another differs from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..checks import whole_number
from ..kernels.engine.contract import SegmentSettings
from ..state.contents import Contents
from ..state.matching import Matched, SavedGroup
from ..step.options import GROUP_OPTIONS, STEP_OPTIONS

OPTIONS = tuple(
    name for name in STEP_OPTIONS if name not in ("backend", "n_threads", "convention", "grad_scale", "seed")
)
"""The options that change what a step does. `grad_scale` is set by whoever scales the loss, in each step; state dicts
have the seed."""

KINDS = {"class": "the optimizer", "convention": "its convention", "rules": "its rule"}
"""What makes it another optimizer, and what messages call it."""

MOST_DIFFERENCES = 6
"""The number of differences that a message lists."""

Fingerprint = dict[str, Any]


def of_contents(contents: Contents) -> Fingerprint:
    """The fingerprint of an optimizer over arrays."""
    spec, params = contents.spec, contents.params
    groups = []
    for group, span in zip(contents.groups, params.spans, strict=True):
        described = [
            param_row(name, params.arrays[position].shape, params.arrays[position].dtype)
            for position, (name, _) in zip(span, params.names[span.start : span.stop], strict=True)
        ]
        groups.append(
            {
                "params": described,
                "schedule": schedule_text(group.constructed_lr),
                "options": options_of(group, GROUP_OPTIONS),
            }
        )
    return {
        "class": spec.name,
        "convention": spec.convention,
        "rules": sorted(spec.rules.values()) if spec.custom else None,  # with a digest of the source
        "groups": groups,
        "options": options_of(contents.options, OPTIONS),
        "settings": _settings(contents.settings),
    }


def param_row(name: Any, shape: Iterable[int], dtype: Any) -> list[Any]:
    return [name if isinstance(name, (str, int)) else repr(name), list(map(int, shape)), str(dtype)]


def options_of(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """These options, as JSON has them."""
    found = {name: values[name] for name in names if name in values}
    return {
        name: value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
        for name, value in found.items()
    }


def schedule_text(lr: Any) -> str | None:
    """A schedule without its factor, which is saved apart; None for a number."""
    if not callable(lr):
        return None
    from ..schedules import factors  # slow to load, and not needed for numbers

    return factors.in_words(lr)


def _settings(settings: SegmentSettings) -> dict[str, Any]:
    """What was set of single parameters, by their positions."""
    usual = {"lr_scale": settings.lr_scale == 1, "weight_decay": np.isnan(settings.weight_decay)}
    usual["frozen"] = ~settings.frozen
    return {
        name: [[int(index), getattr(settings, name)[index].item()] for index in np.flatnonzero(~as_usual)]
        for name, as_usual in usual.items()
    }


def in_order(saved: Fingerprint, matched: Matched) -> Fingerprint:
    """What was saved, with groups and parameters in the order of another optimizer."""
    rows = [row for group in saved["groups"] for row in group["params"]]
    groups = [
        {**saved["groups"][group.position], "params": [rows[index] for index in positions_of(group)]}
        for group in matched.groups
    ]
    settings = {
        name: sorted([matched.positions[position], value] for position, value in values)
        for name, values in saved["settings"].items()
    }
    return {**saved, "groups": groups, "settings": settings}


def positions_of(group: SavedGroup) -> list[int]:
    """The positions that the parameters of a group had among all when they were saved, in the order that they have."""
    return [whole_number("a parameter of a group", each, least=0) for each in group.ids]


# --- comparing ------------------------------------------------------------------------------------------------------


def differences(saved: Fingerprint, here: Fingerprint, strict: bool) -> list[str]:
    """What differs, in words; empty if what was saved can be loaded.

    Raises
    ------
    TypeError, KeyError, ValueError
        What was saved is no fingerprint.
    """
    kinds = [
        f"{words} is {saved[name]!r} in the file and {here[name]!r} here"
        for name, words in KINDS.items()
        if saved.get(name) != here.get(name)
    ]
    if kinds:
        return kinds
    if len(saved["groups"]) != len(here["groups"]):
        return [f"there are {len(saved['groups'])} parameter groups in the file and {len(here['groups'])} here"]
    found: list[str] = []
    for index, (theirs, ours) in enumerate(zip(saved["groups"], here["groups"], strict=True)):
        found += _differing_params(theirs["params"], ours["params"], index)
        if strict and theirs.get("schedule") != ours.get("schedule"):
            schedules = [each or "a number" for each in (theirs.get("schedule"), ours.get("schedule"))]
            found.append(f"the lr of group {index} is {schedules[0]} in the file and {schedules[1]} here")
        if strict:
            found += _differing_options(theirs["options"], ours["options"], f" of group {index}")
    if strict:
        found += _differing_options(saved["options"], here["options"], "")
        found += _differing_options(saved["settings"], here["settings"], " of single parameters (see set_segments)")
    return found


def _differing_params(saved: list[Any], here: list[Any], group: int) -> Iterator[str]:
    if len(saved) != len(here):
        yield f"group {group} has {len(saved)} parameters in the file and {len(here)} here"
        return
    for position, ((name, shape, dtype), (own, own_shape, own_dtype)) in enumerate(zip(saved, here, strict=True)):
        if name != own and isinstance(name, str) and isinstance(own, str):
            yield f"parameter {position} of group {group} is {name!r} in the file and {own!r} here"
        elif shape != own_shape:
            shapes = f"{_tuple(shape)} in the file and {_tuple(own_shape)} here"
            yield f"parameter {own!r} of group {group} has the shape {shapes}"
        elif dtype != own_dtype:
            yield f"parameter {own!r} of group {group} is of dtype {dtype} in the file and {own_dtype} here"


def _tuple(shape: list[int]) -> str:
    return str(tuple(shape))


def _differing_options(saved: Any, here: Any, whose: str) -> list[str]:
    if saved is None or here is None:  # one of them is torch's own optimizer, which has none
        return []
    return [
        f"{name}{whose} is {saved[name]!r} in the file and {here[name]!r} here"
        for name in saved
        if name in here and saved[name] != here[name]
    ]


def message(found: list[str]) -> str:
    more = len(found) - MOST_DIFFERENCES
    shown = found[:MOST_DIFFERENCES] + [f"and {more} more differences"] * (more > 0)
    return "; ".join(shown)

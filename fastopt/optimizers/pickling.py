"""What pickles and copies of an optimizer hold, and how it is made from that again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..state import state_dicts
from ..state.construction import Construction
from ..state.contents import Contents
from ..step.options import read_step_options


def held(contents: Contents, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All that an optimizer is made of, when its averages are not swapped in."""
    groups = [{key: value for key, value in group.items() if key != "params"} for group in contents.groups]
    return {
        "construction": Construction(
            contents.params.tree,
            [(list(group["params"]), values) for group, values in zip(contents.groups, groups, strict=True)],
            dict(defaults),
            dict(contents.options),
            contents.gradients,
        ),
        "settings": copy.deepcopy(contents.settings),
        "report": copy.deepcopy(contents.report),
        "progress": copy.deepcopy(contents.progress),
        "state_dict": state_dicts.save(contents, encoded=True),
        "storages": list(contents.storages),
        "steps": contents.records.steps.copy(),  # SGD's are not in its state dict
        "constructed_lr": [group.constructed_lr for group in contents.groups],
        # Other threads may step while the arrays themselves are written, or they were written before.
        "params": [contents.params.memory.to_host(param) for param in contents.params.arrays],
    }


def construction(state: Mapping[str, Any]) -> Construction:
    """What an optimizer is constructed from; pickles of earlier versions lack the options that came later."""
    held_construction: Construction = state["construction"]
    return held_construction._replace(options={**read_step_options({}), **held_construction.options})


def restored(contents: Contents, state: Mapping[str, Any]) -> Contents:
    """The contents of a newly constructed optimizer, with what is held; pickles of earlier versions lack some of it."""
    # Copies: `copy.copy` makes none, and what was unpickled may be read-only.
    settings, report, progress = (copy.deepcopy(state[name]) for name in ("settings", "report", "progress"))
    contents = replace(contents, settings=settings, progress=progress)
    contents = state_dicts.load(contents, state_dicts.read(contents, state["state_dict"]))
    contents = replace(contents, report=report)  # with the counts by gradient, which no state dict has
    contents.records.steps[:] = state["steps"]
    for param, value in zip(contents.params.arrays, state.get("params", ()), strict=False):
        if contents.params.memory.is_writable(param):
            contents.params.memory.copy(param, value)
    for group, rate in zip(contents.groups, state.get("constructed_lr", ()), strict=False):
        group.constructed_lr = rate
    return contents

"""Which saved group and which saved states belong to which parameter: by name where both sides have names."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .parameters import Parameters

Names = tuple[Any, ...] | None
"""The names of a group's parameters, or None if they have none."""

MOST_NAMES = 20
"""How many names a message lists."""


class SavedGroup(NamedTuple):
    """A group of a state dict.

    Attributes
    ----------
    position: its position among the saved groups.
    values: all that was saved of it.
    ids: the keys of its parameters' states.
    names: the names of its parameters.
    """

    position: int
    values: Mapping[str, Any]
    ids: list[Hashable]
    names: Names


class Matched(NamedTuple):
    """What belongs together.

    Attributes
    ----------
    groups: for each of the optimizer's groups the saved one, whose parameters are in the optimizer's order.
    positions: for each saved parameter, in the order of the state dict, its position in the optimizer.
    """

    groups: list[SavedGroup]
    positions: list[int]


def match(params: Parameters, saved_groups: Sequence[Any]) -> Matched:
    """Match saved groups and their parameters with those of an optimizer.

    Groups that all have names, on both sides, are matched by the names of their parameters, and otherwise by position.
    The parameters of two groups that have names are matched by them, and otherwise by position.

    Raises
    ------
    TypeError, ValueError
        The groups are damaged, or there are others.
    """
    own = params.tree.group_names()
    if len(saved_groups) != len(own):
        raise ValueError(
            "loaded state dict has a different number of parameter groups "
            f"(expected {len(own)}, got {len(saved_groups)})"
        )
    saved = [_read_group(index, group) for index, group in enumerate(saved_groups)]
    _check_ids(saved)
    # Lists: an interrupt can hit a generator that `all` has left.
    named = None not in own and None not in [each.names for each in saved]
    of_groups = _by_names(own, saved) if named else saved
    groups = [
        _in_order(index, group, names, len(span))
        for index, (group, names, span) in enumerate(zip(of_groups, own, params.spans, strict=True))
    ]
    position_of = {each: position for position, each in enumerate(each for group in groups for each in group.ids)}
    return Matched(groups, [position_of[each] for group in saved for each in group.ids])


def states_by_id(saved_states: Mapping[Any, Any], groups: Sequence[SavedGroup]) -> dict[Hashable, Any]:
    """The saved states by the ids of their parameters.

    Raises
    ------
    ValueError
        Some belong to no parameter, or two to the same.
    """
    known = {each for group in groups for each in group.ids}
    found: dict[Hashable, Any] = {}
    unused = []
    for key, state in saved_states.items():
        each = _id(key)
        if each in found:
            raise ValueError(f"state_dict['state'] has {key!r} twice, as a number and as a string")
        if each in known:
            found[each] = state
        elif state:
            unused.append(key)
    if unused:
        raise ValueError(
            f"state_dict['state'] has {_listed(unused)}, which no parameter uses: the groups in "
            f"'param_groups' list {_listed(known)}"
        )
    return found


def _read_group(index: int, saved: Any) -> SavedGroup:
    params = saved.get("params") if isinstance(saved, Mapping) else None
    if isinstance(params, np.ndarray) and params.ndim == 1:
        params = params.tolist()
    if not isinstance(params, Sequence) or isinstance(params, (str, bytes)):
        raise TypeError(f"param_groups[{index}] must be a dict with a list of 'params', got {saved!r}")
    names = saved.get("param_names")
    if names is not None:
        if isinstance(names, np.ndarray):
            names = names.tolist()
        if not isinstance(names, Sequence) or isinstance(names, (str, bytes)) or len(names) != len(params):
            raise ValueError(
                f"param_groups[{index}]['param_names'] must be a list of a name for each of its {len(params)} "
                f"parameters, got {names!r}"
            )
        names = tuple(map(_name, names))
        if len(set(names)) < len(names):
            raise ValueError(f"param_groups[{index}]['param_names'] has a name twice: {_listed(names)}")
    return SavedGroup(index, saved, list(map(_id, params)), names)


def _check_ids(saved: Sequence[SavedGroup]) -> None:
    seen: set[Hashable] = set()
    for group in saved:
        for each in group.ids:
            if each in seen:
                raise ValueError(f"param_groups[{group.position}]['params'] has {each!r}, which was there before")
            seen.add(each)


def _id(key: Any) -> Hashable:
    """The key of a parameter's states; JSON, npz and HDF5 make strings of numbers."""
    if isinstance(key, np.ndarray) and key.ndim == 0:
        key = key.item()
    if isinstance(key, str) and key.isascii() and key.isdigit():
        return int(key)
    if isinstance(key, numbers.Integral) and not isinstance(key, bool):
        return int(key)
    if not isinstance(key, Hashable):
        raise TypeError(f"a parameter in 'param_groups' must be a number or a name, got {key!r}")
    return key


def _name(name: Any) -> Any:
    """A name as the user gave it; JSON makes lists of tuples."""
    return tuple(map(_name, name)) if isinstance(name, (list, tuple)) else name


def _by_names(own: Sequence[Names], saved: Sequence[SavedGroup]) -> list[SavedGroup]:
    """For each of these groups the saved one with the same names; those that share them, in their order."""
    left = list(saved)
    found: list[SavedGroup | None] = []
    for names in own:
        same = [each for each in left if set(each.names or ()) == set(names or ())]
        if same:
            left.remove(same[0])
        found.append(same[0] if same else None)
    # Groups without a counterpart are compared in their order, for a message that lists what differs.
    return [left.pop(0) if each is None else each for each in found]


def _in_order(index: int, group: SavedGroup, names: Names, size: int) -> SavedGroup:
    """The group with its parameters in the order of these names."""
    if names is not None and group.names is not None:
        missing = [name for name in names if name not in group.names]
        unknown = [name for name in group.names if name not in names]
        if missing or unknown:
            raise ValueError(
                f"the names of parameters differ: param_groups[{group.position}] of the state dict has "
                f"{_listed(group.names)}, group {index} of this optimizer has {_listed(names)}; only the first has "
                f"{_listed(unknown)}, only the second {_listed(missing)}. To match by position, remove 'param_names' "
                "from the state dict's groups"
            )
        ids = dict(zip(group.names, group.ids, strict=True))
        return group._replace(ids=[ids[name] for name in names], names=names)
    if len(group.ids) != size:
        raise ValueError(
            "loaded state dict contains a parameter group that doesn't match the size of optimizer's group "
            f"(group {index}: expected {size} parameters, got {len(group.ids)})"
        )
    return group


def _listed(values: Any) -> str:
    shown = list(map(repr, values))
    more = f" and {len(shown) - MOST_NAMES} more" if len(shown) > MOST_NAMES else ""
    return (", ".join(shown[:MOST_NAMES]) + more) or "nothing"

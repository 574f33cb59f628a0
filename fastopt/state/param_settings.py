"""Settings of single parameters: a factor for the rate, another weight decay, frozen or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import flag, real_number
from ..definitions.specs import Spec
from ..kernels.engine.contract import SegmentSettings

Select = str | int | Sequence[Any] | np.ndarray | Callable[[Any, np.ndarray], bool]
"""Parameters by name (the key in the dict they were given in) or position, a list of either, a mask with a bool for
each parameter, or a function of (name, array) that returns one."""


@dataclass(frozen=True)
class ParamSettings:
    """The settings of one parameter.

    Attributes
    ----------
    name: its key in the dict it was given in, else its position.
    group: the index of its group.
    lr_scale: float
        A factor for the rate of the group.
    weight_decay: float or None
        Used in place of the group's; None for the group's.
    frozen: bool
        Never updated, whatever its gradient.
    """

    name: Any
    group: int
    lr_scale: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False


def describe_settings(settings: SegmentSettings, names: Sequence[tuple[Any, int]]) -> tuple[ParamSettings, ...]:
    return tuple(
        ParamSettings(
            name,
            group,
            float(settings.lr_scale[index]),
            None if math.isnan(settings.weight_decay[index]) else float(settings.weight_decay[index]),
            bool(settings.frozen[index]),
        )
        for index, (name, group) in enumerate(names)
    )


def select_params(which: Any, names: Sequence[tuple[Any, int]], params: Sequence[np.ndarray]) -> list[int]:
    """The positions of the parameters that `which` selects.

    Raises
    ------
    TypeError, ValueError
        It names a parameter that does not exist, or is of the wrong kind or length.
    """
    if callable(which):
        return [index for index, ((name, _), param) in enumerate(zip(names, params, strict=True)) if which(name, param)]
    if isinstance(which, np.ndarray):
        if which.ndim != 1:
            raise ValueError(f"a mask must have one dimension, got shape {which.shape}")
        which = which.tolist()
    if isinstance(which, (list, tuple)):
        if which and all(isinstance(each, (bool, np.bool_)) for each in which):
            if len(which) != len(names):
                raise ValueError(f"a mask must have one value for each of {len(names)} parameters, got {len(which)}")
            return [index for index, chosen in enumerate(which) if chosen]
        return [index for each in which for index in _find(each, names)]
    return _find(which, names)


def _find(name: Any, names: Sequence[tuple[Any, int]]) -> list[int]:
    if isinstance(name, (bool, np.bool_)):
        raise TypeError(f"a parameter is selected by name or position, or by a list or mask of them; got {name!r}")
    try:
        found = [index for index, (each, _) in enumerate(names) if each == name]
    except (TypeError, ValueError):
        found = []
    if len(found) > 1:
        groups = [names[index][1] for index in found]
        raise ValueError(f"{name!r} is a parameter in groups {groups}; select by position or with a function")
    if not found and isinstance(name, (int, np.integer)) and 0 <= name < len(names):
        return [int(name)]
    if not found:
        known = ", ".join(repr(each) for each, _ in names[:10]) + (", ..." if len(names) > 10 else "")
        raise ValueError(f"there is no parameter {name!r} (expected one of {known})")
    return found


def check_values(spec: Spec, lr_scale: Any, weight_decay: Any, frozen: Any) -> dict[str, Any]:
    """The values to write to the arrays of settings, by name; `...` stands for what stays as it is.

    Raises
    ------
    TypeError, ValueError
        There are none, or one is not usable by this optimizer.
    """
    changes: dict[str, Any] = {}
    if lr_scale is not ...:
        changes["lr_scale"] = _at_least_zero("lr_scale", lr_scale)
    if weight_decay is not ...:
        changes["weight_decay"] = math.nan if weight_decay is None else _at_least_zero("weight_decay", weight_decay)
    if frozen is not ...:
        changes["frozen"] = flag("frozen", frozen)
    if not changes:
        raise TypeError("nothing to set: give lr_scale, weight_decay or frozen")
    if "weight_decay" in changes and "weight_decay" not in spec.defaults:
        raise ValueError(f"{spec.name} has no weight_decay")
    if "lr_scale" in changes and not spec.uses_lr:
        raise ValueError(f"lr_scale has no effect: lr is not used in the steps of {spec.name}")
    if changes.get("lr_scale", 1) != 1 and spec.common:
        raise ValueError(f"lr_scale must be 1, got {lr_scale!r}: {spec.name} finds one rate for all parameters")
    return changes


def _at_least_zero(name: str, value: Any) -> float:
    number = real_number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return number

"""The hyperparameters in torch's groups, as plain numbers, and whether they can change in place."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from ...checks import flag
from ...definitions.hyperparameters import Hyperparameter
from ...definitions.specs import CAUTION, Spec
from . import devices

Hyperparameters = dict[str, Any]

UNSUPPORTED = {"differentiable": (), "capturable": ("cuda",)}
"""Flags of torch's groups that a native step supports only for parameters on these kinds of devices."""

NOT_VALUES = ("params", "param_names")


def check_flags(owner: str, group: dict[str, Any]) -> None:
    """Check the flags that a native step does not support everywhere; `owner` is the optimizer's name for messages.

    Raises
    ------
    ValueError
        One is set.
    """
    for name, able in UNSUPPORTED.items():
        if group.get(name) and not (able and all(devices.kind(param) in able for param in group["params"])):
            where = f" for parameters that are not on a device ({', '.join(able)})" if able else ""
            raise ValueError(f"{owner} does not support {name}=True{where}: its step is native; use torch.optim for it")


def check_caution(owner: str, spec: Spec, group: dict[str, Any]) -> None:
    """Check the hyperparameters that torch's classes do not know, and so do not check.

    Raises
    ------
    TypeError
        One is no bool, or the optimizer does not have it.
    """
    for name in CAUTION:
        if name in group:
            if name not in spec.defaults:
                raise TypeError(f"{owner} has no {name}, got {name}={group[name]!r} in a group")
            flag(name, group[name])


def _number(hyperparameter: Hyperparameter, value: Any) -> Any:
    if hyperparameter.flag:
        return bool(value)
    if value is None and hyperparameter.unset is not None:
        return None
    return tuple(map(float, value)) if hyperparameter.length else float(value)


def read_hyperparameters(owner: str, spec: Spec, group: dict[str, Any]) -> Hyperparameters:
    """A group's hyperparameters as plain numbers. As in torch, values that were changed later are not checked.

    Raises
    ------
    ValueError
        A flag asks for something that a native step cannot do; the message begins with `owner`, the optimizer's name.
    """
    check_flags(owner, group)
    known = spec.hyperparameters
    return {name: _number(known[name], group.get(name, default)) for name, default in spec.defaults.items()}


def n_sums(spec: Spec, group: Mapping[str, Any]) -> int:
    """How many sums a step of a group adds up, over each parameter or over all, before it updates them."""
    terms = spec.terms({**spec.defaults, **group})
    return 0 if terms is None else len(terms.names)


def known_values(group: dict[str, Any]) -> tuple[tuple[Any, ...], bool]:
    """The values in a group, and whether any of them can change in place."""
    changes = not all(is_constant(value) for name, value in group.items() if name not in NOT_VALUES)
    return tuple(group.values()), changes


def is_constant(value: Any) -> bool:
    """Whether a value cannot change in place, as tensors, lists and tuples of them can."""
    if isinstance(value, tuple):
        return all(map(is_constant, value))
    return value is None or isinstance(value, (numbers.Number, str))

"""The hyperparameters in torch's groups, as plain numbers, and whether they can change unseen."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

from torch import Tensor  # noqa: F401

from ..definitions.hyperparameters import Hyperparameter
from . import devices

if TYPE_CHECKING:
    from .base import NativeOptimizer

Hyperparameters = dict[str, Any]

UNSUPPORTED = {"differentiable": (), "capturable": ("cuda",)}
"""Flags of torch's groups that ask for what a native step cannot give, but for parameters on these devices."""

NOT_VALUES = ("params", "param_names")


def check_flags(owner: str, group: dict[str, Any]) -> None:
    """Check that nothing is asked for that a native step cannot give.

    Raises
    ------
    ValueError
        Something is.
    """
    for name, able in UNSUPPORTED.items():
        if group.get(name) and not (able and all(devices.kind(param) in able for param in group["params"])):
            where = f" for parameters that are not on a device ({', '.join(able)})" if able else ""
            raise ValueError(f"{owner} does not support {name}=True{where}: its step is native; use torch.optim for it")


def _number(hyperparameter: Hyperparameter, value: Any) -> Any:
    if hyperparameter.flag:
        return bool(value)
    return tuple(map(float, value)) if hyperparameter.length else float(value)


def read_hyperparameters(owner: NativeOptimizer, group: dict[str, Any]) -> Hyperparameters:
    """A group's hyperparameters as plain numbers; torch checks none that are changed later, nor is any checked here."""
    check_flags(owner.name, group)
    known = owner.spec.hyperparameters
    return {name: _number(known[name], group.get(name, default)) for name, default in owner.spec.defaults.items()}


def known_values(group: dict[str, Any]) -> tuple[tuple[Any, ...], bool]:
    """What is in a group, and whether any of it can change without being replaced."""
    changes = not all(is_constant(value) for name, value in group.items() if name not in NOT_VALUES)
    return tuple(group.values()), changes


def is_constant(value: Any) -> bool:
    """Whether a value is known to stay what it is, as tensors and lists do not, nor tuples of them."""
    if isinstance(value, tuple):
        return all(map(is_constant, value))
    return value is None or isinstance(value, (numbers.Number, str))

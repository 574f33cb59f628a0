"""The choice of optimizer and hyperparameters, and the grid of rates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import optimizers
from ..checks import above_zero, text, whole_number
from ..definitions.specs import SPECS
from ..optimizers.base import Optimizer


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer by name, with its hyperparameters and options except the rate.

    Examples
    --------
    >>> import numpy as np
    >>> OptimizerChoice("SGD", {"momentum": 0.9}).create(np.zeros(3), lr=0.1).param_groups[0]["momentum"]
    0.9
    """

    name: str = "Adam"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    factory: Callable[..., Optimizer] | None = None

    def create(self, params: Any, lr: Any, **more: Any) -> Optimizer:
        """Construct the optimizer over these parameters, with more arguments."""
        function = self.factory or getattr(optimizers, self.name)
        made: Optimizer = function(params, **{"lr": lr, **self.hyperparameters, **more})
        return made

    @property
    def default_lr(self) -> float:
        """The optimizer's default rate."""
        function = self.factory or getattr(optimizers, self.name)
        return float(function(np.zeros(1), **self.hyperparameters).param_groups[0]["lr"])

    def describe(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.hyperparameters.items())
        return f"{self.name}({settings})" if settings else self.name


def choose_optimizer(optimizer: Any = "Adam", hyperparameters: Mapping[str, Any] | None = None) -> OptimizerChoice:
    """Look up an optimizer by name, or take a callable that makes one, and try it on one parameter.

    Parameters
    ----------
    optimizer: str or callable
        The name of one of fastopt's classes, or the class, or any callable (such as a `functools.partial`) that takes
        parameters and the keyword argument `lr`.
    hyperparameters: dict, optional
        Further keyword arguments: hyperparameters, and options such as max_grad_norm.

    Raises
    ------
    TypeError, ValueError
        There is no such optimizer, or it does not accept these hyperparameters.
    """
    if isinstance(optimizer, OptimizerChoice):
        return optimizer
    given = dict(hyperparameters or {})
    if "lr" in given:
        raise ValueError("lr is given by itself, not among the hyperparameters")
    choice = _find(optimizer, given)
    made = choice.create(np.zeros(1), 1e-3)
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer must make one of fastopt's optimizers, got {made!r} of type {type(made).__name__}")
    return choice


def _find(optimizer: Any, hyperparameters: dict[str, Any]) -> OptimizerChoice:
    if callable(optimizer):
        settings, inner = hyperparameters, optimizer
        while isinstance(inner, functools.partial):
            settings, inner = {**inner.keywords, **settings}, inner.func
        if isinstance(inner, type) and any(base.__module__.startswith("torch.optim.") for base in inner.__mro__):
            raise TypeError(
                f"optimizer must be for NumPy arrays, which problems have as parameters, got {inner!r}; to compare "
                "rates of a torch optimizer, write a training function"
            )
        if isinstance(inner, type) and inner.__name__ in SPECS and inner is getattr(optimizers, inner.__name__):
            return OptimizerChoice(inner.__name__, settings)
        return OptimizerChoice(getattr(inner, "__qualname__", type(inner).__name__), hyperparameters, optimizer)
    if text("optimizer", optimizer) not in SPECS:
        raise ValueError(f"unknown optimizer: {optimizer!r} (expected one of {', '.join(SPECS)})")
    return OptimizerChoice(optimizer, hyperparameters)


def logarithmic_grid(min_lr: float, max_lr: float, points: int) -> tuple[float, ...]:
    """Rates from `min_lr` to `max_lr`, evenly spaced in log(lr), rounded to 12 digits.

    Raises
    ------
    TypeError, ValueError
        A rate is not usable, `min_lr` is not below `max_lr`, or `points` is less than 2.

    Examples
    --------
    >>> logarithmic_grid(1e-3, 10, 5)
    (0.001, 0.01, 0.1, 1.0, 10.0)
    """
    low, high, count = above_zero("min_lr", min_lr), above_zero("max_lr", max_lr), whole_number("points", points, 2)
    if not low < high:
        raise ValueError(f"min_lr must be less than max_lr, got {min_lr!r} and {max_lr!r}")
    # Rounded, so that overlapping grids share rates, which then need not run again.
    return tuple(float(f"{rate:.12g}") for rate in np.geomspace(low, high, count))

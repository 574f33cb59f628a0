"""The table of optimizers: what each one's hyperparameters are, which rule runs, which states it keeps.

A new optimizer is one row here, one rule in `kernels/rules.py` and one coefficient function in
`kernels/coefficients.py`; the class in `optimizers` gives it a signature. Tests and benchmarks go by this table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .checks import flag, real_number
from .kernels import render

Hyperparameters = dict[str, Any]


@dataclass(frozen=True)
class Hyperparameter:
    """What values one hyperparameter can take.

    `length` is 0 for a number, 2 for a pair; `spread` names the numbers that coefficient functions see.
    """

    name: str
    check: Callable[[Any], str | None]
    length: int = 0
    spread: tuple[str, ...] = ()
    flag: bool = False

    def convert(self, value: Any) -> Any:
        """The value as plain Python float, bool or tuple of floats.

        Raises
        ------
        TypeError
            It is not of the right kind.
        ValueError
            It is out of range; the message is torch's.
        """
        converted: Any
        if self.flag:
            converted = flag(self.name, value)
        elif self.length:
            if not isinstance(value, (tuple, list)) or len(value) != self.length:
                raise TypeError(f"{self.name} must be a tuple of {self.length} numbers, got {value!r}")
            converted = tuple(real_number(f"{self.name}[{index}]", each) for index, each in enumerate(value))
        else:
            converted = real_number(self.name, value)
        message = self.check(converted)
        if message is not None:
            raise ValueError(message)
        return converted

    def numbers(self, value: Any) -> dict[str, float]:
        """What coefficient functions see of a converted value."""
        if self.length:
            return dict(zip(self.spread, value, strict=True))
        return {self.name: float(value)}


def _at_least_zero(name: str, words: str) -> Hyperparameter:
    return Hyperparameter(
        name, lambda value: None if value >= 0 else f"Invalid {words}: {value:g} (expected {name} >= 0)"
    )


def _flag(name: str) -> Hyperparameter:
    return Hyperparameter(name, lambda value: None, flag=True)


def _check_betas(betas: tuple[float, ...]) -> str | None:
    for index, beta in enumerate(betas):
        if not 0 <= beta < 1:
            return f"Invalid beta parameter at index {index}: {beta} (expected 0 <= betas[{index}] < 1)"
    return None


def _check_etas(etas: tuple[float, ...]) -> str | None:
    if 0 < etas[0] < 1 < etas[1]:
        return None
    return f"Invalid eta values: {etas[0]}, {etas[1]} (expected 0 < etas[0] < 1 < etas[1])"


def _check_step_sizes(sizes: tuple[float, ...]) -> str | None:
    if 0 <= sizes[0] <= sizes[1]:
        return None
    return f"Invalid step_sizes values: {sizes[0]}, {sizes[1]} (expected 0 <= step_sizes[0] <= step_sizes[1])"


def _check_dampening(dampening: float) -> str | None:
    return f"Invalid dampening value: {dampening} (expected a number)" if math.isnan(dampening) else None


HYPERPARAMETERS: dict[str, Hyperparameter] = {
    each.name: each
    for each in (
        _at_least_zero("lr", "learning rate"),
        _at_least_zero("momentum", "momentum value"),
        Hyperparameter("dampening", _check_dampening),
        _at_least_zero("weight_decay", "weight_decay value"),
        _flag("nesterov"),
        Hyperparameter("betas", _check_betas, length=2, spread=("beta1", "beta2")),
        _at_least_zero("eps", "epsilon value"),
        _flag("amsgrad"),
        _at_least_zero("alpha", "alpha value"),
        _flag("centered"),
        _at_least_zero("lr_decay", "lr_decay value"),
        _at_least_zero("initial_accumulator_value", "initial_accumulator_value value"),
        Hyperparameter("etas", _check_etas, length=2, spread=("etaminus", "etaplus")),
        Hyperparameter("step_sizes", _check_step_sizes, length=2, spread=("step_size_min", "step_size_max")),
        _flag("maximize"),
        _flag("decoupled_weight_decay"),
    )
}
"""Every hyperparameter of every optimizer; a name means the same everywhere."""


@dataclass(frozen=True)
class Spec:
    """One optimizer.

    Attributes
    ----------
    defaults: the hyperparameters and, per convention, the value of each when the user gives none.
    variants: hyperparameters that choose among the rules, by being nonzero or True.
    rules: which rule runs for which truth values of the variants.
    coefficients: per convention, the function in `kernels/coefficients.py`.
    initial: per state, the hyperparameter that it starts with; 0 where it is not named.
    costs: per rule, nanoseconds an element of float32 and of float64, on one thread with everything in cache
        (measured, AVX-512). They decide when a thread pays for itself.
    counts_steps: whether torch keeps a `step` in the state.
    squares: whether it squares the gradient, so that a large one overflows.
    proximal: per rule, the operation that does a proximal step with its rate, and which state stands for which of the
        operation's streams.
    """

    name: str
    defaults: Mapping[str, Any]
    rules: Mapping[tuple[bool, ...], str]
    coefficients: Mapping[str, str]
    costs: Mapping[str, tuple[float, float]]
    variants: tuple[str, ...] = ()
    initial: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Hyperparameters], str | None] = lambda values: None
    counts_steps: bool = True
    squares: bool = True
    proximal: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)

    def rule(self, values: Mapping[str, Any]) -> str:
        """The name of the rule that these hyperparameters ask for."""
        return self.rules[tuple(bool(values[name]) for name in self.variants)]

    def uses_lr(self, convention: str) -> bool:
        """Whether lr is part of every step; Rprop's is only where step sizes begin."""
        return "lr" in render.coefficient_functions()[self.coefficients[convention]].arguments

    def states(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the states that it keeps, in the rule's order."""
        states: tuple[str, ...] = render.rules()[self.rule(values)].states
        return states

    @property
    def all_states(self) -> tuple[str, ...]:
        """The names of all states that any of its rules keeps."""
        return tuple(dict.fromkeys(name for rule in self.rules.values() for name in render.rules()[rule].states))

    def convert(self, values: Mapping[str, Any]) -> Hyperparameters:
        """Check a full set of hyperparameters."""
        converted = {name: HYPERPARAMETERS[name].convert(values[name]) for name in self.defaults}
        message = self.check(converted)
        if message is not None:
            raise ValueError(message)
        return converted

    def numbers(self, values: Mapping[str, Any]) -> dict[str, float]:
        """What coefficient functions see; weight decay is 0 where the optimizer has none."""
        seen = {"weight_decay": 0.0, "decoupled_weight_decay": 0.0}
        for name in self.defaults:
            seen.update(HYPERPARAMETERS[name].numbers(values[name]))
        return seen


def _check_nesterov(values: Hyperparameters) -> str | None:
    if values["nesterov"] and (values["momentum"] <= 0 or values["dampening"] != 0):
        return "Nesterov momentum requires a momentum and zero dampening"
    return None


def _adaptive(state: str) -> tuple[str, Mapping[str, str]]:
    """The proximal step of a rule that divides by the root of this state."""
    return "proximal_adaptive", {"square_avg": state}


_PLAIN: tuple[str, Mapping[str, str]] = ("proximal_plain", {})
_CENTERED: tuple[str, Mapping[str, str]] = ("proximal_centered", {})
_EVERYWHERE = {"maximize": False}
_DECAY = {"decoupled_weight_decay": False, **_EVERYWHERE}


def _adam(name: str, defaults: Hyperparameters) -> Spec:
    return Spec(
        name,
        defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, **defaults},
        variants=("amsgrad",),
        rules={(False,): "adam", (True,): "adam_amsgrad"},
        coefficients={"torch": "adam_torch"},
        costs={"adam": (0.30, 0.89), "adam_amsgrad": (0.31, 0.90)},
        proximal={"adam": _adaptive("exp_avg_sq"), "adam_amsgrad": _adaptive("max_exp_avg_sq")},
    )


SPECS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec(
            "SGD",
            defaults={
                "lr": 1e-3,
                "momentum": 0.0,
                "dampening": 0.0,
                "weight_decay": 0.0,
                "nesterov": False,
                **_DECAY,
            },
            variants=("momentum", "nesterov"),
            rules={
                (False, False): "sgd",
                (False, True): "sgd",
                (True, False): "sgd_momentum",
                (True, True): "sgd_nesterov",
            },
            coefficients={"torch": "sgd_torch"},
            costs={"sgd": (0.10, 0.17), "sgd_momentum": (0.14, 0.27), "sgd_nesterov": (0.14, 0.27)},
            check=_check_nesterov,
            counts_steps=False,
            squares=False,
            proximal={"sgd": _PLAIN, "sgd_momentum": _PLAIN, "sgd_nesterov": _PLAIN},
        ),
        _adam("Adam", {"weight_decay": 0.0, "amsgrad": False, **_DECAY}),
        _adam("AdamW", {"weight_decay": 1e-2, "amsgrad": False, **_EVERYWHERE, "decoupled_weight_decay": True}),
        Spec(
            "RMSprop",
            defaults={
                "lr": 1e-2,
                "alpha": 0.99,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "momentum": 0.0,
                "centered": False,
                **_DECAY,
            },
            variants=("centered", "momentum"),
            rules={
                (False, False): "rmsprop",
                (False, True): "rmsprop_momentum",
                (True, False): "rmsprop_centered",
                (True, True): "rmsprop_centered_momentum",
            },
            coefficients={"torch": "rmsprop_torch"},
            costs={
                "rmsprop": (0.29, 0.88),
                "rmsprop_momentum": (0.30, 0.89),
                "rmsprop_centered": (0.31, 0.89),
                "rmsprop_centered_momentum": (0.36, 0.90),
            },
            proximal={
                "rmsprop": _adaptive("square_avg"),
                "rmsprop_momentum": _adaptive("square_avg"),
                "rmsprop_centered": _CENTERED,
                "rmsprop_centered_momentum": _CENTERED,
            },
        ),
        Spec(
            "Adagrad",
            defaults={
                "lr": 1e-2,
                "lr_decay": 0.0,
                "weight_decay": 0.0,
                "initial_accumulator_value": 0.0,
                "eps": 1e-10,
                **_DECAY,
            },
            rules={(): "adagrad"},
            coefficients={"torch": "adagrad_torch"},
            costs={"adagrad": (0.29, 0.88)},
            initial={"sum": "initial_accumulator_value"},
            proximal={"adagrad": _adaptive("sum")},
        ),
        Spec(
            "Rprop",
            defaults={"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0), **_EVERYWHERE},
            rules={(): "rprop"},
            coefficients={"torch": "rprop_torch"},
            costs={"rprop": (0.29, 0.57)},
            initial={"step_size": "lr"},
            squares=False,
            proximal={"rprop": ("proximal_rprop", {})},
        ),
    )
}
"""Every optimizer, by the name of its class."""

"""The table of optimizers: what each one's hyperparameters are, which rule runs, which states it keeps.

A new optimizer is one row here, one rule in `kernels/rules.py` and one coefficient function in
`kernels/coefficients.py`; the class in `optimizers` gives it a signature. Tests and benchmarks go by this table. The
rows are PyTorch's; `conventions` says how those of other frameworks differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..kernels.formulas import registry
from .hyperparameters import HYPERPARAMETERS, Hyperparameter, Hyperparameters


@dataclass(frozen=True)
class Spec:
    """One optimizer, as one framework has it.

    Attributes
    ----------
    defaults: the hyperparameters, and the value of each when the user gives none.
    variants: hyperparameters that choose among the rules, by being nonzero or True.
    rules: which rule runs for which truth values of the variants.
    coefficients: the function in `kernels/coefficients.py`.
    constants: arguments of that function that are no hyperparameters.
    initial: per state, the hyperparameter or the number that it starts with; 0 where it is not named.
    clipping: the function in `kernels/coefficients.py` that clips by a norm.
    costs: per rule, nanoseconds an element of float32 and of float64, on one thread with everything in cache
        (measured, AVX-512). They decide when a thread pays for itself.
    counts_steps: whether torch keeps a `step` in the state.
    squares: whether it squares the gradient, so that a large one overflows.
    proximal: per rule, the operation that does a proximal step with its rate, and which state stands for which of the
        operation's streams. Where a rule has none, there is no rate that the step could be done with.
    lr_decay: the hyperparameter by which its own coefficients let the rate decay.
    carried: numbers that its coefficients carry from step to step, beside the count of steps, and what each starts
        with: arguments of the coefficient function that it also returns.
    hyperparameters: what values each hyperparameter can take.
    custom: whether it is a custom rule, see `rules`.
    """

    name: str
    defaults: Mapping[str, Any]
    rules: Mapping[tuple[bool, ...], str]
    coefficients: str
    costs: Mapping[str, tuple[float, float]]
    variants: tuple[str, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    initial: Mapping[str, str | float] = field(default_factory=dict)
    clipping: str = "clipping_torch"
    check: Callable[[Hyperparameters], str | None] = lambda values: None
    counts_steps: bool = True
    squares: bool = True
    proximal: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    lr_decay: str | None = None
    carried: Mapping[str, float] = field(default_factory=dict)
    convention: str = "torch"
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=lambda: HYPERPARAMETERS)
    custom: bool = False

    def rule(self, values: Mapping[str, Any]) -> str:
        """The name of the rule that these hyperparameters ask for."""
        return self.rules[tuple(bool(values[name]) for name in self.variants)]

    def proximal_step(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
        """The operation that does a proximal step with the rate of each element; see `proximal`.

        Raises
        ------
        ValueError
            There is none.
        """
        rule = self.rule(values)
        if rule not in self.proximal:
            raise ValueError(f"prox is not possible with {self.name}: its updates have no rate to do it with")
        return self.proximal[rule]

    @property
    def uses_lr(self) -> bool:
        """Whether lr is part of every step; Rprop's is only where step sizes begin."""
        return "lr" in registry.coefficient_function(self.coefficients).arguments

    def states(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the states that it keeps, in the rule's order."""
        states: tuple[str, ...] = registry.rule(self.rule(values)).states
        return states

    @property
    def all_states(self) -> tuple[str, ...]:
        """The names of all states that any of its rules keeps."""
        return tuple(dict.fromkeys(name for rule in self.rules.values() for name in registry.rule(rule).states))

    def convert(self, values: Mapping[str, Any]) -> Hyperparameters:
        """Check a full set of hyperparameters."""
        converted = {name: self.hyperparameters[name].convert(values[name]) for name in self.defaults}
        message = self.check(converted)
        if message is not None:
            raise ValueError(message)
        return converted

    def numbers(self, values: Mapping[str, Any]) -> dict[str, float]:
        """What coefficient functions see, but for lr; weight decay is 0 where the optimizer has none."""
        seen = {"weight_decay": 0.0, "decoupled_weight_decay": 0.0, **self.constants}
        for name in self.defaults:
            if name != "lr":
                seen.update(self.hyperparameters[name].numbers(values[name]))
        return seen


def _check_nesterov(values: Hyperparameters) -> str | None:
    if values["nesterov"] and (values["momentum"] <= 0 or values["dampening"] != 0):
        return "Nesterov momentum requires a momentum and zero dampening"
    return None


def adaptive(state: str) -> tuple[str, Mapping[str, str]]:
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
        coefficients="adam_torch",
        costs={"adam": (0.30, 0.89), "adam_amsgrad": (0.31, 0.90)},
        proximal={"adam": adaptive("exp_avg_sq"), "adam_amsgrad": adaptive("max_exp_avg_sq")},
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
            coefficients="sgd_torch",
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
            coefficients="rmsprop_torch",
            costs={
                "rmsprop": (0.29, 0.88),
                "rmsprop_momentum": (0.30, 0.89),
                "rmsprop_centered": (0.31, 0.89),
                "rmsprop_centered_momentum": (0.36, 0.90),
            },
            proximal={
                "rmsprop": adaptive("square_avg"),
                "rmsprop_momentum": adaptive("square_avg"),
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
            coefficients="adagrad_torch",
            costs={"adagrad": (0.29, 0.88)},
            initial={"sum": "initial_accumulator_value"},
            proximal={"adagrad": adaptive("sum")},
            lr_decay="lr_decay",
        ),
        Spec(
            "Rprop",
            defaults={"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0), **_EVERYWHERE},
            rules={(): "rprop"},
            coefficients="rprop_torch",
            costs={"rprop": (0.29, 0.57)},
            initial={"step_size": "lr"},
            squares=False,
            proximal={"rprop": ("proximal_rprop", {})},
        ),
        Spec(
            "Adadelta",
            defaults={"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, **_DECAY},
            rules={(): "adadelta"},
            coefficients="adadelta",
            costs={"adadelta": (0.46, 1.43)},
        ),
        Spec(
            "Adamax",
            defaults={"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, **_DECAY},
            rules={(): "adamax"},
            coefficients="adamax_torch",
            costs={"adamax": (0.23, 0.40)},
            squares=False,
            proximal={"adamax": ("proximal_infinity", {})},
        ),
        Spec(
            "NAdam",
            defaults={
                "lr": 2e-3,
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "weight_decay": 0.0,
                "momentum_decay": 4e-3,
                **_DECAY,
            },
            rules={(): "nadam"},
            coefficients="nadam",
            constants={"base": 0.96, "product_base": 0.96},
            costs={"nadam": (0.30, 0.89)},
            proximal={"nadam": adaptive("exp_avg_sq")},
            carried={"mu_product": 1.0},
        ),
        Spec(
            "RAdam",
            defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, **_DECAY},
            rules={(): "radam"},
            coefficients="radam_torch",
            costs={"radam": (0.31, 0.90)},
            proximal={"radam": ("proximal_rectified", {"square_avg": "exp_avg_sq"})},
        ),
        Spec(
            "Lion",
            defaults={
                "lr": 1e-4,
                "betas": (0.9, 0.99),
                "weight_decay": 0.0,
                **_EVERYWHERE,
                "decoupled_weight_decay": True,
            },
            rules={(): "lion"},
            coefficients="lion",
            costs={"lion": (0.18, 0.29)},
            squares=False,
            proximal={"lion": _PLAIN},
        ),
    )
}
"""Every optimizer, by the name of its class."""

CARRIED: dict[str, float] = {name: start for spec in SPECS.values() for name, start in spec.carried.items()}
"""Every number that an optimizer carries from step to step, and what it starts with; custom rules can use them too."""

CARRIED_BOUNDS: dict[str, tuple[float, float]] = {"mu_product": (0.0, 1.0)}
"""The least and the largest value that a carried number can have."""

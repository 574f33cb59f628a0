"""The table of optimizers: the hyperparameters of each, the rule that it runs, the states that it keeps.

A new optimizer is one row here, one rule in `kernels/formulas/rules.py` and one coefficient function in
`kernels/formulas/coefficients.py`; the class in `optimizers` gives it a signature. Exports, the classes of
`fastopt.torch`, tests and benchmarks are made from this table. The rows follow PyTorch, or the authors' own code for
PyTorch if torch.optim does not have the optimizer; `conventions` lists the differences of other frameworks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from ..kernels.formulas import registry
from ..kernels.formulas.rule_sums import Terms
from .hyperparameters import HYPERPARAMETERS, Hyperparameter, Hyperparameters, with_three_betas


@dataclass(frozen=True)
class Spec:
    """One optimizer, as one framework defines it.

    Attributes
    ----------
    defaults: the hyperparameters, and the default value of each.
    variants: hyperparameters that choose the rule by being nonzero or True.
    rules: the rule for each combination of truth values of the variants.
    coefficients: the optimizer's function in `kernels/formulas/coefficients.py`.
    regularize: the function in the same file that scales gradients and decays weights, before the rule.
    of_rules: the functions in the same file for single rules, where they are not these two: see `stages`.
    constants: arguments of these functions that are not hyperparameters.
    summing: the hyperparameter without which a rule needs no sums, though it has some; by default there is none.
    fixed: hyperparameters that define the optimizer, so no argument sets them.
    initial: per state, the hyperparameter or the number that it starts with; a state without an entry starts at 0.
    starts_as_param: the states that start as a copy of the parameter. Memory has 0 until the first update: there the
        rule takes the parameter as it then is, see `begun` in `kernels/formulas/rules.py`.
    unsigned: the states that are never negative: the formats that store them have no sign, and keep 0 for 0 alone.
    exact: per rule, states that are always stored in float32, whatever `state_dtype` says: rounded, they would make
        updates wrong by far more than they are rounded.
    average: for optimizers whose parameters train between an average and the state `z`: the number that says how near
        to the average. They show the average when asked to, see `step.evaluation`.
    clipping: the function in `kernels/formulas/coefficients.py` that clips by a norm.
    costs: per rule, nanoseconds per element for float32 and for float64, on one thread with everything in cache
        (AVX-512; `python -m fastopt.bench.costs` measures them). They decide when another thread makes a step faster.
    counts_steps: whether torch keeps a `step` in the state.
    squares: whether the optimizer squares the gradient, so that a large gradient overflows.
    proximal: per rule, the operation that does a proximal step with the rule's rate, and the state for each of the
        operation's operands. A rule without an entry has no rate for a proximal step.
    lr_decay: the hyperparameter by which the optimizer's own coefficients decay the rate.
    carried: numbers that the coefficients carry from step to step, besides the count of steps, and the initial value of
        each. They are arguments of the coefficient function, which also returns them.
    carried_initial: the hyperparameters that torch's class starts some of these numbers with.
    common: numbers that the coefficients carry from step to step for all parameters together, and the number or the
        hyperparameter that each starts with. What they become depends only on sums over all parameters, on each other
        and on the hyperparameters in `alike`.
    alike: the hyperparameters that must be the same in all groups.
    in_groups: what the authors' own class may count in its groups: the name there, and that of the number here, which
        each parameter has for itself. No class of torch.optim does so.
    of_authors: what the groups of the authors' own class have beside all this; no step here uses it.
    flattened: the states that the authors' own class keeps as vectors, or as one zero for a parameter of zeros.
    hyperparameters: the values that each hyperparameter can take.
    in_torch: whether torch.optim has a class of this name, which `fastopt.torch` then builds on.
    torch_note: how the class in `fastopt.torch` differs from torch.optim's.
    custom_rule: the formulas of a custom rule, see `rules`; a pickle brings them along.
    """

    name: str
    defaults: Mapping[str, Any]
    rules: Mapping[tuple[bool, ...], str]
    coefficients: str
    costs: Mapping[str, tuple[float, float]]
    regularize: str = "regularize"
    of_rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    summing: str | None = None
    variants: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    initial: Mapping[str, str | float] = field(default_factory=dict)
    starts_as_param: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()
    exact: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    average: str | None = None
    clipping: str = "clipping_torch"
    check: Callable[[Hyperparameters], str | None] = lambda values: None
    counts_steps: bool = True
    squares: bool = True
    proximal: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    lr_decay: str | None = None
    carried: Mapping[str, float] = field(default_factory=dict)
    carried_initial: Mapping[str, str] = field(default_factory=dict)
    common: Mapping[str, str | float] = field(default_factory=dict)
    alike: tuple[str, ...] = ()
    in_groups: Mapping[str, str] = field(default_factory=lambda: {"step": "step"})
    of_authors: tuple[str, ...] = ()
    flattened: tuple[str, ...] = ()
    convention: str = "torch"
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=lambda: HYPERPARAMETERS)
    in_torch: bool = True
    torch_note: str = ""
    custom_rule: registry.CustomRule | None = None

    @property
    def custom(self) -> bool:
        """Whether this is a custom rule."""
        return self.custom_rule is not None

    def rule(self, values: Mapping[str, Any]) -> str:
        """The name of the rule that these hyperparameters choose."""
        return self.rules[tuple(bool(values[name]) for name in self.variants)]

    def proximal_step(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
        """The operation that does a proximal step with the rate of each element; see `proximal`.

        Raises
        ------
        ValueError
            The rule does not have a proximal step.
        """
        rule = self.rule(values)
        if rule not in self.proximal:
            raise ValueError(f"prox is not possible with {self.name}: its updates have no rate to do it with")
        return self.proximal[rule]

    def stages(self, rule: str) -> tuple[str, ...]:
        """The functions that compute a rule's coefficients, in order; the first scales gradients and decays weights."""
        return self.of_rules.get(rule, (self.regularize, self.coefficients))

    def terms(self, values: Mapping[str, Any]) -> Terms | None:
        """What an update with these hyperparameters adds up before it; None if nothing. See `formulas.rule_sums`."""
        if self.summing is not None and not values[self.summing]:
            return None
        return registry.terms(self.rule(values))

    def that_adds(self, owner: str) -> str:
        """What adds something up, for messages; `owner` is the name of the class."""
        return owner if self.summing is None else f"{owner} with {self.summing}=True"

    @property
    def has_sums(self) -> bool:
        """Whether updates add something up whatever the hyperparameters are."""
        return self.summing is None and any(registry.terms(rule) is not None for rule in self.rules.values())

    @property
    def has_sums_over_all(self) -> bool:
        """Whether a rule adds something up over all parameters."""
        return any(any(terms.over_all) for rule in self.rules.values() if (terms := registry.terms(rule)) is not None)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The hyperparameters that a user can set, in the order of the defaults."""
        return tuple(name for name in self.defaults if name not in self.fixed)

    @property
    def uses_lr(self) -> bool:
        """Whether every step uses lr; Rprop uses it only as the initial step size."""
        return "lr" in registry.coefficient_function(self.coefficients).arguments

    def states(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the states that the optimizer keeps, in the rule's order."""
        states: tuple[str, ...] = registry.rule(self.rule(values)).states
        return states

    def exact_states(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the states that are always stored in float32; see `exact`."""
        return self.exact.get(self.rule(values), ())

    @property
    def all_states(self) -> tuple[str, ...]:
        """The names of all states that any of the optimizer's rules keeps."""
        return tuple(dict.fromkeys(name for rule in self.rules.values() for name in registry.rule(rule).states))

    def common_starts(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The common numbers before the first step, with these hyperparameters."""
        return {name: float(values[start]) if isinstance(start, str) else start for name, start in self.common.items()}

    def convert(self, values: Mapping[str, Any]) -> Hyperparameters:
        """Check a full set of hyperparameters."""
        converted = {name: self.hyperparameters[name].convert(values[name]) for name in self.defaults}
        message = self.check(converted)
        if message is not None:
            raise ValueError(message)
        return converted

    def parts(self, name: str) -> tuple[str, ...]:
        """The names of a hyperparameter's numbers in coefficient functions."""
        return self.hyperparameters[name].spread or (name,)

    def numbers(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The arguments of coefficient functions, except lr; weight decay is 0 if the optimizer does not have it."""
        seen = {"weight_decay": 0.0, "decoupled_weight_decay": 0.0, **self.constants}
        for name in self.defaults:
            if name != "lr":
                seen.update(self.hyperparameters[name].numbers(values[name]))
        return seen


def _check_nesterov(values: Hyperparameters) -> str | None:
    if values["nesterov"] and (values["momentum"] <= 0 or values["dampening"] != 0):
        return "Nesterov momentum requires a momentum and zero dampening"
    return None


def _check_inner_momentum(name: str, momentum: float) -> str | None:
    return None if 0 < momentum < 1 else f"Invalid {name} value: {momentum:g} (expected 0 < {name} < 1)"


def adaptive(state: str) -> tuple[str, Mapping[str, str]]:
    """The proximal step of a rule that divides by the square root of this state."""
    return "proximal_adaptive", {"square_avg": state}


_PLAIN: tuple[str, Mapping[str, str]] = ("proximal_plain", {})
_CENTERED: tuple[str, Mapping[str, str]] = ("proximal_centered", {})
_CENTERED_RULES = ("rmsprop_centered", "rmsprop_centered_momentum", "rmsprop_centered_nesterov")
_CENTERED_STATES = ("square_avg", "grad_avg")
"""The root is taken of the small difference between them: see `Spec.exact`."""
_EVERYWHERE = {"maximize": False}
_DECAY = {"decoupled_weight_decay": False, **_EVERYWHERE}
_ALWAYS_DECOUPLED = {**_EVERYWHERE, "decoupled_weight_decay": True}


CAUTION = ("cautious", "cautious_weight_decay")
"""Hyperparameters of fastopt's own: after all others, and by keyword only."""

_CAUTION_OF = {"Adam": CAUTION[:1], "AdamW": CAUTION, "NAdam": CAUTION[:1], "Lion": CAUTION}
_CAUTIOUS_RULES = {
    "adam": ("adam_cautious", (0.33, 0.91)),
    "adam_amsgrad": ("adam_cautious_amsgrad", (0.34, 0.92)),
    "nadam": ("adam_cautious", (0.33, 0.91)),
    "lion": ("lion_cautious", (0.20, 0.31)),
}
"""For each rule the cautious one that takes its place, and its costs."""


def _with_caution(spec: Spec) -> Spec:
    """The same optimizer with its hyperparameters for caution, if it has some."""
    flags = _CAUTION_OF.get(spec.name, ())
    if not flags:
        return spec
    rules = {rule: _CAUTIOUS_RULES[rule][0] for rule in spec.costs}
    return replace(
        spec,
        defaults={**spec.defaults, **dict.fromkeys(flags, False)},
        variants=(*spec.variants, *flags),
        rules={
            (*key, *switches): rules[rule] if any(switches) else rule
            for key, rule in spec.rules.items()
            for switches in product((False, True), repeat=len(flags))
        },
        of_rules=dict.fromkeys(rules.values(), ("regularize_cautious", spec.coefficients, "caution")),
        summing="cautious",
        costs={**spec.costs, **{rules[rule]: _CAUTIOUS_RULES[rule][1] for rule in rules}},
        proximal={**spec.proximal, **{rules[rule]: step for rule, step in spec.proximal.items()}},
    )


def _adam(name: str, defaults: Hyperparameters, fixed: tuple[str, ...] = ()) -> Spec:
    return Spec(
        name,
        defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, **defaults},
        variants=("amsgrad",),
        fixed=fixed,
        rules={(False,): "adam", (True,): "adam_amsgrad"},
        coefficients="adam_torch",
        costs={"adam": (0.30, 0.89), "adam_amsgrad": (0.31, 0.90)},
        proximal={"adam": adaptive("exp_avg_sq"), "adam_amsgrad": adaptive("max_exp_avg_sq")},
        unsigned=("exp_avg_sq", "max_exp_avg_sq"),
    )


def _schedule_free(name: str, defaults: Hyperparameters, decay: Hyperparameters, **more: Any) -> Spec:
    return Spec(
        name,
        defaults={**defaults, "weight_decay": 0.0, "warmup_steps": 0.0, "r": 0.0, "weight_lr_power": 2.0, **decay},
        starts_as_param=("z",),
        carried={"weight_sum": 0.0, "lr_max": -1.0},
        in_groups={"step": "step", "k": "step", "weight_sum": "weight_sum", "lr_max": "lr_max"},
        of_authors=("scheduled_lr",),
        in_torch=False,
        **more,
    )


SPECS: dict[str, Spec] = {
    spec.name: _with_caution(spec)
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
        _adam("AdamW", {"weight_decay": 1e-2, "amsgrad": False, **_ALWAYS_DECOUPLED}, ("decoupled_weight_decay",)),
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
            unsigned=("square_avg",),
            exact=dict.fromkeys(_CENTERED_RULES, _CENTERED_STATES),
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
            unsigned=("sum",),
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
            exact={"rprop": ("prev", "step_size")},  # which sign `prev` had decides; step sizes are multiplied
            squares=False,
            proximal={"rprop": ("proximal_rprop", {})},
        ),
        Spec(
            "Adadelta",
            defaults={"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, **_DECAY},
            rules={(): "adadelta"},
            coefficients="adadelta",
            costs={"adadelta": (0.30, 0.88)},
            unsigned=("square_avg", "acc_delta"),
        ),
        Spec(
            "Adamax",
            defaults={"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, **_DECAY},
            rules={(): "adamax"},
            coefficients="adamax_torch",
            costs={"adamax": (0.23, 0.40)},
            unsigned=("exp_inf",),
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
            unsigned=("exp_avg_sq",),
            proximal={"nadam": adaptive("exp_avg_sq")},
            carried={"mu_product": 1.0},
            torch_note="Torch keeps `mu_product` in its default dtype, and rounds it in each step. Here the step uses "
            "the product before it is rounded: with float64 parameters, updates differ from torch's by some 1e-8 of "
            "their size; they do not under `torch.set_default_dtype(torch.float64)`.",
        ),
        Spec(
            "RAdam",
            defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, **_DECAY},
            rules={(): "radam"},
            coefficients="radam_torch",
            costs={"radam": (0.31, 0.90)},
            unsigned=("exp_avg_sq",),
            proximal={"radam": ("proximal_rectified", {"square_avg": "exp_avg_sq"})},
        ),
        Spec(
            "ASGD",
            defaults={"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0.0, **_DECAY},
            rules={(): "asgd"},
            coefficients="asgd",
            costs={"asgd": (0.14, 0.27)},
            exact={"asgd": ("ax",)},  # what a late step adds to the average is smaller than what few bits can hold
            squares=False,
            carried={"eta": -1.0, "mu": 1.0},
            carried_initial={"eta": "lr"},
            # No proximal step: it would change the parameter after the average has seen it.
        ),
        Spec(
            "Lion",
            defaults={
                "lr": 1e-4,
                "betas": (0.9, 0.99),
                "weight_decay": 0.0,
                **_ALWAYS_DECOUPLED,
            },
            fixed=("decoupled_weight_decay",),
            rules={(): "lion"},
            coefficients="lion",
            costs={"lion": (0.18, 0.29)},
            squares=False,
            proximal={"lion": _PLAIN},
            in_torch=False,
        ),
        Spec(
            "AdaBelief",
            defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, **_DECAY},
            rules={(): "adabelief"},
            coefficients="adabelief_torch",
            costs={"adabelief": (0.31, 0.91)},
            unsigned=("exp_avg_var",),
            proximal={"adabelief": adaptive("exp_avg_var")},
            in_torch=False,
        ),
        Spec(
            "AdEMAMix",
            defaults={
                "lr": 1e-3,
                "betas": (0.9, 0.999, 0.9999),
                "alpha": 5.0,
                "beta3_warmup": 0.0,
                "alpha_warmup": 0.0,
                "eps": 1e-8,
                "weight_decay": 0.0,
                **_ALWAYS_DECOUPLED,
            },
            fixed=("decoupled_weight_decay",),
            hyperparameters=with_three_betas(),
            rules={(): "ademamix"},
            coefficients="ademamix",
            costs={"ademamix": (0.36, 0.95)},
            unsigned=("exp_avg_sq",),
            proximal={"ademamix": adaptive("exp_avg_sq")},
            in_torch=False,
        ),
        Spec(
            "ADOPT",
            defaults={
                "lr": 1e-3,
                "betas": (0.9, 0.9999),
                "eps": 1e-6,
                "use_clipping": True,
                "weight_decay": 0.0,
                **_DECAY,
            },
            rules={(): "adopt"},
            coefficients="adopt",
            regularize="regularize_after_first",
            costs={"adopt": (0.32, 0.92)},
            unsigned=("exp_avg_sq",),
            in_torch=False,
            # No proximal step: the update overwrites the average that it divides by before a proximal step would run.
        ),
        Spec(
            "Adan",
            defaults={
                "lr": 1e-3,
                "betas": (0.98, 0.92, 0.99),
                "eps": 1e-8,
                "weight_decay": 0.0,
                "no_prox": False,
                **_EVERYWHERE,
            },
            hyperparameters=with_three_betas(),
            rules={(): "adan"},
            coefficients="adan_torch",
            regularize="regularize_adan",
            costs={"adan": (0.45, 1.00)},
            unsigned=("exp_avg_sq",),
            proximal={"adan": adaptive("exp_avg_sq")},
            in_torch=False,
        ),
        Spec(
            "LAMB",
            defaults={
                "lr": 1e-3,
                "betas": (0.9, 0.999),
                "eps": 1e-6,
                "weight_decay": 1e-2,
                "bias_correction": True,
                "always_adapt": False,
                **_EVERYWHERE,
            },
            rules={(): "lamb"},
            coefficients="lamb",
            regularize="regularize_without_decay",
            costs={"lamb": (0.35, 0.95)},
            unsigned=("exp_avg_sq",),
            in_torch=False,
        ),
        Spec(
            "LARS",
            defaults={
                "lr": 1.0,
                "momentum": 0.9,
                "dampening": 0.0,
                "weight_decay": 0.0,
                "nesterov": False,
                "trust_coeff": 1e-3,
                "eps": 1e-8,
                "always_adapt": False,
                **_EVERYWHERE,
            },
            variants=("nesterov",),
            rules={(False,): "lars", (True,): "lars_nesterov"},
            coefficients="lars",
            regularize="regularize_without_decay",
            costs={"lars": (0.16, 0.30), "lars_nesterov": (0.16, 0.30)},
            check=_check_nesterov,
            squares=False,
            in_torch=False,
        ),
        Spec(
            "StableAdamW",
            defaults={"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 1e-2, **_EVERYWHERE},
            rules={(): "stable_adamw"},
            coefficients="stable_adamw",
            regularize="regularize_without_decay",
            costs={"stable_adamw": (0.32, 0.90)},
            unsigned=("exp_avg_sq",),
            in_torch=False,
        ),
        Spec(
            "Prodigy",
            defaults={
                "lr": 1.0,
                "betas": (0.9, 0.999),
                "beta3": None,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "decouple": True,
                "use_bias_correction": False,
                "safeguard_warmup": False,
                "d0": 1e-6,
                "d_coef": 1.0,
                "growth_rate": math.inf,
                **_EVERYWHERE,
            },
            rules={(): "prodigy"},
            coefficients="prodigy",
            regularize="regularize_prodigy",
            costs={"prodigy": (0.44, 1.00)},
            starts_as_param=("p0",),
            unsigned=("exp_avg_sq",),
            exact={"prodigy": ("p0",)},  # small differences from the parameter count
            common={"d": "d0", "d_max": "d0", "d_numerator": 0.0, "k": 0.0},
            alike=("betas", "beta3", "use_bias_correction", "safeguard_warmup", "d0", "d_coef", "growth_rate"),
            of_authors=("d_denom", "d_hat", "fsdp_in_use", "slice_p"),
            flattened=("s", "p0"),
            in_torch=False,
            # No proximal step: `exp_avg` is of gradients times the distance, so elements have no rate for gradients.
        ),
        _schedule_free(
            "ScheduleFreeAdamW",
            {"lr": 2.5e-3, "betas": (0.9, 0.999), "eps": 1e-8},
            _EVERYWHERE,
            rules={(): "schedule_free_adamw"},
            coefficients="schedule_free_adamw",
            regularize="regularize_without_decay",
            costs={"schedule_free_adamw": (0.32, 0.90)},
            unsigned=("exp_avg_sq",),
            exact={"schedule_free_adamw": ("z",)},
            average="beta1",
            check=lambda values: _check_inner_momentum("betas[0]", values["betas"][0]),
        ),
        _schedule_free(
            "ScheduleFreeSGD",
            {"lr": 1.0, "momentum": 0.9},
            _DECAY,
            fixed=("decoupled_weight_decay",),
            rules={(): "schedule_free_sgd"},
            coefficients="schedule_free_sgd",
            costs={"schedule_free_sgd": (0.16, 0.30)},
            exact={"schedule_free_sgd": ("z",)},
            average="momentum",
            check=lambda values: _check_inner_momentum("momentum", values["momentum"]),
            squares=False,
        ),
    )
}
"""Every optimizer, by the name of its class."""

CARRIED_BOUNDS: dict[str, tuple[float, float]] = {
    "mu_product": (0.0, 1.0),
    "eta": (0.0, sys.float_info.max),
    "mu": (0.0, 1.0),
    "weight_sum": (0.0, sys.float_info.max),
    "lr_max": (-1.0, sys.float_info.max),
}
"""The smallest and the largest value that each carried number can have."""

COMMON_BOUNDS: dict[str, tuple[float, float]] = {
    "d": (sys.float_info.min, math.inf),
    "d_max": (sys.float_info.min, math.inf),
    "d_numerator": (-math.inf, math.inf),
    "k": (0.0, 2.0**53),
}
"""The same for each common number; NaN is possible, too: gradients with NaN lead to it."""

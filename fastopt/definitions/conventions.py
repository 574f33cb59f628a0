"""The table of conventions: how other frameworks' optimizers differ from PyTorch's, which are in `specs`.

A row lists the differences: defaults, the set of hyperparameters, the coefficient function. The rules are the same.
Formulas: docs/conventions.md. Sources: Keras 3.15, tf.keras.optimizers.legacy and tf.compat.v1.train of TensorFlow
2.21, optax 0.2.8.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .specs import CAUTION, SPECS, Spec

FRAMEWORKS = {
    "torch": "PyTorch",
    "keras": "Keras 3",
    "tf1": "TensorFlow 1",
    "tf_keras_legacy": "legacy Keras (tf.keras.optimizers.legacy)",
    "optax": "optax",
}
"""Every convention, and the framework that it follows."""


@dataclass(frozen=True)
class Difference:
    """The differences between a framework's optimizer and PyTorch's.

    Attributes
    ----------
    called: the name of the optimizer's class or function in the framework.
    defaults: defaults that differ from PyTorch's, and defaults of hyperparameters that PyTorch does not have.
    without: PyTorch's hyperparameters that the framework's optimizer does not have.
    spec: other fields of the optimizer's `Spec`.
    """

    called: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)


_KERAS_DECAY = {"decoupled_weight_decay": True}
_LEGACY_DECAY = {"decay": 0.0}

_SINGLE_BASE = float(np.float32(0.96))
"""The base of NAdam's momentum: Keras passes it as a float32 tensor, whatever the dtype of the parameters."""

_NESTEROV_RULES = {
    (centered, momentum, nesterov): "rmsprop"
    + "_centered" * centered
    + ("_nesterov" if nesterov else "_momentum") * momentum
    for centered in (False, True)
    for momentum in (False, True)
    for nesterov in (False, True)
}
"""The rules of RMSprop with Nesterov momentum as a further variant."""


def _check_positive_eps(values: Mapping[str, Any]) -> str | None:
    # optax's update is 0 where the sum is 0, which only makes a difference without eps.
    return None if values["eps"] > 0 else "Invalid epsilon value: 0 (expected eps > 0 with convention='optax')"


def _check_nesterov(values: Mapping[str, Any]) -> str | None:
    return "Nesterov momentum requires a momentum" if values["nesterov"] and values["momentum"] <= 0 else None


_SGD_KERAS = {"coefficients": "sgd_keras", "constants": {"negated": 0.0}, "check": _check_nesterov}


def _check_alpha_below_one(values: Mapping[str, Any]) -> str | None:
    if values["bias_correction"] and values["alpha"] >= 1:
        return f"Invalid alpha value: {values['alpha']:g} (expected alpha < 1 with bias_correction=True)"
    return None


def _without(spec: Spec, names: tuple[str, ...]) -> Spec:
    """A spec without some hyperparameters and the variants that they switch on."""
    kept = [index for index, variant in enumerate(spec.variants) if variant not in names]
    rules = {
        tuple(key[index] for index in kept): rule
        for key, rule in spec.rules.items()
        if not any(switch for index, switch in enumerate(key) if index not in kept)
    }
    left = set(rules.values())
    tables: dict[str, Any] = {
        table: _only(left, getattr(spec, table)) for table in ("of_rules", "costs", "proximal", "exact")
    }
    return replace(
        spec,
        defaults={key: value for key, value in spec.defaults.items() if key not in names},
        variants=tuple(spec.variants[index] for index in kept),
        rules=rules,
        summing=None if spec.summing in names else spec.summing,
        **tables,
    )


def _only(keys: Container[str], table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key in keys}


def _adam_of_optax(called: str, **defaults: float) -> Difference:
    own, nadam = (_without(SPECS[name], CAUTION) for name in ("Adam", "NAdam"))
    return Difference(
        called,
        {"eps_root": 0.0, "nesterov": False, **defaults},
        spec={
            "coefficients": "adam_optax",
            "variants": ("amsgrad", "nesterov"),
            "rules": {(False, False): "adam", (True, False): "adam_amsgrad", (False, True): "nadam"},
            "costs": {**own.costs, **nadam.costs},
            "proximal": {**own.proximal, **nadam.proximal},
            "check": _check_amsgrad_or_nesterov,
        },
    )


def _check_amsgrad_or_nesterov(values: Mapping[str, Any]) -> str | None:
    return "optax has amsgrad or nesterov, not both" if values["amsgrad"] and values["nesterov"] else None


def _nesterov_costs() -> dict[str, tuple[float, float]]:
    costs = SPECS["RMSprop"].costs
    return {rule: costs[rule.replace("nesterov", "momentum")] for rule in _NESTEROV_RULES.values()}


DIFFERENCES: dict[str, dict[str, Difference]] = {
    "keras": {
        "SGD": Difference(
            "SGD",
            {"lr": 1e-2, **_KERAS_DECAY},
            without=("dampening",),
            spec=_SGD_KERAS,
        ),
        "Adam": Difference("Adam", {"eps": 1e-7, **_KERAS_DECAY}, spec={"coefficients": "adam_keras"}),
        "AdamW": Difference("AdamW", {"eps": 1e-7, "weight_decay": 4e-3}, spec={"coefficients": "adam_keras"}),
        "RMSprop": Difference(
            "RMSprop",
            {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7, **_KERAS_DECAY},
            spec={"coefficients": "rmsprop_tensorflow"},
        ),
        "Adagrad": Difference(
            "Adagrad",
            {"lr": 1e-3, "initial_accumulator_value": 0.1, "eps": 1e-7, **_KERAS_DECAY},
            without=("lr_decay",),
            spec={"coefficients": "adagrad_keras", "lr_decay": None},
        ),
        "Adadelta": Difference("Adadelta", {"lr": 1e-3, "rho": 0.95, "eps": 1e-7, **_KERAS_DECAY}),
        "Adamax": Difference(
            "Adamax", {"lr": 1e-3, "eps": 1e-7, **_KERAS_DECAY}, spec={"coefficients": "adamax_keras"}
        ),
        "NAdam": Difference(
            "Nadam",
            {"lr": 1e-3, "eps": 1e-7, "momentum_decay": 1.0, **_KERAS_DECAY},
            spec={"constants": {"base": _SINGLE_BASE, "product_base": 0.96}},
        ),
        "Lion": Difference("Lion", {"lr": 1e-3}),
    },
    "tf1": {
        "SGD": Difference(
            "GradientDescentOptimizer, MomentumOptimizer", without=("dampening",), spec={"check": _check_nesterov}
        ),
        "Adam": Difference("AdamOptimizer", without=("amsgrad",), spec={"coefficients": "adam_keras"}),
        "RMSprop": Difference(
            "RMSPropOptimizer",
            {"alpha": 0.9, "eps": 1e-10},
            spec={"coefficients": "rmsprop_tensorflow", "initial": {"square_avg": 1.0}},
        ),
        "Adagrad": Difference(
            "AdagradOptimizer",
            {"initial_accumulator_value": 0.1},
            without=("lr_decay", "eps"),
            spec={"coefficients": "adagrad_keras", "lr_decay": None},
        ),
        "Adadelta": Difference("AdadeltaOptimizer", {"lr": 1e-3, "rho": 0.95, "eps": 1e-8}),
    },
    "tf_keras_legacy": {
        "SGD": Difference(
            "SGD",
            {"lr": 1e-2, **_LEGACY_DECAY},
            without=("dampening",),
            spec=_SGD_KERAS,
        ),
        "Adam": Difference("Adam", {"eps": 1e-7, **_LEGACY_DECAY}, spec={"coefficients": "adam_keras"}),
        "RMSprop": Difference(
            "RMSprop",
            {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7, **_LEGACY_DECAY},
            spec={"coefficients": "rmsprop_tensorflow", "constants": {"eps_outside": 1.0}},
        ),
        "Adagrad": Difference(
            "Adagrad",
            {"lr": 1e-3, "initial_accumulator_value": 0.1, "eps": 1e-7, **_LEGACY_DECAY},
            without=("lr_decay",),
            spec={"lr_decay": None},
        ),
        "Adadelta": Difference("Adadelta", {"lr": 1e-3, "rho": 0.95, "eps": 1e-7, **_LEGACY_DECAY}),
        "Adamax": Difference(
            "Adamax", {"lr": 1e-3, "eps": 1e-7, **_LEGACY_DECAY}, spec={"coefficients": "adamax_keras"}
        ),
        "NAdam": Difference(
            "Nadam",  # Its `decay` never applies to the rate: any given value is the momentum's.
            {"lr": 1e-3, "eps": 1e-7},
            spec={"constants": {"base": _SINGLE_BASE, "product_base": _SINGLE_BASE}},
        ),
    },
    "optax": {
        "SGD": Difference("sgd", without=("dampening",), spec={"check": _check_nesterov}),
        "Adam": _adam_of_optax("adam, amsgrad"),
        "AdamW": _adam_of_optax("adamw", weight_decay=1e-4),
        "RMSprop": Difference(
            "rmsprop",
            {"alpha": 0.9, "nesterov": False, "initial_scale": 0.0, "eps_in_sqrt": True, "bias_correction": False},
            spec={
                "coefficients": "rmsprop_optax",
                "initial": {"square_avg": "initial_scale"},
                "variants": ("centered", "momentum", "nesterov"),
                "rules": _NESTEROV_RULES,
                "costs": _nesterov_costs(),
                "proximal": {
                    rule: SPECS["RMSprop"].proximal[rule.replace("nesterov", "momentum")]
                    for rule in _NESTEROV_RULES.values()
                },
                "check": _check_alpha_below_one,
            },
        ),
        "Adagrad": Difference(
            "adagrad",
            {"initial_accumulator_value": 0.1, "eps": 1e-7},
            without=("lr_decay",),
            spec={"coefficients": "adagrad_keras", "lr_decay": None, "check": _check_positive_eps},
        ),
        "Adadelta": Difference("adadelta"),
        "Adamax": Difference("adamax, adamaxw"),
        "NAdam": Difference(
            "nadam, nadamw",
            {"eps_root": 0.0},
            without=("momentum_decay",),
            spec={"coefficients": "adam_optax", "constants": {}, "carried": {}},
        ),
        "RAdam": Difference("radam", {"eps_root": 0.0, "threshold": 5.0}, spec={"coefficients": "radam_optax"}),
        "Lion": Difference("lion", {"weight_decay": 1e-3}),
        "AdaBelief": Difference(
            "adabelief", {"eps": 1e-16, "eps_root": 1e-16}, spec={"coefficients": "adabelief_optax"}
        ),
        "AdEMAMix": Difference("contrib.ademamix", {"eps_root": 0.0}, without=("beta3_warmup", "alpha_warmup")),
        "ADOPT": Difference("contrib.adopt"),
        "Adan": Difference(
            "adan",
            {"eps_root": 1e-8},
            without=("no_prox",),
            spec={"coefficients": "adan_optax", "constants": {"no_prox": 1.0}},
        ),
    },
}
"""The differences, by convention and by optimizer."""

WHY_NOT = {
    ("Rprop", "optax"): "optax.rprop applies each step one update late",
}
"""Optimizers that a framework has but that a convention cannot represent, and the reason."""


def under(spec: Spec, convention: str) -> Spec:
    """The same optimizer under a convention; see `spec_of`.

    Raises
    ------
    ValueError
        The convention does not exist, or its framework does not have this optimizer.
    """
    if not spec.custom:
        return spec_of(spec.name, convention)
    if convention != "torch":
        raise ValueError(f"{spec.name} is a custom rule, of no other framework: no convention={convention!r}")
    return spec


@functools.cache
def spec_of(name: str, convention: str) -> Spec:
    """The row of one of fastopt's optimizers under a convention.

    Raises
    ------
    ValueError
        The convention does not exist, or its framework does not have this optimizer.
    """
    if convention == "torch":
        return SPECS[name]
    found = DIFFERENCES.get(convention, {}).get(name)
    if found is None:
        known = ", ".join(map(repr, conventions_of(name)))
        reason = WHY_NOT.get((name, convention))
        if reason is None and convention in FRAMEWORKS:
            reason = f"{FRAMEWORKS[convention]} has no {name}"
        why = f": {reason}" if reason else ""
        raise ValueError(f"unknown convention for {name}: {convention!r}{why} (expected one of {known})")
    own = _without(SPECS[name], (*found.without, *CAUTION))
    changed: dict[str, Any] = {
        "convention": convention,
        "defaults": {**own.defaults, **found.defaults},
        "clipping": "clipping_exact",
        **found.spec,
    }
    return replace(own, **changed)


def conventions_of(name: str) -> tuple[str, ...]:
    """The conventions under which an optimizer exists."""
    return tuple(each for each in FRAMEWORKS if each == "torch" or name in DIFFERENCES[each])


def added_hyperparameters(spec: Spec) -> tuple[str, ...]:
    """The hyperparameters that an optimizer has only under conventions other than "torch"."""
    return () if spec.custom else _added(spec.name)


@functools.cache
def _added(name: str) -> tuple[str, ...]:
    keys = (key for convention in conventions_of(name) for key in spec_of(name, convention).defaults)
    return tuple(key for key in dict.fromkeys(keys) if key not in SPECS[name].defaults)


def conventions_with(spec: Spec, hyperparameter: str) -> tuple[str, ...]:
    """The conventions under which an optimizer has a hyperparameter."""
    known = () if spec.custom else conventions_of(spec.name)
    return tuple(each for each in known if hyperparameter in spec_of(spec.name, each).defaults)


def hyperparameters(spec: Spec, values: Mapping[str, Any]) -> dict[str, Any]:
    """The given hyperparameters, and the convention's defaults for the others.

    Raises
    ------
    TypeError
        A given hyperparameter exists only under other conventions.
    """
    for name in values:
        if name not in spec.defaults:
            where = ", ".join(map(repr, conventions_with(spec, name)))
            raise TypeError(
                f"{spec.name} has no argument {name!r} with convention={spec.convention!r} (it has with {where})"
            )
    return {**spec.defaults, **values}

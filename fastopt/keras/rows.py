"""The table of Keras' optimizers: which of fastopt's each is, where its numbers are, and which variables its states."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..definitions.conventions import spec_of
from ..definitions.specs import Spec

Numbers = Callable[[Any], dict[str, Any]]
"""Reads the hyperparameters, by fastopt's names, from a Keras optimizer; all but `lr` and `weight_decay`."""


@dataclass
class Row:
    """One optimizer.

    Attributes
    ----------
    spec: fastopt's optimizer, with the arithmetic of Keras.
    numbers: see `Numbers`.
    states: for each of fastopt's states the attribute that has Keras' variables, one for each trainable variable.
    carried: the same for numbers that are carried from update to update, which have one variable for all.
    """

    spec: Spec
    numbers: Numbers
    states: Mapping[str, str]
    carried: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """Hyperparameters that Keras' optimizer does not have."""
        return dict(self.spec.convert(self.spec.defaults))


def _adam(own: Any) -> dict[str, Any]:
    return {"betas": (own.beta_1, own.beta_2), "eps": own.epsilon, "amsgrad": bool(own.amsgrad)}


def _betas(own: Any) -> dict[str, Any]:
    return {"betas": (own.beta_1, own.beta_2)}


def _betas_and_eps(own: Any) -> dict[str, Any]:
    return {"betas": (own.beta_1, own.beta_2), "eps": own.epsilon}


def _rmsprop(own: Any) -> dict[str, Any]:
    return {"alpha": own.rho, "eps": own.epsilon, "momentum": own.momentum, "centered": bool(own.centered)}


_SGD = spec_of("SGD", "keras")

_ADAM_STATES = {"exp_avg": "_momentums", "exp_avg_sq": "_velocities", "max_exp_avg_sq": "_velocity_hats"}

ROWS: dict[str, Row] = {
    "SGD": Row(
        replace(_SGD, constants={"negated": 1.0}),
        lambda own: {"momentum": own.momentum, "nesterov": bool(own.nesterov)},
        {"momentum_buffer": "momentums"},
    ),
    "Adam": Row(spec_of("Adam", "keras"), _adam, _ADAM_STATES),
    "AdamW": Row(spec_of("AdamW", "keras"), _adam, _ADAM_STATES),
    "RMSprop": Row(
        spec_of("RMSprop", "keras"),
        _rmsprop,
        {"square_avg": "_velocities", "momentum_buffer": "_momentums", "grad_avg": "_average_gradients"},
    ),
    "Adagrad": Row(spec_of("Adagrad", "keras"), lambda own: {"eps": own.epsilon}, {"sum": "_accumulators"}),
    "Adadelta": Row(
        spec_of("Adadelta", "keras"),
        lambda own: {"rho": own.rho, "eps": own.epsilon},
        {"square_avg": "_accumulated_grads", "acc_delta": "_accumulated_delta_vars"},
    ),
    "Adamax": Row(spec_of("Adamax", "keras"), _betas_and_eps, {"exp_avg": "_m", "exp_inf": "_u"}),
    "Nadam": Row(
        spec_of("NAdam", "keras"),
        _betas_and_eps,
        {"exp_avg": "_momentums", "exp_avg_sq": "_velocities"},
        carried={"mu_product": "_u_product"},
    ),
    "Lion": Row(spec_of("Lion", "keras"), _betas, {"exp_avg": "_momentums"}),
}
"""By the name of Keras' class."""

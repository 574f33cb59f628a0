"""The records in tests/golden, and which call of fastopt each of them is."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

import fastopt
from fastopt.constraints import ElasticNet

CONVENTIONS = {"keras3": "keras", "tf1": "tf1", "tfkeras": "tf_keras_legacy", "optax": "optax"}
"""By the name of a file, the convention that reproduces it."""

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "GradientDescentOptimizer": ("SGD", {}),
    "MomentumOptimizer": ("SGD", {}),
    "ProximalGradientDescentOptimizer": ("SGD", {}),
    "ProximalAdagradOptimizer": ("Adagrad", {"initial_accumulator_value": 0.1}),
    "RMSPropOptimizer": ("RMSprop", {}),
    "AdamOptimizer": ("Adam", {}),
    "AdagradOptimizer": ("Adagrad", {}),
    "AdadeltaOptimizer": ("Adadelta", {}),
    "Nadam": ("NAdam", {}),
    "amsgrad": ("Adam", {"amsgrad": True}),
    "clip_by_global_norm+adam": ("Adam", {}),
}
"""Where the class has another name here, but for upper and lower case."""

ARGUMENTS = {
    "learning_rate": "lr",
    "epsilon": "eps",
    "rho": "alpha",
    "decay": "alpha",
    "use_nesterov": "nesterov",
    "clipvalue": "clip_value",
    "clipnorm": "clip_norm",
    "global_clipnorm": "max_grad_norm",
    "max_norm": "max_grad_norm",
    "ema_momentum": "ema_decay",
    "gradient_accumulation_steps": "accumulate_steps",
    "l1_regularization_strength": "l1",
    "l2_regularization_strength": "l2",
}
"""What an argument is called here, where it is called otherwise."""

MEANS_ITSELF = {("Adadelta", "rho"), ("Adam", "decay"), ("RMSprop", "decay", "tfkeras"), ("SGD", "decay")}
"""Where it is not."""

BETAS = (("beta_1", "beta_2"), ("beta1", "beta2"), ("b1", "b2"))


@functools.cache
def read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
    return data


def optimizer_cases(name: str) -> list[dict[str, Any]]:
    """The cases of a file in which an optimizer makes steps at a constant rate."""
    return [
        case
        for case in read(name)["cases"]
        if not case["optimizer"].startswith(("schedule:", "ReduceLROnPlateau"))
        and not isinstance(case["config"]["learning_rate"], dict)
    ]


def class_name(case: dict[str, Any]) -> str:
    found = OPTIMIZERS.get(case["optimizer"], (None, {}))[0]
    return found or {each.lower(): each for each in fastopt.definitions.specs.SPECS}[case["optimizer"].lower()]


def arguments(case: dict[str, Any], file: str) -> dict[str, Any]:
    """The same call here."""
    name, config = class_name(case), dict(case["config"])
    found = dict(OPTIMIZERS.get(case["optimizer"], (None, {}))[1])
    config.pop("use_ema", None)
    for pair in BETAS:
        if pair[0] in config:
            found["betas"] = tuple(config.pop(each) for each in pair)
    for theirs, value in config.items():
        itself = (name, theirs) in MEANS_ITSELF or (name, theirs, file) in MEANS_ITSELF
        found[theirs if itself else ARGUMENTS.get(theirs, theirs)] = value
    if case["optimizer"].startswith("Proximal"):
        found["prox"] = ElasticNet(found.pop("l1", 0.0), found.pop("l2", 0.0))
    return found


def trajectory(optimizer: fastopt.Optimizer, gradients: list[list[float]]) -> np.ndarray:
    """The parameters after each step."""
    param = optimizer.param_groups[0]["params"][0]
    values = []
    for gradient in gradients:
        optimizer.step(np.array(gradient))
        values.append(param.copy())
    return np.array(values)

"""Keras 3 on its torch backend."""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..cases import SMALLEST_GRADIENT, Problem
from ..runner import Peer, Runner
from .libraries import (
    ADADELTA,
    ADAGRAD,
    ADAM,
    ADAMAX,
    ADAMW,
    AMSGRAD,
    AMSGRADW,
    ANOTHER_FORMULA,
    CENTERED,
    LION,
    MOMENTUM,
    NESTEROV,
    RMSPROP,
    SGD,
    Key,
    Library,
    settings,
)
from .pytorch import Tensors

BACKEND = "torch"

Values = Mapping[str, Any]
Arguments = Callable[[Values], dict[str, Any]]


def betas(values: Values) -> dict[str, float]:
    return {"beta_1": values["betas"][0], "beta_2": values["betas"][1]}


def sgd(values: Values) -> dict[str, Any]:
    return {"momentum": values["momentum"], "nesterov": values["nesterov"]}


def adam(values: Values) -> dict[str, Any]:
    # Its eps counts for more in the first steps, by 3e-5 of a step at most with the gradients here.
    return {**betas(values), "epsilon": values["eps"], "amsgrad": values["amsgrad"]}


def adamw(values: Values) -> dict[str, Any]:
    return {**adam(values), "weight_decay": values["weight_decay"]}


def rmsprop(values: Values) -> dict[str, Any]:
    # Under the root, not beside it. Where the average a is small eps counts most: there sqrt(a) + eps is to be
    # sqrt(a + epsilon), and the smallest a is what the first of the smallest gradients leaves.
    smallest_root = math.sqrt(1 - values["alpha"]) * SMALLEST_GRADIENT
    return {"rho": values["alpha"], "epsilon": 2 * values["eps"] * smallest_root, "centered": values["centered"]}


def adagrad(values: Values) -> dict[str, Any]:
    # Under the root: with its square, both divide by eps where the sum is 0.
    return {"initial_accumulator_value": 0.0, "epsilon": values["eps"] ** 2}


def adadelta(values: Values) -> dict[str, Any]:
    return {"rho": values["rho"], "epsilon": values["eps"]}


def adamax(values: Values) -> dict[str, Any]:
    return {**betas(values), "epsilon": values["eps"]}


def lion(values: Values) -> dict[str, Any]:
    return betas(values)


OPTIMIZERS: dict[Key, tuple[str, Arguments]] = {
    **dict.fromkeys((SGD, MOMENTUM, NESTEROV), ("SGD", sgd)),
    **dict.fromkeys((ADAM, AMSGRAD), ("Adam", adam)),
    **dict.fromkeys((ADAMW, AMSGRADW), ("AdamW", adamw)),
    **dict.fromkeys((RMSPROP, CENTERED), ("RMSprop", rmsprop)),
    ADAGRAD: ("Adagrad", adagrad),
    ADADELTA: ("Adadelta", adadelta),
    ADAMAX: ("Adamax", adamax),
    LION: ("Lion", lion),
}


def choose_backend() -> None:
    """Choose the backend, which has an effect only before the import."""
    os.environ.setdefault("KERAS_BACKEND", BACKEND)


def other_backend(problem: Problem) -> str | None:
    backend = importlib.import_module("keras").backend.backend()
    return None if backend == BACKEND else f"measured on its {BACKEND} backend, and KERAS_BACKEND is {backend}"


LIBRARY = Library(
    "Keras",
    "keras",
    OPTIMIZERS,
    others={
        "NAdam": f"the schedule of its momentum is 250 times as fast: {ANOTHER_FORMULA}",
        "RMSprop": f"eps is under the root, and momentum adds up what differs: {ANOTHER_FORMULA}",
    },
    prepare=choose_backend,
    obstacle=other_backend,
)


def start(problem: Problem, package: str = "keras.optimizers") -> Runner:
    keras = LIBRARY.package()
    name, arguments = LIBRARY.optimizer(problem.variant)
    values = settings(problem.variant)
    tensors = Tensors.of(problem)
    variables = [keras.Variable(param, dtype="float32") for param in problem.params]
    tensors.params.clear()  # so that the memory of only one copy is measured
    optimizer = getattr(importlib.import_module(package), name)(values["lr"], **arguments(values))

    def step() -> None:
        optimizer.apply(tensors.grads, variables)

    def results() -> list[np.ndarray]:
        return [variable.value.detach().numpy() for variable in variables]

    return Runner(step, results, tensors.take_gradients)


KERAS = Peer(f"Keras ({BACKEND})", start, LIBRARY.unavailable)
FASTOPT_IN_KERAS = Peer("fastopt.keras", functools.partial(start, package="fastopt.keras"), LIBRARY.unavailable)

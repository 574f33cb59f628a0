"""Optimizers that PyTorch does not have, in packages for it: pytorch_optimizer, and those by their authors."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..cases import Problem
from ..runner import Peer, Runner
from .pytorch import Tensors


@dataclass(frozen=True)
class Theirs:
    """A class of a package, with arguments that make its update that of the same name in fastopt."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)


def package_peer(package: str, classes: Mapping[str, Theirs], absolute: float | None = None) -> Peer:
    """The optimizers of a package; `classes` has, for names of fastopt's optimizers, its class."""

    def unavailable(problem: Problem) -> str | None:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
        name = problem.variant.optimizer
        return None if name in classes else f"{package} has no {name}"

    def start(problem: Problem) -> Runner:
        tensors = Tensors.of(problem)
        theirs = classes[problem.variant.optimizer]
        made = getattr(importlib.import_module(package), theirs.name)
        optimizer = made(tensors.params, **problem.variant.hyperparameters, **theirs.arguments)
        if hasattr(optimizer, "train"):
            optimizer.train()
        return Runner(optimizer.step, tensors.results, tensors.take_gradients)

    return Peer(package, start, unavailable, absolute=absolute)


PYTORCH_OPTIMIZER = package_peer("pytorch_optimizer", {"StableAdamW": Theirs("StableAdamW", {"kahan_sum": False})})
SCHEDULEFREE = package_peer(
    "schedulefree",
    {"ScheduleFreeAdamW": Theirs("AdamWScheduleFree"), "ScheduleFreeSGD": Theirs("SGDScheduleFree")},
)
PRODIGYOPT = package_peer("prodigyopt", {"Prodigy": Theirs("Prodigy")})
PYTORCH_OPTIMIZERS_LAMB = package_peer(
    "pytorch_optimizer",
    {"LAMB": Theirs("Lamb", {"max_grad_norm": 0.0})},
    # It corrects no bias, which the ratio of norms does for it, but for eps, and takes norms beyond 10 as 10: the steps
    # of large parameters, which move an element by 1e-3 at most, are shorter.
    absolute=5e-3,
)

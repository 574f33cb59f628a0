"""Code that peers share: which optimizers a library has, and why it cannot run the others."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastopt.definitions.specs import SPECS

from ..cases import Problem, Variant

Key = tuple[str, str]
"""An optimizer and its rule, as in `fastopt.definitions.specs`."""

Reasons = Mapping[str | Key, str]
"""Reasons by optimizer, or by optimizer and rule."""

ANOTHER_FORMULA = "another formula"


def settings(variant: Variant) -> dict[str, Any]:
    """All hyperparameters, so that the defaults of a library have no effect."""
    return {**SPECS[variant.optimizer].defaults, **variant.hyperparameters}


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@functools.cache
def import_failure(module: str) -> str | None:
    """Import a module without its warnings; returns why this is not possible, or None."""
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # a broken installation can raise anything
        return f"{module} cannot be imported: {first_line(error)}"
    return None


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Library:
    """The optimizers of a package that compute torch.optim's formulas, and why it has no others.

    `optimizers` maps each to the function that makes it; `others` maps the others, or single rules, to reasons;
    `obstacle` gives any other reason why a problem cannot run.
    """

    name: str
    module: str
    optimizers: Mapping[Key, Any]
    others: Reasons = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    obstacle: Callable[[Problem], str | None] = lambda problem: None

    def unavailable(self, problem: Problem) -> str | None:
        variant = problem.variant
        key = (variant.optimizer, variant.rule)
        if key not in self.optimizers:
            reason = self.others.get(key, self.others.get(variant.optimizer))
            return f"{self.name}: {reason}" if reason else f"{self.name} has no {variant.name}"
        self.prepare()
        return import_failure(self.module) or self.obstacle(problem)

    def package(self) -> Any:
        self.prepare()
        return importlib.import_module(self.module)

    def optimizer(self, variant: Variant) -> Any:
        """The entry of `optimizers` for a variant."""
        return self.optimizers[variant.optimizer, variant.rule]


ADAM, AMSGRAD = ("Adam", "adam"), ("Adam", "adam_amsgrad")
ADAMW, AMSGRADW = ("AdamW", "adam"), ("AdamW", "adam_amsgrad")
SGD, MOMENTUM, NESTEROV = ("SGD", "sgd"), ("SGD", "sgd_momentum"), ("SGD", "sgd_nesterov")
RMSPROP, CENTERED = ("RMSprop", "rmsprop"), ("RMSprop", "rmsprop_centered")
RMSPROPS = tuple(("RMSprop", rule) for rule in dict.fromkeys(SPECS["RMSprop"].rules.values()))
ADAGRAD, ADADELTA, ADAMAX = ("Adagrad", "adagrad"), ("Adadelta", "adadelta"), ("Adamax", "adamax")
NADAM, RADAM, LION, RPROP = ("NAdam", "nadam"), ("RAdam", "radam"), ("Lion", "lion"), ("Rprop", "rprop")
ADABELIEF, ADEMAMIX, ADOPT = ("AdaBelief", "adabelief"), ("AdEMAMix", "ademamix"), ("ADOPT", "adopt")

"""The plan of a sweep: its arguments, checked before anything runs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import above_zero, text, whole_number
from ..threads import get_num_threads
from .choices import OptimizerChoice, choose_optimizer, logarithmic_grid
from .runs import Job
from .sources import ProblemSource, check_settings_are_used, describe_optimizer, load_source

MIN_LR, MAX_LR, POINTS = 1e-5, 1.0, 11
"""The default grid of rates: two per factor of ten, over the range that has the best rate of most optimizers."""

MODES = ("auto", "min", "max")
"""Whether lower or higher metrics are better."""


@dataclass(frozen=True)
class Plan:
    """The checked arguments of a sweep."""

    target: Any
    name: str
    optimizer: OptimizerChoice
    optimizer_text: str
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: int | None
    metric: str | None
    mode: str
    workers: int
    refine: int

    @property
    def configuration(self) -> dict[str, Any]:
        """What a run depends on besides its rate and seed, after a round trip through JSON."""
        values = {
            "problem": self.name,
            "optimizer": self.optimizer.name,
            "hyperparameters": {name: repr(value) for name, value in self.optimizer.hyperparameters.items()},
            "epochs": self.epochs,
        }
        return dict(json.loads(json.dumps(values)))

    def jobs(self, rates: Sequence[float]) -> list[Job]:
        return [Job(self.target, rate, seed, self.optimizer, self.epochs) for rate in rates for seed in self.seeds]


def make_plan(
    target: Any,
    *,
    min_lr: float = MIN_LR,
    max_lr: float = MAX_LR,
    points: int = POINTS,
    rates: Sequence[float] | None = None,
    seeds: int | Sequence[int] = 3,
    optimizer: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    metric: str | None = None,
    mode: str = "auto",
    workers: int | None = None,
    refine: int = 0,
) -> Plan:
    """Check the arguments of `sweep`."""
    if rates is None:
        grid = logarithmic_grid(min_lr, max_lr, points)
    else:
        grid = tuple(sorted({above_zero("rates", rate) for rate in rates}))
        if not grid:
            raise ValueError("rates must have at least one rate, got none")
    if isinstance(seeds, (int, np.integer)):
        numbers = tuple(range(whole_number("seeds", seeds)))
    else:
        numbers = tuple(dict.fromkeys(whole_number("seeds", seed, 0) for seed in seeds))
        if not numbers:
            raise ValueError("seeds must have at least one seed, got none")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    if epochs is not None:
        whole_number("epochs", epochs)
    if metric is not None:
        text("metric", metric)
    n_workers = get_num_threads() if workers is None else whole_number("workers", workers, 0)
    choice = choose_optimizer("Adam" if optimizer is None else optimizer, hyperparameters)
    source = load_source(target)
    given = optimizer is not None or bool(hyperparameters)
    check_settings_are_used(source, epochs=epochs is not None, optimizer=given)
    if isinstance(source, ProblemSource) and not isinstance(target, str) and not callable(target):
        raise TypeError(f"each run must start anew: give the function that makes the problem, not {target!r}")
    if n_workers:
        try:
            pickle.dumps((target, choice))
        except Exception as error:  # depends on the objects
            raise TypeError(
                f"{source.name} and the optimizer must be importable in other processes, functions at the top of a "
                f"module (or use workers=0): {error}"
            ) from None
    return Plan(
        target,
        source.name,
        choice,
        describe_optimizer(source, choice),
        grid,
        numbers,
        epochs,
        metric,
        mode,
        n_workers,
        whole_number("refine", refine, 0),
    )

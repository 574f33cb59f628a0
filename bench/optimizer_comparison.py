"""`python -m fastopt.bench.optimizer_comparison`: how well does each optimizer train, once its rate is tuned?

Trains three networks (`storage_networks.py`) and goes down Rosenbrock's valley with every optimizer of the table of
specs. Each has the same budget: `fastopt.tuning.sweep` finds its learning rate among as many rates, and three other
seeds are trained with it. Prints two Markdown tables, of the losses and of the rates. Takes
about a minute for an optimizer on one processor: `--json FILE` keeps what is measured and takes what it has, so that
`--optimizer NAME` and `--task NAME` measure part by part. `--plot FILE` draws the losses, `--quick` trains a little.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fastopt
from fastopt import tuning
from fastopt.definitions.specs import SPECS, Spec
from fastopt.schedules import Constant, CosineDecay, Schedule, Warmup
from fastopt.tuning.sweeps import refined_rates

from .optimizer_comparison_report import draw, tables
from .storage_networks import Digits, Network, Recurrent, Transformer

# --- what is compared -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An optimizer with hyperparameters other than the defaults, and the rate around which its own is sought."""

    name: str
    spec: Spec
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def typical_lr(self) -> float:
        return float(TYPICAL_LR.get(self.spec.name, self.spec.defaults["lr"]))


TYPICAL_LR = {"SGD": 1e-2}
"""Where the default is far from what is typical: torch's for SGD was chosen late, so that there is one."""

HYPERPARAMETERS: Mapping[str, Mapping[str, Any]] = {"LARS": {"always_adapt": True}}
"""Those that are not the defaults: without weight decay, LARS would otherwise do what SGD with momentum does."""

VARIANTS: Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]] = {
    "SGD": (("SGD, momentum", {"momentum": 0.9}),),
    "AdamW": (("AdamW, cautious", {"cautious": True}),),
    "Lion": (("Lion, cautious", {"cautious": True}),),
}
"""Further rows of an optimizer, which are there as soon as it has these hyperparameters."""


def rows() -> list[Row]:
    found = []
    for spec in SPECS.values():
        found.append(Row(spec.name, spec, HYPERPARAMETERS.get(spec.name, {})))
        for name, hyperparameters in VARIANTS.get(spec.name, ()):
            if hyperparameters.keys() <= spec.defaults.keys():
                found.append(Row(name, spec, hyperparameters))
    return found


class Rosenbrock:
    """(1 - x)^2 + 100 (y - x^2)^2: a curved valley, without noise; the seed moves the start around (-1.2, 1)."""

    def __init__(self, seed: int, quick: bool) -> None:
        self.weights = [np.array([-1.2, 1.0]) + np.random.default_rng(seed).normal(scale=0.1, size=2)]
        self.gradients = [np.zeros(2)]

    def training(self, steps: int) -> Iterator[None]:
        for _ in range(steps):
            x, y = self.weights[0]
            self.gradients[0][:] = -2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)
            yield

    def held_out_loss(self) -> float:
        x, y = self.weights[0]
        return float((1 - x) ** 2 + 100 * (y - x * x) ** 2)


@dataclass(frozen=True)
class Task:
    """What is trained, and the budget of each optimizer on it.

    A first sweep has a rate for each power of ten in `decades`, times the optimizer's typical rate. A second one has
    the best of them and `refine` further ones between its neighbours.
    """

    name: str
    network: Callable[[int, bool], Network]
    steps: int
    decades: range = range(-1, 4)
    refine: int = 2
    quick_steps: int = 20


TASKS = (
    Task("recurrent network", Recurrent, 300),
    Task("digits", Digits, 600),
    Task("transformer", Transformer, 250),
    Task("Rosenbrock", Rosenbrock, 1000, decades=range(-4, 4), refine=6),
)
COARSE_SEEDS, FINE_SEEDS, SEEDS = (0,), (1, 2), (3, 4, 5)
"""Of the first sweep, the second, and the losses that are reported: what chance gave a rate is not reported."""
WARM_UP = 0.05

# --- training ---------------------------------------------------------------------------------------------------------


def rate(row: Row, lr: float, steps: int) -> Schedule | float:
    """It rises for the first twentieth of the steps, and falls as a cosine, to almost 0.

    Rprop takes `lr` as its first step size, so that it has no schedule.
    """
    if not row.spec.uses_lr:
        return lr
    warm_up = max(1, round(WARM_UP * steps))
    after = Constant(lr) if row.spec.name.startswith("ScheduleFree") else CosineDecay(lr, steps - warm_up)
    return Warmup(after, warm_up, start_factor=1 / warm_up)


@dataclass(frozen=True)
class Training:
    """A training function for `sweep`."""

    task: Task
    row: Row
    quick: bool

    def __call__(self, lr: float, seed: int, optimizer: Callable[..., Any]) -> float:
        network, steps = self.task.network(seed, self.quick), self.task.quick_steps if self.quick else self.task.steps
        made = optimizer(network.weights, lr=rate(self.row, lr, steps), n_threads=1)
        for step, _ in enumerate(network.training(steps)):
            made.step(network.gradients)
            if step % 20 == 0 and not all(np.isfinite(weight).all() for weight in network.weights):
                return math.inf
        if hasattr(made, "eval"):  # Schedule-Free: to the average, which is what has been trained
            made.eval()
        return network.held_out_loss()


def tuned(task: Task, row: Row, quick: bool) -> dict[str, Any]:
    """The losses at all rates, the best rate, and the losses of three other seeds with it."""
    training = Training(task, row, quick)

    def sweep(rates: Sequence[float], seeds: Sequence[int]) -> tuning.Sweep:
        return tuning.sweep(
            training,
            rates=rates,
            seeds=seeds[:1] if quick else seeds,
            optimizer=row.spec.name,
            hyperparameters=row.hyperparameters,
            workers=0,
        )

    decades = range(2) if quick else task.decades
    found = sweep([float(f"{row.typical_lr * 10.0**decade:.12g}") for decade in decades], COARSE_SEEDS)
    points = {point.lr: point for point in found.points}
    if found.best is not None and not quick:
        found = sweep([found.best.lr, *refined_rates(found, task.refine)], FINE_SEEDS)
        points.update((point.lr, point) for point in found.points)
    result: dict[str, Any] = {
        "typical_lr": row.typical_lr,
        "rates": {f"{lr:.3g}": finite(points[lr].median) for lr in sorted(points)},
        "lr": None if found.best is None else found.best.lr,
        "losses": {},
    }
    if found.best is not None:
        runs = sweep([found.best.lr], SEEDS).runs
        result["losses"] = {str(run.seed): finite(run.metrics["loss"]) for run in runs}
    return result


def finite(loss: float) -> float | None:
    """JSON has neither infinity nor NaN."""
    return loss if math.isfinite(loss) else None


# --- what a step costs ------------------------------------------------------------------------------------------------

BASELINE = "AdamW"


def costs(row: Row, quick: bool) -> dict[str, float]:
    """Bytes of states a parameter, and the time of a step divided by AdamW's: the median of steps in turns."""
    size, turns = (10_000, 3) if quick else (10_000_000, 60)
    own, baseline = (
        getattr(fastopt, name)(
            np.ones(size, np.float32), grads=np.full(size, 0.1, np.float32), n_threads=1, **arguments
        )
        for name, arguments in ((row.spec.name, row.hyperparameters), (BASELINE, {}))
    )
    own.step(), baseline.step()  # which get the memory of their states
    ratios = [_seconds(own.step) / _seconds(baseline.step) for _ in range(turns)]
    kept = sum(state.nbytes for state in own.state[0].values() if getattr(state, "size", 0) == size)
    return {"bytes": kept / size, "time": statistics.median(ratios)}


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


# --- all of it --------------------------------------------------------------------------------------------------------

Results = dict[str, dict[str, Any]]
"""By row: its `costs`, and under the name of each task what `tuned` found."""

COSTS = "costs"


@contextmanager
def one_thread() -> Iterator[None]:
    """Optimizers' times must not depend on how many processors other programs leave."""
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, "blas"):
            yield
    finally:
        torch.set_num_threads(before)


def measure(
    results: Results, chosen: Sequence[Row], tasks: Sequence[Task], quick: bool, keep: Callable[[Results], None]
) -> None:
    """Measure what `results` does not have yet; `keep` is called as it grows."""
    with one_thread():
        for row in chosen:
            own = results.setdefault(row.name, {})
            for task in tasks:
                if task.name not in own:
                    own[task.name] = tuned(task, row, quick)
                    keep(results)
            if COSTS not in own:
                own[COSTS] = costs(row, quick)
                keep(results)
            gc.collect()


def main(arguments: Sequence[str] | None = None) -> None:
    names, task_names = [row.name for row in rows()], [task.name for task in TASKS]
    parser = argparse.ArgumentParser(prog="python -m fastopt.bench.optimizer_comparison", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rates, one seed and 20 steps: some seconds")
    parser.add_argument("--optimizer", action="append", choices=names, help="only this one; can be repeated")
    parser.add_argument("--task", action="append", choices=task_names, help="only this one; can be repeated")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the losses")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results, and go on with those that it has")
    options = parser.parse_args(arguments)
    path: Path | None = options.json

    def keep(results: Results) -> None:
        if path is not None:
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    results: Results = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else {}
    chosen = [row for row in rows() if options.optimizer is None or row.name in options.optimizer]
    tasks = [task for task in TASKS if options.task is None or task.name in options.task]
    measure(results, chosen, tasks, options.quick, keep)
    results = {name: results[name] for name in names if name in results}
    keep(results)
    print(tables(results, task_names))
    if options.plot is not None:
        draw(results, task_names, options.plot)


if __name__ == "__main__":
    main()

"""`python -m fastopt.bench.storage_training`: does training with weights and states in fewer bits end as with float32?

Trains three networks (`storage_networks.py`) from three to twelve seeds, with each storage of fastopt, and
with what torch, bitsandbytes and torchao have, by Adam with the same learning rate and schedule for all; takes about
ten minutes on two processors. Prints a table of mean held-out losses, and of their distances from float32's, in
standard deviations of float32's seeds. `--plot FILE` draws the losses, `--json FILE` keeps them (and takes those that
it has), `--quick` trains a little, with one seed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastopt

from .storage_networks import Digits, Network, Recurrent, Transformer

# --- optimizers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stepper:
    """An optimizer over its own copies of weights, and how these come into the network again."""

    optimizer: Any
    step: Callable[[list[np.ndarray]], None]
    """Takes the gradients."""
    weights: Callable[[], list[Any]]
    """What the weights are, for the network to compute with."""

    def set_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            if hasattr(group["lr"], "fill_"):  # torchao's are tensors
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr


GRAD_SCALE = 1024.0
"""Multiplies gradients of float16, whose smallest would be 0 otherwise."""


def ours(weights: list[np.ndarray], lr: float, dtype: str = "float32", **options: Any) -> Stepper:
    """fastopt.Adam over NumPy arrays of this dtype; gradients are rounded to it."""
    kind: Any = importlib.import_module("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    scale = GRAD_SCALE if dtype == "float16" else 1.0
    params = [weight.astype(kind) for weight in weights]
    optimizer = fastopt.Adam(params, lr=lr, grad_scale=scale, n_threads=1, **options)

    def step(grads: list[np.ndarray]) -> None:
        optimizer.step([(grad * scale).astype(kind) for grad in grads])

    return Stepper(optimizer, step, lambda: params)


def torchs(weights: list[np.ndarray], lr: float, make: Callable[..., Any], dtype: str = "float32") -> Stepper:
    """An optimizer over torch's parameters of this dtype; gradients are rounded to it."""
    import torch

    kind = getattr(torch, dtype)
    params = [torch.nn.Parameter(torch.tensor(weight).to(kind)) for weight in weights]
    optimizer = make(params, lr=lr)

    def step(grads: list[np.ndarray]) -> None:
        for param, grad in zip(params, grads, strict=True):
            param.grad = torch.tensor(grad).to(kind)
        optimizer.step()

    return Stepper(optimizer, step, lambda: [param.detach().float().numpy() for param in params])


def torch_fused(params: list[Any], lr: float) -> Any:
    import torch

    return torch.optim.Adam(params, lr=lr, fused=True)


def bitsandbytes_8bit(params: list[Any], lr: float) -> Any:
    from .peers.bitsandbytes import quieten

    quieten()
    return importlib.import_module("bitsandbytes.optim").Adam8bit(params, lr=lr)


def torchao(params: list[Any], lr: float, name: str = "Adam8bit", **options: Any) -> Any:
    return getattr(importlib.import_module("torchao.optim"), name)(params, lr=lr, **options)


Start = Callable[[list[np.ndarray], float], Stepper]


@dataclass(frozen=True)
class Row:
    """One storage; `package` is what it needs beside fastopt and torch."""

    name: str
    start: Start
    package: str = "ml_dtypes"


def _ours(name: str, **options: Any) -> Row:
    return Row(name, functools.partial(ours, **options))


def _theirs(name: str, make: Callable[..., Any], package: str = "torch", dtype: str = "float32") -> Row:
    return Row(name, functools.partial(torchs, make=make, dtype=dtype), package)


AT_RANDOM: Mapping[str, Any] = {"stochastic_rounding": True}
FLOAT32 = _ours("float32")
MIXED: Mapping[str, Any] = {"state_dtype": {"exp_avg": "float8", "exp_avg_sq": "bfloat16"}}
BFLOAT16, FLOAT8 = {"dtype": "bfloat16"}, {"state_dtype": "float8"}
ROWS = (
    FLOAT32,
    _ours("float8 states", **FLOAT8, **AT_RANDOM),
    _ours("float8 states, exp_avg_sq bfloat16", **MIXED, **AT_RANDOM),
    _ours("float8 states, to nearest", **FLOAT8),
    _ours("bfloat16 weights", **BFLOAT16, **AT_RANDOM),
    _ours("bfloat16 weights, to nearest", **BFLOAT16),
    _ours("bfloat16 weights and states", **BFLOAT16, state_dtype="bfloat16", **AT_RANDOM),
    _ours("bfloat16 weights and states, to nearest", **BFLOAT16, state_dtype="bfloat16"),
    _ours("bfloat16 weights, float8 states", **BFLOAT16, **FLOAT8, **AT_RANDOM),
    _ours("master weights", **BFLOAT16, master_weights=True),
    _ours("master weights, float8 states", **BFLOAT16, **FLOAT8, master_weights=True, **AT_RANDOM),
    _ours("float16 weights, to nearest", dtype="float16"),
    _theirs("torch: float32", torch_fused),
    _theirs("torch: bfloat16 weights and states", torch_fused, dtype="bfloat16"),
    _theirs("bitsandbytes: 8-bit states", bitsandbytes_8bit, "bitsandbytes"),
    _theirs("torchao: 8-bit states", torchao, "torchao"),
    _theirs("torchao: 4-bit states", functools.partial(torchao, name="Adam4bit"), "torchao"),
    _theirs(
        "torchao: bfloat16 weights at random, 8-bit states",
        functools.partial(torchao, bf16_stochastic_round=True),
        "torchao",
        "bfloat16",
    ),
)
PACKAGES = ("torch", "bitsandbytes", "torchao")

# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A network, and how it is trained; `lr` is the best for float32 of those a factor of two or three apart.

    It is trained from `times` as many seeds as the others: where training is short, they tell more.
    """

    name: str
    network: Callable[[int, bool], Network]
    lr: float
    steps: int
    quick_steps: int = 20
    times: int = 1


TASKS = (
    Task("recurrent network", Recurrent, 6e-2, 1000, times=2),
    Task("digits", Digits, 1e-2, 600, times=4),
    Task("transformer", Transformer, 2e-2, 500),
)
WARM_UP = 0.05
SEEDS = 3


def rate(task: Task, step: int, steps: int) -> float:
    """It rises for the first twentieth of the steps, and falls as a cosine, to almost 0."""
    return task.lr * min(1.0, (step + 1) / (WARM_UP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(task: Task, row: Row, seed: int, quick: bool) -> float:
    """The held-out loss at the end."""
    network = task.network(seed, quick)
    stepper = row.start(network.weights, task.lr)

    def write_weights() -> None:
        for weight, stored in zip(network.weights, stepper.weights(), strict=True):
            weight[...] = stored

    write_weights()
    steps = task.quick_steps if quick else task.steps
    for step, _ in enumerate(network.training(steps)):
        stepper.set_rate(rate(task, step, steps))
        stepper.step(network.gradients)
        write_weights()
    return network.held_out_loss()


def train_by_name(task: str, row: str, seed: int, quick: bool) -> float:
    """In a process of the pool, on one thread: two processes share the processors."""
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch.set_num_threads(1)
    (chosen_task,) = (each for each in TASKS if each.name == task)
    (chosen_row,) = (each for each in ROWS if each.name == row)
    with threadpool_limits(1, "blas"):
        return train(chosen_task, chosen_row, seed, quick)


Losses = dict[str, dict[str, dict[str, float]]]
"""Held-out losses by task, row and seed."""


def missing(row: Row) -> bool:
    return importlib.util.find_spec(row.package) is None


def train_all(losses: Losses, seeds: int, quick: bool, keep: Callable[[Losses], None], processes: int = 2) -> None:
    """Train whatever `losses` does not have yet; `keep` is called as it grows."""
    rows = [row for row in ROWS if not missing(row)]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        started = {
            pool.submit(train_by_name, task.name, row.name, seed, quick): (task.name, row.name, str(seed))
            for task in TASKS
            for seed in range(seeds * task.times)
            for row in rows
            if str(seed) not in losses.get(task.name, {}).get(row.name, {})
        }
        for future in as_completed(started):
            task, row, seed = started[future]
            losses.setdefault(task, {}).setdefault(row, {})[seed] = future.result()
            keep(losses)


# --- tables and plots -------------------------------------------------------------------------------------------------


def spread(losses: Mapping[str, float]) -> float:
    """The standard deviation over seeds."""
    return statistics.stdev(losses.values()) if len(losses) > 1 else 0.0


def mean(losses: Mapping[str, float]) -> float:
    return statistics.mean(losses.values())


def distance(losses: Mapping[str, float], float32: Mapping[str, float]) -> float:
    """How much higher the mean loss is than float32's, in standard deviations of float32's seeds."""
    return (mean(losses) - mean(float32)) / spread(float32) if spread(float32) else math.nan


def chance(n_seeds: int) -> float:
    """The distance that two equal ways to train exceed once in twenty times: Student's t, with n - 1 degrees."""
    from scipy.stats import t as students_t  # type: ignore[import-untyped]

    return float(students_t.ppf(0.975, n_seeds - 1)) * math.sqrt(2 / n_seeds)


def table(losses: Losses) -> str:
    """Markdown: mean losses, and in parentheses how far they are from float32's; bold where that is no chance."""
    found = {task.name: losses[task.name] for task in TASKS}
    lines = ["| | " + " | ".join(found) + " |", "| --- |" + " --- |" * len(found)]
    for row in ROWS:
        cells = []
        for each in found.values():
            if row.name not in each:
                cells.append(f"no {row.package}")
                continue
            own, float32 = each[row.name], each[FLOAT32.name]
            away = distance(own, float32)
            text = f"{mean(own):.3f}" + (f" ({away:+.1f})" if row is not FLOAT32 and math.isfinite(away) else "")
            cells.append(f"**{text}**" if abs(away) > chance(len(own)) or math.isnan(mean(own)) else text)
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


EDGE = 3.5
"""How far a panel reaches to the right of float32's losses, in their range."""

COLORS = ("#d55e00", "#0072b2")
"""fastopt's, and those of others; as in the plots of times."""


def draw(losses: Losses, path: Path) -> None:
    """A panel for each network: the loss of each seed, and where those of float32 lie.

    What is too far to the right, or NaN, is an arrowhead at the edge.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from .plots import SETTINGS, save

    shown = [row for row in ROWS if all(row.name in found for found in losses.values())]
    with rc_context(SETTINGS):
        figure = Figure(figsize=(9.5, 0.27 * len(shown) + 0.9), layout="constrained")
        for index, (name, found) in enumerate((task.name, losses[task.name]) for task in TASKS):
            float32 = found[FLOAT32.name].values()
            edge = max(float32) + EDGE * (max(float32) - min(float32))
            axes = figure.add_subplot(1, len(losses), index + 1)
            axes.axvspan(min(float32), max(float32), color="0.85", linewidth=0)
            for place, row in enumerate(shown):
                own, color = list(found[row.name].values()), COLORS[":" in row.name]
                near = [loss for loss in own if loss < edge]
                axes.plot(near, [place] * len(near), "o", color=color, markersize=3.5, alpha=0.7)
                if len(near) < len(own):  # NaN is not less either
                    axes.plot(edge, place, ">", color=color, markersize=5)
            axes.set(xlabel="held-out loss")
            axes.set_title(name, loc="left", fontweight="bold")
            axes.set_yticks(range(len(shown)), [row.name if index == 0 else "" for row in shown])
            axes.invert_yaxis()
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fastopt.bench.storage_training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 steps of each, one seed: some seconds")
    parser.add_argument("--seeds", type=int, help=f"how many seeds ({SEEDS}; quick: 1)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the losses")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the losses, and go on with those that it has")
    options = parser.parse_args(arguments)
    path: Path | None = options.json

    def keep(losses: Losses) -> None:
        if path is not None:
            path.write_text(json.dumps(losses, indent=1) + "\n", encoding="utf-8")

    losses: Losses = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else {}
    train_all(losses, options.seeds or (1 if options.quick else SEEDS), options.quick, keep)
    print(table(losses))
    if options.plot is not None:
        draw(losses, options.plot)


if __name__ == "__main__":
    main()

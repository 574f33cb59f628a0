"""Why do the weights become NaN, and in which layer first?

A network of five hidden layers learns to classify tumours (scikit-learn's breast cancer data) with plain SGD in
float32. The inputs are measurements in different units, from 0.001 to 4,254. The first gradients are therefore far
larger than the weights, and every step moves the weights farther away. The program does not stop by itself, because
infinity and NaN are ordinary floats. `fastopt.DivergenceGuard` checks loss and gradients before each step, and stops
it.

There are four trainings: without a guard; with a guard that detects only NaN; with a guard that also detects
explosions; and with standardised inputs, where the guard finds nothing.

Run it with `python examples/unscaled_inputs.py`; it takes two seconds. It needs the packages of
`pip install 'fastopt[cli]'`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastopt
from fastopt.examples.data import Classification, breast_cancer, standardise
from fastopt.examples.models import MLP, shuffled_batches
from fastopt.examples.report import Report, main
from fastopt.guard import Finding

LR = 0.01
BATCH = 32
HIDDEN = (64,) * 5


@dataclass(frozen=True)
class Training:
    """How a training ended. `gradient_norm` is the norm in the first step, `finding` the guard's finding, if any."""

    name: str
    steps: int
    gradient_norm: float
    finding: Finding | None
    finite: bool
    accuracy: float


Results = tuple[Training, ...]


def train(name: str, data: Classification, epochs: int, guard_options: dict[str, Any] | None) -> Training:
    """Train until the guard stops it, or to the end."""
    training, model = data.training, MLP([30, *HIDDEN, 2], seed=0)
    optimizer = fastopt.SGD(model.weights, lr=LR, grads=model.gradients)  # by name, so that the guard can report names
    guard = None if guard_options is None else fastopt.DivergenceGuard(optimizer, "stop", **guard_options)
    random, steps, gradient_norm = np.random.default_rng(0), 0, math.nan
    batches = (rows for _ in range(epochs) for rows in shuffled_batches(len(training.labels), BATCH, random))
    with np.errstate(over="ignore", invalid="ignore"):  # many programs turn these warnings off
        for rows in batches:
            loss = model.loss_and_gradients(training.inputs[rows], training.labels[rows])
            if steps == 0:
                gradient_norm = fastopt.global_norm(model.flat_gradients)
            if guard is None:
                optimizer.step()
            elif not guard.step(loss):
                break
            steps += 1
        finite = bool(np.isfinite(model.flat).all())
        accuracy = model.accuracy(data.test.inputs, data.test.labels)
    return Training(name, steps, gradient_norm, guard and guard.finding, finite, accuracy)


def run(quick: bool = False) -> Results:
    """Run all four trainings."""
    epochs = 10 if quick else 100
    raw = breast_cancer()
    return (
        train("raw", raw, epochs, None),
        train("raw, guard for NaN", raw, epochs, {"explosion_factor": math.inf}),
        train("raw, guard", raw, epochs, {}),
        train("standardised, guard", standardise(raw), epochs, {}),
    )


def report(results: Results) -> Report:
    """The table, and the answer."""
    rows = [
        (
            each.name,
            f"{each.gradient_norm:.1e}",
            f"{each.steps:,}",
            "-" if each.finding is None else f"{each.finding.kind} in {each.finding.parameter}",
            "finite" if each.finite else "NaN",
            f"{each.accuracy:.1%}",
        )
        for each in results
    ]
    unguarded, at_nan, at_explosion, standardised = results
    answer = (
        f"With raw inputs the weights end {'finite' if unguarded.finite else 'as NaN'}; the guard's finding is "
        f"{where(at_nan)}, and before that {where(at_explosion)}; with standardised inputs it is "
        f"{where(standardised)}, and the accuracy is {standardised.accuracy:.1%}."
    )
    columns = ("inputs", "gradients", "steps", "finding", "weights", "accuracy")
    return Report(columns, rows, answer, notes=[str(each.finding) for each in results if each.finding is not None])


def where(training: Training) -> str:
    """What the guard found, at which step, in which parameter."""
    found = training.finding
    return "none" if found is None else f"{found.kind} (step {found.step}, in {found.parameter})"


if __name__ == "__main__":
    main(__doc__, run, report)

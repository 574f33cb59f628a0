"""Why is Rprop only for full batches?

A network learns to classify scikit-learn's handwritten digits with Rprop and with RMSprop, on full batches and on
mini-batches, for the same number of epochs.

Rprop uses only the sign of each gradient. If the sign stays the same, the step size of that weight grows by a factor of
1.2; if it changes, the step size is halved. With full batches, a change of sign means that the step went past a
minimum. With mini-batches, it mostly means that other images were drawn. The table therefore shows the share of signs
that change from one step to the next, and the final step sizes. RMSprop sees as many changes but is not harmed: it
divides successive gradients by about the same number, so opposite gradients cancel.

Run it with `python examples/rprop_full_batch.py`; it takes about ten seconds, and `--quick` one. It needs the packages
of `pip install 'fastopt[cli]'`.

References: Riedmiller and Braun, A direct adaptive method for faster backpropagation learning: the RPROP algorithm,
1993; Hinton, Neural networks for machine learning, lecture 6e, 2012 (introduces RMSprop to solve this problem).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np

import fastopt
from fastopt.examples.data import digits
from fastopt.examples.models import MLP, shuffled_batches
from fastopt.examples.report import Report, main

OPTIMIZERS = (fastopt.Rprop, fastopt.RMSprop)

LR = 1e-2
"""RMSprop's rate and Rprop's first step size. It is the default of both, and for each of the four trainings about the
best of 1e-4, 1e-3, 1e-2 and 1e-1."""

BATCH = 32


@dataclass(frozen=True)
class Training:
    """One training, or the mean of several.

    `changed` is the share of gradients whose sign differs from the step before. `step_size` is the median of Rprop's
    final step sizes (NaN for RMSprop, which has none).
    """

    steps: float
    loss: float
    accuracy: float
    changed: float
    step_size: float


@dataclass(frozen=True)
class Results:
    """Trainings by (optimizer, full batches or not), and the loss before training."""

    trainings: dict[tuple[str, bool], Training]
    first_loss: float
    epochs: int
    seeds: int


def train(optimizer_class: Callable[..., fastopt.Optimizer], full_batch: bool, epochs: int, seed: int) -> Training:
    """Train, and count the gradients whose sign has changed."""
    data = digits(seed)
    images, labels = data.training.inputs, data.training.labels
    model, random = new_model(seed), np.random.default_rng(seed)
    optimizer = optimizer_class(model.flat, lr=LR, grads=model.flat_gradients)
    signs, changed, compared, steps = np.zeros(model.flat.size, np.int8), 0, 0, 0
    for _ in range(epochs):
        for rows in shuffled_batches(len(labels), len(labels) if full_batch else BATCH, random):
            model.loss_and_gradients(images[rows], labels[rows])
            before, signs = signs, np.sign(model.flat_gradients).astype(np.int8)
            changed += int(np.count_nonzero(signs * before < 0))
            compared += int(np.count_nonzero(signs * before))
            optimizer.step()
            steps += 1
    return Training(
        steps=steps,
        loss=model.loss(images, labels),
        accuracy=model.accuracy(data.test.inputs, data.test.labels),
        changed=changed / compared,
        step_size=float(np.median(optimizer.state[0]["step_size"])) if optimizer_class is fastopt.Rprop else math.nan,
    )


def new_model(seed: int) -> MLP:
    """The network before it is trained."""
    return MLP([64, 32, 10], seed)


def run(quick: bool = False) -> Results:
    """Run all four trainings with each seed, and average over seeds."""
    epochs, seeds = (20, 1) if quick else (100, 10)
    trainings = {}
    for optimizer_class in OPTIMIZERS:
        for full_batch in (True, False):
            found = [astuple(train(optimizer_class, full_batch, epochs, seed)) for seed in range(seeds)]
            trainings[optimizer_class.__name__, full_batch] = Training(*np.mean(found, axis=0).tolist())
    training = digits().training
    return Results(trainings, new_model(0).loss(training.inputs, training.labels), epochs, seeds)


def report(results: Results) -> Report:
    """The table, and the answer."""
    rows = [
        (
            f"{name}, {'all images' if full_batch else f'{BATCH} images'}",
            f"{each.steps:,.0f}",
            f"{each.loss:.2g}",
            f"{each.accuracy:.1%}",
            f"{each.changed:.0%}",
            "-" if math.isnan(each.step_size) else f"{each.step_size:.1e}",
        )
        for (name, full_batch), each in results.trainings.items()
    ]
    full, mini = results.trainings["Rprop", True], results.trainings["Rprop", False]
    rival = results.trainings["RMSprop", True]
    answer = (
        f"In {results.epochs} epochs full-batch Rprop goes from a loss of {results.first_loss:.2g} to {full.loss:.2g} "
        f"(full-batch RMSprop: {rival.loss:.2g}), and mini-batch Rprop to {mini.loss:.2g}: {mini.changed:.0%} of its "
        f"gradients change their sign from one step to the next, and each change halves a step size, down to a median "
        f"of {mini.step_size:.1e}."
    )
    columns = ("optimizer, batch", "steps", "loss", "accuracy", "sign changes", "step size")
    return Report(columns, rows, answer)


if __name__ == "__main__":
    main(__doc__, run, report)

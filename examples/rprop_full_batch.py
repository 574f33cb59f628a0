"""Why is Rprop for full batches only?

A network learns to read digits (scikit-learn's): by Rprop and by RMSprop, with the gradient of all images at once and
with that of mini-batches, for the same number of epochs.

Rprop looks at nothing but the sign of each gradient: where it agrees with the one before, the step size of that weight
grows by 1.2, and where it changed, the step size is halved. With full batches a change of sign says that a minimum
was stepped over. With mini-batches it mostly says that other images were drawn: so the table has the share of signs
that change from one step to the next, and what that made of the step sizes.

Run it with `python examples/rprop_full_batch.py`; it takes about ten seconds, and `--quick` one. It needs the packages
of `pip install 'fastopt[examples]'`.

References: Riedmiller and Braun, A direct adaptive method for faster backpropagation learning: the RPROP algorithm,
1993; Hinton, Neural networks for machine learning, lecture 6e, 2012 (RMSprop, as the answer to this question).
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np

import fastopt
from fastopt.examples.data import digits
from fastopt.examples.models import MLP, shuffled_batches
from fastopt.examples.report import Report, main

LRS = {"Rprop": 1e-2, "RMSprop": 1e-3}
"""RMSprop's rate, and Rprop's first step size (torch's default)."""

BATCH = 32


@dataclass(frozen=True)
class Training:
    """One training, or the mean of some.

    `changed` is the share of gradients whose sign is not that of the step before, `step_size` Rprop's median over all
    weights at the end (NaN for RMSprop, which has none).
    """

    steps: float
    loss: float
    accuracy: float
    changed: float
    step_size: float


@dataclass(frozen=True)
class Results:
    """Trainings by (optimizer, whether with full batches), and the loss that they start from."""

    trainings: dict[tuple[str, bool], Training]
    first_loss: float
    epochs: int
    seeds: int


def train(name: str, full_batch: bool, epochs: int, seed: int) -> Training:
    """Train, and count the gradients whose sign has changed."""
    data = digits(seed)
    images, labels = data.training.inputs, data.training.labels
    model, random = new_model(seed), np.random.default_rng(seed)
    optimizer = getattr(fastopt, name)(model.flat, lr=LRS[name], grads=model.flat_gradients)
    signs, changed, compared, steps = np.zeros(model.flat.size, np.int8), 0, 0, 0
    for _ in range(epochs):
        for rows in shuffled_batches(len(labels), len(labels) if full_batch else BATCH, random):
            model.loss_and_gradients(images[rows], labels[rows])
            before, signs = signs, np.sign(model.flat_gradients).astype(np.int8)
            changed += np.count_nonzero(signs * before < 0)
            compared += np.count_nonzero(signs * before)
            optimizer.step()
            steps += 1
    return Training(
        steps=steps,
        loss=model.loss(images, labels),
        accuracy=model.accuracy(data.test.inputs, data.test.labels),
        changed=changed / compared,
        step_size=float(np.median(optimizer.state[0]["step_size"])) if name == "Rprop" else math.nan,
    )


def new_model(seed: int) -> MLP:
    """The network before it is trained."""
    return MLP([64, 32, 10], seed)


def run(quick: bool = False) -> Results:
    """All four trainings with each seed."""
    epochs, seeds = (20, 1) if quick else (100, 10)
    trainings = {}
    for name in LRS:
        for full_batch in (True, False):
            found = [astuple(train(name, full_batch, epochs, seed)) for seed in range(seeds)]
            trainings[name, full_batch] = Training(*(float(mean) for mean in np.mean(found, axis=0)))
    training = digits().training
    return Results(trainings, new_model(0).loss(training.inputs, training.labels), epochs, seeds)


def report(results: Results) -> Report:
    """The table, and the answer."""
    rows = [
        (
            f"{name}, {'full batch' if full_batch else f'batches of {BATCH}'}",
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
        f"(full-batch RMSprop: {rival.loss:.2g}), mini-batch Rprop to {mini.loss:.2g}: there {mini.changed:.0%} of the signs "
        f"change from one step to the next, which is noise, and the median step size ends at {mini.step_size:.1e}."
    )
    columns = ("optimizer", "steps", "training loss", "accuracy", "sign changes", "step size")
    return Report(columns, rows, answer)


if __name__ == "__main__":
    main(__doc__, run, report)

"""How large may a batch be, and how does the learning rate change that?

A network learns to classify scikit-learn's handwritten digits with SGD and momentum, always for the same number of
epochs, so that a batch twice as large makes half as many steps. Every batch size is tried with the same rate, and with
a rate that grows with the batch (the linear scaling rule).

Run it with `python examples/batch_size.py`; it takes about ten seconds, and `--quick` one. It needs the packages of
`pip install 'fastopt[cli]'`.

References: Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017, arXiv:1706.02677 (the rule);
Keskar et al., On large-batch training for deep learning, 2016, arXiv:1609.04836.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import fastopt
from fastopt.examples.data import digits
from fastopt.examples.models import MLP, train_epoch
from fastopt.examples.report import Report, main

BATCHES = (8, 16, 32, 64, 128, 256, 512)

REFERENCE = 16
"""The batch size that `LR` suits. The scaled rate is LR * batch / REFERENCE."""

LR = 0.01
MOMENTUM = 0.9

GOOD = 0.01
"""A loss of accuracy up to this counts as none. It is about the standard deviation of one run on 360 images."""


@dataclass(frozen=True)
class Row:
    """A batch size with its number of steps and its accuracies on the test part, as means over the seeds."""

    batch: int
    steps: int
    fixed: float
    scaled: float


@dataclass(frozen=True)
class Results:
    """A row for each batch size, smallest first."""

    rows: tuple[Row, ...]
    epochs: int
    seeds: int

    @property
    def reference(self) -> Row:
        """The row of the batch size that the rate suits."""
        return next(row for row in self.rows if row.batch == REFERENCE)

    def largest_good(self, rule: str) -> int:
        """The largest batch up to which all are about as accurate as the reference. `rule` is "fixed" or "scaled"."""
        largest = REFERENCE
        for row in self.rows:
            if row.batch > REFERENCE:
                if getattr(row, rule) < getattr(self.reference, rule) - GOOD:
                    break
                largest = row.batch
        return largest


def accuracy(batch: int, lr: float, epochs: int, seed: int) -> float:
    """Train, and return the accuracy on the test part. A run that diverges ends with the accuracy of guessing."""
    data = digits(seed)
    model = MLP([64, 64, 10], seed)
    optimizer = fastopt.SGD(model.flat, lr=lr, momentum=MOMENTUM, grads=model.flat_gradients)
    random = np.random.default_rng(seed)
    with np.errstate(over="ignore", invalid="ignore"):  # some runs diverge
        for _ in range(epochs):
            train_epoch(model, optimizer, data.training, batch, random)
        return model.accuracy(data.test.inputs, data.test.labels)


def run(quick: bool = False) -> Results:
    """Train with all batch sizes and both rates, with the same seeds for each."""
    epochs, seeds = (6, 2) if quick else (15, 10)
    rows = []
    for batch in BATCHES[1::2] if quick else BATCHES:
        rates = (LR, LR * batch / REFERENCE)
        fixed, scaled = (float(np.mean([accuracy(batch, lr, epochs, seed) for seed in range(seeds)])) for lr in rates)
        rows.append(Row(batch, epochs * -(-len(digits().training.labels) // batch), fixed, scaled))
    return Results(tuple(rows), epochs, seeds)


def report(results: Results) -> Report:
    """The table, and the answer."""
    largest = results.rows[-1]
    rows = [
        (f"{row.batch}", f"{row.steps:,}", f"{row.fixed:.1%}", f"{LR * row.batch / REFERENCE:g}", f"{row.scaled:.1%}")
        for row in results.rows
    ]
    answer = (
        f"After {results.epochs} epochs, the largest batch within {GOOD:.0%} of the accuracy of a batch of {REFERENCE} "
        f"is {results.largest_good('fixed')} at a fixed rate and {results.largest_good('scaled')} at a rate that grows "
        f"with the batch; at {largest.batch} the accuracy is {largest.fixed:.1%} and {largest.scaled:.1%} "
        f"(means of {results.seeds} seeds)."
    )
    return Report(("batch", "steps", f"rate {LR:g}", "scaled rate", "scaled"), rows, answer)


if __name__ == "__main__":
    main(__doc__, run, report)

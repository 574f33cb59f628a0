"""Is the `decay=` of Keras' old optimizers per epoch, as often assumed, or per step?

Keras' optimizers before version 3 (tf.keras.optimizers.legacy) had the argument `decay`, and their rate was
lr / (1 + decay * iterations). Here a network learns to classify scikit-learn's handwritten digits three times: at a
constant rate, at the often assumed rate lr / (1 + decay * epoch), and at the rate that legacy Keras used.

Run it with `python examples/keras_decay.py`; it takes about five seconds, and `--quick` one. It needs the packages of
`pip install 'fastopt[cli]'`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import fastopt
from fastopt.examples.data import Classification, digits
from fastopt.examples.models import MLP, train_epoch
from fastopt.examples.report import Report, main
from fastopt.schedules import InverseTimeDecay

LR = 0.1
DECAY = 0.1
BATCH = 32

NAMES = ("constant", "decay per epoch", "decay=")


@dataclass(frozen=True)
class Epoch:
    """The rate of the first step of an epoch, and the mean accuracy on the test part after it."""

    rate: float
    accuracy: float


@dataclass(frozen=True)
class Results:
    """For each name in `NAMES`, a list with one entry per epoch."""

    epochs: dict[str, list[Epoch]]
    steps_per_epoch: int

    @property
    def counted(self) -> int:
        """The n in legacy Keras' rate LR / (1 + DECAY * n) at the last epoch's first step."""
        return round((LR / self.epochs["decay="][-1].rate - 1) / DECAY)


def settings(name: str, steps_per_epoch: int) -> dict[str, Any]:
    """The arguments of SGD that differ between the trainings."""
    if name == "decay per epoch":
        schedule = InverseTimeDecay(LR, decay_steps=1, decay_rate=DECAY, per="epoch", steps_per_epoch=steps_per_epoch)
        return {"lr": schedule}
    if name == "decay=":
        return {"lr": LR, "convention": "tf_keras_legacy", "decay": DECAY}
    return {"lr": LR}


def train(name: str, data: Classification, epochs: int, seed: int) -> list[Epoch]:
    """One training."""
    steps_per_epoch = -(-len(data.training.labels) // BATCH)
    model, random, found = MLP([64, 64, 10], seed), np.random.default_rng(seed), []
    optimizer = fastopt.SGD(model.flat, grads=model.flat_gradients, **settings(name, steps_per_epoch))
    for _ in range(epochs):
        (rate,) = optimizer.current_lr
        train_epoch(model, optimizer, data.training, BATCH, random)
        found.append(Epoch(rate, model.accuracy(data.test.inputs, data.test.labels)))
    return found


def run(quick: bool = False) -> Results:
    """Run all three trainings with each seed, and average over seeds."""
    epochs, seeds = (10, 1) if quick else (50, 5)
    means = {}
    for name in NAMES:
        trainings = [train(name, digits(seed), epochs, seed) for seed in range(seeds)]
        means[name] = [
            Epoch(each[0].rate, float(np.mean([epoch.accuracy for epoch in each])))
            for each in zip(*trainings, strict=True)
        ]
    return Results(means, -(-len(digits().training.labels) // BATCH))


def report(results: Results) -> Report:
    """The table, and the answer."""
    constant, believed, legacy = (results.epochs[name] for name in NAMES)
    count = len(constant)
    shown = sorted({0, 1, 2, 4, *range(9, count, 10), count - 1})
    rows = [
        (
            f"{epoch + 1}",
            *(f"{each[epoch].rate:.5f}" for each in (believed, legacy)),
            *(f"{each[epoch].accuracy:.1%}" for each in (constant, believed, legacy)),
        )
        for epoch in shown
    ]
    counted = results.counted
    what = {(count - 1) * results.steps_per_epoch: "steps", count - 1: "epochs"}.get(counted, "something else")
    answer = (
        f"It counts {what}: as epoch {count} begins, decay={DECAY:g} has divided the rate by 1 + {DECAY:g} * "
        f"{counted:,}. The final accuracy is {legacy[-1].accuracy:.1%}, compared with "
        f"{believed[-1].accuracy:.1%} for 1 + {DECAY:g} * {count - 1} and {constant[-1].accuracy:.1%} without decay."
    )
    columns = ("epoch", "rate: per epoch", "decay=", "accuracy: constant", "per epoch", "decay=")
    return Report(columns, rows, answer)


if __name__ == "__main__":
    main(__doc__, run, report)

"""Is it useful to reduce Adam's learning rate on a plateau?

Adam adapts the step of each weight to the size of its gradients, so it is often said to need no schedule. Here a
network learns to classify scikit-learn's handwritten digits with Adam at several rates, with and without
`fastopt.ReduceOnPlateau`. The validation part decides on plateaus, the test part measures the result. Both trainings of
a pair have the same seed, and therefore the same images, initial weights and batches. The results are mean differences
within pairs, and count if they exceed two standard errors.

Run it with `python examples/plateau_adam.py`; it takes about fifteen seconds, and `--quick` two. It needs the packages
of `pip install 'fastopt[cli]'`.

References: torch.optim.lr_scheduler.ReduceLROnPlateau, which has the same factor; Loshchilov and Hutter, Decoupled
weight decay regularization, 2019, section 5 (schedules help Adam, too).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import fastopt
from fastopt.examples.data import digits
from fastopt.examples.models import MLP, train_epoch
from fastopt.examples.report import Report, main

RATES = (1e-3, 1e-2, 1e-1)
"""Adam's default rate, and higher ones, which reach a plateau sooner."""

FACTOR, PATIENCE = 0.1, 5


@dataclass(frozen=True)
class Training:
    """Final accuracy and loss of one training on the test part, and how often its rate was reduced."""

    accuracy: float
    loss: float
    reductions: int


@dataclass(frozen=True)
class Difference:
    """The mean over seeds of (with ReduceOnPlateau - without), and its standard error."""

    mean: float
    error: float

    @property
    def verdict(self) -> str:
        """Whether the mean is beyond two standard errors, and in which direction."""
        if abs(self.mean) <= 2 * self.error:
            return "the same"
        return "higher" if self.mean > 0 else "lower"

    def __format__(self, number_format: str) -> str:
        return f"{self.mean:+{number_format}} ± {self.error:{number_format}}"


@dataclass(frozen=True)
class Pairs:
    """Trainings at one rate, one pair per seed."""

    lr: float
    without: tuple[Training, ...]
    with_plateau: tuple[Training, ...]

    def mean(self, of: Callable[[Training], float]) -> float:
        """The mean over the trainings without ReduceOnPlateau."""
        return float(np.mean([of(each) for each in self.without]))

    def difference(self, of: Callable[[Training], float]) -> Difference:
        """The change that ReduceOnPlateau makes."""
        pairs = zip(self.with_plateau, self.without, strict=True)
        differences = [of(reduced) - of(plain) for reduced, plain in pairs]
        return Difference(float(np.mean(differences)), float(np.std(differences, ddof=1) / len(differences) ** 0.5))


Results = tuple[Pairs, ...]


def train(lr: float, with_plateau: bool, epochs: int, seed: int) -> Training:
    """Run one training."""
    data, model, random = digits(seed), MLP([64, 64, 10], seed), np.random.default_rng(seed)
    optimizer = fastopt.Adam(model.flat, lr=lr, grads=model.flat_gradients)
    plateau = fastopt.ReduceOnPlateau(optimizer, factor=FACTOR, patience=PATIENCE)
    reductions = 0
    for _ in range(epochs):
        train_epoch(model, optimizer, data.training, 32, random)
        if with_plateau:
            reductions += plateau.step(model.loss(data.validation.inputs, data.validation.labels))
    test = data.test
    return Training(model.accuracy(test.inputs, test.labels), model.loss(test.inputs, test.labels), reductions)


def run(quick: bool = False) -> Results:
    """Train at all rates, with and without ReduceOnPlateau, with the same seeds for both."""
    epochs, seeds = (40, 5) if quick else (60, 10)
    rates = (RATES[0], RATES[-1]) if quick else RATES
    return tuple(
        Pairs(lr, *(tuple(train(lr, plateau, epochs, seed) for seed in range(seeds)) for plateau in (False, True)))
        for lr in rates
    )


def report(results: Results) -> Report:
    """The table, and the answer."""
    rows, verdicts = [], []
    for pairs in results:
        accuracy = pairs.difference(lambda training: training.accuracy)
        loss = pairs.difference(lambda training: training.loss)
        reductions = float(np.mean([training.reductions for training in pairs.with_plateau]))
        rows.append(
            (
                f"{pairs.lr:g}",
                f"{reductions:.1f}",
                f"{pairs.mean(lambda training: training.accuracy):.2%}",
                f"{accuracy:.2%}",
                f"{pairs.mean(lambda training: training.loss):.3f}",
                f"{loss:.3f}",
            )
        )
        verdicts.append(
            f"at {pairs.lr:g} ({reductions:.1f} reductions) accuracy is {accuracy.verdict} and test loss {loss.verdict}"
        )
    answer = f"With a plateau, by two standard errors of {len(results[0].without)} seeds: {'; '.join(verdicts)}."
    return Report(("rate", "reductions", "accuracy", "with plateau", "test loss", "with plateau"), rows, answer)


if __name__ == "__main__":
    main(__doc__, run, report)

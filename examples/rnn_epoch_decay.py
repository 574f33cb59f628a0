"""Is char-rnn's decay of 0.97 per step or per epoch?

Karpathy's char-rnn and Johnson's torch-rnn train with RMSprop at a rate of 2e-3, and from the tenth epoch on multiply
the rate by 0.97 after each epoch. In a program that counts steps, the same number multiplies the rate by 0.97 after
each step. All later steps together are then worth only 1 / (1 - 0.97) = 33 steps at the first rate.

The network and the text are the same as in char_rnn.py (the first 100,000 characters of Python's documentation). The
table compares a constant rate with both decays. Its column `rates` is the sum of all rates, expressed as a number of
steps at the first rate.

Run it with `python examples/rnn_epoch_decay.py`; it takes about one and a half minutes, and `--quick` three seconds. It
needs the packages of `pip install 'fastopt[cli]'`.

References: Karpathy, github.com/karpathy/char-rnn, train.lua (learning_rate_decay, learning_rate_decay_after).
"""

from __future__ import annotations

from dataclasses import dataclass

import fastopt
from fastopt.examples.char_rnn import (
    GRADIENT_LIMIT,
    CharacterNetwork,
    Corpus,
    Training,
    batches,
    bits,
    evaluate,
    python_documentation,
)
from fastopt.examples.report import Report, main
from fastopt.schedules import Constant, ExponentialDecay, Schedule

DECAY = 0.97


@dataclass(frozen=True)
class Settings:
    """char-rnn's settings, with a smaller network, less text and fewer epochs."""

    characters: int = 100_000
    n_hidden: int = 64
    epochs: int = 30
    decay_after: int = 10
    lr: float = 2e-3


QUICK = Settings(characters=20_000, n_hidden=32, epochs=6, decay_after=2, lr=1e-2)


@dataclass(frozen=True)
class Run:
    """A training: bits per held-out character after each epoch, and the rate of each step."""

    name: str
    held_out: tuple[float, ...]
    rates: tuple[float, ...]

    @property
    def worth(self) -> float:
        """The sum of all rates, as a number of steps at the first rate."""
        return sum(self.rates) / self.rates[0]


@dataclass(frozen=True)
class Results:
    """The trainings by name, and the settings that they share."""

    runs: dict[str, Run]
    settings: Settings
    steps_per_epoch: int


def schedules(settings: Settings, steps_per_epoch: int) -> dict[str, Schedule]:
    """The three schedules by name."""
    lr, after = settings.lr, settings.decay_after
    return {
        "constant": Constant(lr),
        "0.97 per epoch": ExponentialDecay(
            lr, decay_steps=1, decay_rate=DECAY, transition_begin=after, per="epoch", steps_per_epoch=steps_per_epoch
        ),
        "0.97 per step": ExponentialDecay(
            lr, decay_steps=1, decay_rate=DECAY, transition_begin=after * steps_per_epoch, per="step"
        ),
    }


def train(name: str, schedule: Schedule, corpus: Corpus, settings: Settings) -> Run:
    """Train as char_rnn.py does, but let the optimizer clip the gradients and compute the rate from the step."""
    training = Training(epochs=settings.epochs)
    network = CharacterNetwork(len(corpus.characters), settings.n_hidden, seed=0)
    optimizer = fastopt.RMSprop(
        network.flat, lr=schedule, alpha=0.95, grads=network.flat_gradients, clip_value=GRADIENT_LIMIT
    )
    held_out: list[float] = []
    rates: list[float] = []
    for _ in range(settings.epochs):
        state = network.initial_state(training.batch)
        for inputs, targets in batches(corpus.training, training.batch, training.sequence):
            _, state = network.loss_and_gradients(inputs, targets, state)
            rates += optimizer.current_lr
            optimizer.step()
        held_out.append(bits(evaluate(network, corpus.held_out, training)))
    return Run(name, tuple(held_out), tuple(rates))


def run(quick: bool = False) -> Results:
    """Train with all three schedules, from the same weights."""
    settings = QUICK if quick else Settings()
    corpus = Corpus.from_text(python_documentation()[: settings.characters])
    training = Training(epochs=settings.epochs)
    steps_per_epoch = len(batches(corpus.training, training.batch, training.sequence))
    runs = {
        name: train(name, schedule, corpus, settings) for name, schedule in schedules(settings, steps_per_epoch).items()
    }
    return Results(runs, settings, steps_per_epoch)


def report(results: Results) -> Report:
    """The table, and the answer."""
    after, epochs = results.settings.decay_after, results.settings.epochs
    shown = sorted({after - 1, after, (after + epochs) // 2 - 1, epochs - 1})
    rows = [
        (
            each.name,
            *(f"{each.held_out[epoch]:.3f}" for epoch in shown),
            f"{each.rates[-1]:.1e}",
            f"{each.worth:,.0f}",
        )
        for each in results.runs.values()
    ]
    falls = {name: each.held_out[after - 1] - each.held_out[-1] for name, each in results.runs.items()}
    best = max(("0.97 per epoch", "0.97 per step"), key=lambda name: falls[name])
    answer = (
        f"{best.removeprefix('0.97 ').capitalize()}: in the {epochs - after} epochs after the decay began, the bits "
        f"per held-out character fell by {falls['0.97 per epoch']:.3f} with 0.97 per epoch and by "
        f"{falls['0.97 per step']:.3f} with 0.97 per step (constant rate: {falls['constant']:.3f})."
    )
    columns = ("rate", *(f"epoch {epoch + 1}" for epoch in shown), "last rate", "rates")
    return Report(columns, rows, answer)


if __name__ == "__main__":
    main(__doc__, run, report)

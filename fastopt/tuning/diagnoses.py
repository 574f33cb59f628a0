"""Diagnosis of a rate: train with it, and read the loss curve."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import above_zero, whole_number
from .choices import choose_optimizer
from .histories import History
from .readings import Evidence, held_out_note, read_history
from .sources import EpochDone, Settings, check_settings_are_used, describe_optimizer, load_source

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`: how well a rate works.

    Attributes
    ----------
    name, optimizer: str
        What was trained, and the optimizer; "" if a training function uses its own.
    lr: float or str
        The rate; a schedule's repr.
    seed: int
    history: History
        The metrics of each epoch.
    reading: str
        One of `READINGS`: "diverged", "too high", "too low", "oscillating", "premature" or "good".
    reason, advice, note: str
        The reason for the reading, what to do, and a further observation, which may be empty.
    evidence: Evidence
        The numbers behind the reading.
    """

    name: str
    optimizer: str
    lr: float | str
    seed: int
    history: History
    reading: str
    reason: str
    advice: str
    note: str
    evidence: Evidence

    def to_json(self) -> str:
        """Everything as a JSON object, with null for NaN and infinity."""
        return json.dumps(finite_or_none(asdict(self)), indent=2, allow_nan=False)

    def table(self) -> Table:
        """The metrics of each epoch, for a terminal; needs rich."""
        from .tables import history_table

        return history_table(self._heading, self.history)

    def plot(self, path: str | Path) -> Path:
        """Draw the curves to a PNG, SVG or PDF file; needs matplotlib."""
        from .plots import plot_history, save

        heading = f"{self._heading}: {self.reading}"
        return save(plot_history(self.history, heading, log_loss=self.evidence.overshoot > 5), path)

    def __repr__(self) -> str:
        return f"Diagnosis({self.title}, lr={self.lr}, reading={self.reading!r})"

    @property
    def title(self) -> str:
        """What was trained, and the optimizer."""
        return ", ".join(filter(None, [self.name, self.optimizer]))

    @property
    def _heading(self) -> str:
        lr = self.lr if isinstance(self.lr, str) else f"{self.lr:g}"
        return f"{self.title}, lr {lr}"


def finite_or_none(value: Any) -> Any:
    """A copy of nested values with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite_or_none(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_none(each) for each in value]
    return value


def diagnose(
    target: Any,
    *,
    lr: Any,
    optimizer: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    seed: int = 0,
    progress: EpochDone | None = None,
) -> Diagnosis:
    """Train once, from the start, and read the loss curve.

    The readings, in the order in which they are tested:

    - "diverged": the loss became NaN or infinite, or ended above ten times its start.
    - "too high": it ends at or above its start, climbs, or first rose to 1.5 times its start.
    - "too low": it stays at its start, or falls in a straight line.
    - "oscillating": it goes up and down by more than the noise of batches.
    - "premature": it was still falling at the end of training, or stalled because the rate decayed too early.
    - "good": it fell and levelled off.

    `fastopt.tuning.readings.RULES` has the exact rules. One curve cannot show everything: a loss that levels off early
    may still be far from the best. `sweep` compares rates.

    Parameters
    ----------
    target: problem, function or str
        A problem, a function that makes one, a training function that returns the metrics of each epoch, or the name of
        one of these (see `load_source`).
    lr: float, or schedule, per step
        The rate, or a function of the step.
    optimizer: str or callable, default "Adam"
        See `choose_optimizer`.
    hyperparameters: dict, optional
        Further arguments of the optimizer.
    epochs: int, optional
        The number of epochs, at least 3; by default that of the problem or function.
    seed: int
        The seed for the problem or function.
    progress: callable, optional
        Called after each epoch with its number (from 1) and metrics.

    Raises
    ------
    TypeError, ValueError
        An argument is not usable, there are fewer than three epochs, or the metrics have no "loss".

    Examples
    --------
    >>> import fastopt.tuning
    >>> found = fastopt.tuning.diagnose("digits", optimizer="SGD", lr=0.5, epochs=15)
    >>> found
    Diagnosis(digits, SGD, lr=0.5, reading='good')
    >>> found.history.curve("val_accuracy")[-1] > 0.9
    True
    >>> fastopt.tuning.diagnose("digits", optimizer="SGD", lr=1e-4).reading
    'too low'
    """
    rate = lr if callable(lr) else above_zero("lr", lr)
    if epochs is not None:
        whole_number("epochs", epochs)
    choice = choose_optimizer("Adam" if optimizer is None else optimizer, hyperparameters)
    source = load_source(target)
    given = optimizer is not None or bool(hyperparameters)
    check_settings_are_used(source, epochs=epochs is not None, optimizer=given)
    settings = Settings(rate, whole_number("seed", seed, 0), choice, epochs)
    history = source.run(settings, progress or (lambda epoch, metrics: None))
    reading, evidence = read_history(history)
    note = ""
    # At too high a rate the held-out loss rises, too, but not because of overfitting.
    if "val_loss" in history.metrics and reading.name not in ("diverged", "too high", "oscillating"):
        note = held_out_note(history.curve("val_loss"))
    if not history.initial and evidence.is_flat and not history.diverged:
        note = "the loss before training is not known: if the first epoch already reached the best, the rate is good"
    shown = repr(rate) if callable(rate) else rate
    words = reading.name, reading.reason, reading.advice, note
    return Diagnosis(source.name, describe_optimizer(source, choice), shown, settings.seed, history, *words, evidence)

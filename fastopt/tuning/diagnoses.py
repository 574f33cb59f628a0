"""Diagnose a rate: train with it, and say what the curves say."""

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
    """What a run at one rate says about it.

    Attributes
    ----------
    name, optimizer: str
        What was trained, by what; "" where a training function uses an optimizer of its own.
    lr: float or str
        The rate; a schedule's repr.
    seed: int
    history: History
        The metrics of each epoch.
    reading: str
        One of `READINGS`: "diverged", "too high", "too low", "oscillating", "premature" or "good".
    reason, advice, note: str
        Why, what to do, and what else there is to see; the last may be empty.
    evidence: Evidence
        The numbers that the reading stands on.
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
        """Everything as a JSON object; what is NaN or infinite is null."""
        return json.dumps(finite_or_none(asdict(self)), indent=2, allow_nan=False)

    def table(self) -> Table:
        """The metrics of each epoch, for a terminal; needs rich."""
        from .tables import history_table

        return history_table(self._heading, self.history)

    def plot(self, path: str | Path) -> Path:
        """Draw the curves as PNG, SVG or PDF by the name of the file; needs matplotlib."""
        from .plots import plot_history, save

        heading = f"{self._heading}: {self.reading}"
        return save(plot_history(self.history, heading, log_loss=self.evidence.overshoot > 5), path)

    def __repr__(self) -> str:
        return f"Diagnosis({self.title}, lr={self.lr}, reading={self.reading!r})"

    @property
    def title(self) -> str:
        """What was trained and by what."""
        return ", ".join(filter(None, [self.name, self.optimizer]))

    @property
    def _heading(self) -> str:
        lr = self.lr if isinstance(self.lr, str) else f"{self.lr:g}"
        return f"{self.title}, lr {lr}"


def finite_or_none(value: Any) -> Any:
    """The same with None for every float that JSON has no word for."""
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
    """Train once, from the start, and read the curve.

    The readings, in the order in which they are tried:

    - "diverged": the loss became NaN or infinite, or ended above ten times its start.
    - "too high": it ends where it began or above, climbs, or first overshot its start by half.
    - "too low": it stays where it began, or falls as a straight line does.
    - "oscillating": it goes up and down, by more than what batches make.
    - "premature": it was still falling at the end of training, or stood still because the rate decayed too early.
    - "good": it fell and levelled off.

    The exact rules are `fastopt.tuning.readings.RULES`. One curve cannot tell everything: a rate that levels off early
    may still be too high or too low for the best loss. `sweep` compares.

    Parameters
    ----------
    target: problem, function or str
        A problem, a function that makes one, a training function that returns metrics of each epoch, or a name of these
        (see `load_source`).
    lr: float, or schedule, per step
        The rate, or a callable of the step.
    optimizer: str or callable, default "Adam"
        See `choose_optimizer`.
    hyperparameters: dict, optional
        Its further arguments.
    epochs: int, optional
        How often to go through the data; by default the problem's or the function's own. At least 3 are needed.
    seed: int
        For the problem or the function.
    progress: callable, optional
        Called after each epoch with its number, from 1, and its metrics.

    Raises
    ------
    TypeError, ValueError
        An argument is not usable, there are fewer than three epochs, or no "loss" among the metrics.

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
    # Where the rate is too high, what is held out wanders, too, and that is no overfitting.
    if "val_loss" in history.metrics and reading.name not in ("diverged", "too high", "oscillating"):
        note = held_out_note(history.curve("val_loss"))
    if not history.initial and evidence.is_flat and not history.diverged:
        note = "the loss before training is not known: if the first epoch already reached the best, the rate is good"
    shown = repr(rate) if callable(rate) else rate
    words = reading.name, reading.reason, reading.advice, note
    return Diagnosis(source.name, describe_optimizer(source, choice), shown, settings.seed, history, *words, evidence)

"""The metrics of a run, for each epoch, with the names that Keras' `History` uses."""

from __future__ import annotations

import contextlib
import math
import numbers
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DIVERGED_RATIO = 10.0
"""A run has diverged if its last loss is more than this many times its first, even if it is finite."""

LOSSES = ("loss", "val_loss")
"""The metrics that show whether a run has diverged."""


@dataclass
class History:
    """The metrics of a run.

    Attributes
    ----------
    epochs: list of dict
        For each epoch its metrics by name: "loss" and other means over the training batches, "val_loss" and others over
        held-out data, and "lr", the rate of the epoch's last step, if known.
    initial: dict
        The metrics before the first step; empty if they are not known.
    parameter_change: float or None
        The distance that the parameters moved, relative to their start: norm(end - start) / norm(start). None if they
        are not known or started at zero.

    Examples
    --------
    >>> history = History([{"loss": 2.0}, {"loss": 1.0}])
    >>> history.curve("loss"), history.diverged
    ([2.0, 1.0], False)
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    initial: dict[str, float] = field(default_factory=dict)
    parameter_change: float | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that every epoch has, without "lr"."""
        names = [name for name in (self.epochs[0] if self.epochs else ()) if name != "lr"]
        return tuple(name for name in names if all(name in epoch for epoch in self.epochs))

    def curve(self, name: str) -> list[float]:
        """One metric in each epoch; NaN if the epoch ended before it was measured."""
        return [epoch.get(name, math.nan) for epoch in self.epochs]

    def start(self, name: str) -> float:
        """A metric before training, or else of the first epoch."""
        return self.initial.get(name, self.epochs[0].get(name, math.nan) if self.epochs else math.nan)

    @property
    def diverged(self) -> bool:
        """Whether a loss was NaN or infinite, or the last one is more than ten times the first."""
        for name in LOSSES:
            curve = [epoch[name] for epoch in self.epochs if name in epoch]
            if not all(map(math.isfinite, curve)):
                return True
            if curve and curve[-1] > DIVERGED_RATIO * abs(self.start(name)) > 0:
                return True
        return False


def is_finite(metrics: Mapping[str, float]) -> bool:
    """Whether no loss among these metrics is NaN or infinite."""
    return all(math.isfinite(metrics[name]) for name in LOSSES if name in metrics)


# --- results of users' functions -------------------------------------------------------------------------------------


def read_number(owner: str, name: str, value: Any) -> float:
    """A metric as a float, from a number or from an object of one element with `item()`, such as a tensor.

    Raises
    ------
    TypeError
        It is not a number.
    """
    if not isinstance(value, numbers.Real) and hasattr(value, "item") and getattr(value, "size", 1) != 0:
        with contextlib.suppress(ValueError, RuntimeError):  # NumPy and torch raise these for several elements
            value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r} of type {type(value).__name__}")
    return float(value)


def read_metrics(owner: str, value: Any) -> dict[str, float]:
    """A dict of metrics by name.

    Raises
    ------
    TypeError, ValueError
        It is not a dict, it is empty, or a metric is not a number.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{owner}: expected a dict of metrics by name, got {value!r} of type {type(value).__name__}")
    if not value:
        raise ValueError(f"{owner}: expected a dict of metrics by name, got an empty one")
    for name in value:
        if not isinstance(name, str):
            raise TypeError(f"{owner}: names of metrics must be strings, got {name!r}")
    return {name: read_number(owner, repr(name), each) for name, each in value.items()}


def read_epochs(owner: str, returned: Any) -> Iterator[dict[str, float]]:
    """The result of a training function as one dict of metrics per epoch.

    A number is the final loss, and a dict of numbers has the final metrics. A dict of lists has the metrics of each
    epoch, as Keras' `History.history`; the `History` that `model.fit` returns is accepted too. An iterable, such as a
    generator, has a dict for each epoch.

    Raises
    ------
    TypeError, ValueError
        It is none of these, or there are no epochs.

    Examples
    --------
    >>> list(read_epochs("train", 0.5))
    [{'loss': 0.5}]
    >>> list(read_epochs("train", {"loss": [2, 1], "val_loss": [3, 2]}))
    [{'loss': 2.0, 'val_loss': 3.0}, {'loss': 1.0, 'val_loss': 2.0}]
    """
    owner = f"what {owner} returned"
    if isinstance(getattr(returned, "history", None), Mapping):
        returned = returned.history
    if isinstance(returned, Mapping):
        if returned and all(isinstance(each, (list, tuple, np.ndarray)) for each in returned.values()):
            lengths = {name: len(each) for name, each in returned.items()}
            if len(set(lengths.values())) > 1 or 0 in lengths.values():
                raise ValueError(f"{owner}: expected lists of one length of at least 1, got lengths {lengths}")
            rows = zip(*returned.values(), strict=True)
            yield from (read_metrics(owner, dict(zip(returned, row, strict=True))) for row in rows)
        else:
            yield read_metrics(owner, returned)
    elif isinstance(returned, Iterable) and not isinstance(returned, (str, bytes)) and not hasattr(returned, "item"):
        count = 0
        for epoch in returned:
            count += 1
            yield read_metrics(f"{owner}, epoch {count}", epoch)
        if not count:
            raise ValueError(f"{owner}: expected metrics of at least one epoch, got none")
    elif isinstance(returned, numbers.Real) or hasattr(returned, "item"):
        yield {"loss": read_number(owner, "the loss", returned)}
    else:
        raise TypeError(
            f"{owner}: expected a number, a dict of metrics or an iterable of dicts, one an epoch, got "
            f"{reprlib.repr(returned)} of type {type(returned).__name__}"
        )

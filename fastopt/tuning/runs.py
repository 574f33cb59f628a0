"""One run of a sweep, at one rate with one seed, and its result; and the runs at one rate taken together."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from .choices import OptimizerChoice
from .histories import History
from .sources import Settings, load_source
from .tracebacks import users_traceback

COMPLETED, DIVERGED, FAILED = STATUSES = ("completed", "diverged", "failed")

_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("lr", "seconds"), (int, float)),
    "seed": (int,),
    **dict.fromkeys(("status", "error", "traceback"), (str,)),
}
"""The types of a run's values, as JSON has them."""


@dataclass(frozen=True)
class Job:
    """The work of one worker process; it can be pickled."""

    target: Any
    lr: float
    seed: int
    optimizer: OptimizerChoice
    epochs: int | None


@dataclass(frozen=True)
class SweepRun:
    """A run and its result.

    Attributes
    ----------
    lr, seed:
        The arguments of the run.
    status: str
        "completed"; "diverged" if its loss became NaN or infinite or ended above ten times its start; "failed" if it
        raised an error or its process died.
    metrics: dict
        The metrics of the last epoch. Infinite values of a diverged run are read back from a file as NaN.
    epochs: list of dict
        The metrics of all epochs.
    seconds: float
        The duration.
    error, traceback: str
        Of a failed run, the error in one line, and the part of its traceback that is the user's code (all of it where
        there is none).
    """

    lr: float
    seed: int
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""

    @property
    def key(self) -> tuple[float, int]:
        return self.lr, self.seed

    def to_dict(self) -> dict[str, Any]:
        """The run as a dict for JSON, with None in place of NaN and infinity."""
        values = asdict(self)
        for metrics in (values["metrics"], *values["epochs"]):
            for name, value in metrics.items():
                metrics[name] = value if math.isfinite(value) else None
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SweepRun:
        def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
            return {name: math.nan if value is None else float(value) for name, value in metrics.items()}

        run = cls(**values)
        for name, kinds in _KINDS.items():
            value = getattr(run, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TypeError(f"{name} must be of type {kinds[-1].__name__}, got {type(value).__name__}")
        if run.status not in STATUSES:
            raise ValueError(f"unknown status: {run.status!r}")
        changed = {"metrics": numbers(run.metrics), "epochs": [numbers(each) for each in run.epochs]}
        return cls(**{**values, **changed})


@dataclass(frozen=True)
class RatePoint:
    """The results of all seeds at one rate.

    Attributes
    ----------
    lr: float
    median, low, high: float
        Of the metric over the seeds. A diverged run, and one whose metric is NaN, count as infinitely bad, and failed
        runs are ignored; NaN if all failed.
    completed, diverged, failed: int
        The number of runs with each status.
    """

    lr: float
    median: float
    low: float
    high: float
    completed: int
    diverged: int
    failed: int

    @classmethod
    def of(cls, lr: float, runs: Sequence[SweepRun], metric: str, mode: str) -> RatePoint:
        """Take the runs at one rate together."""
        worst = math.inf if mode == "min" else -math.inf
        metrics = [math.nan if run.status == DIVERGED else run.metrics[metric] for run in runs if run.status != FAILED]
        values = [worst if math.isnan(value) else value for value in metrics]
        counts = [sum(run.status == status for run in runs) for status in (COMPLETED, DIVERGED, FAILED)]
        if not values:
            return cls(lr, math.nan, math.nan, math.nan, *counts)
        return cls(lr, median(values), min(values), max(values), *counts)


def run_job(job: Job) -> SweepRun:
    """Train. Errors are results, too."""
    start = time.perf_counter()
    try:
        history = load_source(job.target).run(Settings(job.lr, job.seed, job.optimizer, job.epochs))
    except (Exception, SystemExit) as error:  # whatever the user's function raises
        text = users_traceback(error) or "".join(traceback.format_exception(error))
        last = " ".join(traceback.format_exception_only(error)[-1].split())
        seconds = time.perf_counter() - start
        return SweepRun(job.lr, job.seed, FAILED, seconds=seconds, error=last, traceback=text)
    return completed(job, history, time.perf_counter() - start)


def completed(job: Job, history: History, seconds: float) -> SweepRun:
    status = DIVERGED if history.diverged else COMPLETED
    last = {name: value for name, value in history.epochs[-1].items() if name != "lr"}
    return SweepRun(job.lr, job.seed, status, last, history.epochs, seconds)

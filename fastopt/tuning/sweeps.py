"""The sweep: runs at a logarithmic grid of rates with several seeds, to find the best rate."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .choices import logarithmic_grid
from .diagnoses import finite_or_none
from .plans import MAX_LR, MIN_LR, POINTS, Plan, make_plan
from .pool import Died, run_jobs
from .regions import best_region, is_higher_better, perfect_value
from .results import metric_names, open_runs, write_csv, write_file
from .runs import COMPLETED, FAILED, Job, RatePoint, SweepRun, run_job

if TYPE_CHECKING:
    from rich.table import Table

RUNS_FILE, JSON_FILE, CSV_FILE = "runs.jsonl", "sweep.json", "sweep.csv"

RunDone = Callable[[SweepRun, int, int], None]
"""Called after each run with the run, the number of runs done, and the total number."""


@dataclass(frozen=True)
class Sweep:
    """The result of `sweep`: all runs and their evaluation.

    Attributes
    ----------
    name, optimizer: str
        What was trained, and the optimizer; "" if a training function uses its own.
    metric: str
        The metric that rates are compared by.
    mode: "min" or "max"
        Whether a low or a high metric is good.
    runs: tuple of SweepRun
        Ordered by rate and seed.
    """

    name: str
    optimizer: str
    metric: str
    mode: str
    runs: tuple[SweepRun, ...]

    @property
    def points(self) -> tuple[RatePoint, ...]:
        """The results at each rate."""
        rates = sorted({run.lr for run in self.runs})
        return tuple(
            RatePoint.of(rate, [run for run in self.runs if run.lr == rate], self.metric, self.mode) for rate in rates
        )

    @property
    def best(self) -> RatePoint | None:
        """The rate with the best median among those where runs completed and none diverged; None if there is none."""
        sign = 1 if self.mode == "min" else -1
        candidates = [
            point for point in self.points if point.completed and not point.diverged and math.isfinite(point.median)
        ]
        return min(candidates, key=lambda point: sign * point.median, default=None)

    @property
    def region(self) -> tuple[float, float] | None:
        """The lowest and the highest rate of the region around the best rate that is about as good.

        It contains adjacent rates without diverged runs whose median is no worse than the worst seed at the best rate,
        or misses a perfect value by at most 5 % more than the median there. Perfect is 0 for losses and 1 (or 100) for
        accuracies and the like: with a best accuracy of 0.96, one of 0.958 is about as good, and one of 0.957 is not.
        For other metrics only the seeds count. With one seed, the spread over seeds is unknown.
        """
        best = self.best
        if best is None:
            return None
        values = [run.metrics[self.metric] for run in self.runs if run.status == COMPLETED]
        perfect = perfect_value(self.metric, self.mode, [value for value in values if math.isfinite(value)])
        return best_region(self.points, best, self.mode, perfect)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    @property
    def edge(self) -> str:
        """The end of the grid at which the best rate lies, "lowest" or "highest" (better may lie beyond), or ""."""
        if self.best is None:
            return ""
        if self.best.lr == self.points[0].lr:
            return "lowest"
        return "highest" if self.best.lr == self.points[-1].lr else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the result, in sentences."""
        notes = []
        failed = [run for run in self.runs if run.status == FAILED]
        if self.best is None:
            reason = "every run failed" if len(failed) == len(self.runs) else "no rate without divergence: lower min_lr"
            notes.append(f"no best rate: {reason}")
        if self.edge:
            bound, way = ("min_lr", "lower") if self.edge == "lowest" else ("max_lr", "raise")
            notes.append(f"the best rate is the {self.edge} of the grid: extend the grid ({way} {bound})")
        if self.best is not None and len(self.seeds) == 1:
            notes.append("one seed: how far results differ by chance is unknown, and the best rate may be another")
        if failed:
            first = failed[0]
            notes.append(f"{len(failed)} of {len(self.runs)} runs failed, the first: {first.error}")
        return tuple(notes)

    def to_json(self) -> str:
        """Everything as a JSON object, with null for NaN and infinity."""
        values = {
            "name": self.name,
            "optimizer": self.optimizer,
            "metric": self.metric,
            "mode": self.mode,
            "best_lr": None if self.best is None else self.best.lr,
            "region": self.region,
            "edge": self.edge,
            "notes": self.notes,
            "points": [asdict(point) for point in self.points],
            "runs": [run.to_dict() for run in self.runs],
        }
        return json.dumps(finite_or_none(values), indent=2, allow_nan=False)

    def table(self) -> Table:
        """A table with one row per rate, for a terminal; needs rich."""
        from .tables import sweep_table

        title = f"{self.title}, {self.metric} of the last epoch"
        return sweep_table(title, self.points, self.best, self.region)

    def plot(self, path: str | Path) -> Path:
        """Draw the metric over the rate to a PNG, SVG or PDF file; needs matplotlib.

        The line is the median over the seeds, and the band their spread. Dots are runs, crosses at the edge diverged
        or failed ones. The best region is shaded.
        """
        from .plots import plot_sweep, save

        points, best, region = self.points, self.best, self.region
        return save(plot_sweep(f"Sweep: {self.title}", self.metric, self.mode, self.runs, points, best, region), path)

    def __repr__(self) -> str:
        best = "none" if self.best is None else f"{self.best.lr:.3g}"
        return f"Sweep({self.title}, best_lr={best}, metric={self.metric!r}, {len(self.runs)} runs)"

    @property
    def title(self) -> str:
        """What was trained, and the optimizer."""
        return ", ".join(filter(None, [self.name, self.optimizer]))


def sweep(
    target: Any,
    *,
    min_lr: float = MIN_LR,
    max_lr: float = MAX_LR,
    points: int = POINTS,
    rates: Sequence[float] | None = None,
    seeds: int | Sequence[int] = 3,
    optimizer: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    metric: str | None = None,
    mode: str = "auto",
    workers: int | None = None,
    refine: int = 0,
    output: str | Path | None = None,
    progress: RunDone | None = None,
) -> Sweep:
    """Train from the start at each rate of a grid, with several seeds, in parallel, and compare the results.

    Divergence is a valid result. If a run raises an error, or its process dies, that run has failed, and the others
    continue. In a script, call this within `if __name__ == "__main__":`, since it starts processes.

    Parameters
    ----------
    target: function or str
        A function that makes a problem, a training function, or the name of one (see `load_source`). A training
        function is the simplest: `train(lr, seed)` returns the final loss, a dict of metrics, or an iterable with a
        dict for each epoch. The metrics of the last epoch count.
    min_lr, max_lr: float, per step
        The lowest and the highest rate, by default 1e-5 and 1.
    points: int
        The number of rates, evenly spaced in log(lr), at least 2. The default, 11, has two per factor of ten.
    rates: sequence of floats, optional
        The rates, in place of the three arguments above.
    seeds: int or sequence of ints
        The number of seeds, starting from 0, or the seeds.
    optimizer: str or callable, default "Adam"
        See `choose_optimizer`.
    hyperparameters: dict, optional
        Further arguments of the optimizer.
    epochs: int, optional
        The number of epochs; by default that of the problem or function.
    metric: str, optional
        The metric to compare by; default "val_loss" if there is one, else "loss".
    mode: "auto", "min" or "max"
        Whether lower or higher metrics are better; "auto" is "max" for names with
        acc, auc, f1, r2, precision or recall.
    workers: int, optional
        The number of processes, each with one thread; default `fastopt.get_num_threads()`. 0 runs everything in this
        process, without protection from code that ends it. The results do not depend on it.
    refine: int
        The number of further rates between the neighbours of the best one, in a second phase.
    output: path, optional
        A folder. Each finished run is appended to its runs.jsonl at once. A sweep that was killed, or that now has more
        rates or seeds, reuses these runs and repeats failed ones. sweep.json and sweep.csv are written at the end, also
        after an interrupt.
    progress: callable, optional
        Called with each finished run, the number of runs done, and the total number.

    Returns
    -------
    Sweep

    Raises
    ------
    TypeError, ValueError
        An argument is not usable, and nothing has run; or the first run did not return the metric.
    OtherConfigurationError
        The folder has runs of another problem, optimizer or number of epochs.

    Notes
    -----
    Changes in the code of a training function are not detected: delete the folder after one.

    Examples
    --------
    >>> import fastopt.tuning
    >>> found = fastopt.tuning.sweep("digits", optimizer="SGD", rates=[1e-3, 1e-1, 1, 100], seeds=1, workers=0)
    >>> found.best.lr, found.edge
    (1.0, '')
    """
    plan = make_plan(
        target,
        min_lr=min_lr,
        max_lr=max_lr,
        points=points,
        rates=rates,
        seeds=seeds,
        optimizer=optimizer,
        hyperparameters=hyperparameters,
        epochs=epochs,
        metric=metric,
        mode=mode,
        workers=workers,
        refine=refine,
    )
    return run_plan(plan, None if output is None else Path(output), progress)


def run_plan(plan: Plan, output: Path | None = None, progress: RunDone | None = None, *, anew: bool = False) -> Sweep:
    """Do the runs that are not in the folder yet; see `sweep`. With `anew`, those in the folder are dropped."""
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    runs: dict[tuple[float, int], SweepRun] = {}
    path = None if output is None else output / RUNS_FILE
    with open_runs(path, plan.configuration, anew) as (earlier, append):
        runs.update((run.key, run) for run in earlier if run.status != FAILED)
        rates = list(plan.rates)
        try:
            total = len(rates) * len(plan.seeds)
            for phase in (0, 1) if plan.refine else (0,):
                if phase:
                    finer = refined_rates(_summary(plan, runs, rates), plan.refine)
                    rates += finer
                    total += len(finer) * len(plan.seeds)
                jobs = plan.jobs(rates)
                for run in _results(plan, [job for job in jobs if (job.lr, job.seed) not in runs]):
                    runs[run.key] = run  # first: an interrupt must not leave a run in the file but not in the summary
                    append(run)
                    if run.status == COMPLETED:
                        _choose_metric(plan, [run])
                    if progress is not None:
                        progress(run, sum((job.lr, job.seed) in runs for job in plan.jobs(rates)), total)
            return _summary(plan, runs, rates)
        finally:
            if output is not None and runs:
                with contextlib.suppress(ValueError):  # an unknown metric is already being reported
                    found = _summary(plan, runs, rates)
                    write_file(output / JSON_FILE, found.to_json() + "\n")
                    write_csv(output / CSV_FILE, found.runs)


def _results(plan: Plan, jobs: Sequence[Job]) -> Iterator[SweepRun]:
    if plan.workers == 0:
        with _one_thread():
            yield from map(run_job, jobs)
        return
    with contextlib.closing(run_jobs(run_job, jobs, plan.workers)) as results:
        for number, result in results:
            if isinstance(result, Died):
                yield SweepRun(jobs[number].lr, jobs[number].seed, FAILED, error=str(result))
            else:
                yield result


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Limit BLAS to one thread in this process, so that it adds in the same order as in workers."""
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        yield
    else:
        with threadpool_limits(1, "blas"):
            yield


def _choose_metric(plan: Plan, runs: Sequence[SweepRun]) -> str:
    """The metric to compare rates by.

    Raises
    ------
    ValueError
        A completed run does not have it.
    """
    shared = [name for name in metric_names(runs) if all(name in run.metrics for run in runs)]
    metric = plan.metric
    if metric is None and runs:
        metric = next((name for name in ("val_loss", "loss") if name in shared), None)
        if metric is None:
            if len(shared) != 1:
                raise ValueError(
                    f"there is no val_loss and no loss: metric must be one of {', '.join(shared) or 'none'}"
                )
            metric = shared[0]
    if runs and metric not in shared:
        raise ValueError(f"unknown metric: {metric!r} (expected one of {', '.join(shared)})")
    return metric or "loss"


def _summary(plan: Plan, runs: Mapping[tuple[float, int], SweepRun], rates: Sequence[float]) -> Sweep:
    """The sweep's result from the runs at these rates."""
    chosen = [runs[key] for key in ((rate, seed) for rate in sorted(rates) for seed in plan.seeds) if key in runs]
    metric = _choose_metric(plan, [run for run in chosen if run.status == COMPLETED])
    mode = plan.mode
    if mode == "auto":
        mode = "max" if is_higher_better(metric) else "min"
    return Sweep(plan.name, plan.optimizer_text, metric, mode, tuple(chosen))


def refined_rates(coarse: Sweep, count: int) -> list[float]:
    """New rates between the neighbours of the best one."""
    if coarse.best is None:
        return []
    rates = [point.lr for point in coarse.points]
    index = rates.index(coarse.best.lr)
    low, high = rates[max(index - 1, 0)], rates[min(index + 1, len(rates) - 1)]
    if low == high:
        return []
    return [rate for rate in logarithmic_grid(low, high, count + 2) if rate not in rates]

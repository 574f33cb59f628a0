"""The plots of the three commands, as figures of matplotlib."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .histories import History
from .runs import COMPLETED, DIVERGED, RatePoint, SweepRun

FORMATS = (".png", ".svg", ".pdf")
"""The file formats of plots, by suffix."""

LARGEST = 1e9
"""Losses above this multiple of the first are not drawn."""

ACCENT, SHADE, MUTED = "C1", "C2", "0.55"
TRAINING, HELD_OUT = "C0", "C1"


def check_path(path: str | Path) -> Path:
    """Raise a ValueError unless the file's suffix is one of `FORMATS`."""
    checked = Path(path)
    if checked.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot plot to {str(path)!r}: expected a name that ends in {', '.join(FORMATS)}")
    return checked


def save(figure: Figure, path: str | Path) -> Path:
    checked = check_path(path)
    figure.savefig(checked, dpi=150)
    return checked


def _titled(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", parse_math=False)
    axes.grid(alpha=0.3)


def plot_history(history: History, title: str, log_loss: bool = False) -> Figure:
    """A panel for each metric, with training and held-out values over the epochs; one for the rate if it changes."""
    names = list(dict.fromkeys(name.removeprefix("val_") for epoch in history.epochs for name in epoch if name != "lr"))
    rates = [rate for rate in history.curve("lr") if math.isfinite(rate)]
    panels = [*names, "lr"] if len(set(rates)) > 1 else names
    figure = Figure(figsize=(9, 2.4 + 2.1 * len(panels)), layout="constrained")
    first = None
    for index, name in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, index + 1, sharex=first, ylabel=name)
        first = first or axes
        kinds = (("training", name, TRAINING), ("held out", f"val_{name}", HELD_OUT))
        for label, key, color in kinds if name != "lr" else (("rate", "lr", MUTED),):
            start = [(0, history.initial[key])] if math.isfinite(history.initial.get(key, math.nan)) else []
            points = [*start, *enumerate(history.curve(key), start=1)]
            largest = LARGEST * max(abs(points[0][1]), 1e-12) if points else 0
            points = [point for point in points if abs(point[1]) <= largest]  # NaN fails this, too
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=3, color=color, label=label)
        if name == "loss" and log_loss:
            axes.set_yscale("log")
        if name == "lr" and min(rates) > 0 and max(rates) > 20 * min(rates):  # schedules mostly multiply the rate
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _titled(axes, title if not index else "")
        if name != "lr":
            axes.legend()
    figure.axes[-1].set_xlabel("epoch")
    return figure


def plot_range_test(
    title: str,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestions: Mapping[str, float],
    method: str,
    diverged_at: float | None,
) -> Figure:
    """Loss over rate, raw and smoothed, with the suggestions marked."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot(xlabel="learning rate", ylabel="loss", xscale="log")
    axes.plot(rates, losses, color=MUTED, linewidth=0.8, label="loss of each step")
    axes.plot(rates, smoothed, color=TRAINING, linewidth=2, label="smoothed")
    if smoothed:
        low, high = min(losses), max(smoothed[0], min(losses))
        room = (high - low) or abs(high) or 1.0
        axes.set_ylim(low - 0.15 * room, high + 0.6 * room)
    for name, rate in suggestions.items():
        chosen = name == method
        style = {"color": ACCENT, "linewidth": 2} if chosen else {"color": MUTED, "linestyle": "--"}
        axes.axvline(rate, label=f"{name}: {rate:.3g}{' (suggested)' if chosen else ''}", **style)
    if diverged_at is not None:
        axes.axvline(diverged_at, color="C3", linestyle=":", label=f"stopped: diverged at {diverged_at:.3g}")
    _titled(axes, title)
    axes.legend()
    return figure


def plot_sweep(
    title: str,
    metric: str,
    mode: str,
    runs: Sequence[SweepRun],
    all_points: Sequence[RatePoint],
    best: RatePoint | None,
    region: tuple[float, float] | None,
) -> Figure:
    """The metric over the rate: median and spread over the seeds, single runs, diverged runs and the best region."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot(xlabel="learning rate", ylabel=f"{metric} of the last epoch", xscale="log")
    completed = [run for run in runs if run.status == COMPLETED]
    points = [point for point in all_points if math.isfinite(point.median)]
    if points:
        rates = [point.lr for point in points]
        axes.plot(rates, [point.median for point in points], "-", color=TRAINING, label="median over seeds")
        whole = [point for point in points if math.isfinite(point.low) and math.isfinite(point.high)]
        low, high = [point.low for point in whole], [point.high for point in whole]
        axes.fill_between(
            [point.lr for point in whole], low, high, color=TRAINING, alpha=0.2, label="spread over seeds"
        )
    if completed:
        values = [run.metrics[metric] for run in completed]
        axes.plot([run.lr for run in completed], values, ".", color=TRAINING, markersize=5)
        if min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
    if region is not None and best is not None:
        low_lr, high_lr = region
        factor = _half_a_step(all_points)
        axes.axvspan(low_lr / factor, high_lr * factor, color=SHADE, alpha=0.15, label="about as good as the best")
        axes.axvline(best.lr, color=ACCENT, label=f"best: {best.lr:.3g}")
    diverged = [run.lr for run in runs if run.status == DIVERGED]
    if diverged:
        top = 0.97 if mode == "min" else 0.03
        where = axes.get_xaxis_transform()
        axes.plot(diverged, [top] * len(diverged), "x", color="C3", transform=where, clip_on=False, label="diverged")
    _titled(axes, title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure


def _half_a_step(points: Sequence[RatePoint]) -> float:
    """The square root of the smallest factor between neighbouring rates: half the width of the shade of one rate."""
    rates = [point.lr for point in points]
    return math.sqrt(min((high / low for low, high in itertools.pairwise(rates)), default=1.2))

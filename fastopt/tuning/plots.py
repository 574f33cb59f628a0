"""The plots of the three commands, as figures of matplotlib."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .histories import History
from .runs import COMPLETED, DIVERGED, FAILED, RatePoint, SweepRun
from .suggestions import MARKS

FORMATS = (".png", ".svg", ".pdf")
"""The file formats of plots, by suffix."""

LARGEST = 1e9
"""Values above this multiple of the first that is not zero are marked and not drawn ..."""

LARGEST_AT_ALL = 1e100
"""... and those above this number, near which the arithmetic of axes overflows."""

MOST_PANELS = 10
"""Panels of a history; further metrics are in the file of data only."""

FEW = 15
"""Curves of at most this many points have a dot at each; one point alone would be invisible as a line."""

TITLE_WIDTH, LABEL_WIDTH = 84, 24
"""Characters of a line of a title, and of the label of an axis."""

ACCENT, SHADE, MUTED, BAD = "C1", "C2", "0.55", "C3"
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
    axes.set_title(textwrap.fill(title, TITLE_WIDTH), loc="left", parse_math=False)
    axes.grid(alpha=0.3)


def _labelled(axes: Any, name: str, width: int = LABEL_WIDTH) -> None:
    axes.set_ylabel(textwrap.fill(name, width), parse_math=False)


def _mark(axes: Any, positions: Sequence[float], label: str, *, height: float = 0.97, **style: Any) -> None:
    """Crosses at a height from 0 to 1 of the axes, for what has no value that could be drawn."""
    if positions:
        heights, style = [height] * len(positions), {"color": BAD, "marker": "x", **style}
        at = axes.get_xaxis_transform()
        axes.plot(positions, heights, **style, linestyle="", transform=at, clip_on=False, label=label)


def _without_scale(axes: Any) -> None:
    """Nothing has a value: numbers at the axis would be of matplotlib's choice."""
    axes.set_yticks([])


# --- history ----------------------------------------------------------------------------------------------------------

Points = list[tuple[int, float]]


def drawable(points: Points) -> tuple[Points, dict[str, list[int]]]:
    """The points that are drawn, and the epochs of the others by the reason.

    Examples
    --------
    >>> drawable([(0, 2.0), (1, 3e9), (2, 1.0), (3, math.inf), (4, math.nan)])
    ([(0, 2.0), (2, 1.0)], {'too large': [1], 'infinite or NaN': [3, 4]})
    """
    first = next((abs(value) for _, value in points if math.isfinite(value) and value), 1.0)
    largest = min(LARGEST * first, LARGEST_AT_ALL)
    kept: Points = []
    left: dict[str, list[int]] = {}
    for epoch, value in points:
        if abs(value) <= largest:  # NaN is not
            kept.append((epoch, value))
        else:
            reason = "too large" if math.isfinite(value) else "infinite or NaN"
            left.setdefault(reason, []).append(epoch)
    return kept, left


def _points(history: History, key: str) -> Points:
    """The values of a metric that were measured, before training as epoch 0."""
    return [(epoch, values[key]) for epoch, values in enumerate([history.initial, *history.epochs]) if key in values]


def plot_history(history: History, title: str, log_loss: bool = False) -> Figure:
    """A panel for each metric, with training and held-out values over the epochs; one for the rate if it changes."""
    names = list(dict.fromkeys(name.removeprefix("val_") for epoch in history.epochs for name in epoch if name != "lr"))
    rates = [rate for rate in history.curve("lr") if math.isfinite(rate)]
    last = ["lr"] if len(set(rates)) > 1 else []
    panels = [*names[: MOST_PANELS - len(last)], *last]
    figure = Figure(figsize=(9, 2.4 + 2.1 * len(panels)), layout="constrained")
    first = None
    for index, name in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, index + 1, sharex=first)
        _labelled(axes, name)
        first = first or axes
        kinds = (("training", name, TRAINING), ("held out", f"val_{name}", HELD_OUT))
        values: list[float] = []
        for label, key, color in kinds if name != "lr" else (("rate", "lr", MUTED),):
            kept, left = drawable(_points(history, key))
            if kept:
                size = 3 if len(kept) > FEW else 5
                axes.plot(*zip(*kept, strict=True), "o-", markersize=size, color=color, label=label)
                values += [value for _, value in kept]
            for reason, epochs in left.items():
                _mark(axes, epochs, f"{label}: {reason}", height=0.97 if key == name else 0.9, color=color)
        positive = bool(values) and min(values) > 0
        is_rate = name == "lr" and positive and max(values) > 20 * min(values)  # schedules mostly multiply the rate
        if is_rate or (name == "loss" and log_loss and positive):
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if not values:
            _without_scale(axes)
        _titled(axes, title if not index else "")
        if name != "lr" and axes.get_legend_handles_labels()[0]:
            axes.legend()
    start, end = 0 if history.initial else 1, max(len(history.epochs), 1)
    room = 0.03 * (end - start) or 0.5
    figure.axes[-1].set_xlim(start - room, end + room)
    more = len(names) + len(last) - len(panels)
    figure.axes[-1].set_xlabel(f"epoch ({more} more metrics are not drawn)" if more else "epoch")
    return figure


# --- range test -------------------------------------------------------------------------------------------------------


def plot_range_test(
    title: str,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestions: Mapping[str, float],
    method: str,
    diverged_at: float | None,
) -> Figure:
    """Loss over rate, raw and smoothed, with the suggestions and the lowest loss marked."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot(xlabel="learning rate", ylabel="loss", xscale="log")
    marker = "." if len(rates) <= FEW else ""
    axes.plot(rates, losses, color=MUTED, linewidth=0.8, marker=marker, label="loss of each step")
    axes.plot(rates, smoothed, color=TRAINING, linewidth=2, marker=marker, label="smoothed")
    if smoothed:
        axes.set_ylim(*loss_limits(losses, smoothed, falls=bool(suggestions)))
    else:
        _without_scale(axes)
    if suggestions:
        lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
        where = f"lowest smoothed loss: at {rates[lowest]:.3g}"
        axes.plot(rates[lowest], smoothed[lowest], "o", color=TRAINING, markersize=7, label=where)
    for name, rate in suggestions.items():
        chosen = name == method
        style = {"color": ACCENT, "linewidth": 2} if chosen else {"color": MUTED, "linestyle": "--"}
        axes.axvline(rate, label=f"{MARKS[name]}: {rate:.3g}{' (suggested)' if chosen else ''}", **style)
    if diverged_at is not None:
        axes.axvline(diverged_at, color=BAD, linestyle=":", label=f"stopped: diverged at {diverged_at:.3g}")
    _titled(axes, title)
    axes.legend()
    return figure


def loss_limits(losses: Sequence[float], smoothed: Sequence[float], *, falls: bool) -> tuple[float, float]:
    """The ends of the axis: all that comes before the lowest loss, and of the explosion after it only the beginning.

    Examples
    --------
    >>> low, high = loss_limits([2.0, 2.2, 1.0, 5.0, 900.0], [2.0, 2.0, 1.2, 6.0, 700.0], falls=True)
    >>> round(low, 2), round(high, 2)
    (0.82, 2.92)
    """
    lowest = min(losses)
    before = losses[: min(range(len(smoothed)), key=smoothed.__getitem__) + 1] if falls else losses
    start = max(losses[0], smoothed[0], lowest)
    high = min(max(start, *before), start + max(start - lowest, abs(start)))
    room = (high - lowest) or abs(high) or 1.0
    return lowest - 0.15 * room, high + 0.6 * room


# --- sweep ------------------------------------------------------------------------------------------------------------


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
    axes = figure.add_subplot(xlabel="learning rate", xscale="log")
    _labelled(axes, f"{metric} of the last epoch", 2 * LABEL_WIDTH)
    n_seeds = len({run.seed for run in runs})
    rates = [point.lr for point in all_points]
    if any(math.isfinite(point.median) for point in all_points):
        medians, low, high = (
            [_or_gap(getattr(point, name)) for point in all_points] for name in ("median", "low", "high")
        )
        axes.plot(rates, medians, "-", color=TRAINING, label="median over seeds" if n_seeds > 1 else "one seed")
        if n_seeds > 1:
            where = [math.isfinite(a) and math.isfinite(b) for a, b in zip(low, high, strict=True)]
            axes.fill_between(rates, low, high, where=where, color=TRAINING, alpha=0.2, label="spread over seeds")
    measured = [run for run in runs if run.status == COMPLETED and math.isfinite(run.metrics[metric])]
    if measured:
        values = [run.metrics[metric] for run in measured]
        axes.plot([run.lr for run in measured], values, ".", color=TRAINING, markersize=5)
        if min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
    else:
        _without_scale(axes)
    if region is not None and best is not None:
        shade = shaded(region, rates)
        if shade[0] < shade[1]:
            axes.axvspan(*shade, color=SHADE, alpha=0.15, label="about as good as the best")
        axes.axvline(best.lr, color=ACCENT, label=f"best: {best.lr:.3g}")
    top = 0.97 if mode == "min" else 0.03
    _mark(axes, [run.lr for run in runs if run.status == DIVERGED], "diverged", height=top)
    unknown = [run.lr for run in runs if run.status == COMPLETED and not math.isfinite(run.metrics[metric])]
    _mark(axes, unknown, "infinite or NaN", height=top, marker="^", markerfacecolor="none")
    _mark(axes, [run.lr for run in runs if run.status == FAILED], "failed", height=0.5, color=MUTED, marker="s")
    _titled(axes, title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure


def _or_gap(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def shaded(region: tuple[float, float], rates: Sequence[float]) -> tuple[float, float]:
    """The ends of the shade: half a step around the region, and never beyond the grid, where nothing was measured.

    Half a step is the square root of the smallest factor between neighbouring rates.

    Examples
    --------
    >>> shaded((1.0, 4.0), [0.25, 1.0, 4.0])
    (0.5, 4.0)
    """
    half = math.sqrt(min((high / low for low, high in itertools.pairwise(rates)), default=1.0))
    return max(region[0] / half, rates[0]), min(region[1] * half, rates[-1])

"""The tables of the three commands in a terminal, made with rich."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from .histories import History
from .runs import RatePoint
from .suggestions import MARKS

SHOWN = 20
"""The maximum number of rows; longer tables leave some out."""


def new_table(title: str, *columns: str) -> Table:
    # At least as wide as the title, which would otherwise wrap.
    width = min(len(title), 78)
    made = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, min_width=width)
    for column in columns:
        made.add_column(escape(column), justify="right", overflow="fold")  # wrap instead of truncating
    return made


def number(value: float) -> str:
    return f"{value:.4g}"


def history_table(title: str, history: History) -> Table:
    names = list(dict.fromkeys(name for epoch in history.epochs for name in epoch))
    table = new_table(title, "epoch", *names)

    def add(epoch: int, metrics: dict[str, float]) -> None:
        table.add_row(str(epoch), *(number(metrics[name]) if name in metrics else "" for name in names))

    if history.initial:
        add(0, {name: value for name, value in history.initial.items() if not math.isnan(value)})
    chosen = spread(len(history.epochs))
    for index in chosen:
        add(index + 1, history.epochs[index])
    return table


def spread(count: int) -> list[int]:
    """The indices of the rows to show: all, or if there are more than `SHOWN`, an even selection from first to last."""
    if count <= SHOWN:
        return list(range(count))
    return sorted({round(index * (count - 1) / (SHOWN - 1)) for index in range(SHOWN)})


def range_test_table(
    title: str,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestions: Mapping[str, float],
) -> Table:
    table = new_table(title, "lr", "loss", "smoothed", "")
    marks: dict[int, list[str]] = {}
    for method, rate in suggestions.items():
        nearest = min(range(len(rates)), key=lambda index: abs(math.log(rates[index] / rate)))
        marks.setdefault(nearest, []).append(MARKS[method])
    if suggestions:
        marks.setdefault(min(range(len(rates)), key=smoothed.__getitem__), []).append("lowest")
    for index in sorted({*spread(len(rates)), *marks}):
        cells = rates[index], losses[index], smoothed[index]
        table.add_row(*map(number, cells), "; ".join(marks.get(index, [])))
    return table


def sweep_table(
    title: str, points: Sequence[RatePoint], best: RatePoint | None, region: tuple[float, float] | None
) -> Table:
    table = new_table(title, "lr", "median", "lowest", "highest", "runs", "")
    for point in points:
        values = [number(value) if math.isfinite(value) else "-" for value in (point.median, point.low, point.high)]
        mark = ""
        if best is not None and point.lr == best.lr:
            mark = "best"
        elif region is not None and region[0] <= point.lr <= region[1]:
            mark = "about as good"
        table.add_row(f"{point.lr:.3g}", *values, _counts(point), mark)
    return table


def _counts(point: RatePoint) -> str:
    counts = {"": point.completed, " diverged": point.diverged, " failed": point.failed}
    return ", ".join(f"{count}{word}" for word, count in counts.items() if count)

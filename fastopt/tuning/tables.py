"""What the three commands show in a terminal, as tables of rich."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from .diagnoses import Diagnosis
    from .range_tests import RangeTest
    from .sweeps import RatePoint, Sweep

SHOWN = 20
"""Longer tables leave rows out."""


def new_table(title: str, *columns: str) -> Table:
    # As wide as the title, which would else be broken to the width of the columns.
    width = min(len(title), 78)
    made = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, min_width=width)
    for column in columns:
        made.add_column(escape(column), justify="right", overflow="fold")  # rather on two lines than cut off
    return made


def number(value: float) -> str:
    return f"{value:.4g}"


def diagnosis_table(diagnosis: Diagnosis) -> Table:
    history = diagnosis.history
    names = list(dict.fromkeys(name for epoch in history.epochs for name in epoch))
    lr = diagnosis.lr if isinstance(diagnosis.lr, str) else f"{diagnosis.lr:g}"
    table = new_table(f"{diagnosis.title}, lr {lr}", "epoch", *names)

    def add(epoch: int, metrics: dict[str, float]) -> None:
        table.add_row(str(epoch), *(number(metrics[name]) if name in metrics else "" for name in names))

    if history.initial:
        add(0, {name: value for name, value in history.initial.items() if not math.isnan(value)})
    chosen = spread(len(history.epochs))
    for index in chosen:
        add(index + 1, history.epochs[index])
    return table


def spread(count: int) -> list[int]:
    """Which of so many rows to show: all of a few, else some evenly from first to last."""
    if count <= SHOWN:
        return list(range(count))
    return sorted({round(index * (count - 1) / (SHOWN - 1)) for index in range(SHOWN)})


def range_test_table(found: RangeTest) -> Table:
    table = new_table(f"{found.name}, {found.optimizer}", "lr", "loss", "smoothed", "")
    marks: dict[int, list[str]] = {}
    for method, rate in found.suggestions.items():
        nearest = min(range(len(found.rates)), key=lambda index: abs(math.log(found.rates[index] / rate)))
        marks.setdefault(nearest, []).append(method)
    for index in sorted({*spread(len(found.rates)), *marks}):
        cells = found.rates[index], found.losses[index], found.smoothed[index]
        table.add_row(*map(number, cells), ", ".join(marks.get(index, [])))
    return table


def sweep_table(sweep: Sweep) -> Table:
    title = f"{sweep.title}, {sweep.metric} of the last epoch"
    table = new_table(title, "lr", "median", "lowest", "highest", "runs", "")
    for point in sweep.points:
        values = [number(value) if math.isfinite(value) else "-" for value in (point.median, point.low, point.high)]
        table.add_row(f"{point.lr:.3g}", *values, _counts(point), _mark(sweep, point))
    return table


def _counts(point: RatePoint) -> str:
    counts = {"": point.completed, " diverged": point.diverged, " failed": point.failed}
    return ", ".join(f"{count}{word}" for word, count in counts.items() if count)


def _mark(sweep: Sweep, point: RatePoint) -> str:
    if sweep.best is not None and point.lr == sweep.best.lr:
        return "best"
    if sweep.region is not None and sweep.region[0] <= point.lr <= sweep.region[1]:
        return "about as good"
    return ""

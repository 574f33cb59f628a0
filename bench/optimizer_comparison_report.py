"""Tables and a picture of what `optimizer_comparison.py` has measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Results = Mapping[str, Mapping[str, Any]]


def losses(results: Results, row: str, task: str) -> list[float]:
    """Of each seed; infinity for one that diverged."""
    found = results[row].get(task, {}).get("losses", {})
    return [math.inf if loss is None else loss for loss in found.values()]


def median(results: Results, row: str, task: str) -> float:
    return statistics.median(losses(results, row, task) or [math.inf])


def good_enough(results: Results, task: str) -> float:
    """The worst seed of the row with the best median: medians up to it cannot be told from the best."""
    best = min(results, key=lambda row: median(results, row, task))
    return max(losses(results, best, task), default=math.inf)


# --- tables -----------------------------------------------------------------------------------------------------------


def number(loss: float) -> str:
    """Three decimals, or two digits of what is small.

    >>> number(1.23456), number(3.21e-9), number(math.inf)
    ('1.235', '3.2e-09', 'diverged')
    """
    if not math.isfinite(loss):
        return "diverged"
    return f"{loss:.3f}" if 1e-2 <= loss < 1e3 else f"{loss:.1e}"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    texts = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines)]
    return "\n".join(texts)


def loss_table(results: Results, tasks: Sequence[str]) -> str:
    """The median of the seeds and their range, bold if it cannot be told from the best; bytes and time."""
    limits = {task: good_enough(results, task) for task in tasks}
    lines = []
    for row, found in results.items():
        cells = [row]
        for task in tasks:
            seeds = sorted(losses(results, row, task))
            if task not in found:
                cells.append("")
            elif not seeds:
                cells.append("diverged")
            else:
                middle = number(statistics.median(seeds))
                marked = f"**{middle}**" if statistics.median(seeds) <= limits[task] else middle
                cells.append(f"{marked} ({number(seeds[0])} to {number(seeds[-1])})" if len(seeds) > 1 else marked)
        costs = found.get("costs")
        cells += [f"{costs['bytes']:g}", f"{costs['time']:.2f}"] if costs else ["", ""]
        lines.append(cells)
    return table(["", *tasks, "bytes", "time"], lines)


def rate_table(results: Results, tasks: Sequence[str]) -> str:
    """The best rate of each sweep, and in parentheses the loss at the rate around which it was sought."""
    lines = []
    for row, found in results.items():
        cells = [row, ""]
        for task in tasks:
            if task not in found:
                cells.append("")
                continue
            own = found[task]
            cells[1] = f"{own['typical_lr']:g}"
            best = "none" if own["lr"] is None else f"{own['lr']:.2g}"
            loss = own["rates"].get(f"{own['typical_lr']:.3g}")
            cells.append(f"{best} ({number(math.inf if loss is None else loss)})")
        lines.append(cells)
    return table(["", "start", *tasks], lines)


def tables(results: Results, tasks: Sequence[str]) -> str:
    return "\n\n".join((loss_table(results, tasks), rate_table(results, tasks)))


# --- the picture ------------------------------------------------------------------------------------------------------

EDGE = 2.5
"""How far a panel reaches to the right of the median row, in distances of that from the lowest loss."""

LOGARITHMIC = "Rosenbrock"
FLOOR = 1e-20
"""What is smaller is drawn here."""

NEAR, FAR = "#d55e00", "#0072b2"
"""Rows that cannot be told from the best, and others."""


def mean_rank(results: Results, row: str, tasks: Sequence[str]) -> float:
    """The mean over tasks of how many rows are better."""
    return statistics.mean(
        sum(median(results, other, task) < median(results, row, task) for other in results) for task in tasks
    )


def draw(results: Results, tasks: Sequence[str], path: Path) -> None:
    """A panel for each task, with a dot for each seed; rows in the order of their mean rank in the networks.

    What is too far to the right, or diverged, is an arrowhead at the edge.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from .plots import SETTINGS, save

    networks = [task for task in tasks if task != LOGARITHMIC]
    order = sorted(results, key=lambda row: mean_rank(results, row, networks))
    with rc_context(SETTINGS):
        figure = Figure(figsize=(10.5, 0.24 * len(order) + 0.9), layout="constrained")
        for index, task in enumerate(tasks):
            axes = figure.add_subplot(1, len(tasks), index + 1)
            limit = good_enough(results, task)
            lowest = min(min(losses(results, row, task), default=math.inf) for row in order)
            middle = statistics.median(median(results, row, task) for row in order)
            edge = 1e2 if task == LOGARITHMIC else middle + EDGE * (middle - lowest)
            for place, row in enumerate(order):
                color = NEAR if median(results, row, task) <= limit else FAR
                own = [max(loss, FLOOR) for loss in losses(results, row, task)]
                near = [loss for loss in own if loss < edge]
                axes.plot(near, [place] * len(near), "o", color=color, markersize=3.5, alpha=0.7)
                if not near or len(near) < len(own):
                    axes.plot(edge, place, ">", color=color, markersize=5)
            axes.locator_params("x", nbins=4)
            if task == LOGARITHMIC:
                axes.set_xscale("log")
            axes.set(xlabel="final value" if task == LOGARITHMIC else "held-out loss")
            axes.set_title(task, loc="left", fontweight="bold")
            axes.set_yticks(range(len(order)), order if index == 0 else [""] * len(order))
            axes.invert_yaxis()
    save(figure, path)

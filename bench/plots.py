"""Nanoseconds per parameter over size, log-log: a figure for each variant, and one of the main variants.

It uses only the Figure of Matplotlib, never pyplot. A peer looks the same in all figures: its family sets the colour,
from colours that colour-blind readers can tell apart; its place in the family sets the marker and the dash. Names stand
at the ends of lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from . import findings
from .targets import FLAT

Record = dict[str, Any]

OVERVIEW = "overview.svg"
OVERVIEW_VARIANTS = ("Adam", "RMSprop", "Adagrad", "Rprop", "SGD momentum")
OVERVIEW_TITLE = "Nanoseconds per parameter over size"

FASTOPT, ROOFLINE = "fastopt", "roofline"

COLORS = {
    "torch": "#0072b2",
    "DeepSpeed": "#009e73",
    "bitsandbytes": "#cc79a7",
    "optax": "#e69f00",
    "Keras": "#56b4e9",
    "thinc": "#8c510a",
    "NumPy": "#000000",
    "numba": "#5d3a9b",
}
"""Colours by the first word of the name of a peer; after Okabe and Ito."""

OTHER_COLOR = "#7f7f7f"
FASTOPT_COLOR = "#d55e00"
ROOFLINE_COLOR = "#7f7f7f"
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":")

SETTINGS: Any = {
    "svg.fonttype": "none",  # text as text: a tenth of the size
    "svg.hashsalt": "fastopt",  # the same file from the same numbers
    "font.size": 9.0,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.facecolor": "white",  # not transparent: pages may be dark
}

LABEL_GAP = 0.047
"""Gap between the names beside a figure of one variant, as a fraction of its height."""


@dataclass(frozen=True)
class Look:
    color: str
    marker: str
    dash: str
    width: float = 1.1
    size: float = 3.5
    order: float = 2.0


LOOKS = {
    FASTOPT: Look(FASTOPT_COLOR, "o", "-", width=3.0, size=5.0, order=4.0),
    ROOFLINE: Look(ROOFLINE_COLOR, "", "--", width=1.6, order=3.0),
}


@dataclass(frozen=True)
class Line:
    name: str
    sizes: list[int]
    nanoseconds: list[float]


def looks(records: Iterable[Record]) -> dict[str, Look]:
    """The look of each peer, assigned over all peers that took part."""
    found = dict(LOOKS)
    places: dict[str, int] = {}
    colors = {family.lower(): color for family, color in COLORS.items()}
    for name in findings.attendance(records):
        if findings.is_peer(name):
            family = re.split(r"[\s,(.]", name)[0].lower()
            color = colors.get(family, OTHER_COLOR)
            place = places.setdefault(color, 0)
            places[color] += 1
            found[name] = Look(color, MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)])
    return found


def lines_of(records: Iterable[Record], variant: str) -> list[Line]:
    """The roofline, the peers and fastopt, from one-tensor cases of one variant; sizes ascend."""
    points: dict[str, list[tuple[int, float]]] = {}
    for record in sorted(flat_records(records, variant), key=lambda record: record["parameters"]):
        size = record["parameters"]
        sides = {ROOFLINE: record.get("roofline", {}), **record["peers"], FASTOPT: record}
        for name, result in sides.items():
            if "seconds" in result:
                points.setdefault(name, []).append((size, 1e9 * result["seconds"] / size))
    return [Line(name, [size for size, _ in each], [time for _, time in each]) for name, each in points.items()]


def flat_records(records: Iterable[Record], variant: str | None = None) -> list[Record]:
    return [
        record
        for record in findings.comparisons(records)
        if record["section"] == FLAT and record["subject"] == FASTOPT and variant in (None, record["variant"])
    ]


def variants_with_sizes(records: Iterable[Record]) -> list[str]:
    """Variants that were measured at two sizes or more: one makes no line."""
    sizes: dict[str, set[int]] = {}
    for record in flat_records(records):
        sizes.setdefault(record["variant"], set()).add(record["parameters"])
    return [variant for variant, each in sizes.items() if len(each) > 1]


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved as little as possible to be `gap` apart, in the same order, and within 0 and 1 if they fit."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    blocks: list[list[float]] = []  # of places that touch: moved together, to where their moves cancel
    for number, index in enumerate(order):
        blocks.append([places[index] - number * gap])
        while len(blocks) > 1 and mean(blocks[-2]) > mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    highest = max(0.0, 1 - (len(places) - 1) * gap)
    moved = [min(max(mean(block), 0.0), highest) for block in blocks for _ in block]
    result = [0.0] * len(places)
    for number, index in enumerate(order):
        result[index] = moved[number] + number * gap
    return result


def draw(axes: Any, lines: list[Line], looks: dict[str, Look], title: str) -> None:
    axes.set(xscale="log", yscale="log")
    axes.set_title(title, loc="left", fontweight="bold")
    for line in lines:
        look = looks[line.name]
        style = {"color": look.color, "linestyle": look.dash, "linewidth": look.width, "zorder": look.order}
        axes.plot(line.sizes, line.nanoseconds, marker=look.marker, markersize=look.size, label=line.name, **style)
    values = [value for line in lines for value in line.nanoseconds]
    axes.minorticks_off()  # each is an element of the file
    axes.set_ylim(min(values) / 1.3, max(values) * 1.3)


def name_lines(axes: Any, lines: list[Line], looks: dict[str, Look]) -> None:
    """Each line's name right of the axes, at the height of its end, and a thin leader to it."""
    low, high = map(math.log, axes.get_ylim())
    left, right = map(math.log, axes.get_xlim())
    ends = [(math.log(line.nanoseconds[-1]) - low) / (high - low) for line in lines]
    for line, end, place in zip(lines, ends, spread_out(ends, LABEL_GAP), strict=True):
        look = looks[line.name]
        start = (math.log(line.sizes[-1]) - left) / (right - left)
        axes.annotate(
            line.name,
            xy=(start, end),
            xytext=(1.04, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=look.color,
            fontweight="bold" if line.name == FASTOPT else "normal",
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": look.color, "linewidth": 0.5, "shrinkB": 3, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def variant_figure(records: Iterable[Record], variant: str) -> Any:
    """All peers of one variant."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    records = list(records)
    lines, styles = lines_of(records, variant), looks(records)
    with rc_context(SETTINGS):
        figure = Figure(figsize=(8.5, 4.8))
        axes = figure.add_subplot(xlabel="parameters", ylabel="ns per parameter")
        figure.subplots_adjust(left=0.09, right=0.73, bottom=0.11, top=0.92)
        draw(axes, lines, styles, variant)
        name_lines(axes, lines, styles)
    return figure


def overview_figure(records: Iterable[Record]) -> Any:
    """The main variants, small, with one legend; None where none of them was measured at several sizes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    records = list(records)
    chosen = [variant for variant in OVERVIEW_VARIANTS if variant in variants_with_sizes(records)]
    if not chosen:
        return None
    styles, columns = looks(records), 3
    rows = math.ceil((len(chosen) + 1) / columns)
    with rc_context({**SETTINGS, "font.size": 8.0}):
        figure = Figure(figsize=(10, 2.9 * rows), layout="constrained")
        shown: dict[str, Any] = {}
        for index, variant in enumerate(chosen):
            axes = figure.add_subplot(rows, columns, index + 1)
            draw(axes, lines_of(records, variant), styles, variant)
            handles, labels = axes.get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
            if index % columns == 0:
                axes.set_ylabel("ns per parameter")
            if index >= len(chosen) - columns:
                axes.set_xlabel("parameters")
        legend = figure.add_subplot(rows, columns, len(chosen) + 1)
        legend.axis("off")
        order = [name for name in (FASTOPT, ROOFLINE, *styles) if name in shown]
        names = list(dict.fromkeys(order))
        legend.legend([shown[name] for name in names], names, loc="center", frameon=False, handlelength=3.5)
    return figure


def file_name(variant: str) -> str:
    return variant.lower().replace(" ", "-") + ".svg"


def save(figure: Any, path: Path) -> None:
    from matplotlib import rc_context

    with rc_context(SETTINGS):
        figure.savefig(path, metadata={"Date": None})


def write(records: Iterable[Record], folder: Path) -> dict[str, Path]:
    """Write all figures into a folder; a dictionary from their titles to their paths."""
    records = list(records)
    made: dict[str, Path] = {}
    overview = overview_figure(records)
    if overview is not None:
        made[OVERVIEW_TITLE] = folder / OVERVIEW
        save(overview, made[OVERVIEW_TITLE])
    for variant in variants_with_sizes(records):
        made[variant] = folder / file_name(variant)
        save(variant_figure(records, variant), made[variant])
    return made

"""Draws the gallery's pictures from the examples' results: `python docs/site/pictures.py`, about two minutes.

They are docs/images/example-NAME.svg. Names on the command line draw these alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from fastopt.examples import (
    batch_size,
    custom_rules,
    keras_decay,
    plateau_adam,
    rnn_epoch_decay,
    rprop_full_batch,
    streaming_regression,
)

IMAGES = Path(__file__).resolve().parents[1] / "images"

SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fastopt",
    "font.size": 9.0,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.facecolor": "white",
}


def draw_batch_size(axes: Any) -> None:
    results = batch_size.run()
    sizes = [row.batch for row in results.rows]
    axes.plot(sizes, [100 * row.scaled for row in results.rows], "o-", label="the rate grows with the batch")
    axes.plot(sizes, [100 * row.fixed for row in results.rows], "s--", label="the same rate")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="images in a batch", ylabel="accuracy on the test part, %")
    axes.legend()


def draw_plateau_adam(axes: Any) -> None:
    pairs = plateau_adam.run()
    differences = [each.difference(lambda training: 100 * training.accuracy) for each in pairs]
    means, errors = [each.mean for each in differences], [2 * each.error for each in differences]
    axes.axhline(0, color="0.6", linewidth=1)
    axes.errorbar([each.lr for each in pairs], means, errors, fmt="o", capsize=4)
    axes.set_xscale("log")
    axes.set(xlabel="Adam's first rate", ylabel="accuracy gained by\nReduceOnPlateau, % (two standard errors)")


def draw_rnn_epoch_decay(axes: Any) -> None:
    results = rnn_epoch_decay.run()
    for (name, each), line in zip(results.runs.items(), ("-", "--", "-."), strict=True):
        axes.plot(range(1, len(each.held_out) + 1), each.held_out, line, label=name)
    axes.axvline(results.settings.decay_after, color="0.6", linewidth=1)
    axes.set(xlabel="epoch (the decay begins at the grey line)", ylabel="bits per held-out character")
    axes.legend()


def draw_keras_decay(axes: Any) -> None:
    results = keras_decay.run()
    for (name, epochs), line in zip(results.epochs.items(), ("-", "--", "-."), strict=True):
        axes.plot(range(1, len(epochs) + 1), [100 * epoch.accuracy for epoch in epochs], line, label=name)
    axes.set(xlabel="epoch", ylabel="accuracy on the test part, %")
    axes.legend()


def draw_rprop_full_batch(axes: Any) -> None:
    results = rprop_full_batch.run()
    names = [f"{name},\n{'full batch' if full else 'mini-batches'}" for name, full in results.trainings]
    bars = axes.bar(names, [each.loss for each in results.trainings.values()], width=0.6)
    axes.bar_label(bars, [f"{each.loss:.1e}" for each in results.trainings.values()], padding=2)
    axes.axhline(results.first_loss, color="0.6", linewidth=1, label="before training")
    axes.set_yscale("log")
    axes.set(ylabel=f"loss after {results.epochs} epochs")
    axes.legend()


def draw_custom_rules(axes: Any) -> None:
    trainings = custom_rules.run()
    bars = axes.barh(list(trainings), [100 * each.accuracy for each in trainings.values()], height=0.6)
    axes.bar_label(bars, [f"{each.accuracy:.1%}" for each in trainings.values()], padding=3)
    axes.set(xlabel="accuracy on the test part, %", xlim=(0, 112))
    axes.invert_yaxis()


def draw_streaming_regression(axes: Any) -> None:
    rows = streaming_regression.run().rows
    places = range(len(rows))
    axes.plot([row.error for row in rows], places, "o", label="the coefficients")
    axes.plot([row.average_error for row in rows], places, "s", label="their average")
    axes.set_yticks(places, [row.name for row in rows])
    axes.set_xscale("log")
    axes.set(xlabel="error of the coefficients after one pass")
    axes.margins(y=0.2)
    axes.invert_yaxis()
    axes.legend()


PICTURES: dict[str, Callable[[Any], None]] = {
    name.removeprefix("draw_"): value for name, value in list(globals().items()) if name.startswith("draw_")
}


def main(names: list[str]) -> None:
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # no date in the file
    for name in names or PICTURES:
        with matplotlib.rc_context(SETTINGS), threadpool_limits(1, "blas"):
            figure = Figure(figsize=(6.4, 3.4), layout="constrained")
            PICTURES[name](figure.add_subplot())
            figure.savefig(IMAGES / f"example-{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1:])

"""The numbers behind plots: ends of axes, marks, and what is said about values that are not drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from fastopt.tuning import History, Sweep, SweepRun, plots
from fastopt.tuning.runs import STATUSES
from fastopt.tuning.suggestions import MARKS, suggest

NAN, INF = math.nan, math.inf


def drawn(figure: Figure, tmp_path: Path) -> list[Any]:
    """The axes of a figure that can be written."""
    plots.save(figure, tmp_path / "plot.png")
    return list(figure.axes)


def labelled(axes: Any) -> dict[str, Any]:
    return {artist.get_label(): artist for artist in (*axes.lines, *axes.patches, *axes.collections)}


def inside(axes: Any) -> list[float]:
    """The numbers at the axis of epochs that can be seen."""
    low, high = axes.get_xlim()
    return [tick for tick in axes.get_xticks() if low <= tick <= high]


# --- history ----------------------------------------------------------------------------------------------------------


def history(losses: list[float], initial: float | None = None, **more: list[float]) -> History:
    columns = {"loss": losses, **more}
    epochs = [
        {name: column[index] for name, column in columns.items() if index < len(column)} for index in range(len(losses))
    ]
    return History(epochs, {} if initial is None else {"loss": initial})


HISTORIES = [
    ("diverged at once", history([NAN], 2.3), {0: 2.3}, {1}),
    ("diverged later", history([3.0, 1e8, INF], 1.0), {0: 1.0, 1: 3.0, 2: 1e8}, {3}),
    ("too large", history([1.0, 2e9, 3.0]), {1: 1.0, 3: 3.0}, {2}),
    ("too large for axes", history([1e300, 1e-300], 1e308), {2: 1e-300}, {0, 1}),
    ("never finite", history([NAN, NAN]), {}, {1, 2}),
    ("starts with NaN", history([2.0, 1.0], NAN), {1: 2.0, 2: 1.0}, {0}),
    ("one epoch", history([1.0]), {1: 1.0}, set()),
    ("two points", history([1.0], 2.0), {0: 2.0, 1: 1.0}, set()),
    ("negative", history([-1.0, -5.0], 3.0), {0: 3.0, 1: -1.0, 2: -5.0}, set()),
    ("from zero", history([0.5, 0.9], 0.0), {0: 0.0, 1: 0.5, 2: 0.9}, set()),
    ("tiny", history([1e-300, 2e-300]), {1: 1e-300, 2: 2e-300}, set()),
]


@pytest.mark.parametrize("log_loss", [False, True])
@pytest.mark.parametrize(("found", "shown", "marked"), [case[1:] for case in HISTORIES], ids=[c[0] for c in HISTORIES])
def test_each_epoch_is_drawn_or_marked(
    found: History, shown: dict[int, float], marked: set[int], log_loss: bool, tmp_path: Path
) -> None:
    (axes,) = drawn(plots.plot_history(found, "a title", log_loss), tmp_path)
    curves = [line for line in axes.lines if line.get_linestyle() != "None"]
    points = {int(x): y for line in curves for x, y in zip(*line.get_data(), strict=True)}
    assert points == shown
    crosses = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert {int(x) for line in crosses for x in line.get_xdata()} == marked
    assert all(line.get_label() in ("training: infinite or NaN", "training: too large") for line in crosses)
    low, high = axes.get_ylim()
    assert all(low <= value <= high for value in shown.values())
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert len(axes.get_yticks()) > 0 or not shown


@pytest.mark.parametrize("found", [case[1] for case in HISTORIES], ids=[case[0] for case in HISTORIES])
def test_the_axis_has_the_epochs_there_are(found: History, tmp_path: Path) -> None:
    (axes,) = drawn(plots.plot_history(found, ""), tmp_path)
    first, last = 0 if found.initial else 1, len(found.epochs)
    assert set(inside(axes)) <= set(range(first, last + 1))
    room = 0.03 * (last - first) or 0.5
    assert axes.get_xlim() == pytest.approx((first - room, last + room))


def test_negative_losses_are_not_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    for losses, scale in (([8.0, 1.0], "log"), ([8.0, -1.0], "linear"), ([8.0, 0.0], "linear")):
        (axes,) = drawn(plots.plot_history(history(losses, 1.0), "", log_loss=True), tmp_path)
        assert axes.get_yscale() == scale


def test_metrics_that_an_epoch_lacks_are_not_marked(tmp_path: Path) -> None:
    (axes,) = drawn(plots.plot_history(history([1.0, 2.0, NAN], val_loss=[1.0]), ""), tmp_path)
    assert list(labelled(axes)["held out"].get_xdata()) == [1]
    assert "held out: infinite or NaN" not in labelled(axes)
    assert list(labelled(axes)["training: infinite or NaN"].get_xdata()) == [3]


def test_many_metrics_say_how_many_are_left_out(tmp_path: Path) -> None:
    more = {f"metric_{index}": [1.0, 2.0] for index in range(300)}  # more panels than a picture can have
    axes = drawn(plots.plot_history(history([1.0, 0.5], lr=[0.1, 0.01], **more), ""), tmp_path)
    assert len(axes) == plots.MOST_PANELS
    assert axes[0].get_ylabel() == "loss"
    assert axes[-1].get_ylabel() == "lr"
    assert axes[-1].get_xlabel() == f"epoch ({301 + 1 - plots.MOST_PANELS} more metrics are not drawn)"


def test_long_titles_and_names_are_broken_and_are_no_mathematics(tmp_path: Path) -> None:
    name, title = "a_long_name_of_a_metric_" * 3, "package.module:train, AdamW(betas=(0.8, 0.9), max_grad_norm=1) " * 3
    found = history([1.0, 2.0], **{name: [1.0, 2.0], "$\\no$": [1.0, 2.0]})
    axes = drawn(plots.plot_history(found, title + "$\\no$"), tmp_path)
    assert max(map(len, axes[0].get_title("left").split("\n"))) <= plots.TITLE_WIDTH
    assert max(map(len, axes[1].get_ylabel().split("\n"))) <= plots.LABEL_WIDTH
    assert axes[1].get_ylabel().replace("\n", "") == name


# --- range test -------------------------------------------------------------------------------------------------------


def range_test(losses: list[float], method: str = "steepest") -> tuple[Figure, dict[str, float]]:
    rates = np.geomspace(1e-4, 1, len(losses) or 1)[: len(losses)]
    found = suggest(rates, np.array(losses))
    return plots.plot_range_test("p", list(rates), losses, losses, found, method, 3.0), found


FALLING = [2.3, 2.3, 2.2, 2.0, 1.0, 0.6, 0.5, 0.9, 8.0]


@pytest.mark.parametrize("method", ["steepest", "minimum"])
def test_the_minimum_is_marked_where_it_is(method: str, tmp_path: Path) -> None:
    figure, found = range_test(FALLING, method)
    (axes,) = drawn(figure, tmp_path)
    ((lowest, mark),) = [each for each in labelled(axes).items() if each[0].startswith("lowest smoothed loss: at")]
    (rate,), (loss,) = mark.get_data()
    assert loss == min(FALLING)
    assert found["minimum"] == pytest.approx(rate / 10)
    assert lowest == f"lowest smoothed loss: at {rate:.3g}"
    suggested = [label for label in labelled(axes) if label.endswith("(suggested)")]
    assert suggested == [f"{MARKS[method]}: {found[method]:.3g} (suggested)"]
    assert f"minimum, a tenth of the lowest: {found['minimum']:.3g}" in " ".join(labelled(axes))


@pytest.mark.parametrize(
    "losses",
    [
        FALLING,
        [2.3] * 20,
        [5.0],
        [5.0, 4.0],
        [],
        [6.0, 7.0, 9.0, 14.0],
        [-2.0, -3.0, -9.0, -1.0],
        [1e6, 2e5, 1e200],
        [0.0],
    ],
    ids=["falling", "flat", "one", "two", "none", "rising", "negative", "exploding", "zero"],
)
def test_the_axis_has_what_comes_before_the_lowest_loss(losses: list[float], tmp_path: Path) -> None:
    figure, found = range_test(losses)
    (axes,) = drawn(figure, tmp_path)
    low, high = axes.get_ylim()
    assert low < high
    until = losses[: losses.index(min(losses)) + 1] if found else losses
    assert all(low < loss < high for loss in until)
    if losses:
        assert high - low < 10 * max(abs(losses[0]), max(losses[0] - min(losses), 1))  # the explosion is cut off
    else:
        assert len(axes.get_yticks()) == 0


# --- sweep ------------------------------------------------------------------------------------------------------------

RATES = [0.001, 0.01, 0.1, 1.0]


def sweep_of(values: list[list[float | str]], metric: str = "loss", mode: str = "min") -> Sweep:
    """A sweep over RATES; a value is a metric, or the status of a run without one."""

    def run(lr: float, seed: int, value: float | str) -> SweepRun:
        if value in STATUSES:
            return SweepRun(lr, seed, str(value), {metric: NAN} if value == "diverged" else {}, error="KeyError")
        return SweepRun(lr, seed, "completed", {metric: float(value)})

    rows = zip(RATES, values, strict=False)
    return Sweep("p", "SGD", metric, mode, tuple(run(lr, *each) for lr, row in rows for each in enumerate(row)))


def axes_of(found: Sweep, tmp_path: Path) -> Any:
    figure = plots.plot_sweep("s", found.metric, found.mode, found.runs, found.points, found.best, found.region)
    return drawn(figure, tmp_path)[0]


@pytest.mark.parametrize("best", range(4))
def test_the_shade_ends_with_the_grid(best: int, tmp_path: Path) -> None:
    axes = axes_of(sweep_of([[1.0 + (index != best)] for index in range(4)]), tmp_path)
    vertices = labelled(axes)["about as good as the best"].get_extents().transformed(axes.transData.inverted())
    low, high = vertices.x0, vertices.x1
    assert low == pytest.approx(max(RATES[best] / math.sqrt(10), RATES[0]))
    assert high == pytest.approx(min(RATES[best] * math.sqrt(10), RATES[-1]))


def test_a_single_rate_has_no_shade(tmp_path: Path) -> None:
    axes = axes_of(sweep_of([[1.0, 2.0]]), tmp_path)
    assert "about as good as the best" not in labelled(axes)
    assert "best: 0.001" in labelled(axes)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_runs_without_a_value_are_marked(mode: str, tmp_path: Path) -> None:
    values = [["diverged", 2.0], [2.0, "failed"], [NAN, 1.5], [2.0, 2.0]]
    axes = axes_of(sweep_of(values, mode=mode), tmp_path)
    for label, rate in (("diverged", 0.001), ("failed", 0.01), ("infinite or NaN", 0.1)):
        (line,) = [line for line in axes.lines if line.get_label() == label]
        assert list(line.get_xdata()) == [rate]


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_sweep_without_any_value(status: str, tmp_path: Path) -> None:
    axes = axes_of(sweep_of([[status, status]] * 4), tmp_path)
    assert len(axes.get_yticks()) == 0
    assert set(labelled(axes)) == {status}


def test_lines_have_gaps_where_there_is_no_value(tmp_path: Path) -> None:
    axes = axes_of(sweep_of([[1.0, 2.0], ["diverged", "diverged"], [1.0, 3.0], [1.0, 2.0]]), tmp_path)
    medians = labelled(axes)["median over seeds"].get_ydata()
    np.testing.assert_array_equal(medians, [1.5, NAN, 2.0, 1.5])
    ends = [path.get_extents() for path in labelled(axes)["spread over seeds"].get_paths()]
    assert [end.x0 for end in ends if end.x0 < end.x1] == [0.1]  # one rate alone has no width


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    labels = labelled(axes_of(sweep_of([[1.0], [2.0], [3.0], [4.0]]), tmp_path))
    assert "one seed" in labels
    assert not {"median over seeds", "spread over seeds"} & set(labels)

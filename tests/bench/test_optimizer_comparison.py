"""The comparison of optimizers, and the page that shows it."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from fastopt.bench import optimizer_comparison as comparison
from fastopt.bench import optimizer_comparison_report as report
from fastopt.bench.optimizer_comparison import TASKS, Row, Task, rows
from fastopt.definitions.specs import SPECS

DOCS = Path(__file__).resolve().parents[2] / "docs"
BY_NAME = {row.name: row for row in rows()}
SHORT = [task for task in TASKS if task.name in ("digits", "Rosenbrock")]


def test_every_optimizer_has_a_row() -> None:
    assert {row.spec.name for row in BY_NAME.values()} == set(SPECS)
    assert len(BY_NAME) == len(rows())


def test_measured_rows_are_printed_drawn_and_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "TASKS", SHORT)
    path, plot = tmp_path / "results.json", tmp_path / "plot.svg"
    chosen = ["--optimizer", "Rprop", "--json", str(path), "--quick"]
    comparison.main([*chosen, "--task", "digits"])
    first = json.loads(path.read_text())
    assert set(first["Rprop"]) == {"digits", comparison.COSTS}
    comparison.main([*chosen, "--optimizer", "AdamW", "--plot", str(plot)])
    capsys.readouterr()
    both = json.loads(path.read_text())
    assert list(both) == ["AdamW", "Rprop"]  # in the order of the table of specs
    assert both["Rprop"]["digits"] == first["Rprop"]["digits"]
    assert set(both["Rprop"]) == {"digits", "Rosenbrock", comparison.COSTS}
    comparison.main(["--json", str(path), "--quick", "--optimizer", "AdamW"])
    assert capsys.readouterr().out.strip() == report.tables(both, [task.name for task in SHORT])
    written = "".join(ElementTree.parse(plot).getroot().itertext())
    assert all(text in written for text in ("Rprop", "AdamW", "digits", "Rosenbrock"))


def test_the_page_shows_what_was_measured() -> None:
    page = (DOCS / "which-optimizer.md").read_text()
    results = json.loads((DOCS / "which-optimizer.json").read_text())
    for table in report.tables(results, [task.name for task in TASKS]).split("\n\n"):
        assert table in page


def test_no_two_rows_are_the_same_optimizer() -> None:
    """As LARS and SGD with momentum are with the defaults of LARS."""
    results = json.loads((DOCS / "which-optimizer.json").read_text())
    losses = [tuple(found["digits"]["losses"].values()) for found in results.values()]
    assert len(set(losses)) == len(losses)


# --- tuning -----------------------------------------------------------------------------------------------------------


class Line:
    """The distance of x from -0.3, with seed 0 from -30, and the seed on top."""

    def __init__(self, seed: int, quick: bool) -> None:
        self.seed = seed
        self.weights = [np.array([1.0])]
        self.gradients = [np.array([1.0])]

    def training(self, steps: int) -> Any:
        for _ in range(steps):
            yield

    def held_out_loss(self) -> float:
        (x,) = self.weights[0]
        return abs(float(x) - (1 if self.seed else 100) * -0.3) + self.seed


def test_the_rate_is_of_the_second_sweep_and_losses_of_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients of 1, ten steps of SGD go from 1 down by ten rates."""
    monkeypatch.setattr(comparison, "rate", lambda row, lr, steps: lr)
    task = Task("line", Line, steps=10, decades=range(-1, 3), refine=2)
    found = comparison.tuned(task, Row("SGD", SPECS["SGD"]), quick=False)
    # Seed 0 wants x = -30, so that 1 is the best of the first four; seeds 1 and 2 want -0.3, and 0.215 is the nearest.
    assert list(found["rates"]) == ["0.001", "0.01", "0.1", "0.215", "0.464", "1"]
    assert found["lr"] == pytest.approx(0.215, rel=0.01)
    x = 1 - 10 * found["lr"]
    assert found["losses"] == {str(seed): pytest.approx(abs(x + 0.3) + seed) for seed in comparison.SEEDS}


def test_what_diverges_at_every_rate_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "held_out_loss", lambda self: math.nan)
    task = Task("line", Line, steps=3, decades=range(2))
    found = comparison.tuned(task, Row("SGD", SPECS["SGD"]), quick=False)
    assert (found["lr"], found["losses"]) == (None, {})
    assert set(found["rates"].values()) == {None}


def test_training_ends_when_weights_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Line, "training", lambda self, steps: (seen.append(step) for step in range(steps)))
    training = comparison.Training(Task("line", Line, 1000), BY_NAME["SGD"], False)

    class Breaks:
        def __init__(self, params: Any, **arguments: Any) -> None:
            self.params = params

        def step(self, grads: Any) -> None:
            self.params[0][:] = math.nan

    assert training(1.0, 1, Breaks) == math.inf
    assert len(seen) == 1


@pytest.mark.parametrize("name", BY_NAME)
def test_rates_follow_the_schedule(name: str) -> None:
    rate: Any = comparison.rate(BY_NAME[name], 2.0, 100)
    if name == "Rprop":  # its first step size
        assert rate == 2.0
        return
    assert [rate(step) for step in (0, 5)] == pytest.approx([0.4, 2.0])
    ends_at = 2.0 if name.startswith("ScheduleFree") else 0.0
    assert rate(99) == pytest.approx(ends_at, abs=1e-3)


# --- tables -----------------------------------------------------------------------------------------------------------


def found(lr: float | None, *losses: float | None) -> dict[str, Any]:
    seeds = {str(seed): loss for seed, loss in enumerate(losses)}
    return {"typical_lr": 0.1, "rates": {"0.01": 3.0, "0.1": None}, "lr": lr, "losses": seeds}


RESULTS = {
    "best": {"task": found(0.01, 1.0, 1.2, 1.1), "costs": {"bytes": 8.0, "time": 1.0}},
    "as good": {"task": found(0.02, 1.3, 1.2, 1.0), "costs": {"bytes": 4.0, "time": 0.5}},
    "worse": {"task": found(0.03, 1.3, None, 1e-5)},
    "diverged": {"task": found(None)},
    "absent": {},
}


def test_medians_that_cannot_be_told_from_the_best_are_bold() -> None:
    losses, rates = report.tables(RESULTS, ["task"]).split("\n\n")
    assert losses.splitlines()[2:] == [
        "| best | **1.100** (1.000 to 1.200) | 8 | 1.00 |",
        "| as good | **1.200** (1.000 to 1.300) | 4 | 0.50 |",
        "| worse | 1.300 (1.0e-05 to diverged) |  |  |",
        "| diverged | diverged |  |  |",
        "| absent |  |  |  |",
    ]
    assert rates.splitlines()[2] == "| best | 0.1 | 0.01 (diverged) |"
    assert rates.splitlines()[5:] == ["| diverged | 0.1 | none (diverged) |", "| absent |  |  |"]


def test_rows_are_drawn_in_the_order_of_their_ranks() -> None:
    ranks = [report.mean_rank(RESULTS, row, ["task"]) for row in RESULTS]
    assert ranks == [0, 1, 2, 3, 3]

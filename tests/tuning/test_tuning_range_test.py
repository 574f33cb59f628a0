"""The range test: what it suggests, and that it puts everything back."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tuning_cases
from cases import Case, equal_bits, own_rate
from threadpoolctl import threadpool_limits

import fastopt
from fastopt.definitions.specs import SPECS
from fastopt.tuning import range_test
from fastopt.tuning.suggestions import most_counted, smooth, suggest

TARGET = np.linspace(-1, 1, 40)
WITH_RATE = [name for name, spec in SPECS.items() if spec.uses_lr]


pytestmark = pytest.mark.blas


@pytest.fixture(autouse=True)
def _one_thread_for_matrices() -> Iterator[None]:
    with threadpool_limits(1, "blas"):
        yield


def everything(optimizer: fastopt.Optimizer) -> list[np.ndarray]:
    """All that steps write."""
    arrays = [param for group in optimizer.param_groups for param in group["params"]]
    for state in optimizer.state.values():
        arrays += [np.asarray(value) for value in state.values()]
    settled = [optimizer.grad_norm, optimizer.skipped_steps, optimizer.consecutive_skips]
    return [array.copy() for array in arrays] + [np.array(settled, float)]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_grad_norm": 1.0, "ema_decay": 0.9},
    {"accumulate_steps": 3},
    {"nonfinite": "skip"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("earlier_steps", [0, 4])
@pytest.mark.parametrize("name", WITH_RATE)
def test_everything_is_put_back_and_training_goes_on_as_if_nothing_had_been(
    name: str, earlier_steps: int, options: dict[str, Any]
) -> None:
    options = Case(name, {}).possible(options)

    def make() -> tuple[np.ndarray, np.ndarray, fastopt.Optimizer]:
        w, b = np.zeros(40), np.ones(3)
        hyperparameters = {"momentum": 0.9} if "momentum" in SPECS[name].defaults else {}
        groups = [{"params": w}, {"params": b, **own_rate(name, 0.3)}]
        return w, b, getattr(fastopt, name)(groups, lr=0.1, **hyperparameters, **options)

    def train(w: np.ndarray, b: np.ndarray, optimizer: fastopt.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.step([w - TARGET, b.copy()])

    w, b, optimizer = make()
    train(w, b, optimizer, earlier_steps)
    before, moved = everything(optimizer), []

    def closure(step: int) -> tuple[float, list[np.ndarray]]:
        moved.append(not equal_bits(w, before[0]))
        gradient = w - TARGET
        if step == 3 and options.get("nonfinite") == "skip":
            gradient[7] = np.nan
        return float(np.square(w - TARGET).sum()), [gradient, b.copy()]

    found = range_test(optimizer, closure, min_lr=1e-4, max_lr=1e3, points=40)
    assert any(moved)
    assert found.rates[0] == 1e-4
    for was, now in zip(before, everything(optimizer), strict=True):
        assert equal_bits(was, now)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, own_rate(name, 0.3).get("lr", 0.1)]
    train(w, b, optimizer, 7)
    w2, b2, untested = make()
    train(w2, b2, untested, earlier_steps + 7)
    for one, other in zip(everything(optimizer), everything(untested), strict=True):
        assert equal_bits(one, other)


def test_it_is_put_back_where_the_closure_raises_and_bound_gradients_too() -> None:
    w, g = np.zeros(40), np.full(40, 0.25)
    optimizer = fastopt.Adam(w, lr=0.1, grads=g)
    optimizer.step()
    before = everything(optimizer)

    def closure(step: int) -> float:
        if step == 5:
            raise KeyError("no more data")
        g[:] = w - TARGET
        return float(np.square(w - TARGET).sum())

    with pytest.raises(KeyError, match="no more data"):
        range_test(optimizer, closure)
    for was, now in zip(before, everything(optimizer), strict=True):
        assert equal_bits(was, now)
    assert (g == 0.25).all()
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_groups_keep_the_ratios_of_their_rates() -> None:
    seen = []
    a, b = np.ones(3), np.ones(3)
    optimizer = fastopt.SGD([{"params": a}, {"params": b, "lr": 0.02}], lr=0.1)

    def closure(step: int) -> tuple[float, list[np.ndarray]]:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return 1.0, [np.zeros(3), np.zeros(3)]

    found = range_test(optimizer, closure, min_lr=1e-3, max_lr=1, points=10)
    np.testing.assert_allclose(seen, [[rate, 0.2 * rate] for rate in found.rates], rtol=1e-12)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-3, 1, 10), rtol=1e-11)


@pytest.mark.parametrize(
    ("problem", "optimizer", "low", "high"),
    [
        ("digits", fastopt.SGD, 0.05, 5),
        ("digits", functools.partial(fastopt.SGD, momentum=0.9), 0.01, 0.5),
        ("digits-mlp", "SGD", 0.03, 1.5),
        ("digits-mlp", "Adam", 2e-3, 0.06),
        ("digits-mlp", "RMSprop", 5e-4, 0.03),
        ("diabetes", "SGD", 1e-3, 0.1),
    ],
)
def test_the_suggestion_is_a_good_rate(problem: str, optimizer: Any, low: float, high: float) -> None:
    found = range_test(problem, optimizer=optimizer)
    assert found.suggestion is not None
    assert low < found.suggestion < high
    assert low < 3 * found.suggestions["minimum"] < high
    assert range_test(problem, optimizer=optimizer) == found


def test_it_stops_at_divergence() -> None:
    found = range_test("diabetes", optimizer="SGD", method="minimum")
    assert found.diverged_at is not None
    assert 0.1 < found.diverged_at < 10
    assert found.rates[-1] <= found.diverged_at
    assert found.suggestion == found.suggestions["minimum"]
    assert all(map(math.isfinite, found.losses))
    later = range_test("diabetes", optimizer="SGD", divergence=1e6)
    assert later.diverged_at is not None
    assert later.diverged_at > found.diverged_at


def test_no_suggestion_where_nothing_falls() -> None:
    low = range_test("digits", optimizer="SGD", min_lr=1e-9, max_lr=1e-8, points=20)
    assert low.suggestion is None
    assert low.reason == "no suggestion: it did not fall; try higher rates, or more points"
    high = range_test("diabetes", optimizer="SGD", min_lr=100, max_lr=1e9, points=20)
    assert high.suggestion is None
    assert high.reason == "no suggestion: it diverged at once; try lower rates, or more points"


def test_smoothing_has_no_lag() -> None:
    rates = np.geomspace(1e-4, 10, 101)
    curve = 1 / (1 + np.exp(np.log(rates / 0.01)))  # steepest at 0.01
    noisy = curve + np.random.default_rng(0).normal(0, 0.02, rates.size)
    assert suggest(rates, smooth(noisy, 4))["steepest"] == pytest.approx(0.01, rel=0.5)
    assert suggest(rates, smooth(curve, 4))["steepest"] == pytest.approx(0.01, rel=1e-6)
    np.testing.assert_allclose(smooth(np.full(9, 2.0), 3), 2.0, rtol=1e-12)
    assert smooth(curve, 0) is curve


@pytest.mark.parametrize("first", [2.0, -2.0, 0.0])
def test_what_one_loss_counts_for(first: float) -> None:
    assert most_counted([first, 9.0], 4.0) == first + 3 * abs(first)
    assert most_counted([], 4.0) == math.inf


def test_an_explosion_at_the_end_does_not_move_the_suggestions() -> None:
    rates = np.geomspace(1e-5, 1, 60)
    curve = 2 - 1.5 / (1 + np.exp(-3 * np.log(rates / 0.003)))
    found = []
    for last in (8.0, 1e30):
        losses = [*curve[:50], last, last]
        optimizer = fastopt.SGD(np.zeros(3))
        found.append(
            range_test(
                optimizer, lambda step, losses=losses: (losses[step], np.zeros(3)), min_lr=1e-5, max_lr=1, points=60
            )
        )
    moderate, exploded = found
    assert exploded.diverged_at is not None
    assert exploded.suggestions == pytest.approx(moderate.suggestions, rel=0.3)
    assert exploded.smoothed[:30] == pytest.approx(moderate.smoothed[:30])
    assert exploded.losses[-1] == 1e30  # the data are as they were


def test_the_table_marks_the_lowest_loss_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    found = range_test("digits-mlp", optimizer="Adam", points=40)
    rows = {mark: row for row, mark in enumerate(found.table().columns[-1].cells) if mark}
    smoothed = [float(cell) for cell in found.table().columns[2].cells]  # type: ignore[arg-type]
    assert list(rows) == ["minimum, a tenth of the lowest", "steepest", "lowest"]
    assert smoothed[rows["lowest"]] == min(smoothed)
    assert capsys.readouterr().out == ""


def test_to_json_table_and_plot(tmp_path: Path) -> None:
    found = range_test("digits-mlp", optimizer="Adam", points=30)
    values = json.loads(found.to_json())
    assert values["suggestion"] == found.suggestion
    assert values["losses"] == list(found.losses)
    assert found.table().row_count >= 10
    assert found.plot(tmp_path / "range.png").read_bytes().startswith(b"\x89PNG")
    assert repr(found).startswith("RangeTest(digits-mlp, Adam, suggestion=0.")
    flat = range_test("digits", optimizer="SGD", min_lr=1e-9, max_lr=1e-8, points=20)
    assert b"<svg" in flat.plot(tmp_path / "flat.svg").read_bytes()


def loss_only(step: int) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("target", "keywords", "error", "match"),
    [
        ("digits", {"min_lr": 1, "max_lr": 0.1}, ValueError, "min_lr must be less than max_lr, got 1 and 0.1"),
        ("digits", {"min_lr": 0}, ValueError, "min_lr must be finite and > 0, got 0"),
        ("digits", {"max_lr": math.inf}, ValueError, "max_lr must be finite and > 0, got inf"),
        ("digits", {"points": 9}, ValueError, "points must be at least 10"),
        ("digits", {"method": "steep"}, ValueError, "method must be one of 'steepest', 'minimum', got 'steep'"),
        ("digits", {"smoothing": -1}, ValueError, "smoothing must be at least 0 and at most 0.5, got -1"),
        ("digits", {"divergence": 1}, ValueError, "divergence must be > 1, got 1"),
        ("digits", {"optimizer": "Rprop"}, ValueError, "lr is not used in the steps of Rprop: sweep it instead"),
        ("digits", {"closure": loss_only}, TypeError, "closure goes with an optimizer of your own, got 'digits'"),
        (tuning_cases.parabola, {}, TypeError, "tuning_cases:parabola trains by itself"),
        (tuning_cases.not_a_problem, {}, TypeError, "must return a problem with params, batches"),
        (fastopt.SGD(np.ones(3)), {}, TypeError, "an optimizer of your own needs closure"),
        (fastopt.SGD(np.ones(3)), {"closure": 3}, TypeError, "closure must be a function of the step, got 3"),
        (fastopt.Rprop(np.ones(3)), {"closure": loss_only}, ValueError, "lr is not used in the steps of Rprop"),
        (fastopt.SGD(np.ones(3)), {"closure": lambda step: None}, TypeError, "what closure returned: the loss must be"),
        (fastopt.SGD(np.ones(3)), {"closure": lambda step: (1, 2, 3)}, TypeError, "got a tuple of 3"),
        (fastopt.SGD(np.ones(3)), {"closure": loss_only}, TypeError, "step.. needs gradients"),
    ],
)
def test_bad_range_tests(target: Any, keywords: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        range_test(target, **keywords)

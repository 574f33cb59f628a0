"""The thresholds of the divergence guard, each on numbers made for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

import fastopt
from fastopt.guard.signals import Oscillation, Progress, Signal


class Swing(NamedTuple):
    name: str
    expected: bool
    cosine: float = -1.0
    loss: Callable[[int], float] = lambda step: 1.0
    norm: Callable[[int], float] = lambda step: 1.0
    steps: int = 20


SWINGS = [
    Swing("against each other", True),
    Swing("growing", True, loss=lambda step: 1.1**step, norm=lambda step: 1.1**step),
    Swing("not long enough", False, steps=19),
    Swing("not against each other", False, cosine=-0.96),
    Swing("dying out", False, norm=lambda step: 0.95**step),
    Swing("getting on", False, loss=lambda step: 0.97**step),
    Swing("arrived", False, norm=lambda step: 1e-4),
]


@pytest.mark.parametrize("case", SWINGS, ids=lambda case: case.name)
def test_oscillation(case: Swing) -> None:
    oscillation = Oscillation(10)
    for step in range(case.steps):
        oscillation.norms.append(case.norm(step))
        oscillation.add(case.cosine, case.loss(step))
    assert oscillation.goes_on(early_norm=1.0) == case.expected


class Course(NamedTuple):
    name: str
    stagnates: bool
    losses: Callable[[np.random.Generator, np.ndarray], np.ndarray]


COURSES = [
    Course("constant", True, lambda rng, steps: np.ones(400)),
    Course("noise", True, lambda rng, steps: 1 + 0.1 * rng.standard_normal(400)),
    Course("too slow", True, lambda rng, steps: 1 - 1e-7 * steps),
    Course("rising", True, lambda rng, steps: 1 + 0.01 * steps),
    Course("done within the first window", False, lambda rng, steps: 0.1 + 0.2**steps),
    Course("slow, with little noise", False, lambda rng, steps: 1 - 1e-4 * steps + 1e-3 * rng.standard_normal(400)),
    Course("less than the noise", False, lambda rng, steps: 1 - 4e-4 * steps - 0.1 * (-1) ** steps),
    Course("negative", False, lambda rng, steps: -1 - 0.01 * steps),
    Course("negative and constant", True, lambda rng, steps: -np.ones(400)),
]


@pytest.mark.parametrize("case", COURSES, ids=lambda case: case.name)
def test_stagnation(case: Course, rng: np.random.Generator) -> None:
    progress, found = Progress(20, 400, 1e-3), []
    for loss in case.losses(rng, np.arange(400.0)):
        progress.add(float(loss))
        found.append(progress.stagnates)
    assert not any(found[:-1])
    assert found[-1] == case.stagnates


class Outlier(NamedTuple):
    name: str
    before: list[float]
    value: float
    expected: bool


OUTLIERS = [
    Outlier("twelve times the median", [1.0] * 20, 12.0, True),
    Outlier("ten times the median", [1.0] * 20, 10.0, False),
    Outlier("before there is a median", [1.0] * 9, 1e9, False),
    Outlier("after larger ones", [1.0] * 20 + [3.0] + [1.0] * 10, 15.0, False),
    Outlier("small beside the beginning", [1.0] * 10 + [1e-6] * 40, 0.09, False),
    Outlier("large beside the beginning", [1.0] * 10 + [1e-6] * 800, 0.11, True),
]


@pytest.mark.parametrize("case", OUTLIERS, ids=lambda case: case.name)
def test_outliers(case: Outlier) -> None:
    signal = Signal(10)
    for value in case.before:
        signal.add(value)
    assert (signal.is_outlier(case.value, 10, 0.1) is not None) == case.expected


def test_slow_growth_is_found_beside_the_beginning() -> None:
    signal, step = Signal(10), 0
    while signal.outgrows_start(1.1**step, 10) is None and signal.is_outlier(1.1**step, 10, 0.1) is None:
        signal.add(1.1**step)
        step += 1
    assert 1.1**step > 11 * 1.1**4.5 >= 1.1 ** (step - 1)  # 1.1**4.5 about is the median of the first ten


def test_a_solved_problem_does_not_stagnate() -> None:
    guard = fastopt.DivergenceGuard(fastopt.SGD(np.ones(3), lr=0.1), "stop", on_stall="stop", patience=80)
    assert all(guard.step(0.0, np.zeros(3)) for _ in range(200))


def test_after_a_restoration_recent_norms_count_no_more() -> None:
    optimizer = fastopt.SGD(np.ones(3), lr=0.1)
    guard = fastopt.DivergenceGuard(optimizer, "restore", window=4)
    for scale in (1.0, 1.0, 1.0, 1.0, 1.0):
        assert guard.step(1.0, scale * np.ones(3))
    assert not guard.step(np.nan, np.ones(3))
    assert guard.step(1.0, 100 * np.ones(3))  # there is no median to compare it with

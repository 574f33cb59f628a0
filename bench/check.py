"""Compares the results of two optimizers, before anything is timed."""

from __future__ import annotations

import numpy as np

from .cases import Problem
from .clock import CLOCK
from .runner import Runner

STEPS = 3
ABSOLUTE = 1e-6
RELATIVE = 1e-5
"""Agreement: |a - b| <= ABSOLUTE + RELATIVE * |b| for each parameter, after STEPS steps that each move it by about the
learning rate, 1e-3 at least. At first parameters lie within [-0.5, 0.5]."""

CHUNK = 1 << 20
"""Number of elements compared at once."""


def take_steps(problem: Problem, runners: dict[str, Runner]) -> dict[str, list[float]]:
    """Take STEPS steps with each runner, over gradients that change, also in sign; the seconds of the steps of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(STEPS):
        problem.change_gradients()
        for name, runner in runners.items():
            runner.take_gradients()
            step, start = runner.prepared_step, CLOCK.now()
            step()
            seconds[name].append(CLOCK.now() - start)
    return seconds


def difference(
    mine: list[np.ndarray], theirs: list[np.ndarray], relative: float = RELATIVE, absolute: float = ABSOLUTE
) -> str | None:
    """Where two lists of parameters first disagree, in words; None when they agree. NaN agrees with nothing."""
    for index, (left, right) in enumerate(zip(mine, theirs, strict=True)):
        left, right = left.reshape(-1), right.reshape(-1)
        for start in range(0, left.size, CHUNK):
            a, b = left[start : start + CHUNK], right[start : start + CHUNK]
            with np.errstate(invalid="ignore"):
                agrees = np.abs(a - b) <= absolute + relative * np.abs(b)
            if not agrees.all():
                first = int(np.argmin(agrees))
                return f"tensor {index}, element {start + first}: {a[first]} and {b[first]}"
    return None


def disagreement(
    problem: Problem, ours: Runner, theirs: Runner, relative: float = RELATIVE, absolute: float | None = None
) -> str | None:
    """The disagreement of two runners that have taken the same steps, or None."""
    if ours.results is None or theirs.results is None:
        return None
    mine = ours.results()
    if difference(mine, problem.params) is None:
        return "no parameter was updated"
    return difference(mine, theirs.results(), relative, ABSOLUTE if absolute is None else absolute)

"""Training runs that are saved and go on: with everything that a file can hold, and always with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from comparing import snapshot

import fastopt

SHAPES = {"W": (3, 4), "b": (4,)}


@dataclass
class Run:
    """An optimizer and what belongs to it."""

    optimizer: Any
    others: dict[str, Any]
    advance: Callable[[Run, int], None]

    def steps(self, count: int, first: int = 0) -> Run:
        for step in range(first, first + count):
            self.advance(self, step)
        return self


def params() -> dict[str, np.ndarray]:
    return {name: np.linspace(-1, 1, int(np.prod(shape))).reshape(shape) for name, shape in SHAPES.items()}


def gradients(step: int) -> dict[str, np.ndarray]:
    """Rational numbers: the same on every machine."""
    return {name: (value + 1 / (1 + step)) / (2 + len(name)) for name, value in params().items()}


def advance(run: Run, step: int) -> None:
    run.optimizer.step(gradients(step))
    run.others["plateau"].step(1 + 1 / (1 + step) if step < 5 else 2.0)
    run.others["extra"]["history"][step % 4] = step
    run.others["extra"]["step"] = step
    run.others["rng"].integers(0, 10, 3)
    run.others["guard"].check(1 + 1 / (1 + step), gradients(step))


def everything() -> Run:
    """A run in which every kind of part of a file occurs that needs no PyTorch."""
    optimizer = fastopt.Adam(
        params(), lr=fastopt.schedules.CosineDecay(0.1, 100), amsgrad=True, ema_decay=0.5, accumulate_steps=2
    )
    others = {
        "plateau": fastopt.ReduceOnPlateau(optimizer, patience=1),
        "guard": fastopt.DivergenceGuard(optimizer, on_divergence="warn", on_stall="warn", window=4),
        "extra": {"history": np.zeros(4, np.int64), "step": -1, "best": (1.5, float("inf")), "nested": {"x": None}},
        "rng": np.random.default_rng(5),
        "twister": np.random.Generator(np.random.MT19937(5)),
    }
    return Run(optimizer, others, advance)


def all_of(run: Run) -> list[Any]:
    """Everything that a run holds, in a form that can be compared."""
    found: list[Any] = [snapshot(run.optimizer), repr(run.optimizer.current_lr), run.optimizer.iterations]
    for other in run.others.values():
        if isinstance(other, np.random.Generator):
            found.append(repr(other.bit_generator.state))
        elif isinstance(other, dict):
            found.append(repr(other))
        else:
            found.append(repr(other.state_dict()))
    return found

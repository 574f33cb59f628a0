"""The interface of peers, and of an optimizer that is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cases import Problem
from .clock import CLOCK


@dataclass(frozen=True)
class Runner:
    """An optimizer, ready to step.

    `results` gives its parameters as NumPy arrays; None where nothing is computed that could be compared.
    `take_gradients` is called when the problem's gradients have changed, `prepare` before every step, untimed. It is as
    fast as it gets after so many `learning_steps`.
    """

    step: Callable[[], Any]
    results: Callable[[], list[np.ndarray]] | None
    take_gradients: Callable[[], None] = lambda: None
    learning_steps: int = 0
    prepare: Callable[[], None] | None = None

    @property
    def prepared_step(self) -> Callable[[], Any]:
        """What is called and timed, by CLOCK."""
        return self.step if self.prepare is None else CLOCK.without(self.prepare, self.step)


@dataclass(frozen=True)
class Peer:
    """One way to run an optimizer. `unavailable` says why it cannot run a problem, or None when it can.

    `approximate`: its states have fewer bits, so it is no peer to be ahead of; `absolute`: by how much its results
    may then differ, in place of `check.ABSOLUTE`.
    """

    name: str
    start: Callable[[Problem], Runner]
    unavailable: Callable[[Problem], str | None] = lambda problem: None
    approximate: bool = False
    by_hand: bool = False
    """What one would write without a library, with this very rule in it."""
    absolute: float | None = None

"""The interfaces of peers and of measured optimizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cases import Problem, Variant
from .clock import CLOCK


@dataclass(frozen=True)
class Runner:
    """An optimizer, ready to step.

    `results` returns its parameters as NumPy arrays; it is None if there are no results to compare.
    `take_gradients` is called when the gradients of the problem have changed, `prepare` before every step, untimed. The
    optimizer reaches its full speed after `learning_steps` steps.
    """

    step: Callable[[], Any]
    results: Callable[[], list[np.ndarray]] | None
    take_gradients: Callable[[], None] = lambda: None
    learning_steps: int = 0
    prepare: Callable[[], None] | None = None

    @property
    def prepared_step(self) -> Callable[[], Any]:
        """The function that is called and timed, by CLOCK."""
        return self.step if self.prepare is None else CLOCK.without(self.prepare, self.step)


@dataclass(frozen=True)
class Peer:
    """One way to run an optimizer. `unavailable` says why it cannot run a problem, or None when it can.

    `approximate`: its states have fewer bits, so fastopt need not be faster; `absolute`: how much its results may then
    differ, instead of `check.ABSOLUTE`.
    """

    name: str
    start: Callable[[Problem], Runner]
    unavailable: Callable[[Problem], str | None] = lambda problem: None
    approximate: bool = False
    by_hand: bool = False
    """Whether it is code written without a library, for exactly this rule."""
    absolute: float | None = None
    bytes_of: Callable[[Variant], float] = lambda variant: variant.bytes_per_parameter
    """How many bytes a step moves for each parameter."""

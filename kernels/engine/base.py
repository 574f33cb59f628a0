"""What the engines written in Python share: their inputs, one caller at a time, and numbers that change."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from .contract import BUSY, SHARED, SWAPPED, EngineInputs, Result
from .plan import GroupPlan, StepPlan, check_operands


class EngineBase:
    """See `contract.Engine`. A subclass has `accept_gradients`, `run_step` and `run_swap`."""

    def __init__(self, inputs: EngineInputs) -> None:
        check_operands(inputs.plans, inputs.dtype)
        self.dtype = inputs.dtype
        self.plans = list(inputs.plans)
        self.segments = inputs.segments
        self.settings = inputs.settings
        self.records = inputs.records
        self.progress = inputs.progress
        self.plan = inputs.plan
        self.reject = inputs.reject
        self.report = inputs.report
        self.n_threads = inputs.plan.n_threads
        self.bound = False
        self.gradients: list[Any] = [None] * len(inputs.segments)
        self.lock = threading.Lock()

    # --- what a subclass does -----------------------------------------------------------------------------------------

    def accept_gradients(self, gradients: list[Any]) -> None:
        """Check gradients before they are used; raises where one cannot be."""
        raise NotImplementedError

    def run_step(self, gradients: list[Any] | None, prepare: Callable[[], None] | None) -> None:
        """A step, with other threads kept out; without gradients, with those that were accepted last."""
        raise NotImplementedError

    def run_swap(self) -> None:
        """Exchange every parameter with its average, with other threads kept out."""
        raise NotImplementedError

    # --- what they share ----------------------------------------------------------------------------------------------

    def alone(self, function: Callable[[], Result], /) -> Result:
        """The result of `function()`, with other threads' steps kept out; an error when one is under way.

        Where two threads find the lock free at once, one waits. A signal's handler can run after any call; `with` a
        lock leaves it no place between taking the lock and being bound to give it back.
        """
        if self.lock.locked():
            raise RuntimeError(BUSY)
        with self.lock:
            return function()

    def step(self, gradients: list[Any] | None = None, prepare: Callable[[], None] | None = None) -> None:
        """One step of every segment that has a gradient. Errors come before the first write."""
        self.alone(lambda: self.run_step(gradients, prepare))

    def swap(self) -> None:
        """Exchange every parameter with its average."""
        self.alone(self.run_swap)

    def bind(self, gradients: list[Any], /) -> None:
        """Check gradients once and use them in every step that is not given others."""
        self.accept_gradients(gradients)
        self.gradients = list(gradients)
        self.bound = True

    def check_not_swapped(self) -> None:
        if self.progress.swapped[0]:
            raise RuntimeError(SWAPPED)

    def set_hyperparameters(self, index: int, plan: GroupPlan, /) -> None:
        """Take new numbers of a group; they count from the next step."""
        self.plans[index] = plan

    def set_lr(self, index: int, lr: float, /) -> None:
        """Take a new rate of a group; it counts from the next step."""
        self.plans[index] = replace(self.plans[index], lr=lr)

    def set_scale(self, plan: StepPlan, /) -> None:
        """Take a new divisor and largest norm; they count from the next step."""
        self.plan = plan

    def settings_changed(self) -> None:
        """Take over what was written to the settings: nothing to do where every step reads them."""

    def fetch(self) -> None:
        """Bring the host's arrays up to date: nothing to do where the engine writes them itself."""

    def upload(self) -> None:
        """Bring what was changed to where steps run: nothing to do on the host."""


def check_apart(spans: Iterable[tuple[int, int]]) -> None:
    """Raise where gradients that a step zeroes share memory; `spans` has the (address, bytes) of each."""
    for (begin, nbytes), (other, _) in itertools.pairwise(sorted(each for each in spans if each[1])):
        if other < begin + nbytes:
            raise ValueError(SHARED)

"""The base class of the engines written in Python: their inputs, one caller at a time, and numbers that change."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from .contract import BUSY, REPLACED, SHARED, SWAPPED, EngineInputs, Replaced, Result
from .plan import GroupPlan, StepPlan, check_operands


class EngineBase:
    """Implements `contract.Engine`; a subclass defines `accept_gradients`, `run_step` and `run_swap`."""

    def __init__(self, inputs: EngineInputs) -> None:
        check_operands(inputs.plans, inputs.segments, inputs.dtype)
        self.dtype = inputs.dtype
        self.plans = list(inputs.plans)
        self.segments = inputs.segments
        self.settings = inputs.settings
        self.records = inputs.records
        self.progress = inputs.progress
        self.plan = inputs.plan
        self.reject = inputs.reject
        self.report = inputs.report
        self.exchange = inputs.exchange
        self.exchange_sums = inputs.exchange_sums
        self.n_threads = inputs.plan.n_threads
        self.bound = False
        self.gradients: list[Any] = [None] * len(inputs.segments)
        self.lock = threading.Lock() if inputs.lock is None else inputs.lock
        self.replaced = False

    # --- defined by a subclass ----------------------------------------------------------------------------------------

    def accept_gradients(self, gradients: list[Any]) -> None:
        """Check gradients before they are used; raises if one of them cannot be used.

        The list can receive arrays in the place of scalars.
        """
        raise NotImplementedError

    def run_step(self, gradients: list[Any] | None, prepare: Callable[[], None] | None) -> None:
        """Run a step, with other threads kept out; if `gradients` is None, use the gradients accepted last."""
        raise NotImplementedError

    def run_swap(self) -> None:
        """Exchange every parameter with its average, with other threads kept out."""
        raise NotImplementedError

    # --- shared by all subclasses -------------------------------------------------------------------------------------

    def alone(self, function: Callable[[], Result], /) -> Result:
        """The result of `function()`, with other threads' steps kept out; raises if a step is under way.

        If two threads find the lock free at the same time, one waits. A signal handler can run after any call; `with`
        makes sure that none runs after the lock is taken and before its release is guaranteed.
        """
        if self.lock.locked():
            raise RuntimeError(BUSY)
        with self.lock:
            return function()

    def step(self, gradients: list[Any] | None = None, prepare: Callable[[], None] | None = None) -> None:
        """One step of every segment that has a gradient; all errors are raised before the first write."""
        self.alone(lambda: self.run_unless_replaced(lambda: self.run_step(gradients, prepare)))

    def finish(self, prepare: Callable[[], None], restore: Callable[[], None], /) -> None:
        """A step without new gradients, between `prepare()` and `restore()`, with other threads kept out."""

        def run() -> None:
            try:
                self.run_step([None] * len(self.segments), prepare)
            finally:
                restore()

        self.alone(lambda: self.run_unless_replaced(run))

    def swap(self) -> None:
        """Exchange every parameter with its average."""
        self.alone(lambda: self.run_unless_replaced(self.run_swap))

    def run_unless_replaced(self, function: Callable[[], None]) -> None:
        if self.replaced:
            raise Replaced(REPLACED)
        function()

    def bind(self, gradients: list[Any], /) -> None:
        """Check gradients once and use them in every step that receives no other gradients."""
        self.accept_gradients(gradients)
        self.gradients = list(gradients)
        self.bound = True

    def check_not_swapped(self) -> None:
        if self.progress.swapped[0]:
            raise RuntimeError(SWAPPED)

    def set_hyperparameters(self, index: int, plan: GroupPlan, /) -> None:
        """Set a group's numbers to those of this plan; they take effect at the next step."""
        self.plans[index] = plan

    def set_lr(self, index: int, lr: float, /) -> None:
        """Set the learning rate of a group; it takes effect at the next step."""
        self.plans[index] = replace(self.plans[index], lr=lr)

    def set_scale(self, plan: StepPlan, /) -> None:
        """Set the divisor, the largest norm and the length of an accumulation; they count from the next step."""
        self.plan = plan

    def settings_changed(self) -> None:
        """Use the changed settings: nothing to do if every step reads the settings."""

    def fetch(self) -> None:
        """Bring the host's arrays up to date: nothing to do if the engine writes them itself."""

    def send(self) -> None:
        """Go on from the host's records and progress: nothing to do if the engine reads them itself."""

    def upload(self) -> None:
        """Copy changes to the device on which steps run: nothing to do on the host."""


def check_apart(spans: Iterable[tuple[int, int]]) -> None:
    """Raise if gradients that a step zeroes share memory; `spans` has the (address, bytes) of each gradient."""
    for (begin, nbytes), (other, _) in itertools.pairwise(sorted(each for each in spans if each[1])):
        if other < begin + nbytes:
            raise ValueError(SHARED)

"""A clock that stops while the next step is prepared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """time.perf_counter, minus the time for which the clock was stopped.

    Work on a device continues after the call that started it, so the clock calls `wait` before it is read.
    """

    def __init__(self) -> None:
        self.stood_still = 0.0
        self.wait: Callable[[], Any] = _nothing

    def now(self) -> float:
        self.wait()
        return time.perf_counter() - self.stood_still

    @contextmanager
    def waiting(self, wait: Callable[[], Any]) -> Iterator[None]:
        """Within this context, the clock calls `wait` before each reading."""
        before, self.wait = self.wait, wait
        try:
            yield
        finally:
            self.wait = before

    def without(self, prepare: Callable[[], None], step: Callable[[], Any]) -> Callable[[], Any]:
        """A function that calls `prepare`, untimed, and then `step`. This adds about 0.1 microseconds to a step."""

        def prepared_step() -> Any:
            start = time.perf_counter()
            prepare()
            self.stood_still += time.perf_counter() - start
            return step()

        return prepared_step


def _nothing() -> None:
    """The wait for steps that are complete when their call returns."""


CLOCK = Clock()
"""The clock that times both sides of every comparison."""

"""A clock that can be stopped while the next step is prepared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """time.perf_counter, less the time that it stood still.

    What is done on a device goes on after the call that started it: `wait` is called before the clock is read.
    """

    def __init__(self) -> None:
        self.stood_still = 0.0
        self.wait: Callable[[], Any] = _nothing

    def now(self) -> float:
        self.wait()
        return time.perf_counter() - self.stood_still

    @contextmanager
    def waiting(self, wait: Callable[[], Any]) -> Iterator[None]:
        """Within, the clock is read once this returns."""
        before, self.wait = self.wait, wait
        try:
            yield
        finally:
            self.wait = before

    def without(self, prepare: Callable[[], None], step: Callable[[], Any]) -> Callable[[], Any]:
        """`step` after `prepare`, which is not timed. Calling them so adds some 0.1 microseconds to a step."""

        def prepared_step() -> Any:
            start = time.perf_counter()
            prepare()
            self.stood_still += time.perf_counter() - start
            return step()

        return prepared_step


def _nothing() -> None:
    """What is to be waited for where everything is done when a call returns."""


CLOCK = Clock()
"""Times both sides of every comparison."""

"""The step in plain Python: for the reference, and for Numba's loops where the compiled module was not built.

It promises what `engine.Engine` promises (one step at a time, everything checked before anything is written), without
the speed.
"""

from __future__ import annotations

import collections
import contextvars
import ctypes
import itertools
import math
import operator
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from . import cpu
from .floating_point import with_denormals
from .plan import BUSY, GroupPlan, Reject, Segment, resized_message, with_owners

BOUNDARY = 64  # as in engine.pyx

Result = TypeVar("Result")


class PythonEngine:
    """Takes what `engine.Engine` takes; loops and coefficient functions are callables."""

    def __init__(
        self,
        dtype: np.dtype,
        plans: list[GroupPlan],
        segments: list[Segment],
        steps: np.ndarray,
        reject: Reject,
        flush_denormals: bool,
        n_threads: int,
    ) -> None:
        self.dtype = dtype
        self.plans = list(plans)
        self.segments = segments
        self.steps = steps
        self.reject = reject
        self.flush = flush_denormals
        self.n_threads = n_threads
        self.bound = False
        self.gradients: list[Any] = [None] * len(segments)
        self.watched: list[tuple[np.ndarray, int, int]] = []
        self.watch()
        self.lock = threading.Lock()

    def alone(self, function: Callable[[], Result]) -> Result:
        """The result of `function()`, with other threads' steps kept out; an error when one is under way.

        Where two threads find the lock free at once, one waits. A signal's handler can run after any call; `with` a
        lock leaves it no place between taking the lock and being bound to give it back.
        """
        if self.lock.locked():
            raise RuntimeError(BUSY)
        with self.lock:
            return function()

    def watch(self) -> None:
        arrays = with_owners([*(segment.param for segment in self.segments), *self.gradients])
        self.watched = [(array, array.ctypes.data, array.nbytes) for array in arrays]

    def set_hyperparameters(self, index: int, plan: GroupPlan) -> None:
        self.plans[index] = plan

    def accept(self, gradients: list[Any]) -> None:
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                self.reject(index, gradient)

    def bind(self, gradients: list[Any]) -> None:
        self.accept(gradients)
        self.gradients = list(gradients)
        self.watch()
        self.bound = True

    def step(self, gradients: list[Any] | None = None) -> None:
        # In a context of its own, NumPy's error state is the caller's again however this ends.
        self.alone(lambda: contextvars.copy_context().run(self.step_alone, gradients))

    def step_alone(self, gradients: list[Any] | None) -> None:
        """Compute everything anew, then write it."""
        for array, data, nbytes in self.watched:
            if (array.ctypes.data, array.nbytes) != (data, nbytes):
                raise RuntimeError(resized_message(array))
        if gradients is None:
            gradients = self.gradients
        self.accept(gradients)
        steps = self.steps.copy()
        targets: list[Any] = [self.steps]
        values: list[Any] = [steps]
        for index, (segment, gradient) in enumerate(zip(self.segments, gradients, strict=True)):
            if gradient is None:
                continue
            steps[index] += 1
            old = [np.asarray(array) for array in (segment.param, *segment.states)]
            new = [array.copy() for array in old]
            param, *states = (array.reshape(-1) for array in new)
            scalars = self.coefficients(segment.group, int(steps[index]))
            self.run(self.plans[segment.group], [param, np.asarray(gradient).reshape(-1), *states], scalars)
            targets += old
            values += new
        # All writes are one call of C code, and these assignments run no Python: no signal's handler comes between two.
        collections.deque(map(operator.setitem, targets, itertools.repeat(...), values), maxlen=0)

    def coefficients(self, group: int, step: int) -> list[Any]:
        results = []
        for stage in self.plans[group].stages:
            arguments = list(stage.arguments)
            if stage.step_argument >= 0:
                arguments[stage.step_argument] = float(step)
            results.append([float(value) for value in stage.function(*arguments)])
        with np.errstate(over="ignore"):
            return [self.dtype.type(results[stage][position]) for stage, position in self.plans[group].pick]

    def run(self, plan: GroupPlan, streams: list[np.ndarray], scalars: list[Any]) -> None:
        with np.errstate(all="ignore"):
            with_denormals(self.flush, lambda: plan.loop(streams, scalars))


class ThreadedPythonEngine(PythonEngine):
    """The same, split over Python threads: for loops that release the GIL."""

    def run(self, plan: GroupPlan, streams: list[np.ndarray], scalars: list[Any]) -> None:
        n_threads = self.n_threads or cpu.default_threads()
        size = math.ceil(streams[0].size / n_threads / BOUNDARY) * BOUNDARY
        if n_threads == 1 or streams[0].size * plan.cost < 50_000:
            super().run(plan, streams, scalars)
            return
        with ThreadPoolExecutor(n_threads) as pool:
            starts = range(0, streams[0].size, size)
            parts = [[stream[start : start + size] for stream in streams] for start in starts]
            for future in [pool.submit(super(ThreadedPythonEngine, self).run, plan, part, scalars) for part in parts]:
                future.result()


def callable_loop(address: int) -> Callable[[Sequence[np.ndarray], Sequence[Any]], None]:
    """A compiled loop as a function of arrays; ctypes releases the GIL while it runs."""
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_ssize_t)(address)

    def run(streams: Sequence[np.ndarray], scalars: Sequence[Any]) -> None:
        addresses = (ctypes.c_void_p * len(streams))(*(stream.ctypes.data for stream in streams))
        coefficients = np.array(scalars)
        function(ctypes.addressof(addresses), streams[0].size, coefficients.ctypes.data, 0)

    return run

"""The least that Adam can cost: a loop which moves the same bytes and computes next to nothing.

It reads parameter, gradient and both averages and writes all but the gradient, in native code and on the same number
of threads: fastopt's engine runs it in place of Adam's loop. It goes over one array after the other. One pass over all
four, one pass over each in blocks, and Numba's own threads were tried too; none was faster at any size.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastopt.kernels import backends
from fastopt.kernels.plan import GroupPlan, Operation, Progress, Segment, SegmentSettings, StepPlan

from .cases import ADAM, Problem, copies
from .runner import Runner


@contextmanager
def all_threads() -> Iterator[None]:
    """What is made within uses all its threads in each step, however small that is and however long it takes."""
    from fastopt.kernels import native

    before = native.set_thread_policy(1e-6, False)
    try:
        yield
    finally:
        native.set_thread_policy(*before)


@functools.cache
def _address() -> int:
    import numba
    from numba import types

    def move(streams, size, coefficients, prefetch):  # type: ignore[no-untyped-def]
        param, grad, exp_avg, exp_avg_sq = streams[0], streams[1], streams[2], streams[3]
        for i in range(size):
            param[i] = param[i] + grad[i]
        for i in range(size):
            exp_avg[i] = -exp_avg[i]
        for i in range(size):
            exp_avg_sq[i] = -exp_avg_sq[i]

    stream = types.CPointer(types.float32)
    signature = types.void(types.CPointer(stream), types.intp, stream, types.intp)
    return int(numba.cfunc(signature)(move).address)


def _never(*arguments: object) -> None:
    raise AssertionError(f"gradients were refused: {arguments}")


def start(problem: Problem) -> Runner:
    """Moves the bytes of Adam for this problem with every step; there is no result to compare."""
    from fastopt.kernels import native

    segments = []
    for array in problem.params:
        param, *states = copies([array] * (1 + len(ADAM.states)))
        segments.append(Segment(0, param, states))
    n_streams = 2 + len(ADAM.states)
    operation = Operation(loop=_address(), streams=tuple(range(n_streams)), pick=())
    group = GroupPlan(stages=(), programs={"update": (operation,)}, n_streams=n_streams, cost=1.0)
    n = len(segments)
    with all_threads():
        engine: Any = native.Engine(
            np.dtype(np.float32),
            [group],
            segments,
            np.zeros(n, np.int64),
            SegmentSettings.of(n),
            Progress.new(),
            StepPlan(n_threads=problem.n_threads),
            _never,
            _never,
        )
    engine.bind(problem.grads)
    return Runner(engine.step, results=None)


def unavailable(problem: Problem) -> str | None:
    if problem.variant.rule != ADAM.rule:
        return "the loop moves the bytes of Adam"
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    return backends.compiled_module_error()

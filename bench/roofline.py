"""The lower bound of an update: a loop of the compiled module that reads and writes the same arrays.

It passes once over parameter, gradient and states, reads all of them and writes all except the gradient. Per element it
computes one addition, and one change of sign per state; without these, a compiler would remove the reads. The engine
runs it as it runs an update: on the same threads, with the same prefetches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastopt.kernels import backends
from fastopt.kernels.constants import PARAM
from fastopt.kernels.engine.contract import EngineInputs, Progress, SegmentRecords, SegmentSettings
from fastopt.kernels.engine.plan import GroupPlan, OperandForm, Operation, Segment, StepPlan
from fastopt.step.nonfinite import NonfiniteGradients

from .cases import FLOAT32, Problem, Variant, copies
from .custom_loops import all_threads
from .runner import Peer, Runner

MOST_STATES = 4
LEAST_SIZE = 100_000
"""A step on at least this many parameters is compared with its memory traffic; the call limits smaller ones."""


def _never(*arguments: object) -> None:
    raise AssertionError(f"gradients were refused: {arguments}")


def start(problem: Problem) -> Runner:
    """Moves the bytes of the problem's optimizer with every step; there is no result to compare."""
    return _moving(problem.params, len(problem.variant.states), problem.n_threads)


def _moving(like: list[np.ndarray], n_states: int, n_threads: int) -> Runner:
    """Moves a parameter, a gradient and states of these shapes."""
    from fastopt.kernels import native
    from fastopt.kernels.native import loops as cython_loops

    segments = []
    for array in like:
        param, *states = copies([array] * (1 + n_states))
        segments.append(Segment(0, param, states))
    operands = tuple(range(2 + n_states))
    loop = cython_loops.loop(f"roofline_{n_states}", FLOAT32)
    operation = Operation(loop=loop, operands=operands, pick=(), writes=(PARAM, *operands[2:]))
    group = GroupPlan(
        stages=(),
        programs={"update": (operation,)},
        operands=tuple(OperandForm(str(index), FLOAT32) for index in operands),
        cost=1.0,
    )
    n = len(segments)
    with all_threads():
        engine: Any = native.Engine(
            EngineInputs(
                dtype=FLOAT32,
                plans=[group],
                segments=segments,
                settings=SegmentSettings.of(n),
                records=SegmentRecords.of(n),
                progress=Progress.new(),
                plan=StepPlan(n_threads=n_threads),
                reject=_never,
                report=NonfiniteGradients("raise", None),
            )
        )
    engine.bind(copies(like))
    return Runner(engine.step, results=None)


def of_bytes(bytes_of: Callable[[Variant], tuple[float, float]]) -> Peer:
    """A loop over float32 arrays that moves as many bytes for each parameter as `bytes_of` says: read, and written.

    Its states are as many as make the ratio of the two most alike; its arrays are as long as make their sum the same.
    """

    def start_of_bytes(problem: Problem) -> Runner:
        read, written = bytes_of(problem.variant)
        n_states = min(range(MOST_STATES + 1), key=lambda n: abs((2 + n) / (1 + n) - read / written))
        share = (read + written) / ((3 + 2 * n_states) * FLOAT32.itemsize)
        like = np.full(round(problem.workload.size * share), 0.5, FLOAT32)
        return _moving([like], n_states, problem.n_threads)

    return Peer(ROOFLINE.name, start_of_bytes, unavailable)


def unavailable(problem: Problem) -> str | None:
    if problem.workload.size < LEAST_SIZE:
        return f"less than {LEAST_SIZE:,} parameters: bound by the call, not by memory"
    if len(problem.variant.states) > MOST_STATES:
        return f"{problem.variant.name} has more than {MOST_STATES} states"
    return backends.compiled_module_error()


ROOFLINE = Peer("roofline", start, unavailable)

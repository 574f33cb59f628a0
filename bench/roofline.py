"""The lower bound of an update: a loop of the compiled module that reads and writes the same arrays.

It passes once over parameter, gradient and states, reads all of them and writes all except the gradient. Per element it
computes one addition, and one change of sign per state; without these, a compiler would remove the reads. The engine
runs it as it runs an update: on the same threads, with the same prefetches.
"""

from __future__ import annotations

from typing import Any

from fastopt.kernels import backends
from fastopt.kernels.constants import PARAM
from fastopt.kernels.engine.contract import EngineInputs, Progress, SegmentRecords, SegmentSettings
from fastopt.kernels.engine.plan import GroupPlan, OperandForm, Operation, Segment, StepPlan
from fastopt.step.nonfinite import NonfiniteGradients

from .cases import FLOAT32, Problem, copies
from .custom_loops import all_threads
from .runner import Peer, Runner

MOST_STATES = 4
LEAST_SIZE = 100_000
"""A step on at least this many parameters is compared with its memory traffic; the call limits smaller ones."""


def _never(*arguments: object) -> None:
    raise AssertionError(f"gradients were refused: {arguments}")


def start(problem: Problem) -> Runner:
    """Moves the bytes of the problem's optimizer with every step; there is no result to compare."""
    from fastopt.kernels import native
    from fastopt.kernels.native import loops as cython_loops

    n_states = len(problem.variant.states)
    segments = []
    for array in problem.params:
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
                plan=StepPlan(n_threads=problem.n_threads),
                reject=_never,
                report=NonfiniteGradients("raise", None),
            )
        )
    grads = copies(problem.grads)
    engine.bind(grads)
    return Runner(engine.step, results=None)


def unavailable(problem: Problem) -> str | None:
    if problem.workload.size < LEAST_SIZE:
        return f"less than {LEAST_SIZE:,} parameters: bound by the call, not by memory"
    if len(problem.variant.states) > MOST_STATES:
        return f"{problem.variant.name} has more than {MOST_STATES} states"
    return backends.compiled_module_error()


ROOFLINE = Peer("roofline", start, unavailable)

"""Many updates in a loop: within one `@njit` function, with `fastopt.jit`, and as calls of `step()` from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastopt

from .cases import Problem, copies
from .custom_loops import custom_rule
from .runner import Peer, Runner

UPDATES = 100
"""Updates in each loop; a "step" of these peers is a whole loop."""


def _built_in(name: str) -> Any:
    return getattr(fastopt, name)


def _in_njit(parallel: bool, optimizer: Callable[[str], Any] = _built_in) -> Callable[[Problem], Runner]:
    def start(problem: Problem) -> Runner:
        import numba

        from fastopt import jit

        functions = jit.functions(optimizer(problem.variant.optimizer), **problem.variant.hyperparameters)
        update = functions.parallel if parallel else functions.step
        (param,), (grad,) = copies(problem.params), copies(problem.grads)
        state = functions.state(param)

        @numba.njit
        def loop(param, grad, state):  # type: ignore[no-untyped-def]
            for _ in range(UPDATES):
                update(param, grad, state)

        def take_gradients() -> None:
            grad[...] = problem.grads[0]

        return Runner(lambda: loop(param, grad, state), lambda: [param], take_gradients)

    return start


def _from_python(optimizer: Callable[[str], Any] = _built_in) -> Callable[[Problem], Runner]:
    def start(problem: Problem) -> Runner:
        (param,), (grad,) = copies(problem.params), copies(problem.grads)
        made = optimizer(problem.variant.optimizer)(
            param, grads=grad, n_threads=problem.n_threads, **problem.variant.hyperparameters
        )

        def loop() -> None:
            step = made.step
            for _ in range(UPDATES):
                step()

        def take_gradients() -> None:
            grad[...] = problem.grads[0]

        return Runner(loop, lambda: [param], take_gradients, learning_steps=1)

    return start


IN_NJIT = Peer("in an njit loop", _in_njit(parallel=False))
PARALLEL = Peer("in an njit loop, parallel", _in_njit(parallel=True))
CUSTOM_RULE = Peer("custom rule in an njit loop", _in_njit(parallel=False, optimizer=custom_rule))
FROM_PYTHON = Peer("step() from Python", _from_python())
CUSTOM_FROM_PYTHON = Peer("its step() from Python", _from_python(custom_rule))

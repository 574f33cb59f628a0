"""The textbook's update in NumPy, and the same function compiled by Numba; NumPy and plain Numba have one thread."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import numpy as np

from fastopt.examples.textbook import TEXTBOOK, Textbook

from ..cases import Problem, copies
from ..runner import Peer, Runner
from .library import import_failure

Compile = Callable[[Textbook, Problem], Callable[..., None]]


def unavailable(problem: Problem) -> str | None:
    variant = problem.variant
    if variant.optimizer not in TEXTBOOK:
        return f"the textbook has no {variant.name}"
    taken = inspect.signature(TEXTBOOK[variant.optimizer]).parameters
    missing = [name for name in variant.hyperparameters if name not in taken]
    return f"the textbook's {variant.optimizer} has no {', '.join(missing)}" if missing else None


def unavailable_in_numba(problem: Problem) -> str | None:
    reason = unavailable(problem) or import_failure("numba")
    if reason:
        return reason
    import numba

    most = numba.config.NUMBA_NUM_THREADS
    return None if problem.n_threads <= most else f"NUMBA_NUM_THREADS is {most}, not {problem.n_threads}"


def njit(parallel: bool, optimizer: Textbook, problem: Problem) -> Callable[..., None]:
    """The update, compiled for arrays and numbers of float32: with numbers of float64 it would compute in float64."""
    import numba

    numba.set_num_threads(problem.n_threads)
    arrays = 2 + len(optimizer.states)
    numbers = len(inspect.signature(optimizer.update).parameters) - arrays
    signature = numba.void(*[numba.float32[::1]] * arrays, *[numba.float32] * numbers)
    return numba.njit(signature, parallel=parallel)(optimizer.update)


def start(compiled: Compile | None, problem: Problem) -> Runner:
    variant = problem.variant
    params, grads = copies(problem.params), copies(problem.grads)
    optimizers = [TEXTBOOK[variant.optimizer](each.reshape(-1), **variant.hyperparameters) for each in params]
    if compiled is not None:
        update = compiled(optimizers[0], problem)
        for optimizer in optimizers:
            optimizer.update = update
    pairs = [(optimizer, grad.reshape(-1)) for optimizer, grad in zip(optimizers, grads, strict=True)]

    def step() -> None:
        for optimizer, grad in pairs:
            optimizer.step(grad)

    def take_gradients() -> None:
        for mine, given in zip(grads, problem.grads, strict=True):
            np.copyto(mine, given)

    return Runner(step, lambda: params, take_gradients)


NUMPY = Peer("NumPy", partial(start, None), unavailable)
NJIT = Peer("numba.njit", partial(start, partial(njit, False)), unavailable_in_numba)
NJIT_PARALLEL = Peer("numba.njit parallel", partial(start, partial(njit, True)), unavailable_in_numba)

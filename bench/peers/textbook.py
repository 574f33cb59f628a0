"""The textbook update in NumPy, and the same compiled by Numba: unchanged, as a loop, and as a loop on many threads.

All except the last run on one thread, whatever number is requested.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from functools import partial

import numpy as np

from fastopt.definitions.specs import SPECS
from fastopt.examples.textbook import TEXTBOOK, Textbook

from ..cases import Problem, copies
from ..runner import Peer, Runner
from .elementwise import as_loop
from .libraries import import_failure

Compile = Callable[[Textbook, Problem], Callable[..., None]]
Source = Callable[[Callable[..., None], int], Callable[..., None]]
"""Makes the function to compile from a function and the number of its leading array arguments."""


def unavailable(problem: Problem) -> str | None:
    variant = problem.variant
    if variant.optimizer not in TEXTBOOK:
        return f"the textbook has no {variant.name}"
    taken = inspect.signature(TEXTBOOK[variant.optimizer]).parameters
    missing = [name for name in variant.hyperparameters if name not in taken]
    return f"the textbook's {variant.optimizer} has no {', '.join(missing)}" if missing else None


def unavailable_in_numba(problem: Problem) -> str | None:
    if SPECS[problem.variant.optimizer].common:
        return "the rule changes numbers that all parameters have in common"
    reason = unavailable(problem) or import_failure("numba")
    if reason:
        return reason
    import numba

    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return None if problem.n_threads <= most else f"NUMBA_NUM_THREADS is {most}, not {problem.n_threads}"


def unavailable_in_loops(problem: Problem) -> str | None:
    variant = problem.variant
    if variant.terms is not None:
        return f"{variant.name} adds up whole arrays, which a loop over elements does not"
    return unavailable_in_numba(problem)


def njit(source: Source, parallel: bool, optimizer: Textbook, problem: Problem) -> Callable[..., None]:
    import numba

    numba.set_num_threads(problem.n_threads)
    return compiled(source, parallel, optimizer.update, 2 + len(optimizer.states))


@functools.cache
def compiled(source: Source, parallel: bool, update: Callable[..., None], n_arrays: int) -> Callable[..., None]:
    """The update, compiled for arrays and numbers of float32: with numbers of float64 it would compute in float64.

    Division by 0 behaves as in NumPy. By default, Numba would raise an error, and the check would prevent the
    vectorisation of loops.
    """
    import numba

    n_numbers = len(inspect.signature(update).parameters) - n_arrays
    signature = numba.void(*[numba.float32[::1]] * n_arrays, *[numba.float32] * n_numbers)
    function: Callable[..., None] = numba.njit(signature, parallel=parallel, error_model="numpy")(
        source(update, n_arrays)
    )
    return function


def as_it_is(function: Callable[..., None], n_arrays: int) -> Callable[..., None]:
    return function


def as_parallel_loop(function: Callable[..., None], n_arrays: int) -> Callable[..., None]:
    import numba

    return as_loop(function, n_arrays, numba.prange)


def start(compile_update: Compile | None, problem: Problem) -> Runner:
    variant = problem.variant
    params, grads = copies(problem.params), copies(problem.grads)
    optimizers = [TEXTBOOK[variant.optimizer](each.reshape(-1), **variant.hyperparameters) for each in params]
    if compile_update is not None:
        update = compile_update(optimizers[0], problem)
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


NUMPY = Peer("NumPy", partial(start, None), unavailable, by_hand=True)


def numba_peer(name: str, source: Source, parallel: bool = False) -> Peer:
    reason = unavailable_in_numba if source is as_it_is else unavailable_in_loops
    return Peer(name, partial(start, partial(njit, source, parallel)), reason, by_hand=True)


NJIT = numba_peer("numba.njit", as_it_is)
NJIT_LOOP = numba_peer("numba.njit loop", as_loop)
NJIT_PRANGE = numba_peer("numba.njit prange", as_parallel_loop, parallel=True)

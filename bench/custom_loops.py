"""fastopt as a side of comparisons: its backends, threads and ways to call it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

import fastopt
from fastopt.kernels import backends
from fastopt.state.arrays import empty_aligned

from .cases import Problem, Variant, copies
from .clipping import MAX_GRAD_NORM
from .runner import Peer, Runner

LEARNING_STEPS = 4
"""Steps before timing: the third and fourth run on one thread, to learn how long that takes."""


@contextmanager
def all_threads() -> Iterator[None]:
    """Optimizers made within this context use all their threads in each step, however small or slow the step is."""
    from fastopt.kernels import native

    before = native.set_thread_policy(1e-6, False)
    try:
        yield
    finally:
        native.set_thread_policy(*before)


def _unaligned_copies(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """A copy of each array, 16 bytes after the start of a cache line: NumPy guarantees no better alignment."""
    made = []
    for array in arrays:
        skipped = 16 // array.itemsize
        memory = empty_aligned(array.size + skipped, array.dtype)[skipped:].reshape(array.shape)
        memory[...] = array
        made.append(memory)
    return made


def _needs_compiled_module(problem: Problem) -> str | None:
    return backends.compiled_module_error()


def ours(
    name: str,
    *,
    memory: Callable[[list[np.ndarray]], list[np.ndarray]] = copies,
    made_within: Callable[[], AbstractContextManager[None]] = nullcontext,
    bound: bool = True,
    unavailable: Callable[[Problem], str | None] = lambda problem: None,
    optimizer: Callable[[str], Any] = lambda name: getattr(fastopt, name),
    results: Callable[[Any, list[np.ndarray]], list[np.ndarray]] = lambda made, params: params,
    bytes_of: Callable[[Variant], float] = lambda variant: variant.bytes_per_parameter,
    **options: Any,
) -> Peer:
    """fastopt as a side: `memory` copies arrays, `results` reads the numbers of an optimizer with its parameters."""

    def start(problem: Problem) -> Runner:
        params, grads = memory(problem.params), memory(problem.grads)
        settings = {"n_threads": problem.n_threads, **problem.variant.hyperparameters, **options}

        def take_gradients() -> None:
            for mine, given in zip(grads, problem.grads, strict=True):
                mine[...] = given

        with made_within():
            made = optimizer(problem.variant.optimizer)(params, grads=grads if bound else None, **settings)
        step = made.step if bound else lambda: made.step(grads)
        return Runner(step, lambda: results(made, params), take_gradients, LEARNING_STEPS)

    return Peer(name, start, unavailable, bytes_of=bytes_of)


def custom_rule(name: str) -> Any:
    """The optimizer of this name, as a custom rule."""
    from . import custom_rules

    return getattr(custom_rules, f"Custom{name}")


FASTOPT = ours("fastopt")
CYTHON = ours("fastopt cython", backend="cython", unavailable=_needs_compiled_module)
NUMBA = ours("fastopt numba", backend="numba")
SERIAL = ours("fastopt serial", n_threads=1)
THREADED = ours("fastopt all threads", made_within=all_threads, unavailable=_needs_compiled_module)
PASSED = ours("fastopt step(grads)", bound=False)
UNALIGNED = ours("fastopt unaligned", memory=_unaligned_copies)
CUSTOM_RULE = ours("custom rule", optimizer=custom_rule)
CLIP_STEP_ZERO = ours("fastopt", max_grad_norm=MAX_GRAD_NORM, zero_grads=True)
CHECKED = ours("fastopt nonfinite='skip'", nonfinite="skip")

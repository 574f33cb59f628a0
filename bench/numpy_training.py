"""A network in plain NumPy, trained by fastopt and its peers on the same flat buffers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastopt
from fastopt.examples.models import MLP
from fastopt.examples.textbook import Adam as TextbookAdam

from .cases import Problem, Variant, Workload
from .custom_loops import LEARNING_STEPS
from .peers import TORCH, textbook, thinc, unavailable_in
from .runner import Peer, Runner

WIDTHS, BATCH = (64, 64, 64, 10), 32
NETWORK = Workload(
    "NumPy 64-64-64-10, batch 32",
    tuple(shape for before, after in itertools.pairwise(WIDTHS) for shape in ((before, after), (after,))),
    spread=(24 / WIDTHS[0]) ** 0.5,  # of He's initialization, for uniform numbers
)

THINC_ADAM = Variant("Adam", "adam", {"eps": 4.5e-10})
"""It adds eps to the root of the average that is not corrected, so as much as 1e-8 elsewhere in the second step."""
THINC_ERROR = 1e-5
"""A hundredth of the learning rate: in other steps that is not as much, and some gradients of a network are small."""

Step = Callable[[], Any]
MakeStep = Callable[[Problem, np.ndarray, np.ndarray], Step]
"""Makes, from a problem and one-dimensional parameters and gradients, a step of Adam that updates the parameters in
place."""


def with_fastopt(problem: Problem, params: np.ndarray, grads: np.ndarray) -> Step:
    return fastopt.Adam(params, grads=grads, n_threads=problem.n_threads).step


def with_textbook(compiled: textbook.Compile | None, problem: Problem, params: np.ndarray, grads: np.ndarray) -> Step:
    adam = TextbookAdam(params)
    if compiled is not None:
        adam.update = compiled(adam, problem)
    return partial(adam.step, grads)


def with_thinc(problem: Problem, params: np.ndarray, grads: np.ndarray) -> Step:
    return partial(thinc.make_optimizer(THINC_ADAM), (0, "flat"), params, grads)


def with_torch(options: dict[str, Any], problem: Problem, params: np.ndarray, grads: np.ndarray) -> Step:
    """A step on tensors that share the memory of the buffers."""
    import torch

    torch.set_num_threads(problem.n_threads)
    param = torch.nn.Parameter(torch.from_numpy(params))
    param.grad = torch.from_numpy(grads)
    return torch.optim.Adam([param], **options).step


def trained(
    name: str,
    make_step: MakeStep,
    unavailable: Callable[[Problem], str | None] = lambda problem: None,
    learning_steps: int = 0,
    absolute: float | None = None,
) -> Peer:
    """A peer whose steps are whole iterations: forward, backward and update, always on the same batch."""

    def start(problem: Problem) -> Runner:
        network = MLP(WIDTHS, seed=0)
        weights = list(network.weights.values())
        for weight, given in zip(weights, problem.params, strict=True):
            weight[...] = given
        generator = np.random.default_rng(problem.workload.size)
        inputs = generator.standard_normal((BATCH, WIDTHS[0]), np.float32)
        labels = generator.integers(0, WIDTHS[-1], BATCH)
        step = make_step(problem, network.flat, network.flat_gradients)

        def iterate() -> None:
            network.loss_and_gradients(inputs, labels)
            step()

        return Runner(iterate, lambda: weights, learning_steps=learning_steps)

    return Peer(name, start, unavailable, absolute=absolute)


def nothing(problem: Problem, params: np.ndarray, grads: np.ndarray) -> Step:
    return lambda: None


FASTOPT = trained("fastopt", with_fastopt, learning_steps=LEARNING_STEPS)
WITHOUT_OPTIMIZER = trained("no optimizer", nothing)

PEERS = (
    trained("NumPy", partial(with_textbook, None), textbook.unavailable),
    trained(
        "numba.njit",
        partial(with_textbook, partial(textbook.njit, textbook.as_it_is, False)),
        textbook.unavailable_in_numba,
    ),
    trained("thinc", with_thinc, thinc.LIBRARY.unavailable, absolute=THINC_ERROR),
    *(
        trained(name, partial(with_torch, options), unavailable_in("torch.optim", **options))
        for name, options in TORCH.items()
    ),
)
"""The peers whose steps take NumPy arrays, or share their memory."""

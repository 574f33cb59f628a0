"""optax under jax.jit. Parameters and states are donated, so they are updated in place; timing waits for results."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastopt.definitions.conventions import WHY_NOT

from ..cases import Problem
from ..runner import Peer, Runner
from .libraries import (
    ADABELIEF,
    ADADELTA,
    ADAGRAD,
    ADAM,
    ADAMAX,
    ADAMW,
    ADEMAMIX,
    ADOPT,
    ANOTHER_FORMULA,
    LION,
    MOMENTUM,
    NESTEROV,
    RADAM,
    RMSPROPS,
    SGD,
    Key,
    Library,
    processors,
    settings,
)

Values = Mapping[str, Any]


def betas(values: Values) -> dict[str, float]:
    return {"b1": values["betas"][0], "b2": values["betas"][1]}


def adam(optax: Any, values: Values) -> Any:
    return optax.adam(values["lr"], **betas(values), eps=values["eps"])


def adamw(optax: Any, values: Values) -> Any:
    return optax.adamw(values["lr"], **betas(values), eps=values["eps"], weight_decay=values["weight_decay"])


def sgd(optax: Any, values: Values) -> Any:
    return optax.sgd(values["lr"], momentum=values["momentum"] or None, nesterov=values["nesterov"])


def rmsprop(optax: Any, values: Values) -> Any:
    return optax.rmsprop(
        values["lr"],
        decay=values["alpha"],
        eps=values["eps"],
        eps_in_sqrt=False,
        centered=values["centered"],
        momentum=values["momentum"] or None,
    )


def adagrad(optax: Any, values: Values) -> Any:
    # Under the root: with its square, both divide by eps where the sum is 0.
    return optax.adagrad(values["lr"], initial_accumulator_value=0.0, eps=values["eps"] ** 2)


def adadelta(optax: Any, values: Values) -> Any:
    return optax.adadelta(values["lr"], rho=values["rho"], eps=values["eps"])


def adamax(optax: Any, values: Values) -> Any:
    return optax.adamax(values["lr"], **betas(values), eps=values["eps"])


def radam(optax: Any, values: Values) -> Any:
    # Its eps counts for less in the first steps, by 1e-7 of a step at most with the gradients here.
    return optax.radam(values["lr"], **betas(values), eps=values["eps"])


def lion(optax: Any, values: Values) -> Any:
    return optax.lion(values["lr"], **betas(values), weight_decay=values["weight_decay"])


def adabelief(optax: Any, values: Values) -> Any:
    return optax.adabelief(values["lr"], **betas(values), eps=values["eps"], eps_root=values["eps"])


def ademamix(optax: Any, values: Values) -> Any:
    return optax.contrib.ademamix(
        values["lr"], **betas(values), b3=values["betas"][2], alpha=values["alpha"], eps=values["eps"]
    )


def adopt(optax: Any, values: Values) -> Any:
    return optax.contrib.adopt(values["lr"], **betas(values), eps=values["eps"])


OPTIMIZERS: dict[Key, Callable[[Any, Values], Any]] = {
    **dict.fromkeys((SGD, MOMENTUM, NESTEROV), sgd),
    ADAM: adam,
    ADAMW: adamw,
    **dict.fromkeys(RMSPROPS, rmsprop),
    ADAGRAD: adagrad,
    ADADELTA: adadelta,
    ADAMAX: adamax,
    RADAM: radam,
    LION: lion,
    ADABELIEF: adabelief,
    ADEMAMIX: ademamix,
    ADOPT: adopt,
}


def other_threads(problem: Problem) -> str | None:
    if problem.n_threads == processors():
        return None
    return f"XLA takes all {processors()} processors, not {problem.n_threads}"


LIBRARY = Library(
    "optax",
    "optax",
    OPTIMIZERS,
    others={
        "Adam": f"amsgrad takes the largest of the corrected averages: {ANOTHER_FORMULA}",
        "AdamW": "there is no amsgrad with decoupled weight decay",
        "NAdam": f"its momentum has no schedule: {ANOTHER_FORMULA}",
        "Rprop": WHY_NOT["Rprop", "optax"],
        "Adan": f"weighs differences of gradients by 1 - b2: {ANOTHER_FORMULA}",
    },
    obstacle=other_threads,
)


def start(problem: Problem, max_norm: float | None = None) -> Runner:
    """`max_norm`: gradients are clipped by their norm first."""
    import jax

    optax = LIBRARY.package()
    transformation = LIBRARY.optimizer(problem.variant)(optax, settings(problem.variant))
    if max_norm is not None:
        transformation = optax.chain(optax.clip_by_global_norm(max_norm), transformation)

    wait: Callable[[Any], Any] = jax.block_until_ready

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def arrays(given: list[np.ndarray]) -> list[Any]:
        # Copies, because JAX can use the memory of NumPy arrays directly, and must not write to it.
        made = [jax.numpy.array(each, copy=True) for each in given]
        wait(made)
        return made

    params, grads = arrays(problem.params), arrays(problem.grads)
    state = transformation.init(params)

    def step() -> None:
        nonlocal params, state
        params, state = update(params, state, grads)
        wait(params)

    def take_gradients() -> None:
        nonlocal grads
        grads = arrays(problem.grads)

    return Runner(step, lambda: [np.asarray(each) for each in params], take_gradients)


OPTAX = Peer("optax", start, LIBRARY.unavailable)

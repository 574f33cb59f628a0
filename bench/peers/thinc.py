"""thinc's Adam, spaCy's optimizer: Cython, on one thread, whatever number is asked for."""

from __future__ import annotations

from typing import Any

from ..cases import Problem, Variant, copies
from ..runner import Peer, Runner
from .libraries import ADAM, ANOTHER_FORMULA, Library, settings

LIBRARY = Library(
    "thinc",
    "thinc.optimizers",
    {ADAM: "Adam"},
    others={
        "AdamW": f"weights decay after the update: {ANOTHER_FORMULA}",
        "RAdam": f"counts the steps from 2: {ANOTHER_FORMULA}",
        "SGD": "only Adam is Cython, the others are NumPy",
    },
)


def make_optimizer(variant: Variant) -> Any:
    """The optimizer without clipping and averages, which are on by default."""
    values = settings(variant)
    beta1, beta2 = values["betas"]
    # Its eps counts for more in the first steps, by 3e-5 of a step at most with the gradients here.
    make = LIBRARY.package().Adam
    return make(values["lr"], beta1=beta1, beta2=beta2, eps=values["eps"], grad_clip=0.0, use_averages=False)


def start(problem: Problem) -> Runner:
    """Steps leave zeros in the gradients."""
    optimizer = make_optimizer(problem.variant)
    params, grads = copies(problem.params), copies(problem.grads)
    triples = [((index, "W"), *pair) for index, pair in enumerate(zip(params, grads, strict=True))]

    def step() -> None:
        for key, param, grad in triples:
            optimizer(key, param, grad)

    def take_gradients() -> None:
        for mine, given in zip(grads, problem.grads, strict=True):
            mine[...] = given

    return Runner(step, lambda: params, take_gradients, prepare=take_gradients)


THINC = Peer("thinc", start, LIBRARY.unavailable)

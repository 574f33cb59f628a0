"""bitsandbytes on the CPU: states of 32 bits, and states of 8 bits."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from ..cases import Problem
from ..runner import Peer, Runner
from .libraries import (
    ADAGRAD,
    ADAM,
    ADAMW,
    ADEMAMIX,
    AMSGRAD,
    AMSGRADW,
    LION,
    MOMENTUM,
    NESTEROV,
    RMSPROP,
    RMSPROPS,
    SGD,
    Key,
    Library,
    Reasons,
    settings,
)
from .pytorch import Tensors

ADAM_OPTIONS = ("lr", "betas", "eps", "weight_decay")
NOT_DONE = "takes the option but does not do it"

OPTIMIZERS: dict[Key, tuple[str, tuple[str, ...]]] = {
    ADAM: ("Adam", ADAM_OPTIONS),
    ADAMW: ("AdamW", ADAM_OPTIONS),
    RMSPROP: ("RMSprop", ("lr", "alpha", "eps", "weight_decay")),
    ADAGRAD: ("Adagrad", ("lr", "lr_decay", "eps", "weight_decay")),
    LION: ("Lion", ("lr", "betas", "weight_decay")),
    ADEMAMIX: ("AdEMAMix", ("lr", "betas", "alpha", "eps", "weight_decay")),
    MOMENTUM: ("SGD", ("lr", "momentum", "weight_decay")),
}
OTHERS: Reasons = {
    SGD: "SGD needs a momentum",
    NESTEROV: f"SGD {NOT_DONE}",
    AMSGRAD: f"Adam {NOT_DONE}",
    AMSGRADW: f"AdamW {NOT_DONE}",
    **dict.fromkeys(RMSPROPS, "RMSprop has no centered, and takes the option momentum but does not do it"),
}

OPTIMIZERS_8BIT = {ADAM: ("Adam8bit", ADAM_OPTIONS), ADAMW: ("AdamW8bit", ADAM_OPTIONS)}
OTHERS_8BIT: Reasons = {key: OTHERS[key] for key in (AMSGRAD, AMSGRADW)}
WITH_8BIT = {"min_8bit_size": 1}
"""Without this option, tensors of fewer than 4,096 elements have states of 32 bits."""

ERROR_8BIT = 3e-4
"""How much a parameter may differ after the steps of the check, which move it by 3e-3 at most: 8 bits represent a state
to a few percent."""


def quieten() -> None:
    """Silence its report, when imported, of optional kernels that are not installed."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def start(library: Library, options: dict[str, Any], problem: Problem) -> Runner:
    name, taken = library.optimizer(problem.variant)
    tensors = Tensors.of(problem)
    values = settings(problem.variant)
    make = getattr(library.package(), name)
    optimizer = make(tensors.params, **{option: values[option] for option in taken}, **options)
    return Runner(optimizer.step, tensors.results, tensors.take_gradients)


LIBRARY = Library("bitsandbytes", "bitsandbytes.optim", OPTIMIZERS, OTHERS, quieten)
LIBRARY_8BIT = Library(
    "bitsandbytes",
    "bitsandbytes.optim",
    OPTIMIZERS_8BIT,
    OTHERS_8BIT,
    quieten,
)
BITSANDBYTES = Peer("bitsandbytes", partial(start, LIBRARY, {}), LIBRARY.unavailable)
BITSANDBYTES_8BIT = Peer(
    "bitsandbytes, 8-bit state",
    partial(start, LIBRARY_8BIT, WITH_8BIT),
    LIBRARY_8BIT.unavailable,
    approximate=True,
    absolute=ERROR_8BIT,
)

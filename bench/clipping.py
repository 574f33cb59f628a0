"""Clip, step and zero: fastopt does all three in one call; peers do them in other ways."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from .cases import Problem
from .peers import TORCH, Tensors, deepspeed, optax, unavailable_in
from .runner import Peer, Runner

MAX_GRAD_NORM = 1.0


def three_calls(
    name: str, make: Callable[[Tensors], Any], unavailable: Callable[[Problem], str | None], refilled: bool
) -> Peer:
    """Calls as in training loops of torch: clip_grad_norm_, step, zero_grad. `refilled`: gradients are not zero yet."""

    def start(problem: Problem) -> Runner:
        import torch

        tensors = Tensors.of(problem)
        optimizer = make(tensors)

        def step() -> None:
            torch.nn.utils.clip_grad_norm_(tensors.params, MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        prepare = tensors.take_gradients if refilled else None
        return Runner(step, tensors.results, tensors.take_gradients, prepare=prepare)

    return Peer(name, start, unavailable)


def torchs(refilled: bool) -> tuple[Peer, ...]:
    """Three calls, with each implementation of the optimizer in torch."""
    return tuple(
        three_calls(
            name,
            functools.partial(Tensors.optimizer, package="torch.optim", **options),
            unavailable_in("torch.optim", **options),
            refilled,
        )
        for name, options in TORCH.items()
    )


DEEPSPEED = three_calls("DeepSpeed", deepspeed.make_optimizer, deepspeed.LIBRARY.unavailable, refilled=False)

CORRECTION_ERROR = 5e-6
"""optax computes 1 - beta**step in float32: 0.3 % off for averages as slow as they must be here, where a gradient that
was zeroed stays zero. Without clipping, results differ by 3e-5."""

OPTAX = dataclasses.replace(
    optax.OPTAX, start=functools.partial(optax.start, max_norm=MAX_GRAD_NORM), absolute=CORRECTION_ERROR
)
"""Clips in its step, and zeroes nothing: it takes gradients as arguments."""

CLIP_STEP_ZERO = (*torchs(refilled=False), DEEPSPEED, OPTAX)
"""The peers compared with the single call of fastopt. Others clip each array by its own norm, or do not clip. With
these small gradients, eps has so much more effect in Keras that its formula is a different one."""

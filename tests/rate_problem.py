"""A small problem for tests of learning rates, and what an optimizer holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import equal_bits

import fastopt
from fastopt.schedules import CosineDecay, ExponentialDecay, Warmup

SHAPES = ((3, 4), (5,))
N_STEPS = 6
SCHEDULE = Warmup(CosineDecay(0.05, 9, alpha=0.1), 2)
"""Starts with a rate of 0."""
FALLING = ExponentialDecay(0.04, 1, 0.75)


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape) for shape in SHAPES]


def gradients(n: int = N_STEPS) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(4)
    return [[rng.standard_normal(shape) for shape in SHAPES] for _ in range(n)]


def assert_equal(first: fastopt.Optimizer, second: fastopt.Optimizer) -> None:
    """All parameters and states; not the lr of the groups."""
    for ours, theirs in zip(first.param_groups, second.param_groups, strict=True):
        for mine, other in zip(ours["params"], theirs["params"], strict=True):
            assert equal_bits(mine, other)
    for index in first.state:
        for name, value in first.state[index].items():
            if name == "step" and not first.spec.counts_steps:
                continue  # It is not in a state dict.
            assert np.array_equal(value, second.state[index][name], equal_nan=True), name


def everything(optimizer: fastopt.Optimizer) -> list[Any]:
    """Parameters, states and counts; schedules are not asked."""
    values: list[Any] = [param.tobytes() for group in optimizer.param_groups for param in group["params"]]
    for state in optimizer.state.values():
        values += [np.asarray(value).tobytes() for value in state.values()]
    return [*values, optimizer.iterations, optimizer.skipped_steps, repr(optimizer.grad_norm)]


def train(optimizer: fastopt.Optimizer, steps: list[list[np.ndarray]]) -> fastopt.Optimizer:
    for gradient in steps:
        optimizer.step(gradient)
    return optimizer

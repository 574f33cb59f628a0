"""Training functions and problems for the tests of `fastopt.tuning`; worker processes import them from here."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import fastopt


def parabola(lr: float, seed: int, epochs: int = 20) -> Iterator[dict[str, float]]:
    """Gradient descent on x**2: best at 0.5, and diverges above 1."""
    x = 1.0 + 0.01 * seed
    for _ in range(epochs):
        x -= lr * 2 * x
        yield {"loss": x * x + 0.5, "val_loss": x * x + 1, "accuracy": 1 / (1 + x * x)}


def raises_at_a_tenth(lr: float, seed: int) -> dict[str, float]:
    if lr == 0.1:
        raise KeyError(f"no data for seed {seed}")
    return {"loss": abs(np.log10(lr) + 2) + 1}


def ends_its_process(lr: float, seed: int) -> float:
    if lr == 0.001:
        os._exit(7)
    if lr == 0.002:
        os.kill(os.getpid(), signal.SIGKILL)
    return abs(float(np.log10(lr)) + 2) + 1


def exits(lr: float) -> float:
    raise SystemExit("enough")


def always_raises(lr: float) -> float:
    raise RuntimeError("no data")


def threads(lr: float, seed: int) -> dict[str, float]:
    """What a worker may use."""
    return {"loss": float(fastopt.get_num_threads()), "blas": float(os.environ["OPENBLAS_NUM_THREADS"])}


def with_optimizer(optimizer: Callable[..., fastopt.Optimizer], seed: int, epochs: int = 5) -> list[dict[str, float]]:
    """A loop of its own, with the optimizer that it is given."""
    x = np.array([1.0 + seed, -2.0])
    made = optimizer(x)
    found = []
    for _ in range(epochs):
        made.step(2 * x)
        found.append({"loss": float(x @ x)})
    return found


class Quadratic:
    """Half the squared distance to a target, with noise in the gradients, a full batch a step."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.params = {"a": self.random.normal(size=(3, 4)).astype(np.float32), "b": np.zeros(5, np.float32)}
        self.epochs = 4

    def batches(self, epoch: int) -> Any:
        return range(3)

    def loss_and_gradients(self, batch: int) -> Any:
        a, b = self.params["a"], self.params["b"]
        return 0.5 * float(np.square(a).sum() + np.square(b - 1).sum()), {"a": a.copy(), "b": b - 1}


class WrongProblem(Quadratic):
    """Returns no gradients."""

    def loss_and_gradients(self, batch: int) -> Any:
        return 0.5


def not_a_problem(seed: int) -> int:
    return 3


NOT_CALLABLE = 3

"""The update rules as a user writes them in NumPy from the textbook: what fastopt is compared with.

One class for each optimizer, in its default variant, with torch.optim's names and arithmetic. They are written
independently of `kernels/rules.py`, so they check fastopt as well (run in float64, where rounding hardly counts).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np


class Textbook(Protocol):
    """Updates the array that it was created with, in place."""

    def step(self, grads: np.ndarray) -> None:
        """One update by these gradients."""


class SGD:
    """Stochastic gradient descent without momentum."""

    def __init__(self, params: np.ndarray, lr: float = 1e-3) -> None:
        self.params, self.lr = params, lr

    def step(self, grads: np.ndarray) -> None:
        self.params -= self.lr * grads


class Adam:
    """Adam with the bias corrections on the two averages."""

    def __init__(
        self, params: np.ndarray, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self.params, self.lr, self.betas, self.eps = params, lr, betas, eps
        self.mean = np.zeros_like(params)
        self.mean_square = np.zeros_like(params)
        self.steps = 0

    def step(self, grads: np.ndarray) -> None:
        self.steps += 1
        beta1, beta2 = self.betas
        self.mean = beta1 * self.mean + (1 - beta1) * grads
        self.mean_square = beta2 * self.mean_square + (1 - beta2) * grads**2
        mean = self.mean / (1 - beta1**self.steps)
        mean_square = self.mean_square / (1 - beta2**self.steps)
        self.params -= self.lr * mean / (np.sqrt(mean_square) + self.eps)


class AdamW(Adam):
    """Adam with decoupled weight decay."""

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps)
        self.weight_decay = weight_decay

    def step(self, grads: np.ndarray) -> None:
        self.params *= 1 - self.lr * self.weight_decay
        super().step(grads)


class RMSprop:
    """RMSprop without momentum, not centered."""

    def __init__(self, params: np.ndarray, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8) -> None:
        self.params, self.lr, self.alpha, self.eps = params, lr, alpha, eps
        self.mean_square = np.zeros_like(params)

    def step(self, grads: np.ndarray) -> None:
        self.mean_square = self.alpha * self.mean_square + (1 - self.alpha) * grads**2
        self.params -= self.lr * grads / (np.sqrt(self.mean_square) + self.eps)


class Adagrad:
    """Adagrad."""

    def __init__(self, params: np.ndarray, lr: float = 1e-2, lr_decay: float = 0.0, eps: float = 1e-10) -> None:
        self.params, self.lr, self.lr_decay, self.eps = params, lr, lr_decay, eps
        self.sum_of_squares = np.zeros_like(params)
        self.steps = 0

    def step(self, grads: np.ndarray) -> None:
        lr = self.lr / (1 + self.steps * self.lr_decay)
        self.steps += 1
        self.sum_of_squares += grads**2
        self.params -= lr * grads / (np.sqrt(self.sum_of_squares) + self.eps)


class Rprop:
    """Rprop without weight backtracking: a gradient that has changed its sign is not used."""

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
    ) -> None:
        self.params, self.etas, self.step_sizes = params, etas, step_sizes
        self.previous = np.zeros_like(params)
        self.sizes = np.full_like(params, lr)

    def step(self, grads: np.ndarray) -> None:
        smaller, larger = self.etas
        agreement = grads * self.previous
        factor = np.ones_like(self.params)
        factor[agreement > 0] = larger
        factor[agreement < 0] = smaller
        self.sizes = np.clip(self.sizes * factor, *self.step_sizes)
        grads = np.where(agreement < 0, 0, grads)
        self.params -= np.sign(grads) * self.sizes
        self.previous = grads


class Adadelta:
    """Adadelta: the rate of each element is the root of the average of its squared steps."""

    def __init__(self, params: np.ndarray, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6) -> None:
        self.params, self.lr, self.rho, self.eps = params, lr, rho, eps
        self.mean_square = np.zeros_like(params)
        self.mean_square_step = np.zeros_like(params)

    def step(self, grads: np.ndarray) -> None:
        self.mean_square = self.rho * self.mean_square + (1 - self.rho) * grads**2
        step = np.sqrt((self.mean_square_step + self.eps) / (self.mean_square + self.eps)) * grads
        self.mean_square_step = self.rho * self.mean_square_step + (1 - self.rho) * step**2
        self.params -= self.lr * step


class Adamax:
    """Adam with the largest gradient, which decays, in place of the root of the average of squares."""

    def __init__(
        self, params: np.ndarray, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self.params, self.lr, self.betas, self.eps = params, lr, betas, eps
        self.mean = np.zeros_like(params)
        self.largest = np.zeros_like(params)
        self.steps = 0

    def step(self, grads: np.ndarray) -> None:
        self.steps += 1
        beta1, beta2 = self.betas
        self.mean = beta1 * self.mean + (1 - beta1) * grads
        self.largest = np.maximum(beta2 * self.largest, np.abs(grads) + self.eps)
        self.params -= self.lr * self.mean / (1 - beta1**self.steps) / self.largest


class NAdam:
    """Adam with Nesterov's momentum."""

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum_decay: float = 4e-3,
    ) -> None:
        self.params, self.lr, self.betas, self.eps, self.momentum_decay = params, lr, betas, eps, momentum_decay
        self.mean = np.zeros_like(params)
        self.mean_square = np.zeros_like(params)
        self.product = 1.0
        self.steps = 0

    def momentum(self, step: int) -> float:
        return self.betas[0] * (1 - 0.5 * math.pow(0.96, step * self.momentum_decay))

    def step(self, grads: np.ndarray) -> None:
        self.steps += 1
        beta1, beta2 = self.betas
        now, following = self.momentum(self.steps), self.momentum(self.steps + 1)
        self.product *= now
        self.mean = beta1 * self.mean + (1 - beta1) * grads
        self.mean_square = beta2 * self.mean_square + (1 - beta2) * grads**2
        mean = following * self.mean / (1 - self.product * following) + (1 - now) * grads / (1 - self.product)
        mean_square = self.mean_square / (1 - beta2**self.steps)
        self.params -= self.lr * mean / (np.sqrt(mean_square) + self.eps)


class RAdam:
    """Adam, rectified: while the average of squares has seen too few of them, it is not divided by."""

    def __init__(
        self, params: np.ndarray, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self.params, self.lr, self.betas, self.eps = params, lr, betas, eps
        self.mean = np.zeros_like(params)
        self.mean_square = np.zeros_like(params)
        self.steps = 0

    def step(self, grads: np.ndarray) -> None:
        self.steps += 1
        beta1, beta2 = self.betas
        self.mean = beta1 * self.mean + (1 - beta1) * grads
        self.mean_square = beta2 * self.mean_square + (1 - beta2) * grads**2
        mean = self.mean / (1 - beta1**self.steps)
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * self.steps * beta2**self.steps / (1 - beta2**self.steps)
        if length <= 5:
            self.params -= self.lr * mean
            return
        variance = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        scale = np.sqrt(variance * (1 - beta2**self.steps)) / (np.sqrt(self.mean_square) + self.eps)
        self.params -= self.lr * mean * scale


class Lion:
    """The sign of a momentum."""

    def __init__(self, params: np.ndarray, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        self.params, self.lr, self.betas = params, lr, betas
        self.mean = np.zeros_like(params)

    def step(self, grads: np.ndarray) -> None:
        beta1, beta2 = self.betas
        self.params -= self.lr * np.sign(beta1 * self.mean + (1 - beta1) * grads)
        self.mean = beta2 * self.mean + (1 - beta2) * grads


TEXTBOOK: dict[str, Callable[..., Textbook]] = {
    each.__name__: each for each in (SGD, Adam, AdamW, RMSprop, Adagrad, Rprop, Adadelta, Adamax, NAdam, RAdam, Lion)
}
"""By the name of fastopt's class."""

TOLERANCE = 1e-4
"""Of the way that an element goes: how far from the textbook's result counts as equal, apart from rounding."""


def find_expected(
    name: str, start: np.ndarray, gradients: Sequence[np.ndarray], settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Where steps by these gradients lead, computed in float64, and how far from there counts as equal.

    The limit is, element by element, `TOLERANCE` of the way that the element goes, back and forth included, one
    rounding to the dtype of `start` for each step, and what becomes of gradients that are off by a few roundings: where
    a sum of about zero decides by its sign, as Lion's does, rounding can decide otherwise.
    """
    floats = np.finfo(start.dtype)
    params, way = _follow(name, start, gradients, settings, 0)
    limit = TOLERANCE * way + len(gradients) * (floats.eps * (np.abs(start) + way) + floats.tiny / floats.eps)
    for share in (8 * floats.eps, -8 * floats.eps):
        limit += np.abs(_follow(name, start, gradients, settings, share)[0] - params)
    return params, limit


def _follow(
    name: str, start: np.ndarray, gradients: Sequence[np.ndarray], settings: Mapping[str, Any], share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where steps lead, and how far each element goes; gradients are larger, then smaller, by this share, in turns."""
    params = start.astype(np.float64)
    optimizer = TEXTBOOK[name](params, **settings)
    way = np.zeros_like(params)
    for number, gradient in enumerate(gradients):
        before = params.copy()
        optimizer.step(gradient.astype(np.float64) * (1 + (-1) ** number * share))
        way += np.abs(params - before)
    return params, way


def is_equal(result: np.ndarray, expected: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether a result is what `find_expected` says; NaN never is."""
    goal, limit = expected
    return bool(np.all(np.abs(result - goal) <= limit))

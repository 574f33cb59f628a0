"""The update rules as a careful user writes them in NumPy from the textbook: what fastopt is compared with.

One function for each rule, of arrays that it updates in place and of numbers, and one class for each optimizer, with
torch.optim's names and arithmetic. `numba.njit` compiles the functions as they are; `bench/` measures both. They are
written independently of `kernels/rules.py`, so they check fastopt as well: in float64, where rounding hardly counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# --- the rules: params, grads, the arrays that are kept, numbers ------------------------------------------------------

# Types are left out, so that NumPy's arrays and Numba's have the same functions. `rest` is 1 - beta: in Numba, 1 less a
# float32 is a float64, and then everything is.


def sgd(params, grads, lr):  # type: ignore[no-untyped-def]
    params -= lr * grads


def sgd_momentum(params, grads, buffer, lr, momentum):  # type: ignore[no-untyped-def]
    buffer *= momentum
    buffer += grads
    params -= lr * buffer


def sgd_nesterov(params, grads, buffer, lr, momentum):  # type: ignore[no-untyped-def]
    buffer *= momentum
    buffer += grads
    params -= lr * (grads + momentum * buffer)


def adam(params, grads, mean, mean_square, beta1, rest1, beta2, rest2, keep, rate, root, eps):  # type: ignore[no-untyped-def]
    if keep != 1:
        params *= keep
    mean *= beta1
    mean += rest1 * grads
    mean_square *= beta2
    mean_square += rest2 * np.square(grads)
    params -= rate * mean / (np.sqrt(mean_square) / root + eps)


def rmsprop(params, grads, mean_square, alpha, rest, lr, eps):  # type: ignore[no-untyped-def]
    mean_square *= alpha
    mean_square += rest * np.square(grads)
    params -= lr * grads / (np.sqrt(mean_square) + eps)


def adagrad(params, grads, sum_of_squares, lr, eps):  # type: ignore[no-untyped-def]
    sum_of_squares += np.square(grads)
    params -= lr * grads / (np.sqrt(sum_of_squares) + eps)


def rprop(params, grads, previous, sizes, smaller, larger, smallest, largest):  # type: ignore[no-untyped-def]
    agreement = grads * previous
    sizes[:] = np.where(agreement > 0, larger * sizes, np.where(agreement < 0, smaller * sizes, sizes))
    sizes[:] = np.minimum(np.maximum(sizes, smallest), largest)
    previous[:] = np.where(agreement < 0, 0 * grads, grads)
    params -= np.sign(previous) * sizes


def adadelta(params, grads, mean_square, mean_square_step, rho, rest, lr, eps):  # type: ignore[no-untyped-def]
    mean_square *= rho
    mean_square += rest * np.square(grads)
    step = np.sqrt((mean_square_step + eps) / (mean_square + eps)) * grads
    mean_square_step *= rho
    mean_square_step += rest * np.square(step)
    params -= lr * step


def adamax(params, grads, mean, largest, beta1, rest1, beta2, rate, eps):  # type: ignore[no-untyped-def]
    mean *= beta1
    mean += rest1 * grads
    largest[:] = np.maximum(beta2 * largest, np.abs(grads) + eps)
    params -= rate * mean / largest


def nadam(params, grads, mean, mean_square, beta1, rest1, beta2, rest2, mean_rate, grad_rate, root, eps):  # type: ignore[no-untyped-def]
    mean *= beta1
    mean += rest1 * grads
    mean_square *= beta2
    mean_square += rest2 * np.square(grads)
    params -= (mean_rate * mean + grad_rate * grads) / (np.sqrt(mean_square) / root + eps)


def radam(params, grads, mean, mean_square, beta1, rest1, beta2, rest2, rectified, rate, eps):  # type: ignore[no-untyped-def]
    mean *= beta1
    mean += rest1 * grads
    mean_square *= beta2
    mean_square += rest2 * np.square(grads)
    if rectified:
        params -= rate * mean / (np.sqrt(mean_square) + eps)
    else:
        params -= rate * mean


def lion(params, grads, mean, beta1, rest1, beta2, rest2, lr):  # type: ignore[no-untyped-def]
    params -= lr * np.sign(beta1 * mean + rest1 * grads)
    mean *= beta2
    mean += rest2 * grads


# --- the optimizers ---------------------------------------------------------------------------------------------------


class Textbook:
    """Updates the array that it was created with, in place, by `update`: one of the functions above.

    `states` is how many arrays of zeros it keeps.
    """

    update: Callable[..., None]
    coefficients: tuple[float, ...] = ()

    def __init__(self, params: np.ndarray, states: int) -> None:
        self.params = params
        self.states = [np.zeros_like(params) for _ in range(states)]
        self.steps = 0

    def numbers(self) -> tuple[float, ...]:
        """The last arguments of `update`, for step number `steps`, which counts from 1; by default the same in each."""
        return self.coefficients

    def step(self, grads: np.ndarray) -> None:
        """One update by these gradients."""
        self.steps += 1
        self.update(self.params, grads, *self.states, *self.numbers())


class SGD(Textbook):
    """Stochastic gradient descent."""

    def __init__(self, params: np.ndarray, lr: float = 1e-3, momentum: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(params, 1 if momentum else 0)
        self.coefficients = (lr, momentum) if momentum else (lr,)
        self.update = (sgd_nesterov if nesterov else sgd_momentum) if momentum else sgd


class Adam(Textbook):
    """Adam with the bias corrections on the two averages."""

    update: Callable[..., None] = staticmethod(adam)
    weight_decay = 0.0

    def __init__(
        self, params: np.ndarray, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, 2)
        self.lr, self.betas, self.eps = lr, betas, eps

    @property
    def averaging(self) -> tuple[float, float, float, float]:
        """What is kept of each average, and what is new in it."""
        beta1, beta2 = self.betas
        return beta1, 1 - beta1, beta2, 1 - beta2

    @property
    def correction(self) -> float:
        """Of the average of squares: what of its weights there is so far."""
        return 1 - self.betas[1] ** self.steps

    @property
    def rate(self) -> float:
        """That of the average of gradients, corrected for what of its weights there is so far."""
        return self.lr / (1 - self.betas[0] ** self.steps)

    def numbers(self) -> tuple[float, ...]:
        keep = 1 - self.lr * self.weight_decay
        return *self.averaging, keep, self.rate, math.sqrt(self.correction), self.eps


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


class RMSprop(Textbook):
    """RMSprop without momentum, not centered."""

    update = staticmethod(rmsprop)

    def __init__(self, params: np.ndarray, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(params, 1)
        self.coefficients = (alpha, 1 - alpha, lr, eps)


class Adagrad(Textbook):
    """Adagrad."""

    update = staticmethod(adagrad)

    def __init__(self, params: np.ndarray, lr: float = 1e-2, lr_decay: float = 0.0, eps: float = 1e-10) -> None:
        super().__init__(params, 1)
        self.lr, self.lr_decay, self.eps = lr, lr_decay, eps

    def numbers(self) -> tuple[float, ...]:
        return self.lr / (1 + (self.steps - 1) * self.lr_decay), self.eps


class Rprop(Textbook):
    """Rprop without weight backtracking: a gradient that has changed its sign is not used."""

    update = staticmethod(rprop)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
    ) -> None:
        super().__init__(params, 2)
        self.states[1][...] = lr
        self.coefficients = (*etas, *step_sizes)


class Adadelta(Textbook):
    """Adadelta: the rate of each element is the root of the average of its squared steps."""

    update = staticmethod(adadelta)

    def __init__(self, params: np.ndarray, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6) -> None:
        super().__init__(params, 2)
        self.coefficients = (rho, 1 - rho, lr, eps)


class Adamax(Adam):
    """Adam with the largest gradient, which decays, in place of the root of the average of squares."""

    update = staticmethod(adamax)

    def __init__(
        self, params: np.ndarray, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, lr, betas, eps)

    def numbers(self) -> tuple[float, ...]:
        return *self.averaging[:3], self.rate, self.eps


class NAdam(Adam):
    """Adam with Nesterov's momentum."""

    update = staticmethod(nadam)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum_decay: float = 4e-3,
    ) -> None:
        super().__init__(params, lr, betas, eps)
        self.momentum_decay = momentum_decay
        self.product = 1.0

    def momentum(self, step: int) -> float:
        return self.betas[0] * (1 - 0.5 * math.pow(0.96, step * self.momentum_decay))

    def numbers(self) -> tuple[float, ...]:
        now, following = self.momentum(self.steps), self.momentum(self.steps + 1)
        self.product *= now
        mean_rate = self.lr * following / (1 - self.product * following)
        grad_rate = self.lr * (1 - now) / (1 - self.product)
        return *self.averaging, mean_rate, grad_rate, math.sqrt(self.correction), self.eps


class RAdam(Adam):
    """Adam, rectified: while the average of squares has seen too few of them, it is not divided by."""

    update = staticmethod(radam)

    def numbers(self) -> tuple[float, ...]:
        beta2 = self.betas[1]
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * self.steps * beta2**self.steps / self.correction
        if length <= 5:
            return *self.averaging, 0.0, self.rate, self.eps
        variance = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        return *self.averaging, 1.0, self.rate * math.sqrt(variance * self.correction), self.eps


class Lion(Textbook):
    """The sign of a momentum."""

    update = staticmethod(lion)

    def __init__(self, params: np.ndarray, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, 1)
        self.coefficients = (betas[0], 1 - betas[0], betas[1], 1 - betas[1], lr)


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

"""The update rules as a careful user would write them in NumPy, for comparison with fastopt.

Each rule is a function of numbers and of arrays that it updates in place. Each optimizer is a class with torch.optim's
names and arithmetic. `numba.njit` compiles the functions unchanged, and `bench/` measures both versions. The rules are
written independently of fastopt's own formulas, so they also check fastopt's results, in float64, where rounding hardly
matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

# --- the rules: params, grads, state arrays, numbers ------------------------------------------------------------------

# The functions have no type annotations, because NumPy and Numba share them. `rest` is 1 - beta, computed outside: in
# Numba, 1 - float32 is a float64 and would make the whole expression float64.


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


def adam_cautious(  # type: ignore[no-untyped-def]
    params, grads, mean, mean_square, beta1, rest1, beta2, rest2, decay, selective, mean_rate, grad_rate, root, eps
):
    """Adam, and NAdam with a `grad_rate`, without the elements of the update that do not go along the gradient."""
    mean *= beta1
    mean += rest1 * grads
    mean_square *= beta2
    mean_square += rest2 * np.square(grads)
    step = (mean_rate * mean + grad_rate * grads) / (np.sqrt(mean_square) / root + eps)
    kept = step * grads > 0
    step *= kept
    step /= max(np.sum(kept) / max(grads.size, 1), 0.001)
    if selective:
        params -= (step * params >= 0) * (decay * params)
    else:
        params -= decay * params
    params -= step


def adam_selective(params, grads, mean, mean_square, beta1, rest1, beta2, rest2, decay, rate, root, eps):  # type: ignore[no-untyped-def]
    mean *= beta1
    mean += rest1 * grads
    mean_square *= beta2
    mean_square += rest2 * np.square(grads)
    params -= (mean * params >= 0) * (decay * params)
    params -= rate * mean / (np.sqrt(mean_square) / root + eps)


def radam(params, grads, mean, mean_square, beta1, rest1, beta2, rest2, rectified, rate, eps):  # type: ignore[no-untyped-def]
    mean *= beta1
    mean += rest1 * grads
    mean_square *= beta2
    mean_square += rest2 * np.square(grads)
    if rectified:
        params -= rate * mean / (np.sqrt(mean_square) + eps)
    else:
        params -= rate * mean


def lion(params, grads, mean, beta1, rest1, beta2, rest2, keep, lr):  # type: ignore[no-untyped-def]
    if keep != 1:
        params *= keep
    params -= lr * np.sign(beta1 * mean + rest1 * grads)
    mean *= beta2
    mean += rest2 * grads


def lion_cautious(params, grads, mean, beta1, rest1, beta2, rest2, decay, selective, lr):  # type: ignore[no-untyped-def]
    step = np.sign(beta1 * mean + rest1 * grads)
    kept = step * grads > 0
    step *= kept
    step /= max(np.sum(kept) / max(grads.size, 1), 0.001)
    if selective:
        params -= (step * params >= 0) * (decay * params)
    else:
        params -= decay * params
    params -= lr * step
    mean *= beta2
    mean += rest2 * grads


def lion_selective(params, grads, mean, beta1, rest1, beta2, rest2, decay, lr):  # type: ignore[no-untyped-def]
    params -= ((beta1 * mean + rest1 * grads) * params >= 0) * (decay * params)
    params -= lr * np.sign(beta1 * mean + rest1 * grads)
    mean *= beta2
    mean += rest2 * grads


def adabelief(params, grads, mean, variance, beta1, rest1, beta2, rest2, rate, root, eps):  # type: ignore[no-untyped-def]
    mean *= beta1
    mean += rest1 * grads
    variance *= beta2
    variance += rest2 * np.square(grads - mean) + eps
    params -= rate * mean / (np.sqrt(variance) / root + eps)


def ademamix(  # type: ignore[no-untyped-def]
    params,
    grads,
    fast,
    slow,
    mean_square,
    beta1,
    rest1,
    beta2,
    rest2,
    beta3,
    rest3,
    alpha,
    keep,
    lr,
    correction,
    root,
    eps,
):
    if keep != 1:
        params *= keep
    fast *= beta1
    fast += rest1 * grads
    slow *= beta3
    slow += rest3 * grads
    mean_square *= beta2
    mean_square += rest2 * np.square(grads)
    params -= lr * (fast / correction + alpha * slow) / (np.sqrt(mean_square) / root + eps)


def adopt(  # type: ignore[no-untyped-def]
    params, grads, mean, mean_square, first, beta1, rest1, beta2, rest2, keep, largest, lr, eps
):
    if first:
        mean_square += np.square(grads)
    else:
        if keep != 1:
            params *= keep
        mean *= beta1
        mean += rest1 * np.minimum(np.maximum(grads / np.maximum(np.sqrt(mean_square), eps), -largest), largest)
        params -= lr * mean
        mean_square *= beta2
        mean_square += rest2 * np.square(grads)


def adan(  # type: ignore[no-untyped-def]
    params,
    grads,
    mean,
    mean_square,
    mean_difference,
    negated,
    first,
    beta1,
    rest1,
    beta2,
    rest2,
    beta3,
    rest3,
    keep,
    rate,
    difference_rate,
    root,
    eps,
    divisor,
):
    if first:
        negated[:] = -grads
    if keep != 1:
        params *= keep
    mean *= beta1
    mean += rest1 * grads
    mean_difference *= beta2
    mean_difference += rest2 * (grads + negated)
    mean_square *= beta3
    mean_square += rest3 * np.square(grads + beta2 * (grads + negated))
    params -= (rate * mean + difference_rate * mean_difference) / (np.sqrt(mean_square) / root + eps)
    if divisor != 1:
        params /= divisor
    negated[:] = -grads


def lamb(  # type: ignore[no-untyped-def]
    params, grads, mean, mean_square, beta1, rest1, beta2, rest2, divisor, root, eps, weight_decay, lr, adapts
):
    mean *= beta1
    mean += rest1 * grads
    mean_square *= beta2
    mean_square += rest2 * np.square(grads)
    direction = mean / divisor / (np.sqrt(mean_square) / root + eps) + weight_decay * params
    length, other = np.sqrt(np.sum(np.square(params))), np.sqrt(np.sum(np.square(direction)))
    if adapts and length > 0 and other > 0:
        direction *= length / other
    params -= lr * direction


def lars(  # type: ignore[no-untyped-def]
    params, grads, buffer, lr, weight_decay, trust_coeff, eps, adapts, momentum, weight, nesterov
):
    length, other = np.sqrt(np.sum(np.square(params))), np.sqrt(np.sum(np.square(grads)))
    found = grads + weight_decay * params
    if adapts and length > 0 and other > 0:
        found *= trust_coeff * length / (other + weight_decay * length + eps)
    buffer *= momentum
    buffer += weight * found
    if nesterov:
        params -= lr * (found + momentum * buffer)
    else:
        params -= lr * buffer


def stable_adamw(  # type: ignore[no-untyped-def]
    params, grads, mean, mean_square, beta1, rest1, beta2, rest2, lr, eps, weight_decay
):
    mean *= beta1
    mean += rest1 * grads
    mean_square *= beta2
    mean_square += rest2 * np.square(grads)
    ratio = np.sqrt(np.sum(np.square(grads) / np.maximum(mean_square, eps * eps)) / max(grads.size, 1))
    rate = lr / max(1.0, ratio)
    params *= 1 - rate * weight_decay
    params -= rate * mean / (np.sqrt(mean_square) + eps)


def prodigy(  # type: ignore[no-untyped-def]
    params,
    grads,
    s,
    start,
    mean,
    mean_square,
    estimate,
    first,
    beta1,
    beta2,
    beta3,
    lr,
    corrects,
    safeguards,
    d0,
    coefficient,
    growth,
    weight_decay,
    eps,
):
    if first:
        start[:] = params
    d, largest, numerator, steps = float(estimate[0]), float(estimate[1]), float(estimate[2]), float(estimate[3]) + 1
    rate = d * lr
    if corrects:
        rate *= (1 - beta2**steps) ** 0.5 / (1 - beta1**steps)
    numerator = beta3 * numerator + d / d0 * rate * float(np.sum(grads * (start - params)))
    mean *= beta1
    mean += d * (1 - beta1) * grads
    mean_square *= beta2
    mean_square += d * d * (1 - beta2) * np.square(grads)
    s *= beta3
    s += d / d0 * (d if safeguards else rate) * grads
    total = float(np.sum(np.abs(s)))
    if total != 0:
        found = coefficient * numerator / total
        if d == d0:
            d = max(d, found)
        largest = max(largest, found)
        d = min(largest, d * growth)
        estimate[0], estimate[1], estimate[2], estimate[3] = d, largest, numerator, steps
        params -= weight_decay * rate * params
        params -= rate * mean / (np.sqrt(mean_square) + d * eps)


def asgd(params, grads, average, keep, rate, weight):  # type: ignore[no-untyped-def]
    if keep != 1:
        params *= keep
    params -= rate * grads
    average += weight * (params - average)


def schedule_free_adamw(  # type: ignore[no-untyped-def]
    params, grads, z, mean_square, beta2, rest2, rate, root, eps, weight_decay, share, own_rate
):
    mean_square *= beta2
    mean_square += rest2 * np.square(grads)
    found = grads / (np.sqrt(mean_square) / root + eps)
    if weight_decay != 0:
        found += weight_decay * params
    params += share * (z - params) - own_rate * found
    z -= rate * found


def schedule_free_sgd(params, grads, z, rate, weight_decay, share, own_rate):  # type: ignore[no-untyped-def]
    found = grads + weight_decay * params if weight_decay != 0 else grads
    params += share * (z - params) - own_rate * found
    z -= rate * found


# --- the optimizers ---------------------------------------------------------------------------------------------------


class Textbook:
    """Updates the array that it was created with, in place, with `update`, one of the functions above.

    `states` is the number of state arrays, which start at zero.
    """

    update: Callable[..., None]
    coefficients: tuple[float, ...] = ()

    def __init__(self, params: np.ndarray, states: int) -> None:
        self.params = params
        self.states = [np.zeros_like(params) for _ in range(states)]
        self.steps = 0

    def numbers(self) -> tuple[float, ...]:
        """The last arguments of `update` in step `steps`, which counts from 1. By default they never change."""
        return self.coefficients

    def step(self, grads: np.ndarray) -> None:
        """Update once with these gradients."""
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
    cautious = selective = False

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        cautious: bool = False,
    ) -> None:
        super().__init__(params, 2)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.set_caution(cautious, False)

    def set_caution(self, cautious: bool, selective: bool) -> None:
        self.cautious, self.selective = cautious, selective
        if cautious or selective:
            self.update = adam_cautious if cautious else adam_selective

    @property
    def averaging(self) -> tuple[float, float, float, float]:
        """beta1, 1 - beta1, beta2, 1 - beta2: the weights of the old average and of the new value."""
        beta1, beta2 = self.betas
        return beta1, 1 - beta1, beta2, 1 - beta2

    @property
    def correction(self) -> float:
        """The bias correction of the average of squares: the sum of its weights so far."""
        return 1 - self.betas[1] ** self.steps

    @property
    def rate(self) -> float:
        """The learning rate divided by the bias correction of the average of gradients."""
        return self.lr / (1 - self.betas[0] ** self.steps)

    def numbers(self) -> tuple[float, ...]:
        decay = self.lr * self.weight_decay
        end = (math.sqrt(self.correction), self.eps)
        if self.cautious:
            return *self.averaging, decay, float(self.selective), self.rate, 0.0, *end
        return *self.averaging, decay if self.selective else 1 - decay, self.rate, *end


class AdamW(Adam):
    """Adam with decoupled weight decay."""

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        cautious: bool = False,
        cautious_weight_decay: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps)
        self.weight_decay = weight_decay
        self.set_caution(cautious, cautious_weight_decay)


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
    """Rprop without weight backtracking: a gradient whose sign has changed is not used."""

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
    """Adadelta: the root of the average of an element's squared steps is its rate."""

    update = staticmethod(adadelta)

    def __init__(self, params: np.ndarray, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6) -> None:
        super().__init__(params, 2)
        self.coefficients = (rho, 1 - rho, lr, eps)


class Adamax(Adam):
    """Adam with a decaying maximum of gradients instead of the root of the average of squares."""

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
        cautious: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, cautious)
        self.momentum_decay = momentum_decay
        self.product = 1.0

    def momentum(self, step: int) -> float:
        return self.betas[0] * (1 - 0.5 * math.pow(0.96, step * self.momentum_decay))

    def numbers(self) -> tuple[float, ...]:
        now, following = self.momentum(self.steps), self.momentum(self.steps + 1)
        self.product *= now
        mean_rate = self.lr * following / (1 - self.product * following)
        grad_rate = self.lr * (1 - now) / (1 - self.product)
        decay = (0.0, 0.0) if self.cautious else ()
        return *self.averaging, *decay, mean_rate, grad_rate, math.sqrt(self.correction), self.eps


class RAdam(Adam):
    """Rectified Adam: it does not divide by the root of the average of squares until that average has enough values."""

    update = staticmethod(radam)

    def numbers(self) -> tuple[float, ...]:
        beta2 = self.betas[1]
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * self.steps * beta2**self.steps / self.correction
        if length <= 5:
            return *self.averaging, 0.0, self.rate, self.eps
        variance = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        return *self.averaging, 1.0, self.rate * math.sqrt(variance * self.correction), self.eps


class ASGD(Textbook):
    """Stochastic gradient descent with a falling rate, and the average of the parameters from step `t0` on."""

    update = staticmethod(asgd)

    def __init__(
        self, params: np.ndarray, lr: float = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6
    ) -> None:
        super().__init__(params, 1)
        self.lr, self.lambd, self.alpha, self.t0 = lr, lambd, alpha, t0

    def numbers(self) -> tuple[float, ...]:
        earlier = self.steps - 1
        rate = self.lr / (1 + self.lambd * self.lr * earlier) ** self.alpha
        return 1 - self.lambd * rate, rate, 1 / max(1.0, earlier - self.t0)


class Lion(Textbook):
    """Lion: steps along the sign of a momentum."""

    update: Any = staticmethod(lion)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        cautious: bool = False,
        cautious_weight_decay: bool = False,
    ) -> None:
        super().__init__(params, 1)
        averaging, decay = (betas[0], 1 - betas[0], betas[1], 1 - betas[1]), lr * weight_decay
        if cautious:
            self.update = lion_cautious
            self.coefficients = (*averaging, decay, float(cautious_weight_decay), lr)
        elif cautious_weight_decay:
            self.update = lion_selective
            self.coefficients = (*averaging, decay, lr)
        else:
            self.coefficients = (*averaging, 1 - decay, lr)


class AdaBelief(Adam):
    """Adam with the squares of what the average of gradients did not foresee."""

    update = staticmethod(adabelief)

    def numbers(self) -> tuple[float, ...]:
        return *self.averaging, self.rate, math.sqrt(self.correction), self.eps


class AdEMAMix(Textbook):
    """Adam with a second, slow average of gradients."""

    update = staticmethod(ademamix)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        beta3_warmup: float = 0.0,
        alpha_warmup: float = 0.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, 3)
        self.lr, self.betas, self.alpha, self.eps, self.weight_decay = lr, betas, alpha, eps, weight_decay
        self.warmups = (beta3_warmup, alpha_warmup)

    def slow_beta(self) -> float:
        """Over the warmup, its half-life grows linearly from that of the fast average."""
        (start, _, end), (steps, _) = self.betas, self.warmups
        if self.steps >= steps:
            return end
        share = self.steps / steps
        first, last = math.log(start), math.log(end)
        return math.exp(first * last / ((1 - share) * last + share * first))

    def numbers(self) -> tuple[float, ...]:
        (beta1, beta2, _), beta3, (_, steps) = self.betas, self.slow_beta(), self.warmups
        alpha = min(self.steps * self.alpha / steps, self.alpha) if steps else self.alpha
        averaging = (beta1, 1 - beta1, beta2, 1 - beta2, beta3, 1 - beta3)
        keep = 1 - self.lr * self.weight_decay
        corrections = (1 - beta1**self.steps, math.sqrt(1 - beta2**self.steps))
        return *averaging, alpha, keep, self.lr, *corrections, self.eps


class ADOPT(Textbook):
    """Gradients are divided by the root of the average before them, limited, and averaged."""

    update = staticmethod(adopt)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        use_clipping: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, 2)
        self.lr, self.betas, self.eps, self.use_clipping = lr, betas, eps, use_clipping
        self.keep = 1 - lr * weight_decay

    def numbers(self) -> tuple[float, ...]:
        (beta1, beta2), earlier = self.betas, self.steps - 1
        largest = earlier**0.25 if self.use_clipping else math.inf
        averaging = (beta1, 1 - beta1, beta2, 1 - beta2)
        return float(earlier == 0), *averaging, self.keep, largest, self.lr, self.eps


class Adan(Textbook):
    """Adam with Nesterov's momentum, by the difference of each gradient from the one before."""

    update = staticmethod(adan)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        no_prox: bool = False,
    ) -> None:
        super().__init__(params, 4)
        self.lr, self.betas, self.eps = lr, betas, eps
        shrinkage = lr * weight_decay
        self.keep, self.divisor = (1 - shrinkage, 1.0) if no_prox else (1.0, 1 + shrinkage)

    def numbers(self) -> tuple[float, ...]:
        beta1, beta2, beta3 = self.betas
        averaging = (beta1, 1 - beta1, beta2, 1 - beta2, beta3, 1 - beta3)
        rates = (self.lr / (1 - beta1**self.steps), self.lr * beta2 / (1 - beta2**self.steps))
        root = math.sqrt(1 - beta3**self.steps)
        return float(self.steps == 1), *averaging, self.keep, *rates, root, self.eps, self.divisor


class LAMB(Textbook):
    """Adam whose steps are as long, beside the array, as the rate says."""

    update = staticmethod(lamb)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        bias_correction: bool = True,
        always_adapt: bool = False,
    ) -> None:
        super().__init__(params, 2)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.bias_correction, self.adapts = bias_correction, always_adapt or weight_decay != 0

    def numbers(self) -> tuple[float, ...]:
        beta1, beta2 = self.betas
        corrections = [1 - beta**self.steps if self.bias_correction else 1.0 for beta in self.betas]
        averaging = (beta1, 1 - beta1, beta2, 1 - beta2)
        roots = (corrections[0], math.sqrt(corrections[1]), self.eps)
        return *averaging, *roots, self.weight_decay, self.lr, float(self.adapts)


class LARS(Textbook):
    """SGD whose gradients are as long, beside the array, as `trust_coeff` says."""

    update = staticmethod(lars)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1.0,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust_coeff: float = 1e-3,
        eps: float = 1e-8,
        always_adapt: bool = False,
    ) -> None:
        super().__init__(params, 1)
        adapts = float(always_adapt or weight_decay != 0)
        self.shared = (lr, weight_decay, trust_coeff, eps, adapts)
        self.momentum, self.dampening, self.nesterov = momentum, dampening, float(nesterov)

    def numbers(self) -> tuple[float, ...]:
        return *self.shared, self.momentum, 1.0 if self.steps == 1 else 1 - self.dampening, self.nesterov


class StableAdamW(Textbook):
    """AdamW with steps shortened where the gradient is large beside its average."""

    update = staticmethod(stable_adamw)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, 2)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay

    def numbers(self) -> tuple[float, ...]:
        rests = [(1 - beta) / (1 - beta**self.steps) for beta in self.betas]
        return 1 - rests[0], rests[0], 1 - rests[1], rests[1], self.lr, self.eps, self.weight_decay


class Prodigy(Textbook):
    """Adam with a rate that it estimates from how far the parameters have moved."""

    update = staticmethod(prodigy)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: Any = 0.0,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
    ) -> None:
        super().__init__(params, 4)
        self.estimate = np.array([d0, d0, 0.0, 0.0])
        averaging = (*betas, math.sqrt(betas[1]) if beta3 is None else beta3)
        switches = (float(use_bias_correction), float(safeguard_warmup))
        self.shared = (*averaging, lr, *switches, d0, d_coef, growth_rate, weight_decay, eps)

    def numbers(self) -> tuple[Any, ...]:
        return self.estimate, float(self.steps == 1), *self.shared


class ScheduleFree(Textbook):
    """What the Schedule-Free optimizers share: the weights of their averages; and a first state that starts as the
    array is before the first step."""

    def __init__(
        self, params: np.ndarray, states: int, lr: float, warmup_steps: float, r: float, weight_lr_power: float
    ) -> None:
        super().__init__(params, states)
        self.lr, self.warmup_steps, self.r, self.weight_lr_power = lr, warmup_steps, r, weight_lr_power
        self.weight_sum, self.lr_max = 0.0, -1.0

    def step(self, grads: np.ndarray) -> None:
        if self.steps == 0:
            self.states[0][...] = self.params
        super().step(grads)

    def rates(self, momentum: float) -> tuple[float, float, float]:
        """The rate of z, the share of z in the average, and the rate at which the array itself moves."""
        rate = self.lr * min(1.0, self.steps / self.warmup_steps if self.warmup_steps else 1.0)
        self.lr_max = max(self.lr_max, rate)
        weight = self.steps**self.r * self.lr_max**self.weight_lr_power
        self.weight_sum += weight
        share = weight / self.weight_sum if self.weight_sum else 0.0
        return rate, share, rate * (1 - momentum * (1 - share))


class ScheduleFreeAdamW(ScheduleFree):
    """AdamW, without momentum, of an average's other end."""

    update = staticmethod(schedule_free_adamw)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        super().__init__(params, 2, lr, warmup_steps, r, weight_lr_power)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def numbers(self) -> tuple[float, ...]:
        rate, share, own_rate = self.rates(self.betas[0])
        root = math.sqrt(1 - self.betas[1] ** self.steps)
        return self.betas[1], 1 - self.betas[1], rate, root, self.eps, self.weight_decay, share, own_rate


class ScheduleFreeSGD(ScheduleFree):
    """SGD of an average's other end."""

    update = staticmethod(schedule_free_sgd)

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        super().__init__(params, 1, lr, warmup_steps, r, weight_lr_power)
        self.momentum, self.weight_decay = momentum, weight_decay

    def numbers(self) -> tuple[float, ...]:
        rate, share, own_rate = self.rates(self.momentum)
        return rate, self.weight_decay, share, own_rate


TEXTBOOK: dict[str, Callable[..., Textbook]] = {
    name: each
    for name, each in list(globals().items())
    if isinstance(each, type) and issubclass(each, Textbook) and each not in (Textbook, ScheduleFree)
}
"""Classes by the name of fastopt's class."""

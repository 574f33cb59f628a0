"""Adam and StableAdamW as custom rules, for comparison with the built-in ones."""

from __future__ import annotations

import fastopt
from fastopt.rules import maximum, sqrt


def corrections(step, lr, beta1, beta2, eps):  # type: ignore[no-untyped-def]
    correction = sqrt(1 - beta2**step)
    step_size = lr * correction / (1 - beta1**step)
    eps = eps * correction
    return step_size, beta1, beta2, eps


@fastopt.rule(
    state=("exp_avg", "exp_avg_sq"),
    hyper=dict(lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8),
    coefficients=corrections,
)
def CustomAdam(param, grad, exp_avg, exp_avg_sq, step_size, beta1, beta2, eps):  # type: ignore[no-untyped-def]
    exp_avg = exp_avg + (1 - beta1) * (grad - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    return param - step_size * exp_avg / (sqrt(exp_avg_sq) + eps), exp_avg, exp_avg_sq


def ratios(grad, exp_avg_sq, beta2, least_square):  # type: ignore[no-untyped-def]
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    ratio_sum = grad * grad / maximum(exp_avg_sq, least_square)
    return ratio_sum  # noqa: RET504 - the name of the sum


def stable_coefficients(step, lr, beta1, beta2, eps, decay_weight, ratio_sum, numel):  # type: ignore[no-untyped-def]
    weight = 1 - beta1 * (1 - beta1 ** (step - 1)) / (1 - beta1**step)
    beta2 = beta2 * (1 - beta2 ** (step - 1)) / (1 - beta2**step)
    least_square = eps * eps
    step_size = lr / maximum(sqrt(ratio_sum / numel), 1)
    keep = 1 - step_size * decay_weight
    return weight, beta2, least_square, step_size, keep, eps


@fastopt.rule(
    state=("exp_avg", "exp_avg_sq"),
    hyper=dict(lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-8, decay_weight=1e-2),
    coefficients=stable_coefficients,
    sums=ratios,
)
def CustomStableAdamW(param, grad, exp_avg, exp_avg_sq, weight, beta2, step_size, keep, eps):  # type: ignore[no-untyped-def]
    exp_avg = exp_avg + weight * (grad - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    return keep * param - step_size * exp_avg / (sqrt(exp_avg_sq) + eps), exp_avg, exp_avg_sq

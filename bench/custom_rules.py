"""Adam as a custom rule, for comparison with the built-in one."""

from __future__ import annotations

import fastopt
from fastopt.rules import sqrt


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

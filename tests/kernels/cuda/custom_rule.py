"""A custom rule, for tests: nothing in it is about devices."""

from __future__ import annotations

import fastopt
from fastopt.rules import sqrt


def corrections(step, lr, beta, eps):  # type: ignore[no-untyped-def]
    lr = lr / (1 - beta**step)
    return lr, beta, eps


@fastopt.rule(state=("exp_avg", "largest"), hyper=dict(lr=1e-2, beta=0.9, eps=1e-8), coefficients=corrections)
def Custom(param, grad, exp_avg, largest, lr, beta, eps):  # type: ignore[no-untyped-def]
    exp_avg = beta * exp_avg + (1 - beta) * grad
    largest = sqrt(largest * largest + grad * grad)
    return param - lr * exp_avg / (largest + eps), exp_avg, largest

"""A custom rule with sums over each parameter and over all, which tests share."""

from __future__ import annotations

from typing import Any

import fastopt
from fastopt.rules import maximum, sqrt


def mean_square(grad: Any, exp_avg: Any, beta: Any) -> Any:
    exp_avg = beta * exp_avg + grad
    square_sum = exp_avg * exp_avg
    return square_sum  # noqa: RET504  # whose name is that of the sum


def travelled(param: Any, grad: Any) -> Any:
    inner = param * grad
    count = 1 + 0 * grad
    return inner, count


def by_root(lr: Any, beta: Any, square_sum: Any, inner: Any, count: Any, numel: Any) -> Any:
    step_size = lr / maximum(sqrt(square_sum / numel), 0.001)
    shift = lr * inner / count
    return step_size, shift, beta


@fastopt.rule(
    state=("exp_avg",), hyper={"lr": 0.1, "beta": 0.5}, coefficients=by_root, sums=mean_square, sums_over_all=travelled
)
def ByRoot(param: Any, grad: Any, exp_avg: Any, step_size: Any, shift: Any, beta: Any) -> Any:
    """Momentum divided by its root mean square; and all elements move by the mean of param * grad over everything."""
    exp_avg = beta * exp_avg + grad
    param = param - step_size * exp_avg - shift
    return param, exp_avg

"""A custom rule that tests share."""

import fastopt
from fastopt.rules import select


@fastopt.rule(state=("exp_avg",), hyper={"lr": 1e-2, "beta": 0.9, "nesterov": False}, domain={"beta": "[0, 1)"})
def Momentum(param, grad, exp_avg, lr, beta, nesterov):  # type: ignore[no-untyped-def]
    """Heavy ball."""
    exp_avg = beta * exp_avg + grad
    param = param - lr * select(nesterov != 0, beta * exp_avg + grad, exp_avg)
    return param, exp_avg

"""Custom rules that tests share."""

import fastopt
from fastopt.rules import select


@fastopt.rule(state=("exp_avg",), hyper={"lr": 1e-2, "beta": 0.9, "nesterov": False}, domain={"beta": "[0, 1)"})
def Momentum(param, grad, exp_avg, lr, beta, nesterov):  # type: ignore[no-untyped-def]
    """Heavy ball."""
    exp_avg = beta * exp_avg + grad
    param = param - lr * select(nesterov != 0, beta * exp_avg + grad, exp_avg)
    return param, exp_avg


@fastopt.rule(state={"exp_avg": 0.0, "anchor": "param"}, hyper={"lr": 0.1, "pull": 0.25})
def Anchored(param, grad, exp_avg, anchor, lr, pull):  # type: ignore[no-untyped-def]
    """A step of momentum, pulled to where it started; the anchor follows slowly."""
    exp_avg = 0.5 * exp_avg + grad
    param = param - lr * (exp_avg + pull * (param - anchor))
    anchor = anchor + 0.125 * (param - anchor)
    return param, exp_avg, anchor

"""ASGD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class ASGD(Optimizer):
    """Averaged stochastic gradient descent: SGD with a falling rate, and the average of what it steps through.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        eta_t = lr / (1 + lambd * lr * (t - 1))^alpha         (`eta`)
        mu_t = 1 / max(1, t - 1 - t0)                         (`mu`)
        p = p * (1 - lambd * eta_t) - eta_t * g
        a = a + mu_t * (p - a)

    `a` is a copy of the parameter up to step t0 + 2, and from there on the mean of the parameter over all steps. The
    parameter itself goes on without it; the result of the training is the average, `optimizer.state[index]["ax"]`, or
    `optimizer.state[param]["ax"]` in fastopt.torch. By default t0 is a million, as in torch: say when to begin.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-2
        The rate, per step; at least 0. As in torch, a new rate has its effect one step later: eta_t is computed after
        step t - 1, with the rate of that step.
    lambd: float, default 1e-4
        How fast the rate falls, and how much of the parameter each step takes away; at least 0.
    alpha: float, default 0.75
        The power of the fall; at least 0.
    t0: float, default 1e6
        When the average begins, in steps; at least 0.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.

    Notes
    -----
    State: `step`; `eta` and `mu` of the next step, which are kept in float64 (torch keeps them in float32), and -1 and
    1 before the first; `ax` (a), which is float32 whatever `state_dtype` says. Bytes moved a float32 parameter: 20.
    The average is of parameters before they are projected (`projection=`); `ema_decay=` keeps an exponential average
    after that, with any optimizer.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> opt = fastopt.ASGD(p, lr=0.1, t0=0)
    >>> for _ in range(4):
    ...     opt.step(np.array([5.0, -0.5]))
    >>> p.round(3), opt.state[0]["ax"].round(3)
    (array([-2. ,  0.2]), array([-1.5 ,  0.15]))

    References
    ----------
    torch.optim.ASGD; Polyak and Juditsky, Acceleration of stochastic approximation by averaging, SIAM Journal on
    Control and Optimization 30, 1992. The rate is that of Bottou, Stochastic gradient descent tricks, 2012.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-2),
        lambd: float = default(1e-4),
        alpha: float = default(0.75),
        t0: float = default(1e6),
        weight_decay: float = default(0.0),
        *,
        maximize: bool = default(False),
        decoupled_weight_decay: bool = default(False),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lambd": lambd,
                "alpha": alpha,
                "t0": t0,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            options,
        )

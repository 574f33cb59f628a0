"""Adadelta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class Adadelta(Optimizer):
    """Adadelta: steps as large as the average of past steps, over that of past gradients.

    With g the gradient plus `weight_decay` times the parameter p, and everything element by element::

        v = rho * v + (1 - rho) * g^2
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d^2
        p = p - lr * d

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1
        The rate, per step; at least 0. The method is meant to need none.
    rho: float, default 0.9
        How much of the averages stays from one step to the next; at least 0 and at most 1.
    eps: float, default 1e-6
        At least 0; also what the first steps are as large as, so that a smaller one makes it start more slowly.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.

    Notes
    -----
    State: `step`, `square_avg` (v), `acc_delta` (u). Bytes moved a float32 parameter: 28. There is no `prox=`: a step
    has no rate of its own that a proximal step could be done with.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.Adadelta(p).step(np.array([5.0, -0.5]))
    >>> p.round(6)
    array([-0.003162,  0.003162])

    References
    ----------
    torch.optim.Adadelta; Zeiler, ADADELTA: an adaptive learning rate method, 2012.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1.0),
        rho: float = default(0.9),
        eps: float = default(1e-6),
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
                "rho": rho,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
            options,
        )

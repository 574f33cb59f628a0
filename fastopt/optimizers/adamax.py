"""Adamax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class Adamax(Optimizer):
    """Adamax: Adam with the largest recent gradient in place of the root of the average square.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        m = beta1 * m + (1 - beta1) * g
        u = max(beta2 * u, |g| + eps)
        p = p - lr / (1 - beta1^t) * m / u

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 2e-3
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.999)
        How much of m and u stays from one step to the next; each at least 0 and less than 1.
    eps: float, default 1e-8
        At least 0. With 0, a parameter that has had only zero gradients becomes NaN (0 / 0), as in torch.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.

    Notes
    -----
    State: `step`, `exp_avg` (m), `exp_inf` (u). Bytes moved a float32 parameter: 28.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.Adamax(p).step(np.array([5.0, -0.5]))
    >>> p.round(6)
    array([-0.002,  0.002])

    References
    ----------
    torch.optim.Adamax; Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, section 7.1.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(2e-3),
        betas: tuple[float, float] = default((0.9, 0.999)),
        eps: float = default(1e-8),
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
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
            options,
        )

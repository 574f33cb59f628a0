"""RAdam."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import RAdamOptions
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class RAdam(Optimizer):
    """RAdam: Adam that waits with its adaptive step until the average of squares is worth it.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * t * beta2^t / (1 - beta2^t)
        r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        p = p - lr * r * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps)   (rho > 5)
        p = p - lr / (1 - beta1^t) * m                                             (else: the first steps)

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-3
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.999)
        How much of the averages stays from one step to the next; each at least 0 and less than 1.
    eps: float, default 1e-8
        At least 0.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.
    eps_root, threshold: with `convention="optax"`
        What is added under the root (0), and what rho must reach (5).

    Notes
    -----
    State: `step`, `exp_avg` (m), `exp_avg_sq` (v). Bytes moved a float32 parameter: 28.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.RAdam(p).step(np.array([5.0, -0.5]))
    >>> p.round(6)
    array([-0.005 ,  0.0005])

    References
    ----------
    torch.optim.RAdam; Liu et al., On the variance of the adaptive learning rate and beyond, ICLR 2020.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-3),
        betas: tuple[float, float] = default((0.9, 0.999)),
        eps: float = default(1e-8),
        weight_decay: float = default(0.0),
        decoupled_weight_decay: bool = default(False),
        *,
        maximize: bool = default(False),
        **options: Unpack[RAdamOptions],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            options,
        )

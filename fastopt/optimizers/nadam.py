"""NAdam."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import RootEpsOptions
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class NAdam(Optimizer):
    """NAdam: Adam with Nesterov's momentum, which grows from step to step.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2)
        M = M * mu_t                                          (`mu_product`, from 1)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        n = (1 - mu_t) * g / (1 - M) + mu_(t+1) * m / (1 - M * mu_(t+1))
        p = p - lr * n / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 2e-3
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.999)
        How much of the averages stays from one step to the next; each at least 0 and less than 1.
    eps: float, default 1e-8
        At least 0. With 0, a parameter that has had only zero gradients becomes NaN (0 / 0), as in torch.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    momentum_decay: float, default 4e-3
        How fast mu_t grows, per step; at least 0.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.
    cautious: bool, default False
        Step only the elements whose n has the sign of g; see `Adam`.
    eps_root: with `convention="optax"`
        What is added under the root (0). optax' nadam has no momentum_decay: mu_t is beta1 there.

    Notes
    -----
    State: `step`, `mu_product` (M, kept in float64; torch keeps it in float32), `exp_avg` (m), `exp_avg_sq` (v). Bytes
    moved a float32 parameter: 28, with `cautious` 36.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.NAdam(p).step(np.array([5.0, -0.5]))
    >>> p.round(6)
    array([-0.002113,  0.002113])

    References
    ----------
    torch.optim.NAdam; Dozat, Incorporating Nesterov momentum into Adam, ICLR workshop 2016.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(2e-3),
        betas: tuple[float, float] = default((0.9, 0.999)),
        eps: float = default(1e-8),
        weight_decay: float = default(0.0),
        momentum_decay: float = default(4e-3),
        decoupled_weight_decay: bool = default(False),
        *,
        maximize: bool = default(False),
        cautious: bool = default(False),
        **options: Unpack[RootEpsOptions],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
                "cautious": cautious,
            },
            options,
        )

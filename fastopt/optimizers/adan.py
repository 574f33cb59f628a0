"""Adan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import RootEpsOptions
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class Adan(Optimizer):
    """Adan: Adam with Nesterov's momentum, made from the differences of successive gradients.

    With g the gradient of a parameter p, d its difference from the gradient of the step before (0 in the first),
    and t counting steps from 1::

        m = beta1 * m + (1 - beta1) * g
        u = beta2 * u + (1 - beta2) * d
        n = beta3 * n + (1 - beta3) * (g + beta2 * d)^2
        p = p - lr * (m / (1 - beta1^t) + beta2 * u / (1 - beta2^t)) / (sqrt(n) / sqrt(1 - beta3^t) + eps)
        p = p / (1 + lr * weight_decay)

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-3
        The rate, per step; at least 0.
    betas: three floats, default (0.98, 0.92, 0.99)
        How much of m, u and n stays from one step to the next; each at least 0 and less than 1. The paper's are 1
        less these.
    eps: float, default 1e-8
        At least 0. With 0, a parameter that has had only zero gradients becomes NaN (0 / 0).
    weight_decay: float, default 0
        At least 0; by it the parameter shrinks after the update.
    no_prox: bool, default False
        Shrink the parameter as AdamW does instead: p = p * (1 - lr * weight_decay) before the update.
    eps_root: with `convention="optax"`
        What is added under the root (1e-8). There, 1 - beta2 stands for the beta2 that multiplies d and u, and the
        parameter shrinks as with `no_prox=True`.

    Notes
    -----
    State: `step`, `exp_avg` (m), `exp_avg_sq` (n), `exp_avg_diff` (u), `neg_pre_grad` (the last
    gradient, negative). Bytes moved a float32 parameter: 44. torch.optim has no Adan: with `convention="torch"`
    this is the authors' own, for PyTorch; their `max_grad_norm` is an option of every optimizer here.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.Adan(p).step(np.array([5.0, -0.5]))
    >>> p.round(6)
    array([-0.001,  0.001])

    References
    ----------
    Xie et al., Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models, TPAMI 2024;
    github.com/sail-sg/Adan.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-3),
        betas: tuple[float, float, float] = default((0.98, 0.92, 0.99)),
        eps: float = default(1e-8),
        weight_decay: float = default(0.0),
        no_prox: bool = default(False),
        *,
        maximize: bool = default(False),
        **options: Unpack[RootEpsOptions],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "no_prox": no_prox,
                "maximize": maximize,
            },
            options,
        )

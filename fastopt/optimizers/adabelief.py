"""AdaBelief."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import RootEpsOptions
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class AdaBelief(Optimizer):
    """AdaBelief: Adam that divides by how far gradients are from their average, not by how large they are.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m)^2 + eps
        p = p - lr / (1 - beta1^t) * m / (sqrt(s) / sqrt(1 - beta2^t) + eps)

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-3
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.999)
        How much of the averages stays from one step to the next; each at least 0 and less than 1.
    eps: float, default 1e-8
        At least 0; added to s in every step, where it stays, and to its root. The authors recommend 1e-8 where SGD is
        better than Adam (convolutional networks) and 1e-16 elsewhere (transformers).
    weight_decay: float, default 0
        At least 0; added to the gradient.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.
    eps_root: with `convention="optax"`
        What is added to s in every step in place of eps (1e-16).

    Notes
    -----
    State: `step`, `exp_avg` (m), `exp_avg_var` (s). Bytes moved a float32 parameter: 28. torch.optim
    has no AdaBelief: with `convention="torch"` this is the authors' own, for PyTorch, with `weight_decouple` as
    `decoupled_weight_decay` and without `rectify`, which adabelief-pytorch turns on from version 0.1 on.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.AdaBelief(p).step(np.array([5.0, -0.5]))
    >>> p.round(6)
    array([-0.001111,  0.001111])

    References
    ----------
    Zhuang et al., AdaBelief optimizer: adapting stepsizes by the belief in observed gradients, NeurIPS 2020;
    github.com/juntang-zhuang/Adabelief-Optimizer.
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
        **options: Unpack[RootEpsOptions],
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

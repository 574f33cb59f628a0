"""Adagrad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class Adagrad(Optimizer):
    """Adagrad: the gradient divided by the root of the sum of all its squares so far.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        s = s + g^2
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-2
        The rate, per step; at least 0.
    lr_decay: float, default 0
        Per step, and the first step is not decayed; at least 0.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    initial_accumulator_value: float, default 0
        What s starts with; at least 0.
    eps: float, default 1e-10
        At least 0.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead (the rate before its decay).

    Notes
    -----
    State: `step`, `sum` (s). Bytes moved a float32 parameter: 20.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.Adagrad(p, lr=0.1).step(np.array([3.0, -4.0]))
    >>> p.round(6)
    array([-0.1,  0.1])

    References
    ----------
    torch.optim.Adagrad; Duchi, Hazan and Singer, Adaptive subgradient methods, JMLR 12, 2011.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-2),
        lr_decay: float = default(0.0),
        weight_decay: float = default(0.0),
        initial_accumulator_value: float = default(0.0),
        eps: float = default(1e-10),
        *,
        maximize: bool = default(False),
        decoupled_weight_decay: bool = default(False),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
            options,
        )

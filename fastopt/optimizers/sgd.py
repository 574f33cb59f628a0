"""SGD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        b = g                                    (t = 1)
        b = momentum * b + (1 - dampening) * g   (t > 1)
        p = p - lr * b                           (nesterov: p - lr * (g + momentum * b))

    and without momentum p = p - lr * g.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-3
        The rate, per step; at least 0.
    momentum: float, default 0
        At least 0. Zero keeps no state.
    dampening: float, default 0
        Of all gradients but the first.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    nesterov: bool, default False
        Needs a momentum and no dampening.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.

    Notes
    -----
    State: `momentum_buffer`, when there is momentum. Bytes moved a float32 parameter: 12, with momentum 20.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.array([1.0, 2.0])
    >>> fastopt.SGD(p, lr=0.5).step(np.array([1.0, 1.0]))
    >>> p
    array([0.5, 1.5])

    References
    ----------
    torch.optim.SGD; Sutskever et al., On the importance of initialization and momentum in deep learning, 2013.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-3),
        momentum: float = default(0.0),
        dampening: float = default(0.0),
        weight_decay: float = default(0.0),
        nesterov: bool = default(False),
        *,
        maximize: bool = default(False),
        decoupled_weight_decay: bool = default(False),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
            options,
        )

"""LARS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class LARS(Optimizer):
    """LARS: SGD whose steps are as long, beside the parameter, as `trust_coeff` says.

    With g the gradient of a parameter p, and norms over all elements of the parameter::

        r = trust_coeff * norm(p) / (norm(g) + weight_decay * norm(p) + eps)
        b = momentum * b + (1 - dampening) * r * (g + weight_decay * p)
        p = p - lr * b

    The ratio r is 1 if one of the norms is 0; and, unless `always_adapt`, if weight_decay is 0. The buffer b starts as
    the first summand, without dampening. With Nesterov, momentum * b + r * (g + weight_decay * p) takes its place in
    the last line.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1.0
        The rate, per step; at least 0.
    momentum: float, default 0.9
        At least 0.
    dampening: float, default 0
        Any number.
    weight_decay: float, default 0
        At least 0. Always of this kind: a part of the gradient, and of the ratio.
    nesterov: bool, default False
        Needs a momentum and no dampening.
    trust_coeff: float, default 0.001
        At least 0.
    eps: float, default 1e-8
        At least 0.
    always_adapt: bool, default False
        Whether gradients of parameters without weight decay are scaled, too. With False, groups of biases and of norms'
        parameters that have weight_decay=0 are stepped as by SGD.

    Notes
    -----
    State: `step`, `momentum_buffer` (b). Bytes moved a float32 parameter: 28, of which 8 are read for the norms, which
    are added up in float64. A segment of a packed buffer is a parameter of its own.
    torch.optim has no LARS: with `convention="torch"` this is that of timm.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.array([3.0, 4.0])
    >>> fastopt.LARS(p, lr=1.0, trust_coeff=0.1, always_adapt=True).step(np.array([30.0, 40.0]))
    >>> p.round(4)
    array([2.7, 3.6])

    References
    ----------
    You, Gitman and Ginsburg, Large batch training of convolutional networks, 2017, arXiv:1708.03888.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1.0),
        momentum: float = default(0.9),
        dampening: float = default(0.0),
        weight_decay: float = default(0.0),
        nesterov: bool = default(False),
        trust_coeff: float = default(1e-3),
        eps: float = default(1e-8),
        always_adapt: bool = default(False),
        *,
        maximize: bool = default(False),
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
                "trust_coeff": trust_coeff,
                "eps": eps,
                "always_adapt": always_adapt,
                "maximize": maximize,
            },
            options,
        )

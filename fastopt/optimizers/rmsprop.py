"""RMSprop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import RMSpropOptions
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class RMSprop(Optimizer):
    """RMSprop: the gradient divided by the root of a moving average of its square.

    With g the gradient plus `weight_decay` times the parameter p::

        v = alpha * v + (1 - alpha) * g^2
        a = alpha * a + (1 - alpha) * g          (centered only)
        d = sqrt(v - a^2) + eps                  (not centered: sqrt(v) + eps)
        b = momentum * b + g / d                 (momentum only)
        p = p - lr * b                           (no momentum: p - lr * g / d)

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-2
        The rate, per step; at least 0.
    alpha: float, default 0.99
        How much of the averages stays from one step to the next (`rho` in Keras, `decay` in TensorFlow); at least 0.
    eps: float, default 1e-8
        At least 0; outside of the root, as in torch.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    momentum: float, default 0
        At least 0. Zero keeps no buffer.
    centered: bool, default False
        Divide by the standard deviation. Where rounding makes the variance negative, it counts as 0; torch gives NaN.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.
    nesterov, initial_scale, eps_in_sqrt, bias_correction: with `convention="optax"`
        Nesterov's momentum (False), what v starts with (0), whether eps is under the root (True), whether averages are
        corrected for their start at zero (False).

    Notes
    -----
    State: `step`, `square_avg` (v), `grad_avg` (a) when centered, `momentum_buffer` (b) with momentum. Bytes moved a
    float32 parameter: 20, and 8 more for each of the two.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.RMSprop(p, lr=0.1, alpha=0.75).step(np.array([1.0, -4.0]))
    >>> p.round(6)
    array([-0.2,  0.2])

    References
    ----------
    torch.optim.RMSprop; Tieleman and Hinton, lecture 6.5 of Neural networks for machine learning, 2012; centered:
    Graves, Generating sequences with recurrent neural networks, 2013, arXiv:1308.0850.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-2),
        alpha: float = default(0.99),
        eps: float = default(1e-8),
        weight_decay: float = default(0.0),
        momentum: float = default(0.0),
        centered: bool = default(False),
        *,
        maximize: bool = default(False),
        decoupled_weight_decay: bool = default(False),
        **options: Unpack[RMSpropOptions],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
            options,
        )

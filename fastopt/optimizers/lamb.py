"""LAMB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class LAMB(Optimizer):
    """LAMB: Adam whose step is as long, beside the parameter, as the rate says.

    With g the gradient of a parameter p, norms over all elements of the parameter, and t the number of its updates::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * p
        p = p - lr * (norm(p) / norm(u)) * u

    The ratio is 1 if one of the norms is 0; and, unless `always_adapt`, if weight_decay is 0.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`. The authors clip gradients to `max_grad_norm=1.0`; here, it is an option as everywhere.
    lr: float or function of the iteration, default 1e-3
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.999)
        How much of m and v stays; each at least 0 and less than 1.
    eps: float, default 1e-6
        At least 0.
    weight_decay: float, default 0.01
        At least 0. A part of the update u, and so of its norm.
    bias_correction: bool, default True
        False leaves out the divisions by 1 - beta1^t and 1 - beta2^t.
    always_adapt: bool, default False
        Whether steps of parameters without weight decay are scaled, too. With False, groups of biases and of norms'
        parameters that have weight_decay=0 are stepped as by Adam.

    Notes
    -----
    State: `step`, `exp_avg` (m), `exp_avg_sq` (v). Bytes moved a float32 parameter: 44, since the norm of u is needed
    before the first element can be written. Norms are added up in float64. A segment of a packed buffer is a parameter
    of its own. torch.optim has no LAMB: with `convention="torch"` this is that of timm, without its clipping.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.array([3.0, 4.0])
    >>> fastopt.LAMB(p, lr=0.1, weight_decay=0.0, always_adapt=True).step(np.array([5.0, -0.5]))
    >>> p.round(4)
    array([2.6464, 4.3536])

    References
    ----------
    You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, ICLR 2020.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-3),
        betas: tuple[float, float] = default((0.9, 0.999)),
        eps: float = default(1e-6),
        weight_decay: float = default(1e-2),
        bias_correction: bool = default(True),
        always_adapt: bool = default(False),
        *,
        maximize: bool = default(False),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "bias_correction": bias_correction,
                "always_adapt": always_adapt,
                "maximize": maximize,
            },
            options,
        )

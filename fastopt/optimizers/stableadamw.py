"""StableAdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class StableAdamW(Optimizer):
    """StableAdamW: AdamW whose step is shortened where gradients are large beside their average.

    With g the gradient of a parameter p, the mean over all elements of the parameter, and t the number of its updates::

        b1 = beta1 * (1 - beta1^(t-1)) / (1 - beta1^t)
        b2 = beta2 * (1 - beta2^(t-1)) / (1 - beta2^t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g^2
        r = lr / max(1, sqrt(mean(g^2 / max(v, eps^2))))
        p = p - r * weight_decay * p - r * m / (sqrt(v) + eps)

    A jump of the loss that comes from stale averages is clipped this way; gradients need no other clipping.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-3
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.99)
        How much of m and v stays; each at least 0 and less than 1.
    eps: float, default 1e-8
        At least 0.
    weight_decay: float, default 0.01
        At least 0. Always of this kind, decoupled.

    Notes
    -----
    State: `step`, `exp_avg` (m), `exp_avg_sq` (v). Bytes moved a float32 parameter: 40, of which 12 are read for the
    mean, which is added up in float64. A segment of a packed buffer is a parameter of its own. torch.optim has no
    StableAdamW: with `convention="torch"` this is that of pytorch_optimizer.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> opt = fastopt.StableAdamW(p, lr=0.1)
    >>> for g in (1.0, 1.0, 100.0):
    ...     opt.step(np.full(2, g))
    >>> p.round(4)
    array([-0.2373, -0.2373])

    References
    ----------
    Wortsman et al., Stable and low-precision training for large-scale vision-language models, 2023, arXiv:2304.13013.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-3),
        betas: tuple[float, float] = default((0.9, 0.99)),
        eps: float = default(1e-8),
        weight_decay: float = default(1e-2),
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
                "maximize": maximize,
            },
            options,
        )

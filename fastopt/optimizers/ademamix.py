"""AdEMAMix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import RootEpsOptions
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class AdEMAMix(Optimizer):
    """AdEMAMix: Adam with a second, much slower average of gradients beside the fast one.

    With g the gradient of a parameter p, and t counting steps from 1::

        m1 = beta1 * m1 + (1 - beta1) * g
        m2 = beta3_t * m2 + (1 - beta3_t) * g
        v = beta2 * v + (1 - beta2) * g^2
        p = p * (1 - lr * weight_decay)
        p = p - lr * (m1 / (1 - beta1^t) + alpha_t * m2) / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    The slow average is not corrected for its zero start. Where training starts from scratch, warm both of its
    numbers up over all steps (`beta3_warmup`, `alpha_warmup`), or it is unstable.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-3
        The rate, per step; at least 0.
    betas: three floats, default (0.9, 0.999, 0.9999)
        How much of m1, v and m2 stays from one step to the next; each at least 0 and less than 1.
    alpha: float, default 5
        The weight of the slow average; at least 0. The authors use 4 to 10.
    beta3_warmup: float, default 0
        Over so many steps T the half-life of m2 grows linearly from m1's to its own:
        beta3_t = exp(ln(beta1) * ln(beta3) / ((1 - t/T) * ln(beta3) + t/T * ln(beta1))). 0 is no warmup.
    alpha_warmup: float, default 0
        Over so many steps T alpha_t grows linearly: alpha * t / T. 0 is no warmup.
    eps: float, default 1e-8
        At least 0. With 0, a parameter that has had only zero gradients becomes NaN (0 / 0).
    weight_decay: float, default 0
        At least 0. Always of this kind (`decoupled_weight_decay`).
    eps_root: with `convention="optax"`
        What is added under the root (0).

    Notes
    -----
    State: `step`, `exp_avg_fast` (m1), `exp_avg_slow` (m2), `exp_avg_sq` (v). Bytes moved a float32
    parameter: 36. torch.optim has no AdEMAMix: with `convention="torch"` this is the authors' own, for PyTorch,
    with two differences: their alpha is 2 by default, and in the warmup of beta3 they add 1e-8 to the betas before
    taking logarithms, which the paper does not.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.AdEMAMix(p).step(np.array([5.0, -0.5]))
    >>> p.round(6)
    array([-0.001,  0.001])

    References
    ----------
    Pagliardini et al., The AdEMAMix optimizer: better, faster, older, ICLR 2025; github.com/apple/ml-ademamix.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-3),
        betas: tuple[float, float, float] = default((0.9, 0.999, 0.9999)),
        alpha: float = default(5.0),
        beta3_warmup: float = default(0.0),
        alpha_warmup: float = default(0.0),
        eps: float = default(1e-8),
        weight_decay: float = default(0.0),
        *,
        maximize: bool = default(False),
        **options: Unpack[RootEpsOptions],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "alpha": alpha,
                "beta3_warmup": beta3_warmup,
                "alpha_warmup": alpha_warmup,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            options,
        )

"""Prodigy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class Prodigy(Optimizer):
    """Prodigy: Adam with a rate that it finds itself, from how far the parameters have moved.

    With g the gradient of all parameters p together, p0 their values before the first step, sums over all elements of
    all parameters, and d, which starts at `d0`, the estimate of the distance from p0 to a solution::

        r = d * lr
        n = beta3 * n + (d / d0) * r * sum(g * (p0 - p))
        s = beta3 * s + (d / d0) * r * g
        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * d^2 * g^2
        d = max(d, d_coef * n / sum(abs(s)))
        p = p - r * weight_decay * p - r * m / (sqrt(v) + d * eps)

    The last line has the new d in its root and the old one in r. `optimizer.d` is the estimate; the rate of Adam is
    lr * d. Leave lr at 1, and let a schedule make it fall (cosine); where d grows too slowly, or steps are too long,
    change d_coef.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1.0
        A factor of the rate, per step; at least 0, and the same in all groups. A group with a rate of 0 stays as it is
        and counts in no sum.
    betas: pair of floats, default (0.9, 0.999)
        How much of m and v stays; each at least 0 and less than 1.
    beta3: float or None, default None
        How much of n and s stays, at least 0 and less than 1; None: the root of beta2.
    eps: float, default 1e-8
        At least 0.
    weight_decay: float, default 0
        At least 0. With `decouple`, as above; otherwise weight_decay * p is added to the gradient.
    decouple: bool, default True
        See `weight_decay`.
    use_bias_correction: bool, default False
        Multiply r by Adam's bias corrections, sqrt(1 - beta2^t) / (1 - beta1^t).
    safeguard_warmup: bool, default False
        Take d in place of r in the line of s, so that a warmup of lr does not make d too large.
    d0: float, default 1e-6
        The first estimate; above 0.
    d_coef: float, default 1.0
        A factor of the estimate; at least 0.
    growth_rate: float, default infinity
        The most that d is multiplied by in a step; at least 1. What it keeps back comes with the next steps.

    Notes
    -----
    State: `step`, `s`, `p0`, `exp_avg` (m), `exp_avg_sq` (v); and for all parameters together d, n and what they
    depend on, which a state dict has in its groups, as that of the authors: `d`, `d_max`, `d_numerator` (n) and `k`,
    the number of steps. `betas`, `beta3`, `d0` and the other numbers that the estimate depends on must be the same in
    all groups. `p0` is float32 whatever `state_dtype` says. Bytes moved a float32 parameter: 60, of which 16 are read
    for the sums, which are added up in float64. Steps whose gradients, and all before them, are 0 change nothing.
    torch.optim has no Prodigy: with `convention="torch"` this is that of its authors' package, prodigyopt. It has no
    `slice_p`, by which sums are taken over some elements only, and a group with a rate of 0 keeps its weights, which
    decay there.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.array([3.0, -4.0])
    >>> opt = fastopt.Prodigy(p)
    >>> for _ in range(200):
    ...     opt.step(p.copy())  # the gradient of sum(p^2) / 2
    >>> round(opt.d, 2), p.round(3)
    (1.53, array([0., 0.]))

    References
    ----------
    Mishchenko and Defazio, Prodigy: an expeditiously adaptive parameter-free learner, ICML 2024, arXiv:2306.06101.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1.0),
        betas: tuple[float, float] = default((0.9, 0.999)),
        beta3: float | None = None,
        eps: float = default(1e-8),
        weight_decay: float = default(0.0),
        decouple: bool = default(True),
        use_bias_correction: bool = default(False),
        safeguard_warmup: bool = default(False),
        d0: float = default(1e-6),
        d_coef: float = default(1.0),
        growth_rate: float = default(math.inf),
        *,
        maximize: bool = default(False),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "beta3": beta3,
                "eps": eps,
                "weight_decay": weight_decay,
                "decouple": decouple,
                "use_bias_correction": use_bias_correction,
                "safeguard_warmup": safeguard_warmup,
                "d0": d0,
                "d_coef": d_coef,
                "growth_rate": growth_rate,
                "maximize": maximize,
            },
            options,
        )

    @property
    def d(self) -> float:
        """The estimate of the distance from the first parameters to a solution; the next step's rate is lr * d."""
        self._room.engine.fetch()
        return float(self._contents.progress.common[list(self.spec.common).index("d")])

"""ADOPT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class ADOPT(Optimizer):
    """ADOPT: Adam that converges with any beta2, as each gradient is divided by an average that does not contain it.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1; the first step only
    starts the average of squares: v = g^2. From the second on::

        n = clip(g / max(sqrt(v), eps), -(t - 1)^0.25, (t - 1)^0.25)
        m = beta1 * m + (1 - beta1) * n
        p = p - lr * m
        v = beta2 * v + (1 - beta2) * g^2

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-3
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.9999)
        How much of the averages stays from one step to the next; each at least 0 and less than 1.
    eps: float, default 1e-6
        The least that is divided by; at least 0.
    use_clipping: bool, default True
        Limit n, by a bound that grows with the steps. False is the algorithm as the paper has it first, which can
        diverge where early gradients are near zero.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update, but
        for the first step.

    Notes
    -----
    State: `step`, `exp_avg` (m), `exp_avg_sq` (v). Bytes moved a float32 parameter: 28. No proximal
    step (`prox=` of single elements) goes with it. torch.optim has no ADOPT: with `convention="torch"` this is the
    authors' own, for PyTorch, with `clip_lambda` as `use_clipping` and `decouple` as `decoupled_weight_decay`.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> opt = fastopt.ADOPT(p)
    >>> opt.step(np.array([5.0, -0.5]))
    >>> p
    array([0., 0.])
    >>> opt.step(np.array([5.0, -0.25]))
    >>> p
    array([-1.e-04,  5.e-05])

    References
    ----------
    Taniguchi et al., ADOPT: modified Adam can converge with any beta2 with the optimal rate, NeurIPS 2024;
    github.com/iShohei220/adopt.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-3),
        betas: tuple[float, float] = default((0.9, 0.9999)),
        eps: float = default(1e-6),
        use_clipping: bool = default(True),
        weight_decay: float = default(0.0),
        decoupled_weight_decay: bool = default(False),
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
                "use_clipping": use_clipping,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            options,
        )

"""Adam."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import NesterovOptions
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class Adam(Optimizer):
    """Adam: moving averages of the gradient and of its square, both corrected for their start at zero.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        p = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    and with `amsgrad` the largest v so far in place of v.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-3
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.999)
        How much of the averages stays from one step to the next; each at least 0 and less than 1.
    eps: float, default 1e-8
        At least 0. With 0, a parameter that has had only zero gradients becomes NaN (0 / 0), as in torch.
    weight_decay: float, default 0
        At least 0; added to the gradient. See `AdamW` for the other kind.
    amsgrad: bool, default False
        Fixed by the states: it can be turned off later, not on.
    cautious: bool, default False
        Step only the elements whose m has the sign of g, and divide their steps by their share in the parameter, or by
        0.001 if it is less. Not with another `convention`.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.
    eps_root, nesterov: with `convention="optax"`
        What is added under the root (0); Nesterov's momentum, without NAdam's schedule (False).

    Notes
    -----
    State: `step`, `exp_avg` (m), `exp_avg_sq` (v), and with amsgrad `max_exp_avg_sq`. Bytes moved a float32 parameter:
    28, with amsgrad 36, and 8 more with `cautious`, which reads g and m twice. The corrections are computed in float64,
    and taken together with lr and eps before the loop, so results differ from torch's in the last bits.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p, g = np.zeros(3), np.zeros(3)
    >>> opt = fastopt.Adam(p, lr=0.1, grads=g)
    >>> g[:] = [1, -2, 0]
    >>> opt.step()
    >>> p.round(6)
    array([-0.1,  0.1,  0. ])
    >>> opt.state[0]["step"]
    1

    References
    ----------
    torch.optim.Adam; Kingma and Ba, Adam: a method for stochastic optimization, 2014, arXiv:1412.6980; Reddi et al., On
    the convergence of Adam and beyond, 2018 (amsgrad); Liang et al., Cautious optimizers, 2024, arXiv:2411.16085.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-3),
        betas: tuple[float, float] = default((0.9, 0.999)),
        eps: float = default(1e-8),
        weight_decay: float = default(0.0),
        amsgrad: bool = default(False),
        *,
        maximize: bool = default(False),
        decoupled_weight_decay: bool = default(False),
        cautious: bool = default(False),
        **options: Unpack[NesterovOptions],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
                "cautious": cautious,
            },
            options,
        )

"""AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import NesterovOptions
from ..step.rates import LearningRate
from .adam import Adam
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class AdamW(Adam):
    """Adam with decoupled weight decay.

    The parameter shrinks by lr * weight_decay before the update, and the averages do not see the decay::

        p = p * (1 - lr * weight_decay)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        p = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr, betas, eps, amsgrad, cautious
        See `Adam`.
    weight_decay: float, default 1e-2
        At least 0.
    cautious_weight_decay: bool, default False
        Decay only the elements that the update moves towards zero or not at all, those with m * p >= 0. With
        `cautious`, elements that are not stepped are among them. Not with another `convention`.
    eps_root, nesterov: with `convention="optax"`
        What is added under the root (0); Nesterov's momentum, without NAdam's schedule (False).

    Notes
    -----
    State, bytes moved and rounding are `Adam`'s.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.array([1.0])
    >>> fastopt.AdamW(p, lr=0.1, weight_decay=0.5).step(np.array([0.0]))
    >>> p
    array([0.95])

    References
    ----------
    torch.optim.AdamW; Loshchilov and Hutter, Decoupled weight decay regularization, 2017, arXiv:1711.05101; Chen et
    al., Cautious weight decay, 2025, arXiv:2510.12402.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-3),
        betas: tuple[float, float] = default((0.9, 0.999)),
        eps: float = default(1e-8),
        weight_decay: float = default(1e-2),
        amsgrad: bool = default(False),
        *,
        maximize: bool = default(False),
        cautious: bool = default(False),
        cautious_weight_decay: bool = default(False),
        **options: Unpack[NesterovOptions],
    ) -> None:
        Optimizer.__init__(
            self,
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "cautious": cautious,
                "cautious_weight_decay": cautious_weight_decay,
                "decoupled_weight_decay": True,
            },
            options,
        )

"""Lion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class Lion(Optimizer):
    """Lion: the sign of a momentum; half the state of Adam.

    With g the gradient of a parameter p::

        p = p * (1 - lr * weight_decay)
        p = p - lr * sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g

    Every element moves by lr in every step, so lr is three to ten times smaller than Adam's, and weight_decay as much
    larger.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-4
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.99)
        How much of m counts in the step, and how much of it stays; each at least 0 and less than 1.
    weight_decay: float, default 0
        At least 0. Always of this kind (`decoupled_weight_decay`).
    cautious: bool, default False
        Step only the elements whose step has the sign of g, and divide their steps by their share in the parameter, or
        by 0.001 if it is less. Not with another `convention`.
    cautious_weight_decay: bool, default False
        Decay only the elements that the step moves towards zero or not at all. With `cautious`, elements that are not
        stepped are among them. Not with another `convention`.

    Notes
    -----
    State: `step`, `exp_avg` (m). Bytes moved a float32 parameter: 20, with `cautious` 28. torch.optim has no Lion: with
    `convention="torch"` this is the authors' own, for PyTorch.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.Lion(p).step(np.array([5.0, -0.5]))
    >>> p
    array([-0.0001,  0.0001])

    References
    ----------
    Chen et al., Symbolic discovery of optimization algorithms, NeurIPS 2023; github.com/google/automl, lion_pytorch.py;
    Liang et al., Cautious optimizers, 2024, arXiv:2411.16085; Chen et al., Cautious weight decay, 2025,
    arXiv:2510.12402.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-4),
        betas: tuple[float, float] = default((0.9, 0.99)),
        weight_decay: float = default(0.0),
        *,
        maximize: bool = default(False),
        cautious: bool = default(False),
        cautious_weight_decay: bool = default(False),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "cautious": cautious,
                "cautious_weight_decay": cautious_weight_decay,
            },
            options,
        )

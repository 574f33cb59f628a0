"""ScheduleFreeSGD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .averaging import AveragingOptimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class ScheduleFreeSGD(AveragingOptimizer):
    """Schedule-Free SGD: SGD whose average takes the place of a schedule that ends somewhere.

    There are three points: gradients g are taken at y, z takes the steps of SGD, and x, the average of z, is what is
    trained. With t the number of updates of a parameter::

        rate = lr * min(1, t / warmup_steps)
        z = z - rate * (g + weight_decay * y)
        w = t^r * max(rate)^weight_lr_power
        c = w / sum(w)
        x = (1 - c) * x + c * z
        y = (1 - momentum) * z + momentum * x

    The maximum and the sum are over all updates up to this one. The parameter is y, until `eval` lets it be x and
    `train` lets it be y again. There is no x in memory: it follows from y and z.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1.0
        The rate, per step; at least 0. It needs no schedule.
    momentum: float, default 0.9
        How near gradients are taken to x; greater than 0 and less than 1.
    weight_decay: float, default 0
        At least 0. Always of this kind: a part of the gradient.
    warmup_steps: float, default 0
        The number of updates in which the rate grows from lr / warmup_steps to lr; at least 0.
    r: float, default 0
        The power of t in the weights of the average; at least 0.
    weight_lr_power: float, default 2
        The power of the largest rate in them; at least 0.

    Notes
    -----
    State: `step`, `weight_sum` and `lr_max` (the sum and the maximum), `z`. Bytes moved a float32 parameter: 20. `z` is
    always stored in float32. torch.optim has no ScheduleFreeSGD: with `convention="torch"` this is
    `schedulefree.SGDScheduleFree`, its authors'. They count and sum in groups, here each parameter does by itself: one
    that is frozen at first, or that is added later, starts its own average.

    An optimizer begins as after `train()`. There is no `ema_decay`, `projection` or `prox`.

    See Also
    --------
    eval, train, averaged_params : the average, for evaluation.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.array([1.0, -2.0])
    >>> opt = fastopt.ScheduleFreeSGD(p, lr=0.1)
    >>> for _ in range(10):
    ...     opt.step(2 * p)
    >>> p.round(2)
    array([ 0.23, -0.45])
    >>> opt.eval()
    >>> p.round(2)
    array([ 0.26, -0.53])

    References
    ----------
    Defazio et al., The road less scheduled, 2024, arXiv:2405.15682.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1.0),
        momentum: float = default(0.9),
        weight_decay: float = default(0.0),
        warmup_steps: float = default(0.0),
        r: float = default(0.0),
        weight_lr_power: float = default(2.0),
        *,
        maximize: bool = default(False),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "warmup_steps": warmup_steps,
                "r": r,
                "weight_lr_power": weight_lr_power,
                "maximize": maximize,
            },
            options,
        )

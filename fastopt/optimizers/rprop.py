"""Rprop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..definitions.defaults import default
from ..step.options import Options
from ..step.rates import LearningRate
from .base import Optimizer

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class Rprop(Optimizer):
    """Rprop: every parameter has a step size of its own, and only the sign of the gradient counts.

    For full batches: with mini-batches the signs are noise. With g the gradient and h the last one used, element by
    element::

        s = clip(s * (etas[1] if g * h > 0, etas[0] if g * h < 0, else 1), step_sizes[0], step_sizes[1])
        g = 0 where g * h < 0
        p = p - sign(g) * s
        h = g

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float or function of the iteration, default 1e-2
        The step size that every element starts with; at least 0. It counts before the first step only.
    etas: pair of floats, default (0.5, 1.2)
        The factors of the step size after a change of sign (between 0 and 1) and without (more than 1).
    step_sizes: pair of floats, default (1e-6, 50)
        The least and the largest step size.

    Notes
    -----
    State: `step`, `prev` (h), `step_size` (s). Bytes moved a float32 parameter: 28.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> opt = fastopt.Rprop(p, lr=0.1)
    >>> opt.step(np.array([7.0, -1e-3]))
    >>> opt.step(np.array([5.0, 2e-3]))
    >>> p.round(6)
    array([-0.22,  0.1 ])

    References
    ----------
    torch.optim.Rprop; Riedmiller and Braun, A direct adaptive method for faster backpropagation learning, 1993.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = default(1e-2),
        etas: tuple[float, float] = default((0.5, 1.2)),
        step_sizes: tuple[float, float] = default((1e-6, 50.0)),
        *,
        maximize: bool = default(False),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "etas": etas, "step_sizes": step_sizes, "maximize": maximize},
            options,
        )

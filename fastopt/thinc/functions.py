"""The functions that thinc's registry calls; the entry points of `pyproject.toml` name them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import thinc.optimizers

from .optimizer import Optimizer

Make = Callable[..., Optimizer]


def _as_thinc_has_it(function: Make) -> Make:
    """Give a function the signature of thinc's, by which configs are checked: its types differ between versions."""
    function.__signature__ = inspect.signature(getattr(thinc.optimizers, function.__name__))  # type: ignore[attr-defined]
    return function


@_as_thinc_has_it
def Adam(learn_rate: Any = 0.001, **options: Any) -> Optimizer:
    """thinc's Adam with a native step; in configs `@optimizers = "fastopt.Adam.v1"`.

    m = beta1 * m + (1 - beta1) * g, v = beta2 * v + (1 - beta2) * g^2,
    p = p - learn_rate * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps), then p = p - learn_rate * L2 * p.

    Parameters
    ----------
    learn_rate: float, list, generator or schedule, default 0.001
        So can all numbers be that follow, as in thinc.
    L2: float, default 0
    beta1, beta2: float, default 0.9, 0.999
    eps: float, default 1e-8
    grad_clip: float, default 1
        The largest L2 norm of a parameter's gradient; longer ones are scaled down. 0 does not clip.
    L2_is_weight_decay: bool, default True
        Otherwise L2 * p is added to the gradient, before it is clipped.
    use_averages: bool, default True
        Keep averages of the parameters in `optimizer.averages`, with the decay (1 + t) / (10 + t), 0.9999 at most.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.thinc import Adam
    >>> optimizer = Adam(0.1, use_averages=False)
    >>> w, g = np.ones(3, np.float32), np.full(3, 0.5, np.float32)
    >>> w, g = optimizer((0, "W"), w, g)
    >>> w.round(3), g
    (array([0.9, 0.9, 0.9], dtype=float32), array([0., 0., 0.], dtype=float32))
    """
    return Optimizer(learn_rate, use_radam=False, **options)


@_as_thinc_has_it
def RAdam(learn_rate: Any = 0.001, **options: Any) -> Optimizer:
    """thinc's RAdam with a native step; in configs `@optimizers = "fastopt.RAdam.v1"`. Arguments are those of `Adam`.

    As in thinc, it counts steps from 2, is plain momentum while the variance of the rate is unbounded, and `lr_scale`
    counts for the weight decay alone.
    """
    return Optimizer(learn_rate, use_radam=True, **options)


@_as_thinc_has_it
def SGD(learn_rate: Any, **options: Any) -> Optimizer:
    """thinc's SGD with a native step; in configs `@optimizers = "fastopt.SGD.v1"`.

    p = p - learn_rate * g, then p = p - learn_rate * L2 * p. Arguments are those of `Adam`, without betas and eps.
    """
    return Optimizer(learn_rate, beta1=0.0, beta2=0.0, **options)

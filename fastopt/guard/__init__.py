"""A monitor of loss and gradients: it reports what goes wrong in training, where it started and what to try.

>>> import numpy as np, fastopt
>>> w = np.array([1.0])
>>> guard = fastopt.DivergenceGuard(fastopt.SGD(w, lr=0.1), on_divergence="stop")
>>> guard.step(np.log(0.5), np.array([np.nan])), guard.should_stop, w
(False, True, array([1.]))
"""

from .findings import DivergenceError, DivergenceWarning, Finding
from .guard import DivergenceGuard

__all__ = ["DivergenceError", "DivergenceGuard", "DivergenceWarning", "Finding"]

"""Learning rates as functions of the step: pass one as `lr=` to an optimizer or group, or call it yourself.

>>> import numpy as np, fastopt
>>> from fastopt.schedules import CosineDecay, Warmup
>>> lr = Warmup(CosineDecay(0.5, decay_steps=900), warmup_steps=100)
>>> lr(0), lr(50), lr(100), lr(550)
(0.0, 0.25, 0.5, 0.25)
>>> lr * 0.1
Warmup(CosineDecay(0.5, 900), 100) * 0.1

docs/schedules.md lists the corresponding names in torch, Keras and optax.
"""

from .base import Constant, Product, Scaled, Schedule
from .composed import Lambda, Multiplicative, Sequential, Warmup, inverse_square_root, warmup_stable_decay
from .decays import CosineDecay, CosineDecayRestarts, ExponentialDecay, InverseTimeDecay, PolynomialDecay
from .piecewise import Cyclic, PiecewiseConstantDecay, PiecewiseInterpolation, multi_step, one_cycle

__all__ = [
    "Constant",
    "CosineDecay",
    "CosineDecayRestarts",
    "Cyclic",
    "ExponentialDecay",
    "InverseTimeDecay",
    "Lambda",
    "Multiplicative",
    "PiecewiseConstantDecay",
    "PiecewiseInterpolation",
    "PolynomialDecay",
    "Product",
    "Scaled",
    "Schedule",
    "Sequential",
    "Warmup",
    "inverse_square_root",
    "multi_step",
    "one_cycle",
    "warmup_stable_decay",
]

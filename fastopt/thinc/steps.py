"""The native step of one key: its arrays, and the numbers of thinc's arithmetic in those of Keras' convention."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..definitions.conventions import spec_of
from ..kernels.engine import host_memory
from ..state.borrowed import BorrowedStep

FLOAT32 = np.dtype(np.float32)

Key = tuple[int, str]

MAX_DECAY = 0.9999
"""The largest decay of an average."""

LARGE_EPS = 2.0**60
"""Beside it the root of an average of squares does not count: float32 holds 24 bits. A step size that is multiplied by
it makes a step of Adam one of plain momentum, to the bit: a power of two only moves the exponent."""


class Scattered(Exception):
    """A gradient is usable, but not as it lies in memory."""


class Numbers(NamedTuple):
    """The numbers of a step, in thinc's words."""

    learn_rate: float
    L2: float
    grad_clip: float
    beta1: float
    beta2: float
    eps: float
    lr_scale: float
    radam: bool
    decays: bool
    """Whether L2 is a decoupled weight decay."""

    @property
    def decay(self) -> float:
        """What a step takes off the weights, as a part of them."""
        return self.learn_rate * self.lr_scale * self.L2 if self.decays else 0.0

    def check(self) -> None:
        """Raise an error if no step can be done with these numbers."""
        if not self.radam and self.beta2 > 0 and not self.beta1 > 0:
            raise NotImplementedError(f"beta2 > 0 needs beta1 > 0, as in thinc, got beta1={self.beta1:g}")
        if self.grad_clip < 0:
            raise ValueError(f"grad_clip must be at least 0, got {self.grad_clip:g}")
        if not self.decay < 1:
            raise ValueError(f"learn_rate * L2 must be less than 1, got {self.decay:g}")

    @property
    def adaptive(self) -> bool:
        """Whether the step is one of Adam or RAdam, not of SGD."""
        return self.radam or (self.beta1 > 0 and self.beta2 > 0)

    @property
    def structure(self) -> tuple[bool, bool]:
        """What decides which loops run."""
        return self.adaptive, self.grad_clip != 0

    @property
    def betas(self) -> tuple[float, float]:
        """thinc's Adam is C, whose betas are float32: 1 - beta2 is off by 1.3e-5 where beta2 is 0.999."""
        if self.radam:
            return self.beta1, self.beta2
        return float(np.float32(self.beta1)), float(np.float32(self.beta2))

    def rate_and_eps(self, count: int) -> tuple[float, float]:
        """The `lr` and `eps` with which Keras' arithmetic does the update of this count, from 1, without decay."""
        if not self.radam:
            return self.learn_rate * self.lr_scale, self.eps
        step = count + 1  # thinc's count begins at 2
        power = self.beta2**step
        longest = 2 / (1 - self.beta2) - 1
        length = longest - 2 * step * power / (1 - power)
        rate = self.learn_rate / (1 - self.beta1**step)
        rate *= (1 - self.beta1**count) / math.sqrt(1 - self.beta2**count)  # Keras corrects by the inverse
        if length < 5:
            return rate * LARGE_EPS, LARGE_EPS
        variance = (1 - power) * (length - 4) / (longest - 4) * (length - 2) / length * longest / (longest - 2)
        return rate * math.sqrt(variance), self.eps

    def values(self, count: int) -> dict[str, Any]:
        """The hyperparameters with which Keras' arithmetic does the update of this count.

        thinc decays after the update, (p - u) * (1 - d), and Keras before it, p * (1 - d) - u: with u * (1 - d) in
        place of u, and so a weight decay that is divided by it, they are the same.
        """
        rate, eps = self.rate_and_eps(count)
        decay = self.decay
        rate *= 1 - decay
        own = {"betas": self.betas, "eps": eps} if self.adaptive else {}
        return {**DEFAULTS[self.adaptive], **own, "lr": rate, "weight_decay": decay / rate if decay else 0.0}


SPECS = {True: spec_of("Adam", "keras"), False: spec_of("SGD", "keras")}
"""The optimizer whose step it is, by `Numbers.adaptive`."""

DEFAULTS = {adaptive: spec.convert(spec.defaults) for adaptive, spec in SPECS.items()}


@functools.lru_cache(maxsize=256)
def correction(beta1: float, beta2: float, count: int) -> float:
    """The factor from Keras' correction for bias with `Numbers.betas` to thinc's, whose correction is in float64."""
    rounded1, rounded2 = float(np.float32(beta1)), float(np.float32(beta2))
    second = (1 - beta2**count) / (1 - rounded2**count)
    return math.sqrt(second) * (1 - rounded1**count) / (1 - beta1**count)


class KeyStep:
    """The step of one key.

    Attributes
    ----------
    given: what the numbers were made from, when they were last set.
    varies: whether they have to be made for each step.
    structure: that of the numbers which the step was made for.
    l2_of_gradient: what of the weights is added to the gradient.
    """

    def __init__(self, key: Key, weights: np.ndarray, states: Mapping[str, np.ndarray], numbers: Numbers) -> None:
        self.key = key
        self.weights = weights
        self.scattered = not is_contiguous(weights)
        self.memory = np.empty(weights.shape, FLOAT32) if self.scattered else weights
        self.form = _form(weights)
        self.states = tuple(states.get(name) for name in ("exp_avg", "exp_avg_sq", "param_average"))
        self.structure = numbers.structure
        self.given: tuple[Any, ...] = ()
        self.varies = True
        self.l2_of_gradient = 0.0
        self.lr = self.weight_decay = math.nan
        self.others: tuple[float, ...] = ()
        self.exact_betas: tuple[float, float] | None = None
        averages = {"ema_decay": MAX_DECAY, "ema_warmup": True} if "param_average" in states else {}
        self.step = BorrowedStep(
            SPECS[numbers.adaptive],
            DEFAULTS[numbers.adaptive],
            {"zero_grads": True, "clip_norm": numbers.grad_clip or None, **averages},
            [self.memory],
            [{name: state.reshape(weights.shape) for name, state in states.items()}],
            self._reject,
        )
        if averages:
            self.step.begin_average(True)  # with zeros, as in thinc
        self.count = self.step.records.steps
        self.engine_step, self.set_lr = self.step.engine.step, self.step.engine.set_lr

    def steps(self, weights: np.ndarray, *states: np.ndarray | None) -> bool:
        """Whether this is the step of these arrays."""
        if weights is not self.weights:
            if type(weights) is not np.ndarray or _form(weights) != self.form:
                return False
            self.weights = weights
        first, second, average = self.states
        return (
            average is states[2] and (first is None or first is states[0]) and (second is None or second is states[1])
        )

    def set_numbers(self, numbers: Numbers, count: int) -> None:
        """Take over the numbers of the update of this count, from 1."""
        values = numbers.values(count)
        lr, weight_decay = values["lr"], values["weight_decay"]
        others = (numbers.grad_clip, numbers.beta1, numbers.beta2, values.get("eps", 0.0))
        if others != self.others:
            if numbers.grad_clip:
                self.step.set_clip_norm(numbers.grad_clip)
            self.step.set_values(values)
            self.others = others
        elif lr != self.lr:
            self.set_lr(0, lr)
        self.exact_betas = (numbers.beta1, numbers.beta2) if numbers.adaptive and not numbers.radam else None
        if weight_decay != self.weight_decay:
            self.step.set_weight_decay(0, weight_decay)
        self.lr, self.weight_decay = lr, weight_decay
        self.l2_of_gradient = 0.0 if numbers.decays else numbers.L2

    def run(self, weights: np.ndarray, gradient: np.ndarray, count: int) -> None:
        """Do the update of this count, from 1, and fill the gradient with zeros."""
        self.count[0] = count - 1
        if self.exact_betas is not None:
            # What this adds to the decay, which is a part of the rate too, is less than a rounding error.
            self.set_lr(0, self.lr * correction(*self.exact_betas, count))
        if self.scattered:
            self.memory[...] = weights
        try:
            if self.l2_of_gradient:
                raise Scattered
            self.engine_step([gradient])
        except Scattered:
            self._check(gradient)
            self.engine_step([np.add(gradient, np.float32(self.l2_of_gradient) * weights, order="C")])
            gradient[...] = 0
        if self.scattered:
            weights[...] = self.memory

    def _reject(self, position: int, gradient: Any) -> Any:
        self._check(gradient)
        if not is_contiguous(gradient):
            raise Scattered
        raise ValueError(f"the gradient of {self.key} shares memory with the weights or their states")

    def _check(self, gradient: Any) -> None:
        name = f"the gradient of {self.key}"
        if type(gradient) is not np.ndarray:
            raise TypeError(f"{name} must be a numpy.ndarray, got {type(gradient).__name__}")
        if gradient.dtype != FLOAT32:
            raise TypeError(f"{name} must be float32, got {gradient.dtype}")
        if gradient.shape != self.memory.shape:
            raise ValueError(f"{name} must have the shape {self.memory.shape}, got {gradient.shape}")
        if not gradient.flags.writeable:
            raise ValueError(f"{name} is read-only, and is to be filled with zeros")


def _form(array: np.ndarray) -> tuple[Any, ...]:
    """What makes two arrays the same memory."""
    interface = array.__array_interface__
    return interface["data"], interface["shape"], interface["strides"], interface["typestr"]


def is_contiguous(array: np.ndarray) -> bool:
    return bool(array.flags.carray)


def check_weights(key: Key, weights: Any) -> None:
    """Raise a TypeError or ValueError if these weights cannot be updated."""
    if type(weights) is not np.ndarray:
        raise TypeError(
            f"the weights of {key} must be a numpy.ndarray, got {type(weights).__name__}: fastopt.thinc updates arrays "
            "in main memory; use thinc's own optimizers on a GPU"
        )
    if weights.dtype != FLOAT32:
        raise TypeError(f"the weights of {key} must be float32, got {weights.dtype}")
    if not weights.flags.writeable:
        raise ValueError(f"the weights of {key} are read-only")


def state_of(key: Key, name: str, known: Any, weights: np.ndarray) -> np.ndarray:
    """The state that thinc's dict has of a key, or a new one."""
    shape = weights.shape if name == "param_average" else (weights.size,)
    if known is None:
        made: np.ndarray = host_memory.zeros(weights.size, FLOAT32).reshape(shape)
        return made
    if not (type(known) is np.ndarray and known.dtype == FLOAT32 and is_contiguous(known)):
        raise TypeError(f"{name} of {key} must be a contiguous numpy.ndarray of float32, got {known!r:.80}")
    if known.size != weights.size:
        raise ValueError(f"{name} of {key} must have {weights.size} elements, got {known.size}")
    return known

"""Schedules with a single formula, with the arguments of keras.optimizers.schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .base import Compile, CountingSchedule, Function
from .curves import LARGEST, between, half_cosine, power
from .fields import FLAG, RATE, STEPS, STEPS_OR_ZERO, at_least_zero_or_none, checked_by


@dataclass(frozen=True, repr=False)
class ExponentialDecay(CountingSchedule):
    """initial_learning_rate * decay_rate^p, with p = max(step - transition_begin, 0) / decay_steps.

    Parameters
    ----------
    initial_learning_rate: float
    decay_steps: int
        The number of steps (epochs, with `per="epoch"`) in which the rate is multiplied by `decay_rate`.
    decay_rate: float
        At least 0. Above 1 the rate grows, for example to find the largest usable rate.
    staircase: bool, default False
        p is rounded down: one multiplication every `decay_steps` steps.
    transition_begin: int, default 0
        The number of steps with the initial rate.
    end_learning_rate: float, optional
        The bound of the decay (or growth), at which the rate then stays.

    Notes
    -----
    Keras' class of the same name, optax' `exponential_decay` (which takes a `decay_rate` of 0 for none), torch's
    ExponentialLR (`decay_steps=1`) and StepLR (`staircase=True`). torch multiplies the group's lr in every epoch: its
    rounding errors accumulate (4e-15 after 5,000 epochs), and it continues from an lr assigned in between.

    Raises
    ------
    TypeError, ValueError
        A rate is negative or not finite, `decay_steps` is less than 1, or an argument is of another type.

    Examples
    --------
    >>> from fastopt.schedules import ExponentialDecay
    >>> rate = ExponentialDecay(0.5, decay_steps=10, decay_rate=0.5, staircase=True)
    >>> rate(9), rate(10), rate(20)
    (0.5, 0.25, 0.125)
    """

    initial_learning_rate: float = field(metadata=RATE)
    decay_steps: int = field(metadata=STEPS)
    decay_rate: float = field(metadata=RATE)
    staircase: bool = field(default=False, metadata=FLAG)
    transition_begin: int = field(default=0, metadata=STEPS_OR_ZERO)
    end_learning_rate: float | None = field(default=None, metadata=checked_by(at_least_zero_or_none))

    def formula(self, compiled: Compile) -> Function:
        initial, decay_rate, end = self.initial_learning_rate, self.decay_rate, self.end_learning_rate
        decay_steps, begin, staircase = self.decay_steps, self.transition_begin, self.staircase
        lowest = end if end is not None and decay_rate < 1 else 0.0
        highest = end if end is not None and decay_rate >= 1 else math.inf
        raised = compiled(power)

        def rate(step: int) -> float:
            elapsed = max(step - begin, 0)
            periods = float(elapsed // decay_steps) if staircase else elapsed / decay_steps
            return max(min(initial * raised(decay_rate, periods), highest), lowest)

        return rate


@dataclass(frozen=True, repr=False)
class InverseTimeDecay(CountingSchedule):
    """initial_learning_rate / (1 + decay_rate * p)^power, with p = step / decay_steps.

    Parameters
    ----------
    initial_learning_rate: float
    decay_steps: int
        The number of steps (epochs, with `per="epoch"`) in which p grows by 1.
    decay_rate: float
        At least 0.
    staircase: bool, default False
        p is rounded down.
    power: float, default 1
        At least 0. With 0.5 the rate falls with the inverse square root; see `inverse_square_root`.

    Notes
    -----
    Keras' class of the same name, which has no `power`. With `decay_steps=1` it is the decay of Keras' old optimizers
    (`decay=`), and that of Adagrad's `lr_decay`.

    Examples
    --------
    >>> from fastopt.schedules import InverseTimeDecay
    >>> InverseTimeDecay(0.5, decay_steps=10, decay_rate=1.0)(30)
    0.125
    """

    initial_learning_rate: float = field(metadata=RATE)
    decay_steps: int = field(metadata=STEPS)
    decay_rate: float = field(metadata=RATE)
    staircase: bool = field(default=False, metadata=FLAG)
    power: float = field(default=1.0, metadata=RATE)

    def formula(self, compiled: Compile) -> Function:
        initial, decay_rate, exponent = self.initial_learning_rate, self.decay_rate, self.power
        decay_steps, staircase = self.decay_steps, self.staircase
        raised = compiled(power)

        def rate(step: int) -> float:
            periods = float(step // decay_steps) if staircase else step / decay_steps
            return initial / raised(1.0 + decay_rate * periods, exponent)

        return rate


@dataclass(frozen=True, repr=False)
class PolynomialDecay(CountingSchedule):
    """Decay from one rate to another, linearly or with another power; then the rate stays there.

    (initial_learning_rate - end_learning_rate) * (1 - p)^power + end_learning_rate, with
    p = min(max(step - transition_begin, 0) / decay_steps, 1).

    Parameters
    ----------
    initial_learning_rate: float
    decay_steps: int
        The number of steps (epochs, with `per="epoch"`) from one rate to the other.
    end_learning_rate: float, default 0.0001
        Keras' default. It can be above the initial rate.
    power: float, default 1
        1 is linear. At least 0.
    cycle: bool, default False
        Instead of staying at the end, the rate jumps up and decays again, as with a `decay_steps` of 2, 3, ... times as
        many steps, so that it reaches the end at each multiple of `decay_steps`.
    transition_begin: int, default 0
        The number of steps with the initial rate.

    Notes
    -----
    Keras' class of the same name, optax' `polynomial_schedule` and `linear_schedule`, torch's PolynomialLR
    (`end_learning_rate=0`) and LinearLR (from lr * start_factor to lr * end_factor). torch's are recursive: their
    rounding errors accumulate, and they continue from an lr assigned in between.

    Examples
    --------
    >>> from fastopt.schedules import PolynomialDecay
    >>> rate = PolynomialDecay(1.0, decay_steps=4, end_learning_rate=0.5)
    >>> rate(0), rate(2), rate(4), rate(400)
    (1.0, 0.75, 0.5, 0.5)
    """

    initial_learning_rate: float = field(metadata=RATE)
    decay_steps: int = field(metadata=STEPS)
    end_learning_rate: float = field(default=0.0001, metadata=RATE)
    power: float = field(default=1.0, metadata=RATE)
    cycle: bool = field(default=False, metadata=FLAG)
    transition_begin: int = field(default=0, metadata=STEPS_OR_ZERO)

    def formula(self, compiled: Compile) -> Function:
        initial, end, exponent = self.initial_learning_rate, self.end_learning_rate, self.power
        decay_steps, begin, cycle = self.decay_steps, self.transition_begin, self.cycle
        raised, mixed = compiled(power), compiled(between)

        def rate(step: int) -> float:
            elapsed = max(step - begin, 0)
            cycles = max((elapsed + decay_steps - 1) // decay_steps, 1) if cycle else 1
            done = min(elapsed / (decay_steps * cycles), 1.0)
            return mixed(initial, end, raised(1.0 - done, exponent))

        return rate


@dataclass(frozen=True, repr=False)
class CosineDecay(CountingSchedule):
    """Half a cosine from one rate down to `alpha` times it, optionally after a linear warm-up.

    initial_learning_rate * ((1 - alpha) * c^exponent + alpha), with c = (1 + cos(pi * p)) / 2 and
    p = min(step / decay_steps, 1). With a warm-up: a line from `initial_learning_rate` to `warmup_target` in
    `warmup_steps` steps, and then the decay from `warmup_target`.

    Parameters
    ----------
    initial_learning_rate: float
    decay_steps: int
        The number of steps (epochs, with `per="epoch"`) of the decay, without the warm-up.
    alpha: float, default 0
        The last rate, as a fraction of the first one (or of `warmup_target`). At least 0.
    warmup_target: float, optional
        The rate at the end of the warm-up; None for no warm-up.
    warmup_steps: int, default 0
        The number of steps before the decay. Without `warmup_target` it is an error (Keras ignores it).
    exponent: float, default 1
        As in optax; at least 0.
    cycle: bool, default False
        Instead of staying at the end, the cosine goes up and down again, with a period of 2 * decay_steps.

    Notes
    -----
    Keras' class of the same name, optax' `cosine_decay_schedule` and `warmup_cosine_decay_schedule` (whose
    `decay_steps` include the warm-up), torch's CosineAnnealingLR (decay_steps=T_max, alpha=eta_min / lr, cycle=True:
    beyond T_max torch's rate rises again). torch's is recursive: its rounding errors accumulate (1e-15 after 10,000
    epochs), and an lr assigned in between changes all later ones.

    References
    ----------
    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.

    Examples
    --------
    >>> from fastopt.schedules import CosineDecay
    >>> CosineDecay(1.0, decay_steps=100, alpha=0.5)(100)
    0.5
    >>> rate = CosineDecay(0.0, decay_steps=100, warmup_target=1.0, warmup_steps=4)
    >>> rate(0), rate(1), rate(4), rate(54), rate(104)
    (0.0, 0.25, 1.0, 0.5, 0.0)
    """

    initial_learning_rate: float = field(metadata=RATE)
    decay_steps: int = field(metadata=STEPS)
    alpha: float = field(default=0.0, metadata=RATE)
    warmup_target: float | None = field(default=None, metadata=checked_by(at_least_zero_or_none))
    warmup_steps: int = field(default=0, metadata=STEPS_OR_ZERO)
    exponent: float = field(default=1.0, metadata=RATE)
    cycle: bool = field(default=False, metadata=FLAG)

    def check(self) -> None:
        if self.warmup_target is None and self.warmup_steps:
            raise ValueError(
                f"CosineDecay: warmup_steps needs a warmup_target, got warmup_steps={self.warmup_steps!r} without"
            )

    def formula(self, compiled: Compile) -> Function:
        initial, alpha, exponent = self.initial_learning_rate, self.alpha, self.exponent
        decay_steps, warmup_steps, cycle = self.decay_steps, self.warmup_steps, self.cycle
        peak = initial if self.warmup_target is None else self.warmup_target
        raised, cosine, mixed = compiled(power), compiled(half_cosine), compiled(between)

        def rate(step: int) -> float:
            if step < warmup_steps:
                return mixed(initial, peak, 1.0 - step / warmup_steps)
            elapsed = step - warmup_steps
            elapsed = elapsed % (2 * decay_steps) if cycle else min(elapsed, decay_steps)
            return peak * mixed(1.0, alpha, raised(cosine(elapsed / decay_steps), exponent))

        return rate


@dataclass(frozen=True, repr=False)
class CosineDecayRestarts(CountingSchedule):
    """Half cosines one after the other, each `t_mul` times as long and starting `m_mul` times as high as the last.

    initial_learning_rate * ((1 - alpha) * m_mul^i * (1 + cos(pi * p)) / 2 + alpha), where p is the fraction of period i
    that has passed.

    Parameters
    ----------
    initial_learning_rate: float
    first_decay_steps: int
        The number of steps (epochs, with `per="epoch"`) in the first period.
    t_mul: float, default 2
        At least 1.
    m_mul: float, default 1
        At least 0.
    alpha: float, default 0
        The lowest rate, as a fraction of the initial one. At least 0.

    Notes
    -----
    Keras' class of the same name; torch's CosineAnnealingWarmRestarts (T_0, T_mult, alpha=eta_min / lr), whose T_mult
    is 1 by default. Keras computes the period with a logarithm in float32, so some restarts are a step late (the
    13th, with 8 steps at first); here they come at the exact step.

    References
    ----------
    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.

    Examples
    --------
    >>> from fastopt.schedules import CosineDecayRestarts
    >>> rate = CosineDecayRestarts(1.0, first_decay_steps=10, m_mul=0.5)
    >>> rate(0), rate(5), rate(10), rate(20), rate(30)
    (1.0, 0.5, 0.5, 0.25, 0.25)
    """

    initial_learning_rate: float = field(metadata=RATE)
    first_decay_steps: int = field(metadata=STEPS)
    t_mul: float = field(default=2.0, metadata=RATE)
    m_mul: float = field(default=1.0, metadata=RATE)
    alpha: float = field(default=0.0, metadata=RATE)

    def check(self) -> None:
        if not self.t_mul >= 1:
            raise ValueError(f"CosineDecayRestarts: t_mul must be at least 1, got {self.t_mul!r}")

    def formula(self, compiled: Compile) -> Function:
        initial, alpha, t_mul, m_mul = self.initial_learning_rate, self.alpha, self.t_mul, self.m_mul
        first_decay_steps, growth = self.first_decay_steps, self.t_mul - 1.0
        raised, cosine, mixed = compiled(power), compiled(half_cosine), compiled(between)

        def rate(step: int) -> float:
            elapsed = step / first_decay_steps
            if growth == 0.0:
                period = float(step // first_decay_steps)
                done = elapsed - period
            else:
                # The logarithm may be off by rounding; the sums of periods correct it.
                period = float(math.floor(math.log(min(1.0 + elapsed * growth, LARGEST)) / math.log(t_mul)))
                if elapsed >= (raised(t_mul, period + 1.0) - 1.0) / growth:
                    period += 1.0
                elif elapsed < (raised(t_mul, period) - 1.0) / growth:
                    period -= 1.0
                length = raised(t_mul, period)
                done = (elapsed - (length - 1.0) / growth) / length
            return initial * mixed(1.0, alpha, raised(m_mul, period) * cosine(done))

        return rate

"""Schedules composed of other schedules or of users' functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from ..checks import at_least_zero, one_of
from .base import Compile, CountingSchedule, Function, Per, Schedule, plain, schedule_or_number
from .curves import between
from .decays import CosineDecay, InverseTimeDecay, PolynomialDecay
from .fields import RATE, STEPS_OR_ZERO, check_function, checked_by, increasing, sequence_of, steps_or_zero


@dataclass(frozen=True, repr=False)
class Warmup(CountingSchedule):
    """A linear warm-up to the first value of a schedule, and then that schedule from its step 0.

    schedule(0) * (start_factor + (1 - start_factor) * step / warmup_steps) while step < warmup_steps, then
    schedule(step - warmup_steps).

    Parameters
    ----------
    schedule: schedule or number
    warmup_steps: int
        In steps (epochs, with `per="epoch"`). With 0 it is the schedule itself.
    start_factor: float, default 0
        The start of the line, as a fraction of its end. With 0 the first update changes nothing.

    Notes
    -----
    optax' `warmup_constant_schedule`, `warmup_cosine_decay_schedule` and `warmup_exponential_decay_schedule`, with
    start_factor = init_value / peak_value. torch's LinearLR (start_factor) in a SequentialLR; in a ChainedScheduler the
    schedule also advances during the warm-up: `schedule * PolynomialDecay(start_factor, warmup_steps, 1.0)`.

    Examples
    --------
    >>> from fastopt.schedules import ExponentialDecay, Warmup
    >>> rate = Warmup(ExponentialDecay(1.0, 1, 0.5), warmup_steps=4)
    >>> [rate(step) for step in (0, 1, 3, 4, 5)]
    [0.0, 0.25, 0.75, 1.0, 0.5]
    """

    schedule: Schedule | float = field(metadata=checked_by(schedule_or_number))
    warmup_steps: int = field(metadata=STEPS_OR_ZERO)
    start_factor: float = field(default=0.0, metadata=RATE)

    def formula(self, compiled: Compile) -> Function:
        after = cast(Schedule, self.schedule).function(compiled)
        warmup_steps, start_factor = self.warmup_steps, self.start_factor
        mixed = compiled(between)

        def rate(step: int) -> float:
            if step < warmup_steps:
                return after(0) * mixed(start_factor, 1.0, 1.0 - step / warmup_steps)
            return after(step - warmup_steps)

        return rate


@dataclass(frozen=True, repr=False)
class Sequential(CountingSchedule):
    """One schedule after another, each from its own step 0: torch's SequentialLR, optax' `join_schedules`.

    Parameters
    ----------
    schedules: sequence of schedules or numbers
    milestones: sequence of int
        The step (epoch, with `per="epoch"`) at which each schedule but the first begins, in order, at least 0. A
        schedule that another one replaces at the step at which it begins is left out.

    Notes
    -----
    optax' `sgdr_schedule` is a sequence of CosineDecay with their warm-ups.

    Examples
    --------
    >>> from fastopt.schedules import PolynomialDecay, Sequential
    >>> rate = Sequential([1.0, PolynomialDecay(1.0, 10, end_learning_rate=0.5)], milestones=[100])
    >>> rate(99), rate(105), rate(110)
    (1.0, 0.75, 0.5)
    """

    schedules: Sequence[Schedule | float] = field(metadata=checked_by(sequence_of(schedule_or_number)))
    milestones: Sequence[int] = field(metadata=checked_by(increasing(steps_or_zero, strictly=False)))

    def check(self) -> None:
        if len(self.schedules) != len(self.milestones) + 1:
            raise ValueError(
                f"Sequential: schedules must be one more than milestones, got {len(self.schedules)} schedules and "
                f"{len(self.milestones)} milestones"
            )

    def formula(self, compiled: Compile) -> Function:
        rates = [each.function(compiled) for each in cast(Sequence[Schedule], self.schedules)]
        return _joined(rates, (0, *self.milestones), compiled)


def _joined(rates: Sequence[Function], starts: Sequence[int], compiled: Compile) -> Function:
    """A binary search by recursive halving, so that many schedules nest only a few calls deep."""
    if len(rates) == 1:
        only, start = rates[0], starts[0]
        return lambda step: only(step - start)
    middle = len(rates) // 2
    before = compiled(_joined(rates[:middle], starts[:middle], compiled))
    after = compiled(_joined(rates[middle:], starts[middle:], compiled))
    milestone = starts[middle]

    def rate(step: int) -> float:
        if step < milestone:
            return before(step)
        return after(step)

    return rate


@dataclass(frozen=True, repr=False)
class Lambda(CountingSchedule):
    """initial_learning_rate * lr_lambda(step): torch's LambdaLR.

    Parameters
    ----------
    initial_learning_rate: float
    lr_lambda: function
        A function of the step. For `jit`, it must be compiled by `numba.njit` or compilable by it. To pickle the
        schedule, it must be picklable: defined in a module, not a lambda.

    Examples
    --------
    >>> from fastopt.schedules import Lambda
    >>> Lambda(0.5, lambda step: 1 / (1 + step))(3)
    0.125
    """

    initial_learning_rate: float = field(metadata=RATE)
    lr_lambda: Callable[[int], float] = field(metadata=checked_by(check_function))

    def formula(self, compiled: Compile) -> Function:
        initial, factor = self.initial_learning_rate, compiled(self.lr_lambda)

        def rate(step: int) -> float:
            return initial * float(factor(step))

        return rate


@dataclass(frozen=True, repr=False)
class Multiplicative(CountingSchedule):
    """initial_learning_rate * lr_lambda(1) * lr_lambda(2) * ... * lr_lambda(step): torch's MultiplicativeLR.

    Parameters
    ----------
    initial_learning_rate: float
    lr_lambda: function
        A function of the step; as for `Lambda`.

    Notes
    -----
    The rate at step n takes n calls of the function. Called from Python, the schedule keeps the last product, so the
    next step takes one call; the function's result must therefore depend on the step alone. Products are rounded as in
    torch.

    Examples
    --------
    >>> from fastopt.schedules import Multiplicative
    >>> Multiplicative(1.0, lambda step: 0.5)(3)
    0.125
    """

    initial_learning_rate: float = field(metadata=RATE)
    lr_lambda: Callable[[int], float] = field(metadata=checked_by(check_function))

    def formula(self, compiled: Compile) -> Function:
        initial, factor = self.initial_learning_rate, compiled(self.lr_lambda)

        def product(value: float, after: int, step: int) -> float:
            for each in range(after + 1, step + 1):
                value *= float(factor(each))
            return value

        product = compiled(product)
        if compiled is not plain:
            return lambda step: product(initial, 0, step)
        last = (0, initial)

        def rate(step: int) -> float:
            nonlocal last
            after, value = last  # read once: other threads may call
            if step < after:
                after, value = 0, initial
            value = product(value, after, step)
            last = (step, value)
            return value

        return rate


def inverse_square_root(
    initial_learning_rate: float,
    decay_steps: int,
    warmup_steps: int = 0,
    *,
    per: Per = "step",
    steps_per_epoch: int | None = None,
) -> Schedule:
    """initial_learning_rate / sqrt(1 + step / decay_steps), optionally after a linear warm-up from 0.

    Parameters
    ----------
    initial_learning_rate: float
        The largest rate.
    decay_steps: int
        In steps (epochs, with `per="epoch"`). With `decay_steps == warmup_steps` it is the Transformer's schedule:
        proportional to step before `warmup_steps` and to 1 / sqrt(step) after.
    warmup_steps: int, default 0
    per, steps_per_epoch
        The unit of steps, as for all schedules.

    Returns
    -------
    Warmup or InverseTimeDecay

    References
    ----------
    Vaswani et al., Attention Is All You Need, 2017, section 5.3.

    Examples
    --------
    >>> from fastopt.schedules import inverse_square_root
    >>> rate = inverse_square_root(1.0, decay_steps=100, warmup_steps=100)
    >>> rate(50), rate(100), rate(400)
    (0.5, 1.0, 0.5)
    """
    if not steps_or_zero("inverse_square_root: warmup_steps", warmup_steps):
        return InverseTimeDecay(
            initial_learning_rate, decay_steps, 1.0, power=0.5, per=per, steps_per_epoch=steps_per_epoch
        )
    decay = InverseTimeDecay(initial_learning_rate, decay_steps, 1.0, power=0.5)
    return Warmup(decay, warmup_steps, per=per, steps_per_epoch=steps_per_epoch)


def warmup_stable_decay(
    learning_rate: float,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    end_learning_rate: float = 0.0,
    decay_type: Literal["linear", "cosine"] = "linear",
    *,
    per: Per = "step",
    steps_per_epoch: int | None = None,
) -> Schedule:
    """A linear warm-up from 0, a constant rate, and a decay at the end.

    Parameters
    ----------
    learning_rate: float
        Above 0.
    warmup_steps, stable_steps, decay_steps: int
        The lengths of the three, in steps (epochs, with `per="epoch"`). The first two can be 0.
    end_learning_rate: float, default 0
    decay_type: "linear" or "cosine", default "linear"
    per, steps_per_epoch
        The unit of steps, as for all schedules.

    Returns
    -------
    Warmup

    References
    ----------
    Hu et al., MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies, 2024.

    Examples
    --------
    >>> from fastopt.schedules import warmup_stable_decay
    >>> rate = warmup_stable_decay(1.0, warmup_steps=10, stable_steps=100, decay_steps=20)
    >>> rate(5), rate(10), rate(110), rate(120), rate(130)
    (0.5, 1.0, 1.0, 0.5, 0.0)
    """
    end = at_least_zero("warmup_stable_decay: end_learning_rate", end_learning_rate)
    decay: Schedule
    if one_of("linear", "cosine")("warmup_stable_decay: decay_type", decay_type) == "linear":
        decay = PolynomialDecay(learning_rate, decay_steps, end)
    else:
        peak = at_least_zero("warmup_stable_decay: learning_rate", learning_rate)
        decay = CosineDecay(peak, decay_steps, alpha=end / peak if peak else 0.0)
    stable = Sequential([learning_rate, decay], [stable_steps])
    return Warmup(stable, warmup_steps, per=per, steps_per_epoch=steps_per_epoch)

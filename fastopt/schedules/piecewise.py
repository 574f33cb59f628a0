"""Piecewise schedules: constant, interpolated and cyclic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..checks import above_zero, at_least_zero, one_of
from .base import Compile, CountingSchedule, Function, Per
from .curves import SHAPES, between, count_at_most, power
from .fields import (
    RATE,
    STEPS_OR_ZERO,
    check_function_or_none,
    checked_by,
    increasing,
    sequence_of,
    steps,
    steps_or_zero,
    steps_or_zero_or_none,
)

RATES = checked_by(sequence_of(at_least_zero))


def _check_lengths(owner: CountingSchedule, boundaries: Sequence[Any], values: Sequence[Any]) -> None:
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"{type(owner).__name__}: values must be one more than boundaries, got {len(values)} values and "
            f"{len(boundaries)} boundaries"
        )


@dataclass(frozen=True, repr=False)
class PiecewiseConstantDecay(CountingSchedule):
    """values[0] up to the first boundary, values[1] up to the second, ..., and the last value from then on.

    Parameters
    ----------
    boundaries: sequence of int
        Steps (epochs, with `per="epoch"`), increasing, at least 0.
    values: sequence of float
        Rates, one more than boundaries.
    side: "left" or "right", default "left"
        The value at step == boundary, as in numpy.searchsorted: "left" keeps the old one (Keras), "right" takes the new
        one (torch's MultiStepLR and ConstantLR, optax).

    See Also
    --------
    multi_step : the same, given by factors.

    Examples
    --------
    >>> from fastopt.schedules import PiecewiseConstantDecay
    >>> rate = PiecewiseConstantDecay([10, 20], [1.0, 0.5, 0.25])
    >>> rate(10), rate(11), rate(21)
    (1.0, 0.5, 0.25)
    """

    boundaries: Sequence[int] = field(metadata=checked_by(increasing(steps_or_zero)))
    values: Sequence[float] = field(metadata=RATES)
    side: Literal["left", "right"] = field(default="left", metadata=checked_by(one_of("left", "right")))

    def check(self) -> None:
        _check_lengths(self, self.boundaries, self.values)

    def formula(self, compiled: Compile) -> Function:
        boundaries, values = self.boundaries, self.values
        if not boundaries:
            (only,) = values
            return lambda step: only
        late = int(self.side == "left")
        passed = compiled(count_at_most)

        def rate(step: int) -> float:
            return values[passed(boundaries, step - late)]

        return rate


def multi_step(
    initial_learning_rate: float,
    milestones: Sequence[int],
    gamma: float | Sequence[float] = 0.1,
    *,
    per: Per = "step",
    steps_per_epoch: int | None = None,
) -> PiecewiseConstantDecay:
    """The rate is multiplied by `gamma` at each milestone: torch's MultiStepLR.

    Parameters
    ----------
    initial_learning_rate: float
    milestones: sequence of int
        Steps (epochs, with `per="epoch"`), increasing, at least 0.
    gamma: float or one for each milestone, default 0.1
        With one for each milestone it is optax' `piecewise_constant_schedule`.
    per, steps_per_epoch
        The unit of steps, as for all schedules.

    Returns
    -------
    PiecewiseConstantDecay
        With the values multiplied out, and `side="right"`.

    Examples
    --------
    >>> from fastopt.schedules import multi_step
    >>> multi_step(1.0, [10, 20], gamma=0.5)
    PiecewiseConstantDecay((10, 20), (1.0, 0.5, 0.25), side='right')
    """
    boundaries = increasing(steps_or_zero)("multi_step: milestones", milestones)
    if hasattr(gamma, "__iter__"):
        factors = sequence_of(at_least_zero)("multi_step: gamma", gamma)
    else:
        factors = (at_least_zero("multi_step: gamma", gamma),) * len(boundaries)
    if len(factors) != len(boundaries):
        raise ValueError(
            f"multi_step: gamma must be a number or one for each milestone, got {len(factors)} for {len(boundaries)}"
        )
    values = [at_least_zero("multi_step: initial_learning_rate", initial_learning_rate)]
    for factor in factors:
        values.append(values[-1] * factor)
    return PiecewiseConstantDecay(boundaries, values, side="right", per=per, steps_per_epoch=steps_per_epoch)


@dataclass(frozen=True, repr=False)
class PiecewiseInterpolation(CountingSchedule):
    """From values[0] at step 0 to values[1] at the first boundary, and so on; then the rate stays at the last value.

    Parameters
    ----------
    boundaries: sequence of float
        Steps (epochs, with `per="epoch"`), increasing, above 0, not necessarily whole.
    values: sequence of float
        Rates, one more than boundaries.
    interpolate_type: "linear" or "cosine", default "linear"
        A straight line, or half a cosine.

    Notes
    -----
    optax' `piecewise_interpolate_schedule`, which takes factors in place of values.

    Examples
    --------
    >>> from fastopt.schedules import PiecewiseInterpolation
    >>> rate = PiecewiseInterpolation([10, 30], [0.0, 1.0, 0.5])
    >>> rate(5), rate(10), rate(20), rate(30), rate(300)
    (0.5, 1.0, 0.75, 0.5, 0.5)
    """

    boundaries: Sequence[float] = field(metadata=checked_by(increasing(above_zero)))
    values: Sequence[float] = field(metadata=RATES)
    interpolate_type: Literal["linear", "cosine"] = field(
        default="linear", metadata=checked_by(one_of("linear", "cosine"))
    )

    def check(self) -> None:
        _check_lengths(self, self.boundaries, self.values)

    def formula(self, compiled: Compile) -> Function:
        starts, values, last = (0.0, *self.boundaries), self.values, len(self.boundaries)
        passed, shape, mixed = compiled(count_at_most), compiled(SHAPES[self.interpolate_type]), compiled(between)

        def rate(step: int) -> float:
            piece = passed(starts, step) - 1
            if piece == last:
                return values[last]
            done = (step - starts[piece]) / (starts[piece + 1] - starts[piece])
            return mixed(values[piece], values[piece + 1], shape(done))

        return rate


def one_cycle(
    max_lr: float,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
    pct_final: float | None = None,
    convention: Literal["torch", "optax"] = "torch",
    *,
    per: Per = "step",
    steps_per_epoch: int | None = None,
) -> PiecewiseInterpolation:
    """A rise from max_lr / div_factor to max_lr, and a decay to max_lr / (div_factor * final_div_factor).

    Parameters
    ----------
    max_lr: float
    total_steps: int
        Steps of all phases (epochs, with `per="epoch"`).
    pct_start: float, default 0.3
        The fraction of the steps in which the rate rises.
    anneal_strategy: "cos" or "linear", default "cos"
    div_factor, final_div_factor: float, default 25 and 1e4
    three_phase: bool, default False
        The second phase decays to the first rate, and a third phase to the last rate.
    pct_final: float, optional
        With `three_phase`: the fraction of all steps after which the second phase ends. The default is 2 * pct_start
        with torch's convention (the rate falls in as many steps as it rises), and 0.85 with optax'.
    convention: "torch" or "optax", default "torch"
        torch's phases end at pct * total_steps - 1 (the second of three at - 2), not rounded, and the last at
        total_steps - 1; optax' at int(pct * total_steps) and total_steps.
    per, steps_per_epoch
        The unit of steps, as for all schedules.

    Returns
    -------
    PiecewiseInterpolation

    Raises
    ------
    TypeError, ValueError
        An argument is not usable, or a phase has no length.

    Notes
    -----
    torch's OneCycleLR, without its cycling of the momentum; optax' `cosine_onecycle_schedule` (two phases) and
    `linear_onecycle_schedule` (three). torch raises an error after `total_steps`; here the rate stays at the last one.

    References
    ----------
    Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2017.

    Examples
    --------
    >>> from fastopt.schedules import one_cycle
    >>> rate = one_cycle(1.0, total_steps=100, pct_start=0.5, div_factor=4)
    >>> rate(0), rate(49), rate(99)
    (0.25, 1.0, 2.5e-05)
    """
    peak, total = above_zero("one_cycle: max_lr", max_lr), steps("one_cycle: total_steps", total_steps)
    strategy = one_of("cos", "linear")("one_cycle: anneal_strategy", anneal_strategy)
    torch = one_of("torch", "optax")("one_cycle: convention", convention) == "torch"
    if not isinstance(three_phase, bool):
        raise TypeError(f"one_cycle: three_phase must be True or False, got {three_phase!r}")
    if pct_final is not None and not three_phase:
        raise ValueError(f"one_cycle: pct_final needs three_phase=True, got pct_final={pct_final!r} without")
    initial = peak / above_zero("one_cycle: div_factor", div_factor)
    final = initial / above_zero("one_cycle: final_div_factor", final_div_factor)
    parts = [above_zero("one_cycle: pct_start", pct_start)]
    values = [initial, peak, final]
    if three_phase:
        default = 2 * parts[0] if torch else 0.85
        parts.append(default if pct_final is None else above_zero("one_cycle: pct_final", pct_final))
        values.insert(2, initial)
    if torch:
        ends = [part * total - 1 - phase for phase, part in enumerate(parts)] + [float(total - 1)]
    else:
        ends = [float(int(part * total)) for part in parts] + [float(total)]
    if any(end <= start for start, end in zip([0.0, *ends], ends, strict=False)):
        raise ValueError(
            f"one_cycle: every phase needs more than no steps, got phases that end at {ends} "
            f"(pct_start={pct_start!r}, pct_final={pct_final!r}, total_steps={total_steps!r})"
        )
    interpolate_type: Literal["linear", "cosine"] = "cosine" if strategy == "cos" else "linear"
    return PiecewiseInterpolation(ends, values, interpolate_type, per=per, steps_per_epoch=steps_per_epoch)


# --- cycles ---------------------------------------------------------------------------------------------------------


def _no_scale(gamma: float, raised: Any) -> Function:
    return lambda cycle: 1.0


def _halved(gamma: float, raised: Any) -> Function:
    return lambda cycle: raised(0.5, cycle - 1.0)


def _decayed(gamma: float, raised: Any) -> Function:
    return lambda step: raised(gamma, float(step))


# mode: (the factor of the height, the argument of that factor)
MODES: dict[str, tuple[Callable[[float, Any], Function], str]] = {
    "triangular": (_no_scale, "cycle"),
    "triangular2": (_halved, "cycle"),
    "exp_range": (_decayed, "iterations"),
}


@dataclass(frozen=True, repr=False)
class Cyclic(CountingSchedule):
    """Repeated rise from base_lr to max_lr and fall back: torch's CyclicLR.

    base_lr + (max_lr - base_lr) * h * scale, where h rises from 0 to 1 in `step_size_up` steps and falls back to 0 in
    `step_size_down`.

    Parameters
    ----------
    base_lr, max_lr: float
        With `max_lr` at least `base_lr`.
    step_size_up: int, default 2000
        In steps (epochs, with `per="epoch"`). With 0 each cycle begins with a jump to `max_lr`.
    step_size_down: int, optional
        None means `step_size_up`. With 0 each cycle ends with a jump to `base_lr`. One of the two is at least 1.
    mode: "triangular", "triangular2" or "exp_range", default "triangular"
        The scale: 1; halved in each cycle; gamma^step.
    gamma: float, default 1
        For "exp_range". At least 0; above 1 the rate grows without bound.
    scale_fn: function, optional
        A function of the number of the cycle (1, 2, ...) or of the step, in place of `mode`.
    scale_mode: "cycle" or "iterations", default "cycle"
        Whether `scale_fn` gets the number of the cycle or the step.

    Notes
    -----
    torch computes the position in the cycle as 1 + step / cycle length - cycle, which loses digits with the number of
    steps (1e-10 of the height after a million cycles), and its "triangular2" overflows after 1024 cycles. Here the
    position is exact, and the scale becomes 0. Momentum is not cycled.

    References
    ----------
    Smith, Cyclical Learning Rates for Training Neural Networks, 2017.

    Examples
    --------
    >>> from fastopt.schedules import Cyclic
    >>> rate = Cyclic(0.5, 1.0, step_size_up=2, step_size_down=4, mode="triangular2")
    >>> [rate(step) for step in (0, 1, 2, 4, 6, 8)]
    [0.5, 0.75, 1.0, 0.75, 0.5, 0.75]
    """

    base_lr: float = field(metadata=RATE)
    max_lr: float = field(metadata=RATE)
    step_size_up: int = field(default=2000, metadata=STEPS_OR_ZERO)
    step_size_down: int | None = field(default=None, metadata=checked_by(steps_or_zero_or_none))
    mode: Literal["triangular", "triangular2", "exp_range"] = field(
        default="triangular", metadata=checked_by(one_of(*MODES))
    )
    gamma: float = field(default=1.0, metadata=RATE)
    scale_fn: Callable[[float], float] | None = field(default=None, metadata=checked_by(check_function_or_none))
    scale_mode: Literal["cycle", "iterations"] = field(
        default="cycle", metadata=checked_by(one_of("cycle", "iterations"))
    )

    def check(self) -> None:
        if not self.step_size_up and not self.step_size_down:
            raise ValueError(
                "Cyclic: step_size_up and step_size_down must not both be 0, got "
                f"step_size_up={self.step_size_up!r} and step_size_down={self.step_size_down!r}"
            )
        if self.max_lr < self.base_lr:
            raise ValueError(
                f"Cyclic: max_lr must be at least base_lr, got max_lr={self.max_lr!r} and base_lr={self.base_lr!r}"
            )

    def formula(self, compiled: Compile) -> Function:
        base_lr, height, up = self.base_lr, self.max_lr - self.base_lr, self.step_size_up
        down = up if self.step_size_down is None else self.step_size_down
        if self.scale_fn is not None:
            scale, of_cycle = compiled(self.scale_fn), self.scale_mode == "cycle"
        else:
            make, argument = MODES[self.mode]
            scale, of_cycle = compiled(make(self.gamma, compiled(power))), argument == "cycle"

        def rate(step: int) -> float:
            cycle, place = step // (up + down) + 1, step % (up + down)
            part = place / up if place < up else (up + down - place) / down
            return base_lr + height * part * float(scale(cycle if of_cycle else step))

        return rate

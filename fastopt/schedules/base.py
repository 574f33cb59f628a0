"""The base of all schedules: immutable values, functions of the step, whose formula also runs in Numba."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, cast

from ..checks import at_least_zero, one_of
from .fields import RATE, checked_by, sequence_of, steps_or_none

Per = Literal["step", "epoch"]
Function = Callable[[Any], float]
F = TypeVar("F", bound=Callable[..., Any])


class Compile(Protocol):
    """Applied to each function that a formula consists of: the identity or `numba.njit`."""

    def __call__(self, function: F, /) -> F: ...


def plain(function: F) -> F:
    return function


def _compiled(function: Any) -> Any:
    """The function compiled with these options; Numba would take others from the first function that calls it."""
    import numba

    return numba.njit(fastmath=False, error_model="python", boundscheck=False)(function)


_compiled_once = functools.lru_cache(maxsize=32)(_compiled)


def njit(function: F) -> F:
    """The function compiled. A function without a closure is compiled once for all schedules."""
    if hasattr(function, "py_func"):  # the user has compiled it
        return function
    if getattr(function, "__closure__", None) is None:
        return cast(F, _compiled_once(function))
    return cast(F, _compiled(function))


def check_step(step: Any) -> int:
    """The step as an int.

    Raises
    ------
    TypeError, ValueError
        The step is not a whole number, or negative.
    """
    if isinstance(step, bool) or not isinstance(step, numbers.Integral):
        raise TypeError(f"step must be a whole number, got {step!r} of type {type(step).__name__}")
    if step < 0:
        raise ValueError(f"step must be >= 0, got {step!r}")
    return int(step)


# --- schedules ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Schedule:
    """A learning rate as a function of the step: call it, or pass it to an optimizer as `lr=`.

    Schedules are immutable, picklable and hashable, and equal if their arguments are equal. `schedule * number` scales
    a schedule (repeated scaling is merged into one factor), and `schedule * schedule` multiplies two. The step is the
    number of updates done before: 0 for the first one.
    """

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = each.metadata["check"](f"{type(self).__name__}: {each.name}", getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        self.check()

    def check(self) -> None:
        """Check conditions on several arguments together."""

    def formula(self, compiled: Compile) -> Function:
        """The rate as a function of the step; `compiled` is applied to every function that it calls."""
        raise NotImplementedError(f"{type(self).__name__} has no formula")

    def function(self, compiled: Compile) -> Function:
        return compiled(self.formula(compiled))

    @functools.cached_property
    def _rate(self) -> Function:
        return self.function(plain)

    def __call__(self, step: int) -> float:
        """The learning rate of the update that follows `step` updates.

        Raises
        ------
        TypeError, ValueError
            The step is not a whole number, or negative.
        """
        if type(step) is not int or step < 0:
            step = check_step(step)
        return self._rate(step)

    @functools.cached_property
    def jit(self) -> Any:
        """The same formula as a `numba.njit` function of the step, to call in other compiled functions.

        It is compiled at the first call. It does not check its argument, which must be an integer >= 0.

        Notes
        -----
        The result has the same bits as the call from Python, unless LLVM computes a power or a cosine with another
        function than Python does; then it differs by some units in the last place.

        Examples
        --------
        >>> import numba
        >>> from fastopt.schedules import PolynomialDecay
        >>> rate = PolynomialDecay(1.0, 4, end_learning_rate=0.0).jit
        >>> @numba.njit
        ... def total(steps):
        ...     added = 0.0
        ...     for step in range(steps):
        ...         added += rate(step)
        ...     return added
        >>> total(4)
        2.5
        """
        return self.function(njit)

    def __mul__(self, other: Any) -> Schedule:
        if isinstance(other, Schedule):
            return Product((self, other))
        if not isinstance(other, numbers.Real):
            return NotImplemented  # Python raises a TypeError that names the types
        return Scaled(self, cast(float, other))

    __rmul__ = __mul__

    __array_ufunc__ = None  # NumPy's numbers leave `number * schedule` to us

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}

    def __repr__(self) -> str:
        given = []
        for each in sorted(dataclasses.fields(self), key=lambda each: bool(each.kw_only)):
            value = getattr(self, each.name)
            if each.default is dataclasses.MISSING:
                given.append(repr(value))
            elif value != each.default:
                given.append(f"{each.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"


@dataclass(frozen=True, repr=False)
class CountingSchedule(Schedule):
    """A schedule that counts steps or epochs.

    Parameters
    ----------
    per: "step" or "epoch"
        Whether the schedule counts updates or epochs. The rate is constant within an epoch.
    steps_per_epoch: int
        The number of updates in an epoch; required with `per="epoch"`, and only allowed then. The schedule gets
        step // steps_per_epoch.
    """

    per: Per = field(default="step", kw_only=True, metadata=checked_by(one_of("step", "epoch")))
    steps_per_epoch: int | None = field(default=None, kw_only=True, metadata=checked_by(steps_or_none))

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.per == "epoch") != (self.steps_per_epoch is not None):
            raise ValueError(
                f"{type(self).__name__}: steps_per_epoch goes with per='epoch', got per={self.per!r} and "
                f"steps_per_epoch={self.steps_per_epoch!r}"
            )

    def function(self, compiled: Compile) -> Function:
        rate = super().function(compiled)
        if self.steps_per_epoch is None:
            return rate
        steps_per_epoch = self.steps_per_epoch

        def rate_in_epoch(step: int) -> float:
            return rate(step // steps_per_epoch)

        return compiled(rate_in_epoch)


@dataclass(frozen=True, repr=False)
class Constant(CountingSchedule):
    """The same rate at every step: optax' `constant_schedule`.

    Parameters
    ----------
    learning_rate: float
        At least 0.

    Examples
    --------
    >>> from fastopt.schedules import Constant
    >>> Constant(0.1)(7)
    0.1
    """

    learning_rate: float = field(metadata=RATE)

    def formula(self, compiled: Compile) -> Function:
        learning_rate = self.learning_rate

        def rate(step: int) -> float:
            return learning_rate

        return rate


def schedule_or_number(name: str, value: Any) -> Schedule:
    if isinstance(value, Schedule):
        return value
    if callable(value):
        raise TypeError(f"{name} must be a schedule or a number, got {value!r}; write Lambda(1.0, function)")
    return Constant(at_least_zero(name, value))


@dataclass(frozen=True, repr=False)
class Scaled(Schedule):
    """`schedule * factor`. Scaling it again merges the factors, so it can be scaled any number of times.

    Examples
    --------
    >>> from fastopt.schedules import ExponentialDecay
    >>> ExponentialDecay(1.0, 10, 0.5) * 0.5 * 0.5
    ExponentialDecay(1.0, 10, 0.5) * 0.25
    """

    schedule: Schedule = field(metadata=checked_by(schedule_or_number))
    factor: float = field(metadata=RATE)

    def check(self) -> None:
        if isinstance(self.schedule, Scaled):
            factor = at_least_zero("Scaled: the product of all factors", self.schedule.factor * self.factor)
            object.__setattr__(self, "factor", factor)
            object.__setattr__(self, "schedule", self.schedule.schedule)

    def formula(self, compiled: Compile) -> Function:
        unscaled, factor = self.schedule.function(compiled), self.factor

        def rate(step: int) -> float:
            return unscaled(step) * factor

        return rate

    def __repr__(self) -> str:
        return f"{self.schedule!r} * {self.factor!r}"


@dataclass(frozen=True, repr=False)
class Product(CountingSchedule):
    """The product of schedules: torch's `ChainedScheduler` of schedulers that multiply the rate by a factor.

    Made by `schedule * schedule`. Usually one schedule has the learning rate, and the others are factors.

    Parameters
    ----------
    schedules: sequence of schedules or numbers

    Notes
    -----
    In torch's ChainedScheduler each scheduler changes the rate that the one before has set. Schedulers that multiply
    the rate give the product; LambdaLR assigns it. CosineAnnealingLR in a chain is recursive, not a function of the
    step.

    Examples
    --------
    >>> from fastopt.schedules import ExponentialDecay, PiecewiseConstantDecay, Product
    >>> Product([ExponentialDecay(1.0, 1, 0.5), PiecewiseConstantDecay([1], [0.1, 1.0])])(2)
    0.25
    """

    schedules: Sequence[Schedule | float] = field(metadata=checked_by(sequence_of(schedule_or_number)))

    def check(self) -> None:
        if not self.schedules:
            raise ValueError("Product: schedules must not be empty, got ()")

    def formula(self, compiled: Compile) -> Function:
        rates = [each.function(compiled) for each in cast(Sequence[Schedule], self.schedules)]
        product: Function = rates[0]
        for each in rates[1:]:
            product = compiled(_product_of_two(product, each))
        return product


def _product_of_two(first: Function, second: Function) -> Function:
    def rate(step: int) -> float:
        return first(step) * second(step)

    return rate

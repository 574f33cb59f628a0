"""What all schedules share: they are values, pure functions of the step, and their formula also runs in Numba."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, cast

from ..checks import at_least_zero, flag, one_of, whole_number

Per = Literal["step", "epoch"]
Function = Callable[[Any], float]
F = TypeVar("F", bound=Callable[..., Any])


class Compile(Protocol):
    """What is done with each function that a formula is made of: nothing, or `numba.njit`."""

    def __call__(self, function: F, /) -> F: ...


def plain(function: F) -> F:
    return function


def _compiled(function: Any) -> Any:
    """Compiled as it is written: what is not said here, Numba takes over from the first function that calls it."""
    import numba

    return numba.njit(fastmath=False, error_model="python", boundscheck=False)(function)


_compiled_once = functools.lru_cache(maxsize=32)(_compiled)


def njit(function: F) -> F:
    """The function compiled; one that closes over nothing is compiled once for all schedules."""
    if hasattr(function, "py_func"):  # the user's own, compiled already
        return function
    if getattr(function, "__closure__", None) is None:
        return cast(F, _compiled_once(function))
    return cast(F, _compiled(function))


# --- checks: (name, value) -> the value as it is kept --------------------------------------------------------------


def at_least_zero_or_none(name: str, value: Any) -> float | None:
    return None if value is None else at_least_zero(name, value)


def steps(name: str, value: Any) -> int:
    return whole_number(name, value, least=1)


def steps_or_none(name: str, value: Any) -> int | None:
    return None if value is None else steps(name, value)


def steps_or_zero(name: str, value: Any) -> int:
    return whole_number(name, value, least=0)


def sequence_of(check: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    def check_each(name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__"):
            raise TypeError(f"{name} must be a sequence, got {value!r}")
        return tuple(check(f"{name}[{index}]", each) for index, each in enumerate(value))

    return check_each


def increasing(check: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    check_each = sequence_of(check)

    def check_order(name: str, value: Any) -> tuple[Any, ...]:
        checked = check_each(name, value)
        if any(later <= earlier for earlier, later in itertools.pairwise(checked)):
            raise ValueError(f"{name} must be increasing, got {value!r}")
        return checked

    return check_order


def check_function(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    return value


def check_function_or_none(name: str, value: Any) -> Any:
    return None if value is None else check_function(name, value)


def checked_by(check: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The metadata of a dataclass field that this function checks and converts."""
    return {"check": check}


RATE = checked_by(at_least_zero)
STEPS = checked_by(steps)
STEPS_OR_ZERO = checked_by(steps_or_zero)
FLAG = checked_by(flag)


def check_step(step: Any) -> int:
    """The step as an int.

    Raises
    ------
    TypeError, ValueError
        It is not a whole number, or negative.
    """
    if isinstance(step, bool) or not isinstance(step, numbers.Integral):
        raise TypeError(f"step must be a whole number, got {step!r} of type {type(step).__name__}")
    if step < 0:
        raise ValueError(f"step must be >= 0, got {step!r}")
    return int(step)


# --- schedules ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Schedule:
    """A learning rate as a function of the step: call it, or give it to an optimizer as `lr=`.

    Schedules are immutable, picklable, hashable, equal when they are made of equal arguments. `schedule * number`
    scales one (repeated scaling is one factor), `schedule * schedule` multiplies two. The step is the number of updates
    done before, 0 for the first one.
    """

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = each.metadata["check"](f"{type(self).__name__}: {each.name}", getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        self.check()

    def check(self) -> None:
        """Check what concerns several arguments together."""

    def formula(self, compiled: Compile) -> Function:
        """The rate as a function of the step; `compiled` is applied to every function that it calls."""
        raise NotImplementedError(f"{type(self).__name__} has no formula")

    def function(self, compiled: Compile) -> Function:
        return compiled(self.formula(compiled))

    @functools.cached_property
    def _rate(self) -> Function:
        return self.function(plain)

    def __call__(self, step: int) -> float:
        """The rate of the update that is done after `step` updates.

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
        """The same formula as a `numba.njit` function of the step, to be called inside of other such functions.

        It is compiled when it is first called. It does not check its argument: steps are integers >= 0.

        Notes
        -----
        The bits are those of the call from Python, except that LLVM may compute a power or a cosine with another
        function than Python: then they differ by some units in the last place.

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
            return NotImplemented  # a TypeError, of which Python says the types
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
        What the schedule's step is: an update, or an epoch, within which the rate is constant.
    steps_per_epoch: int
        How many updates an epoch has. With `per="epoch"` only, and then always: the schedule sees
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
    """`schedule * factor`. Scaling it again is one factor, so that it can be done as often as needed.

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

    `schedule * schedule` makes it. The rate itself is in one of the schedules, or each has a part of it.

    Parameters
    ----------
    schedules: sequence of schedules or numbers

    Notes
    -----
    torch's ChainedScheduler lets each scheduler change the rate that the one before left. Those that multiply
    (LambdaLR does not: it assigns) give the product. CosineAnnealingLR in a chain follows its recursion, and is no
    function of the step.

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

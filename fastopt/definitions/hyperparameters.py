"""Hyperparameters, and the values that each can take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..checks import flag, real_number

Hyperparameters = dict[str, Any]


@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter, and the values that it can take.

    `length` is the length of a tuple, 0 for a number. `spread` names the numbers of a tuple for coefficient functions.
    `function` says whether the value can also be a function of the iteration. `unset` is what coefficient functions
    receive for None, if that can be the value.
    """

    name: str
    check: Callable[[Any], str | None]
    length: int = 0
    spread: tuple[str, ...] = ()
    flag: bool = False
    function: bool = False
    unset: float | None = None

    def convert(self, value: Any) -> Any:
        """The value as a plain Python float, bool or tuple of floats; a function stays as it is.

        Raises
        ------
        TypeError
            The value has the wrong type.
        ValueError
            The value is out of range; the message is torch's.
        """
        converted: Any
        if self.function and callable(value):
            if isinstance(value, type):
                raise TypeError(f"{self.name} must be a number or a function of the step, got the class {value!r}")
            return value
        if value is None and self.unset is not None:
            return None
        if self.flag:
            converted = flag(self.name, value)
        elif self.length:
            if not isinstance(value, (tuple, list)) or len(value) != self.length:
                raise TypeError(f"{self.name} must be a tuple of {self.length} numbers, got {value!r}")
            converted = tuple(real_number(f"{self.name}[{index}]", each) for index, each in enumerate(value))
        else:
            converted = real_number(self.name, value)
        message = self.check(converted)
        if message is not None:
            raise ValueError(message)
        return converted

    def numbers(self, value: Any) -> dict[str, float]:
        """The numbers that coefficient functions receive for a converted value."""
        if self.length:
            return dict(zip(self.spread, value, strict=True))
        return {self.name: self.unset if value is None and self.unset is not None else float(value)}


def _at_least_zero(name: str, words: str) -> Hyperparameter:
    return Hyperparameter(
        name, lambda value: None if value >= 0 else f"Invalid {words}: {value:g} (expected {name} >= 0)"
    )


_INTERVAL = re.compile(r"\s*([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])\s*")


def between(name: str, interval: str) -> Hyperparameter:
    """A number in an interval, written as "[0, 1)" or "(0, inf)".

    Raises
    ------
    ValueError
        The text is not an interval.
    """
    match = _INTERVAL.fullmatch(interval) if isinstance(interval, str) else None
    try:
        low, high = (float(match[group]) for group in (2, 3)) if match else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    if match is None or not low < high:
        raise ValueError(f'domain[{name!r}] must be an interval as "[0, 1)" or "(0, inf)", got {interval!r}')
    with_low, with_high = match[1] == "[", match[4] == "]"

    def check(value: float) -> str | None:
        good = (low <= value if with_low else low < value) and (value <= high if with_high else value < high)
        expected = "a finite number" if math.inf == high == -low else f"{name} in {interval.strip()}"
        return None if good else f"Invalid {name} value: {value:g} (expected {expected})"

    return Hyperparameter(name, check)


def _flag(name: str) -> Hyperparameter:
    return Hyperparameter(name, lambda value: None, flag=True)


def _check_betas(betas: tuple[float, ...]) -> str | None:
    for index, beta in enumerate(betas):
        if not 0 <= beta < 1:
            return f"Invalid beta parameter at index {index}: {beta} (expected 0 <= betas[{index}] < 1)"
    return None


def _check_etas(etas: tuple[float, ...]) -> str | None:
    if 0 < etas[0] < 1 < etas[1]:
        return None
    return f"Invalid eta values: {etas[0]}, {etas[1]} (expected 0 < etas[0] < 1 < etas[1])"


def _check_step_sizes(sizes: tuple[float, ...]) -> str | None:
    if 0 <= sizes[0] <= sizes[1]:
        return None
    return f"Invalid step_sizes values: {sizes[0]}, {sizes[1]} (expected 0 <= step_sizes[0] <= step_sizes[1])"


def _check_beta3(beta3: float) -> str | None:
    return None if 0 <= beta3 < 1 else f"Invalid beta3 value: {beta3:g} (expected 0 <= beta3 < 1, or None)"


def _check_d0(d0: float) -> str | None:
    return None if 0 < d0 < math.inf else f"Invalid d0 value: {d0:g} (expected d0 > 0)"


def _check_growth_rate(rate: float) -> str | None:
    return None if rate >= 1 else f"Invalid growth_rate value: {rate:g} (expected growth_rate >= 1)"


def _check_rho(rho: float) -> str | None:
    return None if 0 <= rho <= 1 else f"Invalid rho value: {rho} (expected 0 <= rho <= 1)"


def _check_dampening(dampening: float) -> str | None:
    return f"Invalid dampening value: {dampening} (expected a number)" if math.isnan(dampening) else None


HYPERPARAMETERS: dict[str, Hyperparameter] = {
    each.name: each
    for each in (
        replace(_at_least_zero("lr", "learning rate"), function=True),
        _at_least_zero("momentum", "momentum value"),
        Hyperparameter("dampening", _check_dampening),
        _at_least_zero("weight_decay", "weight_decay value"),
        _flag("nesterov"),
        Hyperparameter("betas", _check_betas, length=2, spread=("beta1", "beta2")),
        _at_least_zero("eps", "epsilon value"),
        _flag("amsgrad"),
        _at_least_zero("alpha", "alpha value"),
        _flag("centered"),
        _at_least_zero("lr_decay", "lr_decay value"),
        _at_least_zero("initial_accumulator_value", "initial_accumulator_value value"),
        Hyperparameter("etas", _check_etas, length=2, spread=("etaminus", "etaplus")),
        Hyperparameter("step_sizes", _check_step_sizes, length=2, spread=("step_size_min", "step_size_max")),
        _flag("maximize"),
        _flag("decoupled_weight_decay"),
        Hyperparameter("rho", _check_rho),
        _at_least_zero("momentum_decay", "momentum_decay value"),
        _at_least_zero("decay", "decay"),
        _at_least_zero("eps_root", "eps_root value"),
        _flag("eps_in_sqrt"),
        _at_least_zero("initial_scale", "initial_scale value"),
        _flag("bias_correction"),
        _at_least_zero("threshold", "threshold value"),
        _at_least_zero("beta3_warmup", "beta3_warmup value"),
        _at_least_zero("alpha_warmup", "alpha_warmup value"),
        _flag("use_clipping"),
        _flag("no_prox"),
        _flag("always_adapt"),
        _flag("cautious"),
        _flag("cautious_weight_decay"),
        _at_least_zero("trust_coeff", "trust_coeff value"),
        _at_least_zero("lambd", "lambd value"),
        _at_least_zero("t0", "t0 value"),
        Hyperparameter("beta3", _check_beta3, unset=-1.0),
        _flag("decouple"),
        _flag("use_bias_correction"),
        _flag("safeguard_warmup"),
        Hyperparameter("d0", _check_d0),
        _at_least_zero("d_coef", "d_coef value"),
        Hyperparameter("growth_rate", _check_growth_rate),
        _at_least_zero("warmup_steps", "warmup_steps value"),
        _at_least_zero("r", "r value"),
        _at_least_zero("weight_lr_power", "weight_lr_power value"),
    )
}
"""Every hyperparameter of every optimizer; a name has one meaning everywhere, except with `with_three_betas`."""


def with_three_betas() -> dict[str, Hyperparameter]:
    """The same hyperparameters for optimizers with three averages: `betas` has three numbers."""
    betas = replace(HYPERPARAMETERS["betas"], length=3, spread=("beta1", "beta2", "beta3"))
    return {**HYPERPARAMETERS, "betas": betas}

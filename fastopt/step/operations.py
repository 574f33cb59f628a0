"""The operations that options bring into a step, around the update: one table, in the order in which they are done."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..definitions.specs import Spec
from ..kernels.constants import PROGRAMS
from ..kernels.formulas import registry

Values = Mapping[str, Any]
"""The options of a step and of one of its groups, by name."""

Named = tuple[str, Mapping[str, str]]
"""An operation, and for some of its operands the name of the array that it works on instead."""

ACCUMULATOR, AVERAGE = "grad_accumulator", "param_average"
"""The states that options bring, by their names in `opt.state`."""

AVERAGED = "averaged"
"""Whether there is an average yet."""


class Fused(NamedTuple):
    """One operation of a step, besides the update.

    Attributes
    ----------
    option: the option that brings it.
    operation: its name in `kernels/formulas/operations.py`, or a function of (spec, group) that says which it is.
    programs: the programs of a plan that do it.
    wanted: whether a step with these options does it. Where it needs a state, only options of the whole step decide.
    coefficients: the coefficient function that gives it what the coefficients of the rule do not.
    numbers: the arguments of that function that these options set.
    state: the state that it needs of each parameter.
    starts_as_param: whether that state starts as a copy of the parameter, not at 0.
    begun: the number that the coefficients carry from step to step to know whether the state has its first value: 0
        before, then 1.
    gradient: the block that it writes, which later operations read as the gradient.
    divisor: of operations that read the gradient, the argument that divides it. The first of them divides by
        `grad_scale`, times the option that `shares` names; later ones divide by 1.
    after_rows: whether it is done after the constraints on whole rows.
    """

    option: str
    operation: str | Callable[[Spec, Mapping[str, Any]], Named]
    programs: tuple[str, ...]
    wanted: Callable[[Values], bool]
    coefficients: str | None = None
    numbers: Callable[[Values], Mapping[str, float]] | None = None
    state: str | None = None
    starts_as_param: bool = False
    begun: str | None = None
    gradient: str | None = None
    divisor: str = ""
    shares: str | None = None
    after_rows: bool = False

    def named(self, spec: Spec, group: Mapping[str, Any]) -> Named:
        return (self.operation, {}) if isinstance(self.operation, str) else self.operation(spec, group)


def accumulates(values: Values) -> bool:
    return bool(values["accumulate_steps"] > 1)


def _averages(values: Values) -> bool:
    return values["ema_decay"] is not None


def _overwrites(values: Values) -> bool:
    return values["ema_overwrite_frequency"] is not None


def _averaging_numbers(values: Values) -> dict[str, float]:
    return {
        "ema_decay": values["ema_decay"],
        "ema_warmup": float(values["ema_warmup"]),
        "ema_overwrite_frequency": float(values["ema_overwrite_frequency"] or 1),
    }


def _is_elementwise(constraint: Any) -> bool:
    return constraint is not None and constraint.row is None


RULE = Fused(
    "",
    lambda spec, group: (spec.rule(group), {}),
    ("update",),
    lambda values: True,
    divisor="update_divisor",
)
"""The update itself, whose coefficients are the optimizer's."""

FUSED: tuple[Fused, ...] = (
    Fused(
        "accumulate_steps",
        "gather",
        ("update", "gather"),
        accumulates,
        coefficients="preparation",
        state=ACCUMULATOR,
        gradient="prepared",
        divisor="gather_divisor",
        shares="accumulate_steps",
    ),
    Fused("accumulate_steps", "keep", ("gather",), accumulates),
    Fused(
        "clip_value",
        "clip_values",
        ("update",),
        lambda values: values["clip_value"] is not None,
        coefficients="preparation",
        numbers=lambda values: {"clip_value": values["clip_value"]},
        gradient="clipped",
        divisor="value_divisor",
    ),
    RULE,
    Fused(
        "ema_decay",
        "average",
        ("update",),
        lambda values: _averages(values) and not _overwrites(values),
        coefficients="averaging",
        numbers=_averaging_numbers,
        state=AVERAGE,
        starts_as_param=True,
        begun=AVERAGED,
    ),
    Fused(
        "ema_decay",
        "average_and_overwrite",
        ("update",),
        lambda values: _averages(values) and _overwrites(values),
        coefficients="averaging",
        numbers=_averaging_numbers,
        state=AVERAGE,
        starts_as_param=True,
        begun=AVERAGED,
    ),
    Fused("ema_decay", "swap", ("swap",), _averages),
    Fused(
        "prox",
        lambda spec, group: spec.proximal_step(group),
        ("update",),
        lambda values: _is_elementwise(values["prox"]),
        coefficients="constraint",
        numbers=lambda values: values["prox"].numbers(),
    ),
    Fused(
        "projection",
        "box",
        ("update",),
        lambda values: _is_elementwise(values["projection"]),
        coefficients="constraint",
        numbers=lambda values: values["projection"].numbers(),
        after_rows=True,
    ),
    Fused("accumulate_steps", "clear_accumulator", ("update",), accumulates, after_rows=True),
    Fused("zero_grads", "clear_grad", ("update", "clear"), lambda values: values["zero_grads"], after_rows=True),
    Fused("zero_grads", "clear_grad", ("gather",), lambda values: values["zero_grads"] and accumulates(values)),
)
"""Operations in the order in which a step does them."""

STATES: dict[str, Fused] = {each.state: each for each in FUSED if each.state is not None}
"""The operation that needs a state which rules do not keep, by the name of the state."""

DIVISORS: dict[str, float] = {each.divisor: 1.0 for each in FUSED if each.divisor}


def wanted_operations(group: Mapping[str, Any], options: Values) -> tuple[Fused, ...]:
    """The operations of a step with these options, in order."""
    values = {**options, **group}
    return tuple(each for each in FUSED if each.wanted(values))


def extra_states(options: Values) -> tuple[str, ...]:
    """The names of the states that the options of a step bring, besides those of the rule."""
    return tuple(dict.fromkeys(each.state for each in FUSED if each.state is not None and each.wanted(options)))


def begun_states(options: Values) -> dict[str, str]:
    """For each carried number that the options of a step bring, the state that it says has begun."""
    return {
        each.begun: each.state
        for each in FUSED
        if each.begun is not None and each.state is not None and each.wanted(options)
    }


def carried_numbers(spec: Spec, options: Values) -> dict[str, float]:
    """The numbers that coefficients carry from step to step, the rule's first, and what each starts with."""
    return {**spec.carried, **dict.fromkeys(begun_states(options), 0.0)}


@functools.cache
def needs_count(state: str) -> bool:
    """Whether the operation that uses this state depends on the number of steps so far."""
    function = STATES[state].coefficients if state in STATES else None
    return function is not None and "step" in registry.coefficient_function(function).arguments


def programs(wanted: Iterable[Fused], spec: Spec, group: Mapping[str, Any]) -> dict[str, list[Named]]:
    """The operations of each program, in order."""
    found: dict[str, list[Named]] = {name: [] for name in PROGRAMS}
    adds = spec.terms(group) is not None
    gradient = "grad"
    for each in wanted:
        name, operands = each.named(spec, group)
        if each.divisor:
            operands = {**operands, "grad": gradient}
        for program in each.programs:
            found[program].append((name, operands))
        if adds and each is RULE:
            found["terms"].append((registry.terms_name(name), operands))
        elif adds and each.gradient and "update" in each.programs:
            found["terms"].append((name, operands))
        gradient = each.gradient or gradient
    return found


def readers(wanted: Iterable[Fused]) -> tuple[Fused, ...]:
    """The operations that read the gradient, each as the one before has left it."""
    return tuple(each for each in wanted if each.divisor)


def numbers(
    reading: Sequence[Fused],
    numbered: Iterable[Fused],
    group: Mapping[str, Any],
    options: Values,
    gathered_divisor: float = 1.0,
) -> dict[str, float]:
    """The arguments of coefficient functions that options set.

    `reading` are the operations that read the gradient: the first divides it by its scale, the second divides what was
    gathered by `gathered_divisor`. `numbered` are the operations that have numbers.
    """
    first, *later = reading
    scale = options["grad_scale"]
    found = {"clip_coefficient": 1.0, **DIVISORS}
    found[first.divisor] = scale * options[first.shares] if first.shares else scale
    if later:
        found[later[0].divisor] = gathered_divisor
    for each in numbered:
        found.update(each.numbers({**options, **group}))  # type: ignore[misc]
    return found

"""The arguments of single updates: states, hyperparameters as numbers, and their defaults; one row per variant.

`fastopt.jit` and the compiled module `fastopt.updates` (for Cython) are made from these rows. `setup.py` runs this
module.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..kernels.formulas import registry
from ..kernels.formulas.dialect import Function
from ..kernels.formulas.rule_sums import arguments_for
from .specs import CAUTION, SPECS, Spec

GRAD_SCALE = "grad_scale"
"""The argument of every update that divides the gradient."""

BOUNDS: dict[str, str] = {
    "beta1": "0 <= {} < 1",
    "beta2": "0 <= {} < 1",
    "beta3": "0 <= {} < 1",
    "rho": "0 <= {} <= 1",
    "etaminus": "0 < {} < 1",
    "etaplus": "{} > 1",
    "dampening": "{0} == {0}",
    "step": "{} >= 1",
    GRAD_SCALE: "{} > 0",
}
"""The condition on each argument of an update; the condition on all other hyperparameters is `>= 0`."""

_IN_GENERAL = {"update_divisor": 1.0, "clip_coefficient": 1.0}
"""Arguments of `regularize` that are not hyperparameters."""


@dataclass(frozen=True)
class Signature:
    """One update of one variant of an optimizer.

    Attributes
    ----------
    name: the name of the update's function, as in "adam_amsgrad".
    hyperparameters: the update's arguments, as coefficient functions receive them, and the default of each; required
        arguments have None and come first.
    fixed: the other numbers that coefficient functions receive.
    initial: the initial values of states that do not start at 0: a number, or one of `initial_arguments`.
    initial_arguments: the hyperparameters that are initial values of states, and the default of each.
    """

    name: str
    spec: Spec
    rule: str
    hyperparameters: Mapping[str, float | None]
    fixed: Mapping[str, float]
    initial: Mapping[str, str | float]
    initial_arguments: Mapping[str, float]

    @property
    def states(self) -> tuple[str, ...]:
        """The arrays that the update keeps besides the parameter, in the rule's order."""
        states: tuple[str, ...] = registry.rule(self.rule).states
        return states

    @property
    def arguments(self) -> dict[str, float | None]:
        """The numbers that the update's function takes after the step, and their defaults."""
        return {**self.hyperparameters, GRAD_SCALE: 1.0}

    def is_flag(self, name: str) -> bool:
        return name in self.spec.hyperparameters and self.spec.hyperparameters[name].flag

    def bound(self, name: str) -> str | None:
        """The condition on an argument, with its name inserted; None for flags and for arguments of custom rules."""
        always = name in ("step", GRAD_SCALE)
        if self.is_flag(name) or not (always or (name in self._numbers() and not self.spec.custom)):
            return None
        return BOUNDS.get(name, "{} >= 0").format(name)

    def _numbers(self) -> set[str]:
        """The names of the numbers that coefficient functions receive for all hyperparameters."""
        return {part for name in self.spec.defaults for part in self.spec.parts(name)}

    def stages(self) -> list[tuple[Function, dict[str, str]]]:
        """The coefficient functions, in order, and each of their arguments: a name, or a number as text."""
        stages = []
        scaling, *_ = names = self.spec.stages(self.rule)
        for name in names:
            function = registry.coefficient_function(name)
            passed = {}
            for argument in function.arguments:
                known = argument in self.hyperparameters or argument == "step" or argument in self.spec.carried
                passed[argument] = argument if known else repr(float(self.fixed.get(argument, 0.0)))
            if name == scaling:
                passed["update_divisor"] = GRAD_SCALE
            stages.append((function, passed))
        return stages


def signature(spec: Spec, options: Mapping[str, Any], required: Iterable[str] = ()) -> Signature:
    """The signature of an optimizer with these hyperparameters, which become the signature's defaults.

    A hyperparameter that chooses the rule is not an argument if it is a flag or 0. A hyperparameter that this variant
    does not use is not an argument either.

    Raises
    ------
    TypeError, ValueError
        The optimizer does not have one of these hyperparameters, or a value is not allowed; or its rule has sums.
    """
    values = spec.convert({**spec.defaults, **options})
    if callable(values.get("lr")):
        raise TypeError(f"lr must be a number, got {values['lr']!r}; call a schedule's `jit` in the loop")
    rule = spec.rule(values)
    if spec.terms(values) is not None:
        raise ValueError(no_single_updates(spec))
    numbers = {"lr": values.get("lr", 0.0), **_IN_GENERAL, **spec.numbers(values)}
    function = registry.coefficient_function(spec.coefficients)
    used = arguments_for(function, set(registry.rule(rule).coefficients) | set(spec.carried))
    used |= {"weight_decay", "decoupled_weight_decay", "maximize", "decay"}
    if "weight_decay" in spec.defaults:
        used.add("lr")
    switches = {name for name in spec.variants if isinstance(values[name], bool) or not values[name]}
    impossible = {name for name in spec.arguments if values[name] == 0.0 and _is_impossible(spec, values, name)}
    shown = {
        part: numbers[part]
        for name in spec.arguments
        if name not in switches | impossible
        for part in spec.parts(name)
        if part in used
    }
    initial = {name: spec.initial[name] for name in registry.rule(rule).states if name in spec.initial}
    return Signature(
        name=spec.name.lower() + ("" if spec.custom else "".join(rule.partition("_")[1:])),
        spec=spec,
        rule=rule,
        hyperparameters={
            **dict.fromkeys(required),
            **{name: value for name, value in shown.items() if name not in tuple(required)},
        },
        fixed={name: value for name, value in numbers.items() if name not in shown},
        initial=initial,
        initial_arguments={each: float(values[each]) for each in initial.values() if isinstance(each, str)},
    )


def no_single_updates(spec: Spec) -> str:
    """What to say where an update of one array is asked for, by itself."""
    instead = "the class itself" if spec.custom else f"fastopt.{spec.name} or fastopt.torch.{spec.name}"
    return (
        f"{spec.that_adds(spec.name)} adds up whole parameters before it updates them, which single updates do not; "
        f"use {instead}"
    )


def _is_impossible(spec: Spec, values: Mapping[str, Any], name: str) -> bool:
    """Whether a hyperparameter is 0 and this variant refuses every other value."""
    return not isinstance(values[name], bool) and spec.check({**values, name: 0.5}) is not None


def _signatures() -> Iterator[Signature]:
    for spec in SPECS.values():
        if spec.has_sums:
            continue
        seen = set()
        for switches in product((False, True), repeat=len(spec.variants)):
            rule = spec.rules.get(switches)
            if rule is None or rule in seen:
                continue
            seen.add(rule)
            chosen = dict(zip(spec.variants, switches, strict=True))
            if any(chosen.get(name) for name in CAUTION):
                continue
            numeric = [name for name in chosen if not spec.hyperparameters[name].flag]
            # Any number above 0 gives the same signature: the caller of the update chooses the number.
            options = {name: (0.5 if switch else 0.0) if name in numeric else switch for name, switch in chosen.items()}
            yield signature(spec, options, required=[name for name in numeric if chosen[name]])


@functools.cache
def signatures() -> dict[str, Signature]:
    """The signature of every variant of every optimizer in PyTorch's convention, by name; but those with caution."""
    return {each.name: each for each in _signatures()}

"""The plans that engines follow, made from hyperparameters and options."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..definitions.specs import Spec
from ..kernels.backends import Backend
from ..kernels.constants import CLIPPED, ENGINE_ARGUMENTS, FIRST_TERM, MAX_SUMS, PREPARED
from ..kernels.engine.plan import GroupPlan, OperandForm, Operation, RowOperation, RuleSum, Stage, StepPlan
from ..kernels.formulas import registry
from ..kernels.formulas.rule_sums import NUMEL, Terms
from .evaluation import check_options
from .operations import (
    ACCUMULATOR,
    Fused,
    Named,
    accumulates,
    carried_numbers,
    extra_states,
    numbers,
    programs,
    readers,
    wanted_operations,
)
from .options import CONSTRAINTS
from .structure import structure_key

BLOCKS = {"prepared": PREPARED, "clipped": CLIPPED}
BLOCKS |= {registry.term_operand(index): FIRST_TERM - index for index in range(MAX_SUMS)}
"""Operands that are a thread's own block."""


def row_length(group: Mapping[str, Any], param: np.ndarray) -> int:
    """The number of elements that the constraints of a group take together; 0 if they take each element by itself."""
    rows = _row_constraints(group)
    if not rows:
        return 0
    if param.ndim < 2 or any(each.per == "param" for each in rows):
        return int(param.size)
    return int(param.size // max(param.shape[0], 1))


def _row_constraints(group: Mapping[str, Any]) -> list[Any]:
    """The constraints of a group that take whole rows, in the order in which they are done."""
    return [group[name] for name in CONSTRAINTS if group[name] is not None and group[name].row is not None]


StageShape = tuple[Any, tuple[str, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]
"""A coefficient function, the names of its arguments, `plan.Stage.positions`, `carried`, `common` and `sums`, and
whether it is the optimizer's own."""

Positions = dict[tuple[str, str], tuple[int, int]]
"""(coefficient function, its result) -> (stage, which of its results)."""


class Shape(NamedTuple):
    """What a `GroupPlan` is made of besides numbers: the same for all groups of one structure."""

    reading: tuple[Fused, ...]
    numbered: tuple[Fused, ...]
    stages: tuple[StageShape, ...]
    programs: dict[str, tuple[Operation, ...]]
    operands: tuple[OperandForm, ...]
    cost: float
    rows_after: int
    accumulator: int
    carried: tuple[tuple[int, int], ...]
    common: tuple[tuple[int, int], ...]
    sums: tuple[RuleSum, ...]


class Planner:
    """Makes plans for the groups of one optimizer."""

    def __init__(self, spec: Spec, backend: Backend, dtype: np.dtype, options: Mapping[str, Any]) -> None:
        check_options(spec, options)
        self.spec = spec
        self.backend = backend
        self.dtype = dtype
        self.options = options
        self.shapes: dict[Hashable, Shape] = {}
        self.gathered_calls: int | None = None
        self.clipping = backend.coefficient_function(spec.clipping)
        self.unusable = backend.sum_over("unusable", dtype)

    def finishing(self, gathered_calls: int) -> Planner:
        """A planner of the update that ends an accumulation after this many calls, by the mean of their gradients."""
        planner = copy.copy(self)
        planner.gathered_calls = gathered_calls
        return planner

    @property
    def gathered_divisor(self) -> float:
        """The divisor of what was gathered: each call gathers a share of a full mean."""
        return 1.0 if self.gathered_calls is None else self.gathered_calls / self.options["accumulate_steps"]

    def step_plan(self) -> StepPlan:
        options, gathered = self.options, self.gathered_calls
        clips = options["max_grad_norm"] is not None
        return StepPlan(
            flush_denormals=options["flush_denormals"] and self.backend.can_flush_denormals(),
            n_threads=options["n_threads"] or 0,
            accumulate_steps=options["accumulate_steps"] if gathered is None else gathered + 1,
            max_grad_norm=options["max_grad_norm"] if clips else 0.0,
            clipping=self.clipping,
            divisor=self.divisor,
            checks=options["nonfinite"] != "propagate",
            unusable=self.unusable,
            clears=options["zero_grads"],
            waits=options["nonfinite"] == "raise" or options["max_consecutive_skips"] is not None,
        )

    @property
    def divisor(self) -> float:
        """The divisor of the gradients that are added up: gathered ones have been divided before."""
        return self.gathered_divisor if accumulates(self.options) else self.options["grad_scale"]

    def structure_key(self, group: Mapping[str, Any]) -> Hashable:
        """See `structure.structure_key`."""
        return structure_key(self.spec, group, self.options)

    def group_plan(self, group: Mapping[str, Any], lr: float, key: Hashable = None) -> GroupPlan:
        """The plan of a group with its values and this rate; `key` is its structure, if that is known."""
        key = key or self.structure_key(group)
        shape = self.shapes.get(key)
        if shape is None:
            shape = self.shapes[key] = self.shape(group)
        squares = self.options["max_grad_norm"] is not None or group["clip_norm"] is not None
        checks = self.options["nonfinite"] != "propagate"
        summed = "square" if squares else "unusable" if checks else None
        own = self.spec.numbers(group)
        around = numbers(shape.reading, shape.numbered, group, self.options, self.gathered_divisor)
        seen = {True: {**around, **own}, False: {**own, **around}}
        return GroupPlan(
            stages=tuple(
                Stage(function, tuple(seen[is_own].get(each, 0.0) for each in arguments), *positions)
                for function, arguments, *positions, is_own in shape.stages
            ),
            programs=shape.programs,
            operands=shape.operands,
            cost=shape.cost,
            lr=lr,
            rows=tuple(self.row_operations(group)),
            rows_after=shape.rows_after,
            sum=None if summed is None else self.backend.sum_over(summed, self.dtype),
            sum_of_squares=squares,
            limit=self.limit(),
            clip_norm=group["clip_norm"] or 0.0,
            accumulator=shape.accumulator,
            carried=shape.carried,
            common=shape.common,
            divisor=shape.reading[0].divisor,
            sums=shape.sums,
        )

    def shape(self, group: Mapping[str, Any]) -> Shape:
        """The part of a plan that stays the same when only numbers change."""
        wanted = wanted_operations(group, self.options)
        named = programs(wanted, self.spec, group)
        names = ("param", "grad", *self.spec.states(group), *extra_states(self.options))
        terms = self.spec.terms(group)
        stages, positions = self.stages(wanted, named, self.spec.stages(self.spec.rule(group)), terms)
        updates = [each for each in wanted if "update" in each.programs]
        return Shape(
            reading=readers(wanted),
            numbered=tuple(each for each in wanted if each.numbers is not None),
            stages=stages,
            programs={
                name: tuple(self.operation(each, names, positions) for each in operations)
                for name, operations in named.items()
            },
            operands=tuple(OperandForm(name, self.dtype) for name in names),
            cost=self.spec.costs[self.spec.rule(group)][list(registry.REALS).index(self.dtype.name)],
            rows_after=sum(not each.after_rows for each in updates),
            accumulator=names.index(ACCUMULATOR) if ACCUMULATOR in names else -1,
            carried=(
                *(positions[self.spec.coefficients, name] for name in self.spec.carried),
                *(positions[each.coefficients or "", each.begun] for each in wanted if each.begun is not None),
            ),
            common=tuple(positions[self.spec.coefficients, name] for name in self.spec.common),
            sums=self.sums(terms),
        )

    def sums(self, terms: Terms | None) -> tuple[RuleSum, ...]:
        """The sums that the coefficients of a rule depend on."""
        if terms is None:
            return ()
        functions = [self.backend.sum_over(each, self.dtype) for each in terms.reductions]
        return tuple(map(RuleSum, functions, terms.over_all))

    def stages(
        self,
        wanted: Sequence[Fused],
        named: Mapping[str, Sequence[Named]],
        of_rule: Sequence[str],
        terms: Terms | None,
    ) -> tuple[tuple[StageShape, ...], Positions]:
        """The coefficient functions that these operations need, and the place of each of their results.

        `of_rule` are those of the rule, see `Spec.stages`.
        """
        used = {name for operations in named.values() for name, _ in operations}
        needed = {name for loop in used for name in registry.loop(loop).coefficients}
        around = (each.coefficients for each in wanted if each.coefficients is not None)
        stages: list[StageShape] = []
        positions: Positions = {}
        numbers_carried = tuple(carried_numbers(self.spec, self.options))
        for name in dict.fromkeys((*of_rule, *around)):
            function = registry.coefficient_function(name)
            if not needed & set(function.returned_names):
                continue
            for position, result in enumerate(function.returned_names):
                positions[name, result] = (len(stages), position)
            own = name in of_rule[1:]
            # A rule and what is around it never carry each other's numbers, even if they have the same names.
            found = zip(numbers_carried, _positions(name, numbers_carried), strict=True)
            carried = tuple(position if own == (number in self.spec.carried) else -1 for number, position in found)
            names = tuple(self.spec.common)
            common = _positions(name, names) if own else (-1,) * len(names)
            address = self.backend.coefficient_function(name)
            known = () if terms is None else (*terms.names, NUMEL)
            sums = _positions(name, known) if own else (-1,) * len(known)
            found_positions = (_positions(name, ENGINE_ARGUMENTS), carried, common, sums)
            stages.append((address, function.arguments, *found_positions, own))
        return tuple(stages), positions

    def position(self, operation: str, coefficient: str, positions: Positions) -> tuple[int, int]:
        """The place of a coefficient of an operation; coefficients of a custom rule can have the names of ours."""
        own = self.spec.coefficients
        around = [name for name, result in positions if result == coefficient and name != own]
        if (own, coefficient) in positions and (not around or self.is_rule(operation)):
            return positions[own, coefficient]
        return positions[around[0], coefficient]

    def is_rule(self, operation: str) -> bool:
        return operation.removesuffix(registry.TERMS) in self.spec.rules.values()

    def limit(self) -> float:
        """The largest element of a gradient that does not overflow, before it is divided by its scale.

        It is rounded to the dtype of the gradients, in which they are compared with it.
        """
        largest = float(np.finfo(self.dtype).max)
        bound = math.sqrt(largest) if self.spec.squares else largest
        divisor = self.divisor
        limit = self.dtype.type(min(bound * divisor, largest))
        return float(limit if float(limit) <= bound * divisor else np.nextafter(limit, self.dtype.type(0)))

    def operation(self, named: Named, names: Sequence[str], positions: Positions) -> Operation:
        """An operation of the plan; `names` are those of a segment's operands."""
        name, stands_for = named
        loop = registry.loop(name)
        indices = {**{operand: index for index, operand in enumerate(names)}, **BLOCKS}
        return Operation(
            loop=self.backend.loop(name, self.dtype),
            operands=tuple(indices[stands_for.get(each, each)] for each in loop.operands),
            pick=tuple(self.position(name, coefficient, positions) for coefficient in loop.coefficients),
            writes=tuple(indices[stands_for.get(each, each)] for each in loop.writes),
            over_bfloat16=self.backend.over_bfloat16(name),
        )

    def row_operations(self, group: Mapping[str, Any]) -> list[RowOperation]:
        return [
            RowOperation(
                sum=self.backend.sum_over(each.row.sum, self.dtype),
                function=self.backend.coefficient_function(each.row.function),
                argument=float(getattr(each, each.row.argument)),
                loop=self.backend.loop(each.row.loop, self.dtype),
                start=each.row.start,
                iterates=each.row.iterates,
            )
            for each in _row_constraints(group)
        ]


@functools.cache
def _positions(name: str, wanted: tuple[str, ...]) -> tuple[int, ...]:
    """The positions of these among the arguments of a coefficient function, or -1."""
    arguments = registry.coefficient_function(name).arguments
    return tuple(arguments.index(each) if each in arguments else -1 for each in wanted)

"""What the engine is told to do: the operations of a step, in order, from hyperparameters and options."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..definitions.specs import Spec
from ..kernels.backends import Backend
from ..kernels.engine.plan import (
    CLIPPED,
    ENGINE_ARGUMENTS,
    PREPARED,
    GroupPlan,
    Operation,
    RowOperation,
    Stage,
    StepPlan,
)
from ..kernels.formulas import registry
from ..state import arrays
from .options import GROUP_OPTIONS

ACCUMULATOR, AVERAGE = "grad_accumulator", "param_average"
"""States that options bring, by the names that they have in `opt.state`."""

CONSTANT_STREAMS = {"prepared": PREPARED, "clipped": CLIPPED}


def extra_states(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The states that options bring, beside those of the rule."""
    wanted = {ACCUMULATOR: options["accumulate_steps"] > 1, AVERAGE: options["ema_decay"] is not None}
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def row_length(group: Mapping[str, Any], param: np.ndarray) -> int:
    """How many elements of a parameter its group's constraints take together; 0 where each is taken alone."""
    kinds = [each for each in (group["prox"], group["projection"]) if each is not None and each.row is not None]
    if not kinds:
        return 0
    if param.ndim < 2 or any(each.per == "param" for each in kinds):
        return int(param.size)
    return int(param.size // max(param.shape[0], 1))


AFTER_ROWS = ("box", "clear_accumulator", "clear_grad")
"""The operations that can come next after those on rows: the proximal step comes before the projection."""

Named = tuple[str, Mapping[str, str]]
"""An operation, and which stream stands for which of its own names."""


def structure(spec: Spec, group: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, list[Named]]:
    """The operations of each program, in order: unscale, accumulate, clip, update, average, constrain, zero."""
    update: list[Named] = []
    gather: list[Named] = []
    clear: list[Named] = [("clear_grad", {})] if options["zero_grads"] else []
    grad = "grad"
    if options["accumulate_steps"] > 1:
        update.append(("gather", {}))
        gather = [("gather", {}), ("keep", {}), *clear]
        grad = "prepared"
    if group["clip_value"] is not None:
        update.append(("clip_values", {"grad": grad}))
        grad = "clipped"
    rule = spec.rule(group)
    update.append((rule, {"grad": grad}))
    if options["ema_decay"] is not None:
        overwrites = options["ema_overwrite_frequency"] is not None
        update.append(("average_and_overwrite" if overwrites else "average", {}))
    if group["prox"] is not None and group["prox"].row is None:
        update.append(spec.proximal_step(group))
    if group["projection"] is not None and group["projection"].row is None:
        update.append(("box", {}))
    if options["accumulate_steps"] > 1:
        update.append(("clear_accumulator", {}))
    swap: list[Named] = [("swap", {})] if options["ema_decay"] is not None else []
    return {"update": [*update, *clear], "gather": gather, "clear": clear, "swap": swap}


StageShape = tuple[Any, tuple[str, ...], tuple[int, ...], tuple[int, ...], bool]
"""A coefficient function, the names of its arguments, `plan.Stage.positions` and `carried`, and whether it is the
optimizer's own."""

Positions = dict[tuple[str, str], tuple[int, int]]
"""(coefficient function, its result) -> (stage, which of its results)."""


class Shape(NamedTuple):
    """What a `GroupPlan` is made of beside the values of hyperparameters and options."""

    stages: tuple[StageShape, ...]
    programs: dict[str, tuple[Operation, ...]]
    n_streams: int
    cost: float
    rows_after: int
    accumulator: int
    carried: tuple[tuple[int, int], ...]


class Planner:
    """Makes plans for the groups of one optimizer."""

    def __init__(self, spec: Spec, backend: Backend, dtype: np.dtype, options: Mapping[str, Any]) -> None:
        self.spec = spec
        self.backend = backend
        self.dtype = dtype
        self.options = options
        self.shapes: dict[Any, Shape] = {}
        self.clipping = backend.coefficient_function(spec.clipping)
        self.unusable = backend.sum_over("unusable", dtype)

    def step_plan(self) -> StepPlan:
        options = self.options
        clips = options["max_grad_norm"] is not None
        return StepPlan(
            flush_denormals=options["flush_denormals"],
            n_threads=options["n_threads"] or 0,
            accumulate_steps=options["accumulate_steps"],
            max_grad_norm=options["max_grad_norm"] if clips else 0.0,
            clipping=self.clipping,
            divisor=1.0 if options["accumulate_steps"] > 1 else options["grad_scale"],
            checks=options["nonfinite"] != "propagate",
            unusable=self.unusable,
            clears=options["zero_grads"],
            waits=options["nonfinite"] == "raise" or options["max_consecutive_skips"] is not None,
        )

    def group_plan(self, group: Mapping[str, Any], lr: float) -> GroupPlan:
        group_options = {name: group[name] for name in GROUP_OPTIONS}
        key = (self.spec.rule(group), *(type(value) for value in group_options.values()))
        shape = self.shapes.get(key)
        if shape is None:
            shape = self.shapes[key] = self.shape(group)
        squares = self.options["max_grad_norm"] is not None or group["clip_norm"] is not None
        checks = self.options["nonfinite"] != "propagate"
        summed = "square" if squares else "unusable" if checks else None
        own, around = self.spec.numbers(group), self.numbers(group)
        seen = {True: {**around, **own}, False: {**own, **around}}
        return GroupPlan(
            stages=tuple(
                Stage(function, tuple(seen[is_own].get(argument, 0.0) for argument in arguments), positions, carried)
                for function, arguments, positions, carried, is_own in shape.stages
            ),
            programs=shape.programs,
            n_streams=shape.n_streams,
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
        )

    def shape(self, group: Mapping[str, Any]) -> Shape:
        """What does not change with the values of hyperparameters and options."""
        programs = structure(self.spec, group, self.options)
        streams = ("param", "grad", *self.spec.states(group), *extra_states(self.options))
        stages, positions = self.stages(programs)
        names = [name for name, _ in programs["update"]]
        return Shape(
            stages=stages,
            programs={
                name: tuple(self.operation(each, streams, positions) for each in operations)
                for name, operations in programs.items()
            },
            n_streams=len(streams),
            cost=self.spec.costs[self.spec.rule(group)][arrays.DTYPES.index(self.dtype)],
            rows_after=next((names.index(name) for name in AFTER_ROWS if name in names), len(names)),
            accumulator=streams.index(ACCUMULATOR) if ACCUMULATOR in streams else -1,
            carried=tuple(positions[self.spec.coefficients, name] for name in self.spec.carried),
        )

    def stages(self, programs: Mapping[str, Sequence[Named]]) -> tuple[tuple[StageShape, ...], Positions]:
        """The coefficient functions that these operations need, and where each of their results is found."""
        used = {name for operations in programs.values() for name, _ in operations}
        needed = {name for loop in used for name in registry.loop(loop).coefficients}
        stages: list[StageShape] = []
        positions: Positions = {}
        for name in ("regularize", self.spec.coefficients, "preparation", "averaging", "constraint"):
            function = registry.coefficient_function(name)
            if not needed & set(function.returned_names):
                continue
            for position, result in enumerate(function.returned_names):
                positions[name, result] = (len(stages), position)
            own = name == self.spec.coefficients
            carried = _positions(name, tuple(self.spec.carried))
            if not own:
                carried = (-1,) * len(carried)
            address = self.backend.coefficient_function(name)
            stages.append((address, function.arguments, _positions(name, ENGINE_ARGUMENTS), carried, own))
        return tuple(stages), positions

    def position(self, operation: str, coefficient: str, positions: Positions) -> tuple[int, int]:
        """Where a coefficient of an operation is found: a user's own can have the name of one of ours."""
        own = self.spec.coefficients
        around = [name for name, result in positions if result == coefficient and name != own]
        if (own, coefficient) in positions and (not around or self.is_rule(operation)):
            return positions[own, coefficient]
        return positions[around[0], coefficient]

    def is_rule(self, operation: str) -> bool:
        return operation in self.spec.rules.values()

    def numbers(self, group: Mapping[str, Any]) -> dict[str, float]:
        """What coefficient functions of options see. The first to read a gradient divides it by its scale."""
        options = self.options
        gathers, clips = options["accumulate_steps"] > 1, group["clip_value"] is not None
        numbers = {
            "gather_divisor": options["grad_scale"] * options["accumulate_steps"],
            "value_divisor": 1.0 if gathers else options["grad_scale"],
            "update_divisor": 1.0 if gathers or clips else options["grad_scale"],
            "clip_value": group["clip_value"] or 0.0,
            "clip_coefficient": 1.0,
            "ema_decay": options["ema_decay"] or 0.0,
            "ema_overwrite_frequency": float(options["ema_overwrite_frequency"] or 1),
        }
        for constraint in (group["prox"], group["projection"]):
            if constraint is not None:
                numbers |= constraint.numbers()
        return numbers

    def limit(self) -> float:
        """The largest element of a gradient that does not overflow, before it is divided by its scale.

        A number of the gradients' own dtype, because they are compared in it.
        """
        largest = float(np.finfo(self.dtype).max)
        bound = math.sqrt(largest) if self.spec.squares else largest
        divisor = 1.0 if self.options["accumulate_steps"] > 1 else self.options["grad_scale"]
        limit = self.dtype.type(min(bound * divisor, largest))
        return float(limit if float(limit) <= bound * divisor else np.nextafter(limit, self.dtype.type(0)))

    def operation(self, named: Named, streams: Sequence[str], positions: Positions) -> Operation:
        name, stands_for = named
        loop = registry.loop(name)
        indices = {**{stream: index for index, stream in enumerate(streams)}, **CONSTANT_STREAMS}
        return Operation(
            loop=self.backend.loop(name, self.dtype),
            streams=tuple(indices[stands_for.get(stream, stream)] for stream in loop.streams),
            pick=tuple(self.position(name, coefficient, positions) for coefficient in loop.coefficients),
        )

    def row_operations(self, group: Mapping[str, Any]) -> list[RowOperation]:
        operations = []
        for constraint in (group["prox"], group["projection"]):
            kind = None if constraint is None else constraint.row
            if kind is not None:
                operations.append(
                    RowOperation(
                        sum=self.backend.sum_over(kind.sum, self.dtype),
                        function=self.backend.coefficient_function(kind.function),
                        argument=float(getattr(constraint, kind.argument)),
                        loop=self.backend.loop(kind.loop, self.dtype),
                        start=kind.start,
                        iterates=kind.iterates,
                    )
                )
        return operations


@functools.cache
def _positions(name: str, wanted: tuple[str, ...]) -> tuple[int, ...]:
    """Where a coefficient function takes these arguments, or -1."""
    arguments = registry.coefficient_function(name).arguments
    return tuple(arguments.index(each) if each in arguments else -1 for each in wanted)

"""The exchange of parameters with their average, where that follows from the parameter and its state `z`.

It is an engine by itself, which is made for one exchange: no step needs it, and what it needs is not there at a step.
The parameter is kept in `Y` while it shows the average: float32 has no room for both in the memory of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..definitions.specs import Spec
from ..kernels.backends import Backend
from ..kernels.constants import ENGINE_ARGUMENTS, PROGRAMS
from ..kernels.engine.contract import EngineInputs, Progress, SegmentRecords, SegmentSettings
from ..kernels.engine.plan import GroupPlan, OperandForm, Operation, Segment, Stage, StepPlan
from ..kernels.formulas import registry
from .nonfinite import NonfiniteGradients
from .storage import REST

Z, Y = "z", "y"
"""The state that the average is computed from, and what keeps the parameter meanwhile; also their names in files."""

TRAIN_MODE = "train_mode"
"""The key of groups in state dicts that says whether parameters were as they train, as their authors' classes have it.
There it is every group's; here it is the first one's that counts."""

OPERATIONS = {True: "show_average", False: "hide_average"}

ROUNDING = {"bfloat16": (2.0**-8, 2.0**-133), "float16": (2.0**-11, 2.0**-24)}
"""How far from a number what these formats store of it can be: a share of it, or this much. Others store it exactly."""


WITHOUT = {
    "ema_decay": "it has an average of its own, see eval()",
    "prox": "its average would not follow",
    "projection": "its average would not follow",
}
"""Options that optimizers with an average of their own do not have, and why."""


def check_options(spec: Spec, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for options that would change parameters without the average that follows from them."""
    if spec.average is None:
        return
    for name, why in WITHOUT.items():
        if options.get(name) is not None:
            raise ValueError(f"{name} is not possible with {spec.name}: {why}")


class Exchanged(NamedTuple):
    """One parameter.

    Attributes
    ----------
    group: its group's hyperparameters.
    param, z, y: arrays of one shape; `rest` is that of master weights.
    steps: the number of its updates.
    forms: of its operands, if one has a codec; see `operands`.
    stored: the name of the format in which the parameter alone is stored.
    """

    group: Mapping[str, Any]
    param: Any
    z: Any
    y: Any
    rest: Any
    steps: int
    forms: tuple[OperandForm, ...] | None
    stored: str


def operands(split: bool) -> tuple[str, ...]:
    """The names of a parameter's operands; `split` says whether it has master weights."""
    return ("param", "grad", Z, Y, *((REST,) * split))


def exchange(
    spec: Spec,
    backend: Backend,
    params: Sequence[Exchanged],
    dtype: np.dtype[Any],
    progress: Progress,
    n_threads: int,
) -> Any:
    """An engine whose `swap` lets these parameters be their average or, if they are, what they were before.

    Together with that, it changes `progress.swapped`, which says whether they are.
    """
    show = not progress.swapped[0]
    plans: dict[tuple[int, str], int] = {}
    made: list[GroupPlan] = []
    segments = []
    for number, each in enumerate(params):
        key = (id(each.group), each.stored)
        if key not in plans:
            plans[key] = len(made)
            made.append(_plan(spec, backend, each, dtype, show))
        states = [each.z, each.y] if each.rest is None else [each.z, each.y, each.rest]
        segments.append(Segment(plans[key], each.param, states, forms=each.forms, number=number))
    records = SegmentRecords.of(len(segments))
    records.steps[:] = [each.steps for each in params]
    return backend.engine(
        EngineInputs(
            dtype=dtype,
            plans=made,
            segments=segments,
            settings=SegmentSettings.of(len(segments)),
            records=records,
            progress=progress,
            plan=StepPlan(
                flush_denormals=backend.can_flush_denormals(),
                n_threads=n_threads,
                clipping=backend.coefficient_function(spec.clipping),
                unusable=backend.sum_over("unusable", dtype),
            ),
            reject=_nothing,
            report=NonfiniteGradients("propagate", None),
        )
    )


def _plan(spec: Spec, backend: Backend, of: Exchanged, dtype: np.dtype[Any], show: bool) -> GroupPlan:
    name = "evaluation"
    function, operation = registry.coefficient_function(name), registry.operations()[OPERATIONS[show]]
    tolerance, smallest = ROUNDING.get(of.stored, (0.0, 0.0))
    known = {"momentum": spec.numbers(of.group)[spec.average or ""], "tolerance": tolerance, "smallest": smallest}
    names = operands(of.rest is not None)
    return GroupPlan(
        stages=(
            Stage(
                backend.coefficient_function(name),
                tuple(known.get(each, 0.0) for each in function.arguments),
                tuple(
                    function.arguments.index(each) if each in function.arguments else -1 for each in ENGINE_ARGUMENTS
                ),
            ),
        ),
        programs={
            **dict.fromkeys(PROGRAMS, ()),
            "swap": (
                Operation(
                    loop=backend.loop(operation.name, dtype),
                    operands=tuple(map(names.index, operation.operands)),
                    pick=tuple((0, function.returned_names.index(each)) for each in operation.coefficients),
                    writes=tuple(map(names.index, operation.writes)),
                ),
            ),
        },
        operands=tuple(OperandForm(each, dtype) for each in names),
        cost=0.1,
    )


def _nothing(index: int, gradient: object) -> Any:
    return gradient

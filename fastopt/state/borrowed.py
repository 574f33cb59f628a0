"""Steps of parameters and states that another package owns: it made the arrays, and it counts the updates."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ..definitions.specs import Spec
from ..kernels import backends
from ..kernels.engine.contract import EngineInputs, Progress, SegmentRecords, SegmentSettings
from ..kernels.engine.plan import Segment
from ..step.nonfinite import NonfiniteGradients
from ..step.operations import begun_states, carried_numbers, extra_states
from ..step.options import check_group_options, read_step_options
from ..step.planning import Planner

Values = Mapping[str, Any]


class BorrowedStep:
    """One optimizer's native step over arrays that it does not own.

    It keeps nothing but an engine: whoever calls it sets the count of updates, the rates and what else has changed
    before each step. Values are those of an optimizer's group, by the same names, and are not checked again.

    Parameters
    ----------
    spec: which optimizer it is, under its convention.
    values: its hyperparameters, all of them.
    options: options of the step and of its one group, as optimizers take them.
    params: C-contiguous arrays, all float32 or all float64.
    states: for each parameter its states by name, arrays of as many elements; see `state_names`.
    reject: called with (position, gradient) for a gradient that is not an array of its parameter's dtype and shape,
        or that shares memory with what a step writes; it raises an error.
    """

    def __init__(
        self,
        spec: Spec,
        values: Values,
        options: Values,
        params: Sequence[np.ndarray],
        states: Sequence[Mapping[str, np.ndarray]],
        reject: Callable[[int, Any], Any],
    ) -> None:
        self.spec = spec
        self.options = read_step_options(options)
        self.group_options = check_group_options(options, self.options["max_grad_norm"])
        backend = backends.load(self.options["backend"], spec.custom)
        dtype = params[0].dtype
        self.planner = Planner(spec, backend, dtype, self.options)
        self.structure = self.structure_of(values)
        self.values = dict(values)
        names = state_names(spec, values, options)
        self.records = SegmentRecords.of(len(params), carried_numbers(spec, self.options).values())
        self.settings = SegmentSettings.of(len(params))
        self.engine: Any = backend.engine(
            EngineInputs(
                dtype=dtype,
                plans=[self._plan()],
                segments=[
                    Segment(0, param, [own[name] for name in names], number=position)
                    for position, (param, own) in enumerate(zip(params, states, strict=True))
                ],
                settings=self.settings,
                records=self.records,
                progress=Progress.new(),
                plan=self.planner.step_plan(),
                reject=reject,
                report=NonfiniteGradients(self.options["nonfinite"], self.options["max_consecutive_skips"]),
            )
        )

    def structure_of(self, values: Values) -> Hashable:
        """The part of the hyperparameters that the engine is built for: others need a new one."""
        return self.planner.structure_key({**values, **self.group_options})

    def set_values(self, values: Values) -> None:
        """Take over hyperparameters of the same structure."""
        self.values = dict(values)
        self.engine.set_hyperparameters(0, self._plan())

    def set_clip_norm(self, clip_norm: float) -> None:
        """Set the number of an option that the step was built with; `set_values` puts it into effect."""
        self.group_options = {**self.group_options, "clip_norm": clip_norm}

    def set_divisor(self, divisor: float) -> None:
        """Set what gradients are divided by, which is `grad_scale` at first."""
        if divisor != self.options["grad_scale"]:
            self.options["grad_scale"] = divisor
            self.engine.set_scale(self.planner.step_plan())
            self.engine.set_hyperparameters(0, self._plan())

    def set_weight_decay(self, position: int, weight_decay: float) -> None:
        """Set the weight decay of one parameter."""
        self.settings.weight_decay[position] = weight_decay
        self.engine.settings_changed()

    def carried(self, name: str) -> np.ndarray:
        """A number that is carried from update to update, of each parameter: a view, to read and to write."""
        return self.records.carried[:, list(carried_numbers(self.spec, self.options)).index(name)]

    def begin_average(self, begun: bool) -> None:
        """Say whether the averages hold anything yet."""
        for name in begun_states(self.options):
            self.carried(name)[:] = begun

    def _plan(self) -> Any:
        return self.planner.group_plan({**self.values, **self.group_options}, self.values["lr"], self.structure)


def state_names(spec: Spec, values: Values, options: Values) -> tuple[str, ...]:
    """The names of the states that a step with these options needs, in the order in which it takes them."""
    return (*spec.states(values), *extra_states(read_step_options(options)))

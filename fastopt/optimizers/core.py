"""What an optimizer is made of: groups, states, gradients and an engine, changed as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..checks import text
from ..definitions import conventions
from ..definitions.defaults import without_defaults
from ..definitions.specs import SPECS, Spec
from ..kernels import backends
from ..kernels.engine.contract import SWAPPED, EngineInputs, Progress, SegmentRecords, SegmentSettings
from ..kernels.engine.plan import Segment
from ..state import arrays
from ..state.gradients import GradientChecker
from ..state.groups import Changes, ParamGroup, check_key
from ..state.param_tree import Layout, read_groups
from ..state.states import States, initial_states, initial_value
from ..step.nonfinite import NonfiniteGradients
from ..step.options import GROUP_OPTIONS, Options, check_names, read_step_options
from ..step.planning import Planner, extra_states, row_length
from ..step.rates import current_rate, is_scheduled, rate_at, warn_without_effect


def chosen_backend(name: str, groups: list[tuple[list[Any], dict[str, Any]]]) -> str:
    """What "auto" is for the parameters of these groups: nothing but cuda can run those on a device."""
    if name == "auto":
        for params, _ in groups:
            if params:
                return "cuda" if arrays.is_device_array(params[0]) else name
    return name


class OptimizerCore:
    """The parts of an optimizer, and how they are put together; `Optimizer` is what users see of it."""

    spec: Spec
    """What this optimizer is under its convention; of a class, PyTorch's."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__name__ in SPECS and "spec" not in cls.__dict__:
            cls.spec = SPECS[cls.__name__]

    def __init__(
        self,
        params: Any,
        defaults: Mapping[str, Any],
        options: Options,
    ) -> None:
        given: dict[str, Any] = dict(options)
        added = conventions.added_hyperparameters(self.spec)
        check_names(type(self).__name__, given, added)
        self.spec = conventions.under(self.spec, text("convention", given.get("convention", "torch")))
        hyperparameters = {**without_defaults(defaults), **{key: given.pop(key) for key in added if key in given}}
        layout, groups = read_groups(params)
        defaults = {
            **conventions.hyperparameters(self.spec, hyperparameters),
            **{key: given[key] for key in GROUP_OPTIONS if key in given},
        }
        filled = []
        for arrays_given, values in groups:
            for key in values:
                check_key(self.spec, key)
            filled.append((arrays_given, {**defaults, **values}))
        grads = given.get("grads")
        self._set_up(
            layout, filled, defaults, read_step_options(given), None if grads is None else layout.flatten(grads)
        )
        for group in self._groups:
            warn_without_effect(self.spec, group["lr"])

    def _set_up(
        self,
        layout: Layout,
        groups: list[tuple[list[Any], dict[str, Any]]],
        defaults: dict[str, Any],
        options: dict[str, Any],
        gradients: list[Any] | None,
    ) -> None:
        self.spec = conventions.under(type(self).spec, options["convention"])
        self._backend = backends.load(chosen_backend(options["backend"], groups), self.spec.custom)
        self._options = options
        self._layout = layout
        group_options = {name: defaults[name] for name in GROUP_OPTIONS if name in defaults}
        self.defaults = {**self.spec.convert({**self.spec.defaults, **defaults}), **group_options}
        self._changes = Changes(options["max_grad_norm"])
        self._groups = [ParamGroup(self.spec, given, values, self._changes) for given, values in groups]
        self._check_params()
        self._states: list[States] = []
        for group in self._groups:
            self._states += self._new_states(group, len(self._states))
        self._settings = SegmentSettings.of(len(self._params))
        self._records = SegmentRecords.of(len(self._params), self.spec.carried.values())
        self._nonfinite = NonfiniteGradients(options["nonfinite"], options["max_consecutive_skips"])
        self._progress = Progress.new()
        self._build(gradients)

    def _new_states(self, group: ParamGroup, start: int, names: tuple[str, ...] | None = None) -> list[States]:
        """For the parameters of a group, the first of which is at a position; by default those that it needs."""
        params = self._params[start : start + len(group["params"])]
        wanted = (*self.spec.states(group), *extra_states(self._options)) if names is None else names
        return initial_states(self.spec, group, params, wanted, self._backend.memory)

    def _check_params(self) -> None:
        """Check the parameters of all groups; `_params` are these as their memory has them."""
        given = [param for group in self._groups for param in group["params"]]
        if not given:
            raise ValueError("optimizer got an empty parameter list: no group has any")
        memory, labels = self._backend.memory, self._layout.labels("params")
        params: list[Any] = []
        for label, each in zip(labels, given, strict=True):
            params.append(param := arrays.check_array(label, each, writable=True, memory=memory))
            if param.dtype != params[0].dtype:
                raise TypeError(
                    f"all parameters of an optimizer must be of one dtype: {labels[0]} is {params[0].dtype}, "
                    f"{label} is {param.dtype}"
                )
            if memory.place(param) != memory.place(params[0]):
                raise ValueError(
                    f"all parameters of an optimizer must be in one place: {labels[0]} is on "
                    f"{memory.place(params[0])}, {label} on {memory.place(param)}"
                )
        seen: dict[int, str] = {}
        for label, each in zip(labels, given, strict=True):
            if id(each) in seen:
                raise ValueError(f"{seen[id(each)]} and {label} are the same array: some parameters appear twice")
            seen[id(each)] = label
        arrays.check_no_overlap(list(zip(labels, params, strict=True)), memory)
        self._params = params

    # --- the engine -------------------------------------------------------------------------------------------------

    def _build(self, gradients: list[Any] | None) -> None:
        """Make the engine for the groups, states and gradients as they now are; its caller restores, if it fails."""
        self._changes.pending = self._changes.rates = False  # first: another thread may assign meanwhile
        planner = Planner(self.spec, self._backend, self._params[0].dtype, self._options)
        extra = extra_states(self._options)
        table: list[Segment] = []
        for index, group in enumerate(self._groups):
            names = self.spec.states(group)
            for param in self._params[len(table) : len(table) + len(group["params"])]:
                state = self._states[len(table)]
                streams = [state[name] for name in (*names, *extra)]
                table.append(Segment(index, param, streams, row_length(group, param)))
            group.fix_states(tuple(self._states[len(table) - 1]) if group["params"] else names)
        self._nonfinite.labels = self._layout.labels("grads")
        self._nonfinite.sizes = [param.size for param in self._params]
        engine = self._backend.engine(
            EngineInputs(
                dtype=self._params[0].dtype,
                plans=[planner.group_plan(group, rate_at(group, self._iterations)) for group in self._groups],
                segments=table,
                settings=self._settings,
                records=self._records,
                progress=self._progress,
                plan=planner.step_plan(),
                reject=GradientChecker(self._layout, table, self._backend.memory, written=self._options["zero_grads"]),
                report=self._nonfinite,
            )
        )
        stream = getattr(self.__dict__.get("_engine"), "stream", None)
        if stream is not None:
            engine.stream = stream
        if gradients is not None:
            engine.bind(gradients)
        self._gradients = gradients
        self._planner = planner
        self._engine = engine
        self._structure = self._current_structure()
        self._watch_schedules()

    def _watch_schedules(self) -> None:
        """Have rates read in each step, where they can change by themselves."""
        if any(map(is_scheduled, self._groups)):
            self._changes.rates = True

    def _current_structure(self) -> list[Any]:
        """What the engine must be made anew for, when it changes."""
        return [(self.spec.rule(group), *group.options.values()) for group in self._groups]

    def _all_or_nothing(self, change: Callable[[], None]) -> None:
        """Change what the optimizer is made of, while no other thread can step; if that fails, it is what it was."""

        def change_or_restore() -> None:
            self._check_not_swapped()
            before, values = dict(self.__dict__), [dict(group) for group in self._groups]
            allowed = [group.allowed_states for group in self._groups]
            try:
                change()
            except BaseException:
                self.__dict__.update(before)
                self._changes.pending = True  # what was assigned before may not have been taken over
                for group, value, states in zip(self._groups, values, allowed, strict=True):
                    group.restore(value, states)
                raise

        self._engine.fetch()
        self._engine.alone(change_or_restore)

    def _refresh(self) -> None:
        """Take over what was assigned to the groups since the last step."""
        self._engine.alone(self._take_over)

    def _take_over(self) -> None:
        changes = self._changes
        try:
            changes.pending = changes.rates = False  # first: another thread may assign meanwhile
            if self._structure != self._current_structure():
                self._engine.fetch()
                self._build(self._gradients)
            if self.spec.initial:
                self._engine.fetch()  # The steps that are looked at below.
            self._engine.set_scale(self._planner.step_plan())
            start = 0
            for index, group in enumerate(self._groups):
                plan = self._planner.group_plan(group, rate_at(group, self._iterations))
                self._engine.set_hyperparameters(index, plan)
                for position in range(start, start + len(group["params"])):
                    if self._records.steps[position] == 0:  # not stepped yet: starts with what its group says now
                        for name in self.spec.initial:
                            self._backend.memory.fill(
                                self._states[position][name], initial_value(self.spec, group, name)
                            )
                start += len(group["params"])
            self._watch_schedules()
        except BaseException:
            changes.pending = True
            raise

    def _set_rates(self) -> None:
        """Give the engine the rates of its next step; called by it, while no other thread can step."""
        changes, iteration = self._changes, self._iterations
        try:
            changes.rates = False  # first: another thread may assign meanwhile
            rates = [rate_at(group, iteration) for group in self._groups]
            for index, rate in enumerate(rates):
                self._engine.set_lr(index, rate)
            self._watch_schedules()
        except BaseException:
            changes.rates = True
            raise

    @property
    def _iterations(self) -> int:
        """`iterations`, as the engine has last written it here."""
        return int(self._progress.iterations[0])

    @property
    def iterations(self) -> int:
        """How many updates were done: what schedules are functions of.

        Calls that only accumulated gradients, and steps that were skipped, are none.
        """
        self._engine.fetch()
        return self._iterations

    @property
    def current_lr(self) -> tuple[float, ...]:
        """For each group the rate that its next update will use: with the schedule, and with `decay` and `lr_decay`.

        Where the parameters of a group have had different numbers of updates, `lr_decay` counts the largest. The
        `lr_scale` of single parameters comes on top; see `segments`.
        """
        rates, start, iteration = [], 0, self.iterations
        for group in self._groups:
            stop = start + len(group["params"])
            step = 1 + int(max(self._records.steps[start:stop], default=0))
            rates.append(current_rate(self.spec, group, iteration, step))
            start = stop
        return tuple(rates)

    def _check_not_swapped(self) -> None:
        if self._progress.swapped[0]:
            raise RuntimeError(SWAPPED)

    def _names(self) -> list[tuple[Any, int]]:
        """For each parameter its key or position, and its group."""
        keys = self._layout.names()
        groups = [index for index, group in enumerate(self._groups) for _ in group["params"]]
        return list(zip(keys, groups, strict=True))

"""The engine of an optimizer: built for what the optimizer is made of, told what changes, and replaced as a whole."""

from __future__ import annotations

import collections
import copy
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..kernels.backends import Backend
from ..kernels.engine.contract import SWAPPED, EngineInputs, Replaced
from ..kernels.engine.plan import GroupPlan, Segment, StepPlan
from ..state import averages
from ..state.contents import Contents
from ..state.gradients import GradientChecker
from ..state.groups import Changes
from ..state.states import initial_value, start_state
from ..step.common import check_alike
from ..step.operations import ACCUMULATOR, accumulates, begun_states, extra_states
from ..step.param_storage import operand_names
from ..step.planning import Planner, row_length
from ..step.rates import is_scheduled, rate_at
from ..step.storage import formats_of, operand_forms


class NothingGathered(Exception):
    """There are no gradients of an accumulation that is not complete."""


class EngineRoom:
    """What steps an optimizer, and what is stepped.

    It holds no optimizer: without a cycle of references, the memory of an optimizer is free as soon as it is dropped.

    Attributes
    ----------
    backend: where engines come from.
    changes: what was assigned since the engine last took over what was.
    contents: what is stepped.
    engine: what steps it.
    flatten: lists gradients that are nested as the parameters are.
    """

    contents: Contents
    engine: Any
    flatten: Callable[[Any], list[Any]]

    def __init__(self, backend: Backend, contents: Contents, changes: Changes) -> None:
        self.backend = backend
        self.changes = changes
        self._planner = Planner(contents.spec, backend, contents.params.dtype, contents.options)
        self._structure: list[Hashable] = []
        self.build(contents)

    def build(self, contents: Contents) -> None:
        """Build an engine for these contents, and go over to both, while no other thread can step."""
        changes = self.changes
        changes.ready_step = None
        changes.pending = changes.rates = False  # first: another thread may assign meanwhile
        self._put_in_place(contents, *self.made(contents))
        if contents.first_read_only() is not None:
            changes.pending = True
        self._note_taken_over()

    def made(self, contents: Contents) -> tuple[Any, list[Hashable]]:
        """An engine for these contents, and the structure that it was built for; nothing is changed."""
        before = getattr(self, "engine", None)  # not by `__dict__`: once asked for, it makes all look-ups slower
        params, structure, segments = contents.params, self._structure_of(contents), self._segments(contents)
        engine = self.backend.engine(
            EngineInputs(
                dtype=params.dtype,
                plans=self._plans(contents, structure),
                segments=segments,
                settings=contents.settings,
                records=contents.records,
                progress=contents.progress,
                plan=self._step_plan(contents),
                reject=GradientChecker(
                    params, segments, bound=contents.gradients is not None, zeroed=contents.options["zero_grads"]
                ),
                report=contents.report,
                lock=None if before is None else before.lock,
            )
        )
        read_only = contents.first_read_only() is not None  # then no step gets as far as an engine
        if contents.gradients is not None and not read_only:
            engine.bind(contents.gradients)
        if self.backend.on_device and before is not None:
            engine.stream = before.stream
        return engine, structure

    def _put_in_place(self, contents: Contents, engine: Any, structure: list[Hashable]) -> None:
        """Go over to an engine; the one before does nothing from now on, in whichever thread it was found.

        This is one call of C code, within which no signal handler and no other thread runs.
        """
        collections.deque(map(setattr, *zip(*self.assignments(contents, engine, structure), strict=True)), maxlen=0)

    def assignments(
        self, contents: Contents, engine: Any, structure: list[Hashable]
    ) -> tuple[tuple[Any, str, Any], ...]:
        """What is to be assigned to go over to an engine: (object, name of the attribute, value)."""
        before = getattr(self, "engine", engine)
        return (
            (before, "replaced", True),
            (engine, "replaced", False),
            (self, "contents", contents),
            (self, "flatten", contents.params.tree.flatten),
            (self, "engine", engine),
            (self, "_structure", structure),
        )

    def replace(self, make: Callable[[Contents], Contents], even_if_shown: bool = False) -> None:
        """Go over to other contents, made of those in use, while no other thread can step.

        If that fails, everything is as it was before. `even_if_shown`: also while parameters are averages that follow
        from them and a state.
        """

        def replace_or_restore() -> None:
            if not even_if_shown:
                self.check_not_swapped()
            self.check_readable()
            self.engine.fetch()
            before, engine, structure = self.contents, self.engine, self._structure
            groups = [(group, group.saved()) for group in before.groups]
            try:
                self.build(make(before))
            except BaseException:
                self._put_in_place(before, engine, structure)
                self.changes.pending = True  # what was assigned before may not have been taken over
                self.changes.ready_step = None
                for group, saved in groups:
                    group.restore(saved)
                raise

        self.engine.alone(replace_or_restore)

    def swap(self) -> None:
        """Exchange the parameters with their averages; a parameter that has none yet stays as it is."""
        if self.contents.spec.average is not None:
            self.show_average(not self.contents.progress.swapped[0])
            return
        try:
            engine = self.engine
            engine.alone(self._start_averages)
            if averages.loses_bits(self.contents):
                engine.alone(functools.partial(self._exchange, engine))
            else:
                engine.swap()
            return
        except Replaced:  # by another thread, since it was found
            pass
        self.swap()

    def show_average(self, shown: bool) -> None:
        """Let the parameters be their average or, if not `shown`, what they were before; if they are, do nothing."""
        try:
            engine = self.engine
            engine.alone(functools.partial(self._show_average, engine, shown))
            return
        except Replaced:  # by another thread, since it was found
            pass
        self.show_average(shown)

    def _show_average(self, engine: Any, shown: bool) -> None:
        contents = self.contents
        if engine.replaced:
            raise Replaced
        if bool(contents.progress.swapped[0]) == shown:
            return
        contents.check_writable()
        engine.fetch()
        averages.show_or_hide(contents, self.backend, engine.stream if self.backend.on_device else None)

    def _exchange(self, engine: Any) -> None:
        """Exchange the parameters with their averages without the engine."""
        if engine.replaced:
            raise Replaced
        averages.exchange(self.contents)

    def _start_averages(self) -> None:
        contents = self.contents
        contents.check_writable()
        self.engine.fetch()
        if contents.progress.swapped[0]:
            return
        first = len(contents.spec.carried)
        for number, name in enumerate(begun_states(contents.options).values(), first):
            for position in (contents.records.carried[:, number] == 0).nonzero()[0]:
                contents.params.memory.copy(contents.states[position][name], contents.params.arrays[position])

    def refresh(self) -> None:
        """Take over what was assigned since the last step, while no other thread can step."""
        self.engine.alone(self._take_over)

    def apply_accumulated(self) -> bool:
        """Do the update of an accumulation that is not complete, if there is one; whether parameters were updated.

        Functions of the user, which rates can be, are called before the first write.
        """
        engine, plans, iterations = self.engine, list[GroupPlan](), list[int]()

        def prepare() -> None:
            engine.fetch()
            gathered = int(self.contents.progress.accumulated[0])
            if not gathered:
                raise NothingGathered
            iterations.append(self.iterations)
            full = self._plans(self.contents, self._structure)
            planner, groups = self._planner.finishing(gathered), self.contents.groups
            pairs = zip(groups, full, self._structure, strict=True)
            last = [planner.group_plan(group, plan.lr, key) for group, plan, key in pairs]
            self.changes.pending = True  # first: should `restore` be interrupted, the next step sets all plans
            self.changes.ready_step = None
            plans.extend(full)
            self._set_plans(self._step_plan(self.contents, planner), last)

        def restore() -> None:
            if plans:
                self._set_plans(self._step_plan(self.contents), plans)
                engine.fetch()
                iterations.append(self.iterations)

        try:
            engine.finish(prepare, restore)
            return iterations[0] < iterations[-1]
        except NothingGathered:
            return False
        except Replaced:  # by another thread, since it was found
            pass
        return self.apply_accumulated()

    def drop_accumulated(self) -> None:
        """Forget the gradients of an accumulation that is not complete: all of them, whatever interrupts this."""

        def drop() -> None:
            contents, memory = self.contents, self.contents.params.memory
            if not accumulates(contents.options):
                return
            self.engine.fetch()
            memory.clear_together(
                [states[ACCUMULATOR] for states in contents.states],
                [contents.records.pending, contents.progress.accumulated],
            )
            self.engine.send()

        self.engine.alone(drop)

    def set_iterations(self, count: int) -> None:
        """Set the number of updates, of which schedules are functions."""

        def write() -> None:
            self.engine.fetch()
            self.contents.progress.iterations[0] = count
            self.engine.send()

        self.engine.alone(write)

    def _set_plans(self, step: StepPlan, groups: Sequence[GroupPlan]) -> None:
        self.engine.set_scale(step)
        for index, plan in enumerate(groups):
            self.engine.set_hyperparameters(index, plan)

    def _take_over(self) -> None:
        changes, contents = self.changes, self.contents
        try:
            changes.pending = changes.rates = False  # first: another thread may assign meanwhile
            contents.check_writable()
            structure = self._structure_of(contents)
            if structure != self._structure or self.engine.bound != (contents.gradients is not None):
                self.engine.fetch()
                self.build(contents)
            else:
                self._set_plans(self._step_plan(contents), self._plans(contents, structure))
            self._start_states()
            self._note_taken_over()
        except BaseException:
            changes.pending = True
            changes.ready_step = None
            raise

    @property
    def is_outdated(self) -> bool:
        """Whether what was assigned needs another engine, not only other numbers."""
        return self._structure != self._structure_of(self.contents)

    def set_rates(self) -> None:
        """Give the engine the rates of its next step; it calls this, while no other thread can step."""
        changes, iteration = self.changes, self.iterations
        try:
            changes.rates = False  # first: another thread may assign meanwhile
            rates = [rate_at(group, iteration) for group in self.contents.groups]
            check_alike(self.contents.spec.name, self.contents.spec, self.contents.groups, rates)
            for index, rate in enumerate(rates):
                self.engine.set_lr(index, rate)
            self._note_taken_over()
        except BaseException:
            changes.rates = True
            changes.ready_step = None
            raise

    def set_segments(self, positions: Sequence[int], values: Mapping[str, Any]) -> None:
        """Write settings of segments while no other thread can step: all of them or, if that fails, none."""

        def write_or_restore() -> None:
            self.check_not_swapped()
            settings = self.contents.settings
            before = copy.deepcopy(settings)
            try:
                for name, value in values.items():
                    getattr(settings, name)[positions] = value
                self.engine.settings_changed()
            except BaseException:
                for each in fields(settings):
                    getattr(settings, each.name)[...] = getattr(before, each.name)
                self.engine.settings_changed()
                raise

        self.engine.alone(write_or_restore)

    def check_not_swapped(self) -> None:
        """Raise a RuntimeError while the parameters are exchanged with their averages."""
        if self.contents.progress.swapped[0]:
            raise RuntimeError(SWAPPED)

    def check_readable(self) -> None:
        """Raise a RuntimeError while the parameters are exchanged with averages that state dicts do not tell apart."""
        if self.contents.spec.average is None:
            self.check_not_swapped()

    @property
    def iterations(self) -> int:
        """The number of updates, as the engine has last written it."""
        return int(self.contents.progress.iterations[0])

    @property
    def is_scheduled(self) -> bool:
        """Whether a rate can change by itself."""
        return any(map(is_scheduled, self.contents.groups))

    def _note_taken_over(self) -> None:
        """Have rates read in each step, where they can change by themselves; otherwise a step is ready."""
        if self.is_scheduled:
            self.changes.rates = True
        self.changes.taken_over(self.engine)

    def _structure_of(self, contents: Contents) -> list[Hashable]:
        return [self._planner.structure_key(group) for group in contents.groups]

    def _step_plan(self, contents: Contents, planner: Planner | None = None) -> StepPlan:
        plan = (planner or self._planner).step_plan()
        plan.seed = contents.seed
        return plan

    def _plans(self, contents: Contents, structure: list[Hashable]) -> list[GroupPlan]:
        iteration, planner = int(contents.progress.iterations[0]), self._planner
        rates = [rate_at(group, iteration) for group in contents.groups]
        check_alike(contents.spec.name, contents.spec, contents.groups, rates)
        rows = zip(contents.groups, rates, structure, strict=True)
        return [planner.group_plan(group, rate, key) for group, rate, key in rows]

    def _start_states(self) -> None:
        """Let states of parameters that were not stepped yet start with what their groups say now."""
        contents = self.contents
        if contents.spec.common and not contents.records.steps.any():
            contents.progress.common[:] = list(contents.spec.common_starts(contents.groups[0]).values())
        if not contents.spec.initial:
            return
        self.engine.fetch()  # the counts of steps
        for group, span in zip(contents.groups, contents.params.spans, strict=True):
            for name in contents.spec.initial:
                for position in span:
                    if contents.records.steps[position] == 0:
                        value = initial_value(contents.spec, group, name)
                        state, param = contents.states[position][name], contents.params.arrays[position]
                        stored = contents.storages[position].formats.get(name)
                        start_state(contents.params.memory, state, param, stored, value)

    def _segments(self, contents: Contents) -> list[Segment]:
        """The table of an engine: for each parameter its group, its memory, and how that is stored."""
        extra, stochastic = extra_states(contents.options), contents.options["stochastic_rounding"]
        table = []
        for index, (group, span) in enumerate(zip(contents.groups, contents.params.spans, strict=True)):
            needed = (*contents.spec.states(group), *extra)
            for position in span:
                param, states = contents.params.arrays[position], contents.states[position]
                storage = contents.storages[position]
                names = operand_names(needed, storage)
                memory = [states[name] for name in names]
                operands = ("param", "grad", *names)
                forms = operand_forms(
                    self.backend,
                    operands,
                    [param.dtype, param.dtype, *(each.dtype for each in memory)],
                    formats_of(operands, param.dtype.name, storage.formats),
                    stochastic=stochastic,
                )
                table.append(Segment(index, param, memory, row_length(group, param), forms, position))
        return table

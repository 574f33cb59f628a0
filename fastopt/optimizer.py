"""The base of all optimizers: groups, states, gradients, and the engine that steps them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from . import arrays, state_dicts
from .gradients import GradientChecker
from .groups import Changes, ParamGroup, check_key
from .kernels import backends, render
from .kernels.plan import GroupPlan, Segment, Stage
from .layout import Layout, read_group, read_groups
from .specs import SPECS, Spec
from .states import StateView, initial_states
from .threads import check_n_threads

Options = dict[str, Any]


class Optimizer:
    """What all optimizers share. Use one of its subclasses; their arguments beyond the hyperparameters are:

    Parameters
    ----------
    params: numpy.ndarray, list or dict of them, or list of groups
        C-contiguous float32 or float64 arrays (all of one dtype, none overlapping), updated in place. A group is a dict
        with "params" (an array, a list or a dict) and hyperparameters of its own. The arrays are not copied.
    maximize: bool
        Step up the gradient, not down.
    grads: as `params`, optional
        Gradients bound once: `step()` then reads these arrays each time, with the least overhead. None for a parameter
        that never has one.
    backend: "auto", "cython", "numba" or "reference"
        What runs the update; all give the same bits. "auto" is cython where it was built, else numba. "reference" is
        plain NumPy, for checking.
    n_threads: int, optional
        At most so many threads; default `fastopt.get_num_threads()`. The bits do not depend on it.
    convention: "torch"
        Whose arithmetic and defaults.
    flush_denormals: bool
        Treat denormals as zero inside a step (the caller's floating-point mode is restored). Without it, the moments of
        parameters with zero gradients decay to denormals and make steps up to ten times slower.

    Raises
    ------
    TypeError, ValueError
        An argument is not usable; the message names it, its value and what was expected. Nothing has been changed.
    """

    spec: ClassVar[Spec]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__name__ in SPECS:
            cls.spec = SPECS[cls.__name__]

    def __init__(
        self,
        params: Any,
        defaults: Mapping[str, Any],
        *,
        grads: Any = None,
        backend: str = "auto",
        n_threads: int | None = None,
        convention: str = "torch",
        flush_denormals: bool = True,
    ) -> None:
        layout, groups = read_groups(params)
        filled = []
        for given, values in groups:
            for key in values:
                check_key(self.spec, key)
            filled.append((given, {**defaults, **values}))
        options = {
            "backend": backend,
            "n_threads": n_threads,
            "convention": convention,
            "flush_denormals": flush_denormals,
        }
        self._set_up(layout, filled, dict(defaults), options, None if grads is None else layout.flatten(grads))

    def _set_up(
        self,
        layout: Layout,
        groups: list[tuple[list[Any], dict[str, Any]]],
        defaults: dict[str, Any],
        options: Options,
        gradients: list[Any] | None,
    ) -> None:
        self._backend = backends.load(options["backend"])
        self._n_threads = check_n_threads(options["n_threads"])
        if options["convention"] not in self.spec.coefficients:
            known = ", ".join(map(repr, self.spec.coefficients))
            raise ValueError(f"unknown convention: {options['convention']!r} (expected one of {known})")
        if not isinstance(options["flush_denormals"], (bool, np.bool_)):
            raise TypeError(f"flush_denormals must be True or False, got {options['flush_denormals']!r}")
        self._options = options
        self._layout = layout
        self.defaults = self.spec.convert({**self.spec.defaults, **defaults})
        self._changes = Changes()
        self._groups = [ParamGroup(self.spec, given, values, self._changes) for given, values in groups]
        self._params = [param for group in self._groups for param in group["params"]]
        self._check_params()
        self._states = [state for group in self._groups for state in initial_states(self.spec, group)]
        self._steps = np.zeros(len(self._params), np.int64)
        self._build(gradients)

    def _check_params(self) -> None:
        if not self._params:
            raise ValueError("optimizer got an empty parameter list: no group has any")
        labels = self._layout.labels("params")
        for label, param in zip(labels, self._params, strict=True):
            arrays.check_array(label, param, writable=True)
            if param.dtype != self._params[0].dtype:
                raise TypeError(
                    f"all parameters of an optimizer must be of one dtype: {labels[0]} is {self._params[0].dtype}, "
                    f"{label} is {param.dtype}"
                )
        seen: dict[int, str] = {}
        for label, param in zip(labels, self._params, strict=True):
            if id(param) in seen:
                raise ValueError(f"{seen[id(param)]} and {label} are the same array: some parameters appear twice")
            seen[id(param)] = label
        arrays.check_no_overlap(list(zip(labels, self._params, strict=True)))

    # --- the engine -------------------------------------------------------------------------------------------------

    def _build(self, gradients: list[Any] | None) -> None:
        """Make the engine for the groups, states and gradients as they now are."""
        segments: list[Segment] = []
        for index, group in enumerate(self._groups):
            names = self.spec.states(group)
            for param in group["params"]:
                states = [self._states[len(segments)][name] for name in names]
                segments.append(Segment(index, param, states))
            group.fix_states(tuple(self._states[len(segments) - 1]) if group["params"] else names)
        engine = self._backend.engine(
            self._params[0].dtype,
            [self._plan(group) for group in self._groups],
            segments,
            self._steps,
            GradientChecker(self._layout, segments),
            bool(self._options["flush_denormals"]),
            self._n_threads,
        )
        if gradients is not None:
            engine.bind(gradients)
        self._gradients = gradients
        self._engine = engine
        self._rules = [self.spec.rule(group) for group in self._groups]
        self._changes.pending = False

    def _all_or_nothing(self, change: Callable[[], None]) -> None:
        """Change what the optimizer is made of, while no other thread can step; if that fails, it is what it was."""

        def change_or_restore() -> None:
            before, values = dict(self.__dict__), [dict(group) for group in self._groups]
            allowed = [group.allowed_states for group in self._groups]
            try:
                change()
            except BaseException:
                self.__dict__.update(before)
                for group, value, states in zip(self._groups, values, allowed, strict=True):
                    group.restore(value, states)
                raise

        self._engine.alone(change_or_restore)

    def _plan(self, group: ParamGroup) -> GroupPlan:
        rule, coefficient_names = _described_rule(self.spec.rule(group))
        seen = self.spec.numbers(group)
        stages: list[Stage] = []
        positions: dict[str, tuple[int, int]] = {}
        for number, name in enumerate(("regularize", self.spec.coefficients[self._options["convention"]])):
            function = render.coefficient_functions()[name]
            arguments = tuple(seen.get(argument, 0.0) for argument in function.arguments)
            step_argument = function.arguments.index("step") if "step" in function.arguments else -1
            stages.append(Stage(self._backend.coefficient_function(name), arguments, step_argument))
            for position, result in enumerate(function.returned_names):
                positions[result] = (number, position)
        return GroupPlan(
            loop=self._backend.loop(rule.name, self._params[0].dtype),
            stages=tuple(stages),
            pick=tuple(positions[name] for name in coefficient_names),
            n_states=len(rule.states),
            cost=self.spec.costs[rule.name][arrays.DTYPES.index(self._params[0].dtype)],
        )

    def _refresh(self) -> None:
        """Take over what was assigned to the groups since the last step."""
        self._engine.alone(self._take_over)

    def _take_over(self) -> None:
        if self._rules != [self.spec.rule(group) for group in self._groups]:
            self._build(self._gradients)
        start = 0
        for index, group in enumerate(self._groups):
            self._engine.set_hyperparameters(index, self._plan(group))
            for position in range(start, start + len(group["params"])):
                if self._steps[position] == 0:  # not stepped yet: starts with what its group says now
                    for name, hyperparameter in self.spec.initial.items():
                        self._states[position][name][...] = group[hyperparameter]
            start += len(group["params"])
        self._changes.pending = False

    # --- what users call --------------------------------------------------------------------------------------------

    def step(self, grads: Any = None) -> None:
        """Update every parameter that has a gradient, in place.

        One native call over all parameters, on as many threads as pay; the GIL is released. Parameters whose gradient
        is None are left as they are, step count included.

        Parameters
        ----------
        grads: as the parameters were given
            An array, a list or a dict of arrays of the parameters' shapes and dtype, or a list with one such entry for
            each group. Not given when gradients were bound with `grads=` at construction.

        Raises
        ------
        TypeError, ValueError
            A gradient is not usable. Nothing has been changed.
        RuntimeError
            Another thread is in the middle of a step of this optimizer, or a parameter's memory was replaced.
        """
        if self._changes.pending:
            self._refresh()
        if grads is None:
            if not self._engine.bound:
                raise TypeError("step() needs gradients: pass them, or bind them with grads= at construction")
            self._engine.step()
        else:
            if self._engine.bound:
                raise TypeError("gradients are bound to this optimizer; call step() without any")
            self._engine.step(self._layout.flatten(grads))

    def zero_grad(self) -> None:
        """Fill the bound gradients with zeros.

        Raises
        ------
        RuntimeError
            No gradients are bound: those passed to `step` are the caller's.
        ValueError
            A bound gradient is read-only.
        """
        if self._gradients is None:
            raise RuntimeError("zero_grad() needs gradients bound with grads= at construction; there are none")
        present = [(index, gradient) for index, gradient in enumerate(self._gradients) if gradient is not None]
        for index, gradient in present:
            if not gradient.flags.writeable:
                raise ValueError(f"{self._layout.labels('grads')[index]} is read-only; zero_grad() cannot fill it")
        for _, gradient in present:
            gradient.fill(0)

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The groups: dicts of "params" and hyperparameters. Assignments are checked, and count from the next step."""
        return tuple(self._groups)

    @property
    def state(self) -> StateView:
        """For each parameter, by its position, its states by torch's names, as arrays of the parameter's shape.

        The arrays are the memory that the kernels use. "step" is the number of steps that the parameter has had.
        """
        return StateView(self.spec, self._states, self._steps)

    @property
    def backend(self) -> str:
        """The name of the backend that runs this optimizer."""
        name: str = self._backend.name
        return name

    def add_param_group(self, param_group: Mapping[str, Any], *, grads: Any = None) -> None:
        """Add a group; the optimizer's own hyperparameters stand in for those that it does not give.

        From then on gradients are a list with one entry for each group.

        Parameters
        ----------
        param_group: dict
            With "params" and any hyperparameters.
        grads: as the group's "params"
            Its gradients, where the optimizer's gradients are bound.
        """
        child, given, values = read_group(param_group, len(self._groups))
        for key in values:
            check_key(self.spec, key)
        children = self._layout.children if self._layout.kind == "groups" else (self._layout,)
        layout = Layout("groups", self._layout.size + child.size, children=(*children, child))
        gradients = None
        if self._gradients is not None:
            if grads is None:
                raise TypeError("gradients are bound to this optimizer; give the new group's with grads=")
            gradients = [*self._gradients, *child.flatten(grads)]
        elif grads is not None:
            raise TypeError("no gradients are bound to this optimizer; pass the new group's to step()")
        new = ParamGroup(self.spec, given, {**self.defaults, **values}, self._changes)

        def change() -> None:
            self._layout = layout
            self._groups = [*self._groups, new]
            self._params = [*self._params, *given]
            self._check_params()
            self._states = [*self._states, *initial_states(self.spec, new)]
            self._steps = np.concatenate([self._steps, np.zeros(len(given), np.int64)])
            self._build(gradients)

        self._all_or_nothing(change)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all states and hyperparameters, in torch's form, with NumPy arrays where torch has tensors.

        See Also
        --------
        load_state_dict : takes this back, or a state dict of the torch.optim class of the same name.
        """
        saved: dict[str, Any] = self._engine.alone(
            lambda: state_dicts.save(self.spec, self._groups, self._states, self._steps)
        )
        return saved

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over states and hyperparameters from a state dict of this class, fastopt's or torch's.

        Raises
        ------
        TypeError, ValueError
            It does not fit: other groups, shapes, dtypes or states. Nothing has been changed.
        """
        loaded = state_dicts.read(self.spec, self._groups, state_dict)

        def change() -> None:
            for group, values in zip(self._groups, loaded.groups, strict=True):
                group.fix_states(self.spec.states(values))
                group.update(values)
            self._states = [state for group in self._groups for state in initial_states(self.spec, group)]
            for mine, theirs in zip(self._states, loaded.states, strict=True):
                for name, value in theirs.items():
                    mine[name][...] = value
            self._steps = np.array(loaded.steps, np.int64)
            self._build(self._gradients)

        self._all_or_nothing(change)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "layout": self._layout,
            "groups": [(list(group["params"]), state_dicts.without_params(group)) for group in self._groups],
            "defaults": self.defaults,
            "options": self._options,
            "gradients": self._gradients,
            "state_dict": self.state_dict(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state["state_dict"]
        self._set_up(state["layout"], state["groups"], state["defaults"], state["options"], state["gradients"])
        self.load_state_dict(saved)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self._groups):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


@functools.cache
def _described_rule(name: str) -> tuple[Any, tuple[str, ...]]:
    rule = render.rules()[name]
    return rule, render.coefficient_names(rule)

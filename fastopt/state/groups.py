"""Parameter groups: dicts, as in torch.optim, which check what is assigned to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..definitions.conventions import conventions_with
from ..definitions.hyperparameters import HYPERPARAMETERS
from ..definitions.specs import Spec
from ..step.attributes import NAMES_ELSEWHERE
from ..step.evaluation import check_options
from ..step.options import GROUP_OPTIONS, check_group_options
from ..step.param_storage import check_state_dtype
from ..step.rates import warn_without_effect

NOTES = ("name", "initial_lr")
"""Keys that a group may have for the user's own purposes; they change nothing."""


class Changes:
    """Whether something was assigned since the optimizer last took over what was.

    Groups hold this, not the optimizer: without a cycle of references, the memory of an optimizer is free as soon as it
    is dropped.

    Whoever assigns sets `pending` or `rates`, and then `ready_step` to None.

    Attributes
    ----------
    pending: whether anything was assigned that is not only a rate.
    rates: whether a rate was assigned, or some rate is a function.
    ready_step: the engine's `step` while gradients are bound and nothing was assigned, otherwise None. A step then
        looks at this attribute alone, which takes 70 ns off it.
    max_grad_norm: the option of the optimizer, which excludes other ways of clipping.
    """

    __slots__ = ("max_grad_norm", "pending", "rates", "ready_step")

    def __init__(self, max_grad_norm: float | None = None) -> None:
        self.pending = False
        self.rates = False
        self.ready_step: Callable[[], None] | None = None
        self.max_grad_norm = max_grad_norm

    def taken_over(self, engine: Any) -> None:
        """Note that an engine has taken over what was assigned; another thread may have assigned more meanwhile."""
        self.ready_step = engine.step if engine.bound else None
        if self.pending or self.rates:
            self.ready_step = None


class ParamGroup(dict[str, Any]):
    """The hyperparameters of a group and, under "params", its arrays.

    Assignments are checked at once and count from the next step. The arrays and the keys are fixed.

    Attributes
    ----------
    allowed_states: the states that hyperparameters may need; None for any.
    constructed_lr: the rate that the optimizer was constructed with.
    """

    def __init__(self, spec: Spec, params: Iterable[np.ndarray], values: Mapping[str, Any], changes: Changes):
        self._spec = spec
        self._changes = changes
        self.allowed_states: frozenset[str] | None = None
        notes = {key: values[key] for key in NOTES if key in values}
        options = check_group_options(values, changes.max_grad_norm)
        converted = spec.convert(values)
        check_constraints(spec, converted, options)
        check_state_dtype(spec, converted, options["state_dtype"])
        self.constructed_lr = converted["lr"]
        super().__init__(params=tuple(params), **converted, **options, **notes)

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name in self or any(name in table for table in (HYPERPARAMETERS, GROUP_OPTIONS, NAMES_ELSEWHERE)):
                raise AttributeError(
                    f"a parameter group is a dict, whose values are no attributes: assign to group[{name!r}]"
                )
            super().__setattr__(name, value)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {name: self[name] for name in self._spec.defaults}

    @property
    def options(self) -> dict[str, Any]:
        return {name: self[name] for name in GROUP_OPTIONS}

    def fix_states(self, states: Iterable[str]) -> None:
        """From now on, refuse hyperparameters that would need other states than these."""
        self.allowed_states = frozenset(states)

    def saved(self) -> tuple[dict[str, Any], frozenset[str] | None]:
        """The values and the allowed states, for `restore`."""
        return dict(self), self.allowed_states

    def twin(self) -> ParamGroup:
        """A group with the same values, to try changes on; no optimizer notices them."""
        twin = ParamGroup.__new__(ParamGroup)
        dict.update(twin, self)
        vars(twin).update(vars(self), _changes=Changes(self._changes.max_grad_norm))
        return twin

    def restore(self, saved: tuple[dict[str, Any], frozenset[str] | None]) -> None:
        """Go back to what `saved` returned, after something else failed."""
        values, self.allowed_states = saved
        super().update(values)

    def converted(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The values that `changes` would give, checked together with all others; the group is left as it is."""
        for key in changes:
            if key == "params":
                raise ValueError("a group's 'params' are fixed; create a new optimizer for other parameters")
            check_key(self._spec, key)
        options = check_group_options({**self.options, **changes}, self._changes.max_grad_norm)
        if options["state_dtype"] != self["state_dtype"]:
            raise ValueError(
                f"state_dtype is fixed at construction (it is {self['state_dtype']!r}), got {options['state_dtype']!r}"
            )
        values = self._spec.convert({**self.hyperparameters, **changes})
        needed = set(self._spec.states(values))
        if self.allowed_states is not None and not needed <= self.allowed_states:
            missing = ", ".join(sorted(needed - self.allowed_states))
            reason = ", ".join(f"{name}={values[name]!r}" for name in self._spec.variants if name in changes)
            raise ValueError(f"{reason} needs state that this optimizer was created without: {missing}")
        check_constraints(self._spec, values, options)
        values |= options
        return {key: values.get(key, value) for key, value in changes.items()}

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def update(self, *args: Any, **kwargs: Any) -> None:
        converted = self.converted(dict(*args, **kwargs))
        warn_without_effect(self._spec, converted.get("lr"))
        changes, rate_alone = self._changes, converted.keys() == {"lr"} and "lr" not in self._spec.initial.values()
        try:
            super().update(converted)
        finally:  # even if a signal handler raises right after the update; none runs between these assignments
            if rate_alone:
                changes.rates = True
            else:
                changes.pending = True
            changes.ready_step = None

    def __ior__(self, other: Any) -> ParamGroup:  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("the keys of a parameter group are fixed; assign new values to them instead")

    __delitem__ = _refuse
    pop = _refuse
    popitem = _refuse
    clear = _refuse

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def check_constraints(spec: Spec, values: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise a ValueError for a proximal step or a projection that the optimizer cannot do."""
    check_options(spec, options)
    if options["prox"] is not None and options["prox"].row is None:
        spec.proximal_step(values)


def check_key(spec: Spec, key: Any) -> None:
    """Check that a group may have this key.

    Raises
    ------
    ValueError
        It is neither a hyperparameter of this optimizer nor an option of groups; the message lists them.
    """
    if key not in spec.defaults and key not in NOTES and key not in GROUP_OPTIONS:
        known = ", ".join(("params", *spec.defaults, *GROUP_OPTIONS))
        where = ", ".join(map(repr, conventions_with(spec, key)))
        hint = f" (a hyperparameter with convention={where})" if where else ""
        hint = hint or (" (a hyperparameter of other optimizers)" if key in HYPERPARAMETERS else "")
        under = "" if spec.convention == "torch" else f" with convention={spec.convention!r}"
        raise ValueError(f"unknown key {key!r}{hint} in a parameter group of {spec.name}{under} (expected {known})")

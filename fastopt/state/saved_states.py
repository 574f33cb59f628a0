"""The saved states of one parameter, read with every check."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..checks import real_number
from ..definitions.specs import CARRIED_BOUNDS, Spec
from ..step.evaluation import Y
from ..step.operations import ACCUMULATOR, STATES
from ..step.param_storage import ParamStorage
from ..step.storage import CODE_DTYPES, REST, working_dtype
from . import coded
from .arrays import is_device_array
from .states import States, is_unused

COPIES_TO_HOST = ("copy_to_host", "get", "cpu", "__array__")
"""Methods of arrays on a device that copy them: Numba's, CuPy's, torch's; and what anything else may have."""


class Expected(NamedTuple):
    """What the states of a group's parameters can be.

    Attributes
    ----------
    names: the states that the rule needs.
    optional: those of them that start anew if no parameter of the group has them: options and variants bring them.
    kept: all that any rule of the optimizer and its options keep.
    """

    names: tuple[str, ...]
    optional: Collection[str]
    kept: tuple[str, ...]


class SavedState(NamedTuple):
    """The states of a parameter as its memory is to have them; those that were not saved start anew."""

    states: States
    step: int
    carried: list[float] | None


FRESH = SavedState({}, 0, None)
"""A parameter that was never stepped."""


def expected_states(
    spec: Spec, values: Mapping[str, Any], extra: Sequence[str], saved: Sequence[Mapping[str, Any] | None]
) -> Expected:
    """What the states of a group can be, from its hyperparameters, the states of options, and all that was saved."""
    names = spec.states(values)
    always = spec.states({**values, **dict.fromkeys(spec.variants, False)})
    anywhere = {name for state in saved if isinstance(state, Mapping) for name in state if state[name] is not None}
    optional = [name for name in names if name not in always and name not in anywhere]
    return Expected(names, optional, (*spec.all_states, *extra))


def read_state(
    spec: Spec,
    expected: Expected,
    param: Any,
    storage: ParamStorage,
    saved: Mapping[str, Any] | None,
    label: str,
    pending: bool,
) -> SavedState:
    """Read the states of a parameter; `pending` is whether it holds gradients that were accumulated.

    Raises
    ------
    TypeError, ValueError
        They are not usable.
    """
    if saved is not None and not isinstance(saved, Mapping):
        raise TypeError(f"{label} must be a dict, got {saved!r}")
    found = {name: value for name, value in (saved or {}).items() if value is not None}
    accumulated = found.get(ACCUMULATOR)
    if accumulated is not None and not pending:
        if np.any(_on_host(accumulated)):
            raise ValueError(
                f"{label} has gradients in {ACCUMULATOR!r}, which 'accumulated' does not count: the state dict was "
                "changed after it was saved between accumulated steps"
            )
        del found[ACCUMULATOR]  # nothing is in it
    if pending and accumulated is None:
        raise ValueError(f"{label} has no {ACCUMULATOR!r}, though 'accumulated' lists its parameter")
    for key in found:
        if key in STATES and key not in expected.kept:
            raise ValueError(f"{label} has {key!r}; this optimizer was created without {STATES[key].option}")
        if key == REST and not storage.split:
            raise ValueError(f"{label} has {key!r}; its parameter has no master weights here")
        if key not in ("step", REST, *spec.carried, *expected.kept):
            raise ValueError(f"{label} has {key!r}, which {spec.name} with these hyperparameters does not keep")
    if not found or (expected.names and found.keys() <= {"step", *spec.carried} and not _count(found, 0, label)):
        return FRESH
    states: States = {}
    for name in (*expected.names, *(each for each in expected.kept if each not in expected.names)):
        if name in found:
            value = _unflattened(found[name], param) if name in spec.flattened else found[name]
            states[name] = _array(f"{label}[{name!r}]", value, param, storage.formats.get(name))
        elif name in expected.names and name not in expected.optional:
            raise ValueError(f"{label} has no {name!r} (it has {', '.join(map(repr, found))})")
    if REST in found:
        states[REST] = _checked(f"{label}[{REST!r}]", found[REST], param, CODE_DTYPES[16])
    if spec.counts_steps and "step" not in found:
        raise ValueError(f"{label} has no 'step' (it has {', '.join(map(repr, found))})")
    # torch's SGD knows only whether there was a first step, or will be.
    unused = bool(states) and not spec.counts_steps and all(map(is_unused, states.values()))
    step = _count(found, 0 if unused else 1, label)
    return SavedState(states, step, _read_carried(spec, found, label) if step else None)


def with_counts(spec: Spec, saved: Any, group: Mapping[str, Any]) -> Any:
    """The saved states of a parameter, with what the authors' class counts in its group."""
    if spec.in_torch or not isinstance(saved, Mapping) or not saved:
        return saved
    return {**{own: group[name] for name, own in spec.in_groups.items() if name in group}, **saved}


def read_kept(param: Any, saved: Any, label: str) -> tuple[Any, np.ndarray | None]:
    """The saved states of a parameter without what it was before it showed its average; and that, if it was saved."""
    if not isinstance(saved, Mapping) or saved.get(Y) is None:
        return saved, None
    kept = _checked(f"{label}[{Y!r}]", saved[Y], param, working_dtype(param.dtype))
    return {name: value for name, value in saved.items() if name != Y}, kept


def _array(label: str, value: Any, param: Any, stored: str | None) -> np.ndarray:
    """A state as the memory of one in this format has it."""
    if coded.is_saved(value):
        saved = coded.read_saved(label, value, param.shape)
        if saved.codec == stored and saved.is_in_c_order:
            return saved.codes
        value = saved.decoded()
    return coded.as_stored(stored, _checked(label, value, param, working_dtype(param.dtype)))


def _unflattened(value: Any, param: Any) -> Any:
    """A state that was saved as a vector, or as one number for all elements, in its parameter's shape."""
    if coded.is_saved(value):
        return value
    array = _on_host(value)
    if array.ndim == 0 and array.dtype == param.dtype:
        return np.full(param.shape, array)
    return array.reshape(param.shape) if array.shape == (param.size,) else array


def _checked(label: str, value: Any, param: Any, dtype: np.dtype[Any]) -> np.ndarray:
    array = _on_host(value)
    if array.dtype != dtype:
        whose = "its parameter's dtype" if dtype == param.dtype else "dtype"
        raise TypeError(f"{label} must be of {whose} {dtype}, got {array.dtype}")
    if array.shape != tuple(param.shape):
        raise ValueError(f"{label} must be of its parameter's shape {tuple(param.shape)}, got {array.shape}")
    return array  # loading copies it


def _on_host(value: Any) -> np.ndarray:
    """An array, or a copy of one that is on a device."""
    if is_device_array(value):
        value = next(getattr(value, name)() for name in COPIES_TO_HOST if hasattr(value, name))
    return np.asarray(value)


def _read_carried(spec: Spec, found: Mapping[str, Any], label: str) -> list[float]:
    """The numbers that its coefficients carry from step to step."""
    values = []
    for name in spec.carried:
        if name not in found:
            raise ValueError(f"{label} has no {name!r} (it has {', '.join(map(repr, found))})")
        value, (least, largest) = real_number(f"{label}[{name!r}]", plain(found[name])), CARRIED_BOUNDS[name]
        if not least <= value <= largest:
            raise ValueError(f"{label}[{name!r}] must be at least {least:g} and at most {largest:g}, got {value}")
        values.append(value)
    return values


def _count(found: Mapping[str, Any], default: int, label: str) -> int:
    return read_count(found.get("step", default), f"{label}['step']")


def read_count(value: Any, label: str) -> int:
    count = real_number(label, plain(value))
    if not (0 <= count < 2**53 and count == int(count)):  # float64 counts no further
        raise ValueError(f"{label} must be a whole number >= 0 and below 2**53, got {count}")
    return int(count)


def plain(value: Any) -> Any:
    """An array or a tensor as a list of numbers, or as a number if it has one element."""
    if isinstance(value, (bool, int, float)) or not hasattr(value, "tolist"):
        return value
    found = value.tolist()
    while isinstance(found, list) and len(found) == 1:
        found = found[0]
    return found

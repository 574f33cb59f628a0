"""State dicts in torch's form: written, and read with every check before anything is taken over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..checks import real_number, whole_number
from ..definitions.specs import CARRIED_BOUNDS, Spec
from ..kernels.engine.contract import SegmentRecords
from ..step.operations import ACCUMULATOR, STATES, accumulates, extra_states, needs_count
from ..step.options import GROUP_OPTIONS
from ..step.rates import scheduled_rate
from .arrays import is_device_array
from .contents import Contents
from .groups import NOTES
from .states import States

TORCH_ONLY = ("foreach", "fused", "capturable", "differentiable", "param_names")
"""Keys of torch's groups that say how torch computes, and mean nothing here."""

COPIES_TO_HOST = ("copy_to_host", "get", "cpu", "__array__")
"""Methods of arrays on a device that copy them: Numba's, CuPy's, torch's; and what anything else may have."""


def without_params(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def save(contents: Contents, to_host: Callable[[Any], np.ndarray] | None = None) -> dict[str, Any]:
    """See `Optimizer.state_dict`. As in torch, a parameter that was never stepped has no entry.

    `to_host` makes the array that is saved of a state, by default a copy of it.
    """
    spec, records = contents.spec, contents.records
    to_host = to_host or contents.params.memory.to_host
    iterations = int(contents.progress.iterations[0])
    saved_groups = []
    for group, span in zip(contents.groups, contents.params.spans, strict=True):
        values = {key: value for key, value in without_params(group).items() if key not in GROUP_OPTIONS}
        values["lr"] = scheduled_rate(group["lr"], iterations)
        saved_groups.append({**values, "params": list(span)})
    saved_states: dict[int, dict[str, Any]] = {}
    counts = spec.counts_steps or any(map(needs_count, contents.states[0]))
    rows = zip(records.steps.tolist(), records.pending.tolist(), records.carried.tolist(), contents.states, strict=True)
    for index, (step, pending, carried, state) in enumerate(rows):
        if step or pending:
            # torch's SGD keeps no count; ours needs one where it is not simply "stepped before".
            counted: dict[str, Any] = {"step": step} if counts or not step else {}
            if carried:
                counted |= zip(spec.carried, carried, strict=True)
            saved_states[index] = {**counted, **{name: to_host(array) for name, array in state.items()}}
    saved = {"state": saved_states, "param_groups": saved_groups, "iterations": iterations}
    if accumulates(contents.options):
        params = np.flatnonzero(records.pending).tolist()
        saved["accumulated"] = {"calls": int(contents.progress.accumulated[0]), "params": params}
    return saved


class Loaded(NamedTuple):
    """A state dict that was checked.

    Attributes
    ----------
    groups: the hyperparameters of each group.
    names: for each group the states that its rule needs, and those that were left by other rules of the optimizer.
    states: the states of each parameter.
    records: what engines keep of each parameter.
    accumulated, iterations: see `Progress`.
    """

    groups: list[dict[str, Any]]
    names: list[tuple[str, ...]]
    states: list[States]
    records: SegmentRecords
    accumulated: int
    iterations: int


def read(contents: Contents, state_dict: Mapping[str, Any]) -> Loaded:
    """Check a state dict against the contents that it is for, and read it.

    Raises
    ------
    TypeError, ValueError
        It does not fit.
    """
    spec, groups, params = contents.spec, contents.groups, contents.params
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError("state_dict must be a dict with 'state' and 'param_groups'")
    saved_groups, saved_states = state_dict["param_groups"], state_dict["state"]
    if not isinstance(saved_groups, Sequence) or not isinstance(saved_states, Mapping):
        raise TypeError("state_dict must have a dict as 'state' and a list as 'param_groups'")
    if len(saved_groups) != len(groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups "
            f"(expected {len(groups)}, got {len(saved_groups)})"
        )
    records = SegmentRecords.of(len(params), spec.carried.values())
    accumulated, pending = _read_accumulated(state_dict, len(params), contents.options["accumulate_steps"])
    records.pending[pending] = True
    extra = extra_states(contents.options)
    loaded = Loaded([], [], [], records, accumulated, 0)
    for index, (saved, span) in enumerate(zip(saved_groups, params.spans, strict=True)):
        if not isinstance(saved, Mapping) or not isinstance(saved.get("params"), Sequence):
            raise TypeError(f"param_groups[{index}] must be a dict with a list of 'params', got {saved!r}")
        if len(saved["params"]) != len(span):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group "
                f"(group {index}: expected {len(span)} parameters, got {len(saved['params'])})"
            )
        values = _read_group(spec, saved, index)
        loaded.groups.append(values)
        for position, key in zip(span, saved["params"], strict=True):
            label, found = f"state[{key!r}]", saved_states.get(key)
            states, step = _read_state(spec, values, params.arrays[position], found, label, extra)
            if records.pending[position] and ACCUMULATOR not in states:
                raise ValueError(f"{label} has no {ACCUMULATOR!r}, though 'accumulated' lists its parameter")
            loaded.states.append(states)
            records.steps[position] = step
            if step:
                records.carried[position] = _read_carried(spec, found, label)
        mine = loaded.states[span.start :]
        loaded.names.append(tuple(dict.fromkeys([*spec.states(values), *(name for each in mine for name in each)])))
    # torch does not count updates; the parameter with the most steps took part in every one.
    most = int(max(records.steps, default=0))
    iterations = _read_count(state_dict.get("iterations", most), "state_dict['iterations']")
    return loaded._replace(iterations=iterations)


def load(contents: Contents, loaded: Loaded) -> Contents:
    """The contents as a state dict says; values of groups are changed in place."""
    found = replace(
        contents,
        states=[],
        records=loaded.records,
        progress=replace(
            contents.progress, accumulated=np.array([loaded.accumulated]), iterations=np.array([loaded.iterations])
        ),
    )
    extra = extra_states(contents.options)
    for index, (group, values, names) in enumerate(zip(contents.groups, loaded.groups, loaded.names, strict=True)):
        group.fix_states(names)
        if callable(group["lr"]):  # A schedule belongs to construction, and goes on where it was.
            del values["lr"]
        group.update(values)
        found.states += found.new_states(index, tuple(dict.fromkeys((*names, *extra))))
    for mine, theirs in zip(found.states, loaded.states, strict=True):
        for name, value in theirs.items():
            contents.params.memory.copy(mine[name], value)
    return found


def _read_group(spec: Spec, saved: Mapping[str, Any], index: int) -> dict[str, Any]:
    known = {**{name: saved.get(name, default) for name, default in spec.defaults.items()}}
    for key in saved:
        if key not in known and key not in (*TORCH_ONLY, *NOTES, "params"):
            raise ValueError(f"param_groups[{index}] has {key!r}, which {spec.name} does not know")
    numbers = {name: _plain(value) for name, value in known.items()}
    return {**spec.convert(numbers), **{key: saved[key] for key in NOTES if key in saved}}


def _plain(value: Any) -> Any:
    """A one-element tensor or array as a number."""
    return value.item() if hasattr(value, "item") and not isinstance(value, (bool, int, float)) else value


def _read_accumulated(state_dict: Mapping[str, Any], n_params: int, accumulate_steps: int) -> tuple[int, list[int]]:
    """How many calls were accumulated, and which parameters' gradients."""
    accumulated = state_dict.get("accumulated", {"calls": 0, "params": []})
    if not isinstance(accumulated, Mapping) or not {"calls", "params"} <= set(accumulated):
        raise TypeError(f"'accumulated' must be a dict of a number of 'calls' and 'params', got {accumulated!r}")
    calls = whole_number("'accumulated' calls", accumulated["calls"], least=0)
    if isinstance(accumulated["params"], (str, bytes)) or not isinstance(accumulated["params"], (Sequence, np.ndarray)):
        raise TypeError(f"'accumulated' params must be a list of positions, got {accumulated['params']!r}")
    params = [whole_number("a position in 'accumulated' params", each, least=0) for each in accumulated["params"]]
    if any(index >= n_params for index in params):
        raise ValueError(f"'accumulated' params must be positions below {n_params}, got {params}")
    if calls >= accumulate_steps:
        raise ValueError(
            f"state_dict was saved between accumulated steps, after {calls} calls; "
            f"this optimizer has accumulate_steps={accumulate_steps}"
        )
    return calls, params


def _read_state(
    spec: Spec,
    values: Mapping[str, Any],
    param: Any,
    saved: Mapping[str, Any] | None,
    label: str,
    extra: Sequence[str],
) -> tuple[States, int]:
    names = spec.states(values)
    if saved is not None and not isinstance(saved, Mapping):
        raise TypeError(f"{label} must be a dict, got {saved!r}")
    kept = (*spec.all_states, *extra)
    if not saved or (all(saved.get(name) is None for name in kept) and names):
        return {}, 0
    for key in saved:
        if key in STATES and key not in kept and saved[key] is not None:
            raise ValueError(f"{label} has {key!r}; this optimizer was created without {STATES[key].option}")
        if key not in ("step", *spec.carried, *kept) and saved[key] is not None:
            raise ValueError(f"{label} has {key!r}, which {spec.name} with these hyperparameters does not keep")
    states: States = {}
    for name in (*names, *(name for name in kept if name not in names and saved.get(name) is not None)):
        if saved.get(name) is None:
            raise ValueError(f"{label} has no {name!r} (it has {', '.join(map(repr, saved))})")
        array = _on_host(saved[name])
        if array.dtype != param.dtype:
            raise TypeError(f"{label}[{name!r}] must be of its parameter's dtype {param.dtype}, got {array.dtype}")
        if array.shape != tuple(param.shape):
            raise ValueError(
                f"{label}[{name!r}] must be of its parameter's shape {tuple(param.shape)}, got {array.shape}"
            )
        states[name] = array  # `load` copies it
    return states, _read_step(spec, saved, label)


def _on_host(value: Any) -> np.ndarray:
    """An array, or a copy of one that is on a device."""
    if is_device_array(value):
        value = next(getattr(value, name)() for name in COPIES_TO_HOST if hasattr(value, name))
    return np.asarray(value)


def _read_carried(spec: Spec, saved: Mapping[str, Any] | None, label: str) -> list[float]:
    """The numbers that its coefficients carry from step to step."""
    values = []
    for name in spec.carried:
        if not saved or name not in saved:
            raise ValueError(f"{label} has no {name!r} (it has {', '.join(map(repr, saved or {}))})")
        value, (least, largest) = real_number(f"{label}[{name!r}]", _plain(saved[name])), CARRIED_BOUNDS[name]
        if not least <= value <= largest:
            raise ValueError(f"{label}[{name!r}] must be at least {least:g} and at most {largest:g}, got {value}")
        values.append(value)
    return values


def _read_step(spec: Spec, saved: Mapping[str, Any], label: str) -> int:
    if spec.counts_steps and "step" not in saved:
        raise ValueError(f"{label} has no 'step' (it has {', '.join(map(repr, saved))})")
    return _read_count(saved.get("step", 1), f"{label}['step']")  # torch's SGD knows only whether there was a first one


def _read_count(value: Any, label: str) -> int:
    count = real_number(label, _plain(value))
    if not (0 <= count < 2**53 and count == int(count)):  # float64 counts no further
        raise ValueError(f"{label} must be a whole number >= 0 and below 2**53, got {count}")
    return int(count)

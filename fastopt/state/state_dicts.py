"""State dicts in torch's form: written, and read with every check before anything is taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..checks import real_number, whole_number
from ..definitions.specs import CARRIED_BOUNDS, Spec
from ..kernels.backends import Memory
from ..kernels.engine.contract import SegmentRecords
from ..step.options import GROUP_OPTIONS
from ..step.planning import ACCUMULATOR, AVERAGE
from ..step.rates import scheduled_rate
from .arrays import is_device_array
from .groups import NOTES, ParamGroup
from .states import States

TORCH_ONLY = ("foreach", "fused", "capturable", "differentiable", "param_names")
"""Keys of torch's groups that say how torch computes, and mean nothing here."""

COPIES_TO_HOST = ("copy_to_host", "get", "cpu", "__array__")
"""Methods of arrays on a device: Numba's, CuPy's, torch's; and what anything else may have."""

OPTION_OF_STATE = {ACCUMULATOR: "accumulate_steps", AVERAGE: "ema_decay"}
"""Which option brings a state that rules do not keep."""


def without_params(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def save(
    spec: Spec,
    groups: Sequence[ParamGroup],
    states: Sequence[States],
    records: SegmentRecords,
    iterations: int,
    memory: Memory,
) -> dict[str, Any]:
    """See `Optimizer.state_dict`. As in torch, a parameter that was never stepped has no entry."""
    saved_groups, start = [], 0
    for group in groups:
        stop = start + len(group["params"])
        values = {key: value for key, value in without_params(group).items() if key not in GROUP_OPTIONS}
        values["lr"] = scheduled_rate(group["lr"], iterations)
        saved_groups.append({**values, "params": list(range(start, stop))})
        start = stop
    saved_states: dict[int, dict[str, Any]] = {}
    steps = records.steps
    for index, state in enumerate(states):
        if steps[index] or records.pending[index]:
            # torch's SGD keeps no count; ours needs one where it is not simply "stepped before".
            needs_count = spec.counts_steps or not steps[index] or AVERAGE in state
            counted: dict[str, Any] = {"step": int(steps[index])} if needs_count else {}
            counted |= dict(zip(spec.carried, records.carried[index].tolist(), strict=True))
            saved_states[index] = {**counted, **{name: memory.to_host(array) for name, array in state.items()}}
    return {"state": saved_states, "param_groups": saved_groups, "iterations": iterations}


@dataclass(frozen=True)
class Loaded:
    """What a state dict says, checked: for each group its hyperparameters, for each parameter its states and steps."""

    groups: list[dict[str, Any]]
    names: list[tuple[str, ...]]  # of each group's states: what its rule needs, and what others of its rules left
    states: list[States]
    steps: list[int]
    pending: list[bool]
    carried: list[list[float]]
    accumulated: int
    iterations: int


def read(
    spec: Spec,
    groups: Sequence[ParamGroup],
    params: Sequence[Any],
    state_dict: Mapping[str, Any],
    extra: Sequence[str] = (),
    accumulate_steps: int = 1,
) -> Loaded:
    """Check a state dict against the groups that it is for, and read it.

    `params` are the groups' parameters as their memory has them, `extra` states that options bring.

    Raises
    ------
    TypeError, ValueError
        It does not fit.
    """
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError("state_dict must be a dict with 'state' and 'param_groups'")
    saved_groups = state_dict["param_groups"]
    if not isinstance(saved_groups, Sequence) or not isinstance(state_dict["state"], Mapping):
        raise TypeError("state_dict must have a dict as 'state' and a list as 'param_groups'")
    if len(saved_groups) != len(groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups "
            f"(expected {len(groups)}, got {len(saved_groups)})"
        )
    accumulated, pending = _read_accumulated(
        state_dict, sum(len(group["params"]) for group in groups), accumulate_steps
    )
    loaded = Loaded([], [], [], [], [], [], accumulated, 0)
    for index, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        if not isinstance(saved, Mapping) or not isinstance(saved.get("params"), Sequence):
            raise TypeError(f"param_groups[{index}] must be a dict with a list of 'params', got {saved!r}")
        if len(saved["params"]) != len(group["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group "
                f"(group {index}: expected {len(group['params'])} parameters, got {len(saved['params'])})"
            )
        values = _read_group(spec, saved, index)
        loaded.groups.append(values)
        own_params = params[len(loaded.pending) : len(loaded.pending) + len(group["params"])]
        for param, key in zip(own_params, saved["params"], strict=True):
            states, step = _read_state(spec, values, param, state_dict["state"].get(key), f"state[{key!r}]", extra)
            if len(loaded.pending) in pending and ACCUMULATOR not in states:
                raise ValueError(f"state[{key!r}] has no {ACCUMULATOR!r}, though 'accumulated' lists its parameter")
            loaded.pending.append(len(loaded.pending) in pending)
            loaded.states.append(states)
            loaded.steps.append(step)
            loaded.carried.append(_read_carried(spec, state_dict["state"].get(key), step, f"state[{key!r}]"))
        own = loaded.states[len(loaded.states) - len(group["params"]) :]
        loaded.names.append(tuple(dict.fromkeys([*spec.states(values), *(name for states in own for name in states)])))
    # In torch nobody counts; the parameter with the most steps had a part in every update.
    iterations = _read_count(state_dict.get("iterations", max(loaded.steps, default=0)), "state_dict['iterations']")
    return replace(loaded, iterations=iterations)


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
        if key in OPTION_OF_STATE and key not in kept and saved[key] is not None:
            raise ValueError(f"{label} has {key!r}; this optimizer was created without {OPTION_OF_STATE[key]}")
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
        states[name] = array.copy()
    return states, _read_step(spec, saved, label)


def _on_host(value: Any) -> np.ndarray:
    """An array, or a copy of one that is on a device."""
    if is_device_array(value):
        value = next(getattr(value, name)() for name in COPIES_TO_HOST if hasattr(value, name))
    return np.asarray(value)


def _read_carried(spec: Spec, saved: Mapping[str, Any] | None, step: int, label: str) -> list[float]:
    """The numbers that its coefficients carry from step to step."""
    if not step:
        return list(spec.carried.values())
    for name in spec.carried:
        if not saved or name not in saved:
            raise ValueError(f"{label} has no {name!r} (it has {', '.join(map(repr, saved or {}))})")
    return [_read_carried_number(name, (saved or {})[name], f"{label}[{name!r}]") for name in spec.carried]


def _read_carried_number(name: str, saved: Any, label: str) -> float:
    value, (least, largest) = real_number(label, _plain(saved)), CARRIED_BOUNDS[name]
    if not least <= value <= largest:
        raise ValueError(f"{label} must be at least {least:g} and at most {largest:g}, got {value}")
    return value


def _read_step(spec: Spec, saved: Mapping[str, Any], label: str) -> int:
    if spec.counts_steps and "step" not in saved:
        raise ValueError(f"{label} has no 'step' (it has {', '.join(map(repr, saved))})")
    return _read_count(saved.get("step", 1), f"{label}['step']")  # torch's SGD knows only whether there was a first one


def _read_count(value: Any, label: str) -> int:
    count = real_number(label, _plain(value))
    if not (0 <= count < 2**53 and count == int(count)):  # float64 counts no further
        raise ValueError(f"{label} must be a whole number >= 0 and below 2**53, got {count}")
    return int(count)

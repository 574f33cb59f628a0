"""State dicts in torch's form: written, and read with every check before anything is taken over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..checks import whole_number
from ..definitions.specs import CAUTION, Spec
from ..kernels.engine.contract import SegmentRecords
from ..step.common import read_common
from ..step.evaluation import TRAIN_MODE, Y
from ..step.operations import ACCUMULATOR, accumulates, begun_states, carried_numbers, extra_states, needs_count
from ..step.options import GROUP_OPTIONS
from ..step.param_storage import ParamStorage
from ..step.rates import scheduled_rate
from . import averages, coded, matching, rate_changes, saved_states
from .contents import Contents
from .groups import NOTES
from .saved_states import plain, read_count
from .states import States
from .torch_form import StateDict

TORCH_ONLY = ("foreach", "fused", "capturable", "differentiable")
"""Keys of torch's groups that say how torch computes, and mean nothing here."""


def without_params(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def save(contents: Contents, to_host: Callable[[Any], np.ndarray] | None = None, *, encoded: bool = False) -> StateDict:
    """See `Optimizer.state_dict`. As in torch, a parameter that was never stepped has no entry.

    `to_host` makes the array that is saved of a state, by default a copy of it.
    """
    spec, records, params = contents.spec, contents.records, contents.params
    to_host = to_host or params.memory.to_host
    iterations = int(contents.progress.iterations[0])
    shown = spec.average is not None and bool(contents.progress.swapped[0])
    saved_groups = []
    for group, span, names in zip(contents.groups, params.spans, params.tree.group_names(), strict=True):
        values = {key: value for key, value in without_params(group).items() if key not in GROUP_OPTIONS}
        values["lr"] = scheduled_rate(group["lr"], iterations)
        values |= rate_changes.changes_since(group.constructed_lr, group["lr"])
        values |= zip(spec.common, contents.progress.common.tolist(), strict=True)
        if spec.average is not None:
            values[TRAIN_MODE] = not shown
        if names is not None:
            values["param_names"] = list(names)
        saved_groups.append({**values, "params": list(span)})
    saved: dict[int, dict[str, Any]] = {}
    counts = spec.counts_steps or any(map(needs_count, contents.states[0])) or contents.options["stochastic_rounding"]
    begun = list(begun_states(contents.options).values())
    rows = zip(records.steps.tolist(), records.pending.tolist(), records.carried.tolist(), contents.states, strict=True)
    for index, (step, pending, carried, state) in enumerate(rows):
        if step or pending:
            # torch's SGD keeps no count; ours needs one where it is not simply "stepped before".
            counted: dict[str, Any] = {"step": step} if counts or not step else {}
            counted |= zip(spec.carried, carried, strict=False)
            empty = [name for name, number in zip(begun, carried[len(spec.carried) :], strict=True) if not number]
            if not pending:
                empty.append(ACCUMULATOR)
            formats, shape = contents.storages[index].formats, params.arrays[index].shape
            kept = {
                name: to_host(array) if name not in formats else _saved(formats[name], array, shape, to_host, encoded)
                for name, array in state.items()
                if name not in empty
            }
            if shown:
                kept[Y] = averages.kept_on_host(contents, index)
            saved[index] = {**counted, **kept}
    state_dict = StateDict(state=saved, param_groups=saved_groups, iterations=iterations)
    if contents.options["stochastic_rounding"]:
        state_dict["seed"] = contents.seed
    if accumulates(contents.options):
        state_dict["accumulated"] = {
            "calls": int(contents.progress.accumulated[0]),
            "accumulate_steps": contents.options["accumulate_steps"],
            "params": np.flatnonzero(records.pending).tolist(),
        }
    if contents.report.skipped:
        consecutive = contents.report.consecutive_after(int(contents.progress.calls[0]))
        state_dict["skipped"] = {"steps": contents.report.skipped, "consecutive": consecutive}
    return state_dict


def _saved(
    codec: str, codes: Any, shape: Sequence[int], to_host: Callable[[Any], np.ndarray], encoded: bool
) -> np.ndarray | dict[str, Any]:
    """What is saved of a coded state: float32 numbers or, with `encoded`, the codes."""
    return coded.as_saved(codec, to_host(codes), shape) if encoded else coded.decoded(codec, codes, shape)


class Loaded(NamedTuple):
    """A state dict that was checked.

    Attributes
    ----------
    groups: the hyperparameters of each group.
    names: for each group the states that it keeps: those that its rule needs, those that were saved, and those that it
        had, so that what was possible in this optimizer still is.
    states: the states of each parameter.
    records: what engines keep of each parameter.
    accumulated, iterations, common: see `Progress`.
    skipped: how many steps `nonfinite="skip"` skipped, in all and in a row up to now.
    seed: of stochastic rounding.
    storages: how each parameter and its states are stored.
    shown: whether parameters are averages that follow from them and a state.
    kept: what each of them was before, where that was saved.
    """

    groups: list[dict[str, Any]]
    names: list[tuple[str, ...]]
    states: list[States]
    records: SegmentRecords
    accumulated: int
    iterations: int
    common: list[float]
    skipped: tuple[int, int]
    seed: int
    storages: list[ParamStorage]
    shown: bool
    kept: list[np.ndarray | None]


def read(contents: Contents, state_dict: Mapping[str, Any]) -> Loaded:
    """Check a state dict against the contents that it is for, and read it.

    Raises
    ------
    TypeError, ValueError
        It does not fit.
    """
    spec, params = contents.spec, contents.params
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError("state_dict must be a dict with 'state' and 'param_groups'")
    saved_groups, found = state_dict["param_groups"], state_dict["state"]
    if not isinstance(saved_groups, Sequence) or not isinstance(found, Mapping):
        raise TypeError("state_dict must have a dict as 'state' and a list as 'param_groups'")
    matched = matching.match(params, saved_groups)
    of_params = matching.states_by_id(found, matched.groups)
    records = SegmentRecords.of(len(params), carried_numbers(spec, contents.options).values())
    accumulated, pending = _read_accumulated(state_dict, len(params), contents.options["accumulate_steps"])
    records.pending[[matched.positions[position] for position in pending]] = True
    extra = extra_states(contents.options)
    begun = begun_states(contents.options).values()
    seed = whole_number("state_dict['seed']", plain(state_dict.get("seed", contents.seed)), least=0, bits=64)
    saved_first = {name: plain(value) for name, value in matched.groups[0].values.items()}
    common = read_common(spec, "param_groups[0]", saved_first)
    shown = spec.average is not None and not matched.groups[0].values.get(TRAIN_MODE, True)
    loaded = Loaded([], [], [], records, accumulated, 0, [], _read_skipped(state_dict), seed, [], shown, [])
    for group, saved, span in zip(contents.groups, matched.groups, params.spans, strict=True):
        values = _read_group(spec, group, saved)
        loaded.groups.append(values)
        expected = saved_states.expected_states(spec, values, extra, [of_params.get(key) for key in saved.ids])
        for position, key in zip(span, saved.ids, strict=True):
            label, is_pending = f"state[{key!r}]", bool(records.pending[position])
            param, storage = params.arrays[position], contents.storages[position].without(spec.exact_states(values))
            of_param, kept_before = saved_states.with_counts(spec, of_params.get(key), saved.values), None
            if spec.average is not None:
                of_param, kept_before = saved_states.read_kept(param, of_param, label)
            state = saved_states.read_state(spec, expected, param, storage, of_param, label, is_pending)
            loaded.kept.append(kept_before)
            loaded.storages.append(storage)
            loaded.states.append(state.states)
            records.steps[position] = state.step
            if state.carried is not None:
                records.carried[position] = [*state.carried, *(float(name in state.states) for name in begun)]
        kept = {*spec.states(values), *(group.allowed_states or ())}.union(*loaded.states[span.start :])
        # In the same order whatever was saved, and without those of options, which `load` adds.
        loaded.names.append(tuple(dict.fromkeys([*spec.states(values), *(n for n in spec.all_states if n in kept)])))
    # torch does not count updates; the parameter with the most steps took part in every one.
    most = int(max(records.steps, default=0))
    iterations = read_count(state_dict.get("iterations", most), "state_dict['iterations']")
    if common is None:
        if most and spec.common:
            raise ValueError(f"param_groups[0] has none of {', '.join(map(repr, spec.common))}, but there were steps")
        common = spec.common_starts(loaded.groups[0])
    return loaded._replace(iterations=iterations, common=list(common.values()))


def load(contents: Contents, loaded: Loaded) -> Contents:
    """The contents as a state dict says; values of groups are changed in place."""
    found = replace(
        contents,
        states=[],
        storages=loaded.storages,
        seed=loaded.seed,
        records=loaded.records,
        progress=replace(
            contents.progress,
            accumulated=np.array([loaded.accumulated]),
            iterations=np.array([loaded.iterations]),
            common=np.array(loaded.common, np.float64),
            swapped=np.array([loaded.shown]),
        ),
        report=contents.report.loaded(*loaded.skipped, int(contents.progress.calls[0])),
    )
    extra = extra_states(contents.options)
    for index, (group, values, names) in enumerate(zip(contents.groups, loaded.groups, loaded.names, strict=True)):
        group.fix_states(names)
        if values["lr"] is group["lr"]:  # A schedule belongs to construction, and goes on where it was.
            del values["lr"]
        group.update(values)
        found.states += found.new_states(index, tuple(dict.fromkeys((*names, *extra))))
    for mine, theirs in zip(found.states, loaded.states, strict=True):
        for name, value in theirs.items():
            contents.params.memory.copy(mine[name], value)
    if loaded.shown:
        averages.keep(found, loaded.kept)
    return found


def _read_group(spec: Spec, group: Mapping[str, Any], saved: matching.SavedGroup) -> dict[str, Any]:
    label, given = f"param_groups[{saved.position}]", saved.values
    # What no other class has, other classes' state dicts and those of earlier versions do not say.
    missing = {**spec.defaults, **{name: group[name] for name in CAUTION if name in spec.defaults}}
    known = {name: given.get(name, default) for name, default in missing.items()}
    for key in given:
        of_others = (*TORCH_ONLY, *spec.common, *spec.of_authors, *[TRAIN_MODE] * bool(spec.average))
        of_others += () if spec.in_torch else tuple(spec.in_groups)
        if key not in known and key not in (*of_others, *NOTES, *rate_changes.KEYS, "params", "param_names"):
            raise ValueError(f"{label} has {key!r}, which {spec.name} does not know")
    values = spec.convert({name: plain(value) for name, value in known.items()})
    values["lr"] = rate_changes.loaded_rate(label, group["lr"], given, values["lr"])
    return {**values, **{key: given[key] for key in NOTES if key in given}}


def _read_skipped(state_dict: Mapping[str, Any]) -> tuple[int, int]:
    """How many steps were skipped, in all and in a row; none for torch's state dicts and those of earlier versions."""
    skipped = state_dict.get("skipped", {"steps": 0, "consecutive": 0})
    if not isinstance(skipped, Mapping) or set(skipped) != {"steps", "consecutive"}:
        raise TypeError(f"'skipped' must be a dict of numbers of 'steps' and 'consecutive', got {skipped!r}")
    steps, consecutive = (
        whole_number(f"'skipped' {name}", plain(skipped[name]), least=0, bits=53) for name in ("steps", "consecutive")
    )
    if consecutive > steps:
        raise ValueError(f"'skipped' consecutive must be at most its steps, got {consecutive} of {steps}")
    return steps, consecutive


def _read_accumulated(state_dict: Mapping[str, Any], n_params: int, accumulate_steps: int) -> tuple[int, list[int]]:
    """How many calls were accumulated, and which parameters' gradients."""
    accumulated = state_dict.get("accumulated", {"calls": 0, "params": []})
    if not isinstance(accumulated, Mapping) or not {"calls", "params"} <= set(accumulated):
        raise TypeError(f"'accumulated' must be a dict of a number of 'calls' and 'params', got {accumulated!r}")
    calls = whole_number("'accumulated' calls", plain(accumulated["calls"]), least=0)
    if isinstance(accumulated["params"], (str, bytes)) or not isinstance(accumulated["params"], (Sequence, np.ndarray)):
        raise TypeError(f"'accumulated' params must be a list of positions, got {accumulated['params']!r}")
    params = [whole_number("a position in 'accumulated' params", each, least=0) for each in accumulated["params"]]
    if max(params, default=0) >= n_params:
        raise ValueError(f"'accumulated' params must be positions below {n_params}, got {params}")
    of = accumulated.get("accumulate_steps")  # state dicts of earlier versions do not have it
    if of is not None:
        of = whole_number("'accumulated' accumulate_steps", plain(of))
    if calls >= accumulate_steps or ((calls or params) and of not in (None, accumulate_steps)):
        raise ValueError(
            f"state_dict was saved between accumulated steps, after {calls} calls"
            f"{'' if of is None else f' of accumulate_steps={of}'}; "
            f"this optimizer has accumulate_steps={accumulate_steps}"
        )
    return calls, params

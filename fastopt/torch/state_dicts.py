"""State dicts: those of NumPy optimizers as torch's, and what is done before torch loads one."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from numbers import Integral, Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..definitions.specs import CAUTION, Spec
from ..state.torch_form import as_tensor, torch_form
from ..step.evaluation import Y
from ..step.operations import ACCUMULATOR
from ..step.storage import REST
from .stepping import coded_states, shards, tensors
from .stepping.coded_states import CodedState
from .stepping.host import PLAIN, Host
from .stepping.hyperparameters import read_hyperparameters
from .stepping.states import state_names, state_of


def convert_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a state dict of `fastopt.Adam` (or another) to one that `fastopt.torch.Adam` and `torch.optim.Adam` load.

    They load what `state_dict()` returns as it is, too. This is for a state dict that became a plain dict, as one read
    from a file may be. In the other direction, `fastopt.Adam` loads torch's state dicts as they are.

    Parameters
    ----------
    state_dict: dict
        From `state_dict()` of one of fastopt's NumPy optimizers.

    Returns
    -------
    state_dict: dict
        The same with tensors, which share no memory with the arrays, and with step counts in torch's form. What
        `accumulate_steps` adds gradients up in, which is empty after a step, is left out.

    Raises
    ------
    TypeError
        It is not a state dict.
    ValueError
        It was saved between accumulated gradients (`accumulate_steps`), which torch's classes cannot go on with.

    Examples
    --------
    >>> import numpy as np, torch, fastopt
    >>> from fastopt.torch import convert_state_dict
    >>> w = np.ones(3, np.float32)
    >>> optimizer = fastopt.Adam(w)
    >>> optimizer.step(np.ones(3, np.float32))
    >>> parameter = torch.nn.Parameter(torch.tensor(w))
    >>> twin = torch.optim.Adam([parameter])
    >>> twin.load_state_dict(convert_state_dict(optimizer.state_dict()))
    >>> twin.state[parameter]["step"]
    tensor(1.)
    """
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise TypeError(f"state_dict must be a dict with 'state' and 'param_groups', got {type(state_dict).__name__}")
    check_nothing_is_accumulated("convert_state_dict", state_dict)
    return torch_form(state_dict, torch)


def check_nothing_is_accumulated(owner: str, state_dict: Mapping[str, Any]) -> None:
    """Check that a NumPy optimizer's state dict was not saved between accumulated gradients.

    Raises
    ------
    ValueError
        It was.
    """
    accumulated = state_dict.get("accumulated")
    calls = accumulated.get("calls", 0) if isinstance(accumulated, Mapping) else 0
    if calls:
        raise ValueError(
            f"{owner}: state_dict was saved between accumulated steps, after {calls} calls; torch's optimizers cannot "
            "go on from there. Save it after an update"
        )


def with_states(state_dict: dict[str, Any], encoded: bool) -> dict[str, Any]:
    """A state dict with coded states as they are saved: as dicts with their codes, or as float32."""
    states = {
        key: _saved(coded_states.encoded(state), encoded) if isinstance(state, coded_states.CodedStates) else state
        for key, state in state_dict["state"].items()
    }
    return {**state_dict, "state": states}


def _saved(states: dict[str, Any], encoded: bool) -> dict[str, Any]:
    return {
        name: value if not isinstance(value, CodedState) else value.saved() if encoded else value.decoded()
        for name, value in states.items()
    }


class Fitting:
    """What an optimizer does to a state dict before torch loads it; the dict that it is given stays as it is.

    Parameters
    ----------
    owner: the optimizer's name for messages.
    groups: its groups.
    adapted_by_hooks: whether hooks of the user may bring names together that differ.
    """

    def __init__(self, owner: str, spec: Spec, groups: Sequence[Mapping[str, Any]], adapted_by_hooks: bool) -> None:
        self.owner = owner
        self.spec = spec
        self.groups = groups
        self.adapted_by_hooks = adapted_by_hooks
        self.saved: list[dict[str, Any]] = []
        """For each parameter of all groups, the tensors and coded states that steps use, as they were saved."""

    def match_names(self, state_dict: Any) -> Any:
        """The state dict with groups and parameters in the optimizer's order, by name, where both have names.

        Raises
        ------
        ValueError
            Names differ, and there are no hooks that may adapt them.
        """
        if not _is_state_dict(state_dict) or len(state_dict["param_groups"]) != len(self.groups):
            return state_dict  # which torch refuses, or hooks adapt
        matched, differences = [], []
        own = [_names(group) for group in self.groups]
        for index, (names, saved) in enumerate(zip(own, _by_names(own, state_dict["param_groups"]), strict=True)):
            saved_names = _names(saved)
            if not names or not saved_names or names == saved_names:
                matched.append(saved)
            elif set(names) != set(saved_names):
                here, there = (_listed(set(a) - set(b)) for a, b in ((names, saved_names), (saved_names, names)))
                differences.append(f"param_groups[{index}] has {here} in the optimizer, {there} in state_dict")
            elif not len(set(names)) == len(names) == len(saved_names) == len(saved["params"]):
                matched.append(saved)  # Names that occur twice decide nothing; torch refuses other lengths.
            else:
                params = list(saved["params"])
                if all(isinstance(each, Integral) for each in params):  # else they are names themselves, and in order
                    id_of = dict(zip(saved_names, params, strict=True))
                    params = [id_of[name] for name in names]
                matched.append({**saved, "params": params, "param_names": names})
        if differences and not self.adapted_by_hooks:
            raise ValueError(
                f"{self.owner}: parameters have other names than those in state_dict: {'; '.join(differences)}. Rename "
                "them in its 'param_names', leave these out to match by order, or adapt it with "
                "register_load_state_dict_pre_hook"
            )
        return state_dict if differences else {**state_dict, "param_groups": matched}

    def read(self, state_dict: Any) -> Any:
        """The state dict as torch loads it: keys of states as parameters have them, arrays as tensors.

        Raises
        ------
        TypeError, ValueError
            It has states that no parameter takes, or something else than numbers and tensors as a state.
        """
        if not _is_state_dict(state_dict):
            return state_dict
        check_nothing_is_accumulated(self.owner, state_dict)
        params = dict.fromkeys(key for group in state_dict["param_groups"] for key in group["params"])
        saved, read, unknown = state_dict["state"], {}, []
        names = state_names(self.spec, True)
        of_keys = dict(zip(params, (param for group in self.groups for param in group["params"]), strict=False))
        for key, state in saved.items():
            may_be_number = isinstance(key, str) and key.isdecimal() and isinstance(state, Mapping)
            if may_be_number and key not in params and int(key) in params and int(key) not in saved:
                key = int(key)
            if key in params:
                state = self._read_state(key, state, names, of_keys.get(key))
            elif isinstance(state, Mapping) and any(state.get(name) is not None for name in names):
                unknown.append(key)
            read[key] = state
        if unknown:
            raise ValueError(
                f"{self.owner}: state_dict has states for {_listed(unknown)}, but its groups have the parameters "
                f"{_listed(params)}"
            )
        known = (*self.spec.carried, *self.spec.all_states, REST, *[Y] * bool(self.spec.average))
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        self.saved = [
            {
                name: value
                for name in known
                if isinstance(value := read.get(key, {}).get(name), Tensor) or coded_states.is_saved(value)
            }
            for key in keys
        ]
        own_params = [param for group in self.groups for param in group["params"]]
        for key, param, found in zip(keys, own_params, self.saved, strict=False):  # torch refuses other lengths
            own = {name: value for name, value in found.items() if coded_states.is_saved(value)}
            label = f"{self.owner}: state_dict['state'][{key!r}]"
            found.update((name, coded_states.read_saved(f"{label}[{name!r}]", own[name], param)) for name in own)
            if own:  # torch would cast codes to the parameter's dtype; None keeps their place
                read[key] = {**read[key], **dict.fromkeys(own)}
        groups = [
            {**{name: own[name] for name in CAUTION if name in own}, **group}  # torch's classes do not say
            for own, group in zip(self.groups, state_dict["param_groups"], strict=False)
        ]
        groups += state_dict["param_groups"][len(groups) :]  # torch refuses them
        return {**state_dict, "state": read, "param_groups": groups}

    def _read_state(self, key: Any, state: Any, names: Sequence[str], param: Tensor | None) -> Any:
        if not isinstance(state, Mapping):
            raise TypeError(f"{self.owner}: state_dict['state'][{key!r}] must be a dict, got {state!r}")
        read = {}
        for name, value in state.items():
            # Torch's class has no use for the rest of parameters: what comes from there is out of date, and rounded.
            out_of_date = name == REST and isinstance(value, Tensor) and value.dtype is not tensors.REST_DTYPE
            if name == ACCUMULATOR or out_of_date:
                continue
            if name in names and not (
                value is None or isinstance(value, (Tensor, np.ndarray, Number)) or coded_states.is_saved(value)
            ):
                raise TypeError(
                    f"{self.owner}: state_dict['state'][{key!r}][{name!r}] must be a tensor or an array, got {value!r}"
                )
            is_array = isinstance(value, (np.ndarray, np.generic))
            is_number = name in self.spec.carried and isinstance(value, Number)
            read[name] = as_tensor(name, value, torch) if is_array or is_number else value
            if name in self.spec.flattened and param is not None and isinstance(read[name], Tensor):
                read[name] = _unflattened(read[name], param)
        return read

    def restore_dtypes(
        self, groups: Sequence[dict[str, Any]], states: MutableMapping[Tensor, dict[str, Any]], host: Host
    ) -> None:
        """Give what torch does not keep its dtype back, and let states be stored as `state_dtype` says.

        Torch loads all but `step` in the parameter's dtype. It would round numbers that are carried from step to step,
        and states of float32 where parameters are halves. `groups` are those that were loaded.
        """
        for group in groups:
            values = read_hyperparameters(self.owner, self.spec, group) if host.state_dtypes else {}
            for param in group["params"]:
                saved = self.saved.pop(0)
                storage = host.storage(param, values) if saved and param in host.state_dtypes else PLAIN
                for name, value in saved.items():
                    state = state_of(states, param, storage)
                    codec = storage.formats.get(name)
                    if isinstance(value, CodedState):
                        state[name] = value if value.codec == codec else _stored(codec, value.decoded(), param)
                    elif codec is not None:
                        state[name] = _stored(codec, value, param)
                    elif isinstance(loaded := dict.get(state, name), Tensor):
                        dtype = _dtype_to_load(value.dtype, param.dtype, name in self.spec.carried)
                        if loaded.dtype is not dtype:
                            state[name] = value.to(loaded.device, dtype)


def _unflattened(state: Tensor, param: Tensor) -> Tensor:
    """A state that was saved as a vector, or as one number for all elements, in its parameter's shape."""
    if state.dim() == 0:
        return state.expand(param.shape).clone()
    return state.reshape(param.shape) if state.shape == (param.numel(),) else state


def _stored(codec: str | None, value: Tensor, param: Tensor) -> Any:
    """Numbers of float32 in this format; None for none."""
    own, spec = shards.local(param), shards.spec_of(param)
    if codec is None or not shards.are_alike(shards.spec_of(value), spec) or shards.local(value).shape != own.shape:
        return value
    return CodedState.of(codec, value, own, spec)


def _dtype_to_load(saved: torch.dtype, param_dtype: torch.dtype, is_number: bool) -> torch.dtype:
    """The dtype in which a state is loaded: one that holds what was saved, if steps can use it."""
    if saved is tensors.REST_DTYPE:
        return saved
    if is_number:
        return torch.float32 if saved in tensors.HALVES else saved
    if param_dtype in tensors.HALVES and saved in tensors.DTYPES:
        return param_dtype if saved is param_dtype else torch.float32
    return param_dtype


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("state"), Mapping) and "param_groups" in value


def _names(group: Mapping[str, Any]) -> list[str]:
    names = group.get("param_names")
    return [] if names is None else list(map(str, names))


def _by_names(own: Sequence[list[str]], saved: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """For each of the optimizer's groups the saved one with the same names; without them, groups in their order."""
    left = list(saved)
    if not all(own) or not all(map(_names, saved)):
        return left
    found = []
    for names in own:
        same = [each for each in left if set(_names(each)) == set(names)]
        left = [each for each in left if not same or each is not same[0]]
        found.append(same[0] if same else None)
    return [left.pop(0) if each is None else each for each in found]


def _listed(values: Any) -> str:
    shown = [repr(each) for each in sorted(values, key=lambda each: (str(type(each)), each))]
    return ", ".join(shown[:10] + ["..."] * (len(shown) > 10)) or "no others"

"""State dicts in the form that torch's optimizers load: with tensors. Nothing here imports torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..step.operations import ACCUMULATOR
from ..step.storage import REST
from . import coded, rate_changes


class StateDict(dict[str, Any]):
    """What `state_dict()` returns: a dict, which torch's optimizers load as well.

    `load_state_dict` of torch.optim begins with a call of `copy()`, and then takes tensors only. Called from there,
    `copy` returns the same states as tensors, in memory of their own. Called from anywhere else, it copies the dict.
    """

    def copy(self) -> dict[str, Any]:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] == "torch":
            return torch_form(self, sys.modules["torch"])
        return StateDict(self)


def torch_form(state_dict: Mapping[str, Any], torch: Any) -> dict[str, Any]:
    """A state dict with copies of its arrays as tensors, and with step counts in torch's form.

    Coded states are decoded, and what split parameters need is left out: torch has nothing like it.

    Raises
    ------
    ValueError
        It was saved between accumulated steps, which torch's optimizers do not have.
    """
    accumulated = state_dict.get("accumulated") or {"calls": 0, "params": ()}
    if accumulated["calls"] or len(accumulated["params"]):
        raise ValueError(
            f"state_dict was saved between accumulated steps, after {accumulated['calls']} calls; torch's optimizers "
            "cannot go on from there. Save it after an update"
        )
    states = {}
    for key, state in state_dict["state"].items():
        if ACCUMULATOR in state and np.any(state[ACCUMULATOR]):
            raise ValueError(f"state[{key!r}] has gradients in {ACCUMULATOR!r}, which 'accumulated' does not count")
        states[key] = {
            name: as_tensor(name, coded.from_saved(name, value) if coded.is_saved(value) else value, torch)
            for name, value in state.items()
            if name not in (ACCUMULATOR, REST)
        }
    return {"state": states, "param_groups": [_group(group) for group in state_dict["param_groups"]]}


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in group.items() if key not in rate_changes.KEYS}
    if found.get("param_names") is not None:
        found["param_names"] = list(map(str, found["param_names"]))  # torch's are strings
    return found


def as_tensor(name: str, value: Any, torch: Any) -> Any:
    """An array or a number of a state as a tensor; torch is the module."""
    if value is None or isinstance(value, torch.Tensor):
        return value
    if name == "step":  # torch loads it as it is, and everything else in the dtype of the parameter
        single = torch.get_default_dtype() != torch.float64
        return torch.tensor(float(value), dtype=torch.float32 if single else torch.float64)
    return torch.tensor(value, dtype=None if isinstance(value, np.ndarray) else torch.float64)

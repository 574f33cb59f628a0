"""State dicts of NumPy optimizers as torch's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def convert_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a state dict of `fastopt.Adam` (or another) to one that `fastopt.torch.Adam` and `torch.optim.Adam` load.

    In the other direction, `fastopt.Adam` loads torch's state dicts as they are.

    Parameters
    ----------
    state_dict: dict
        From `state_dict()` of one of fastopt's NumPy optimizers.

    Returns
    -------
    state_dict: dict
        The same with tensors, which share no memory with the arrays, and with step counts in torch's form.

    Raises
    ------
    TypeError
        It is not a state dict.

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
    states = {
        key: {name: _as_tensor(name, value) for name, value in state.items()}
        for key, state in state_dict["state"].items()
    }
    return {"state": states, "param_groups": [dict(group) for group in state_dict["param_groups"]]}


def _as_tensor(name: str, value: Any) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    # torch loads `step` as it is, and everything else in the dtype of the parameter.
    return torch.tensor(float(value), dtype=None if name == "step" else torch.float64)

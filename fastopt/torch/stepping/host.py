"""What stepping knows of an optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...definitions.specs import Spec
from ...kernels.engine.contract import Progress
from ...step.nonfinite import NonfiniteGradients
from ...step.param_storage import ParamStorage, param_storage
from ...threads import get_num_threads
from . import tensors
from .flattening import Buffer

PLAIN = ParamStorage()

Group = dict[str, Any]
States = defaultdict[Tensor, dict[str, Any]]
InitGroup = Callable[..., Any]
"""torch's `_init_group` of an optimizer: makes the states of a group's parameters that have a gradient and none yet."""


@dataclass(eq=False)
class Host:
    """What stepping needs to know of an optimizer for as long as it lives.

    It does not refer to the optimizer. `param_groups` and `state`, which torch and users replace, are not part of it:
    whoever needs them takes them as arguments, at each call.
    """

    name: str
    """What messages call the optimizer."""
    spec: Spec
    options: dict[str, Any]
    progress: Progress
    report: NonfiniteGradients
    buffers: list[Buffer] = field(default_factory=list)
    """With `flatten=True`, the memory that the parameters were moved to."""
    early: dict[Tensor, dict[str, float]] = field(default_factory=dict)
    """The hyperparameters that states began with, by parameter, if they were made before it had a gradient."""
    state_dtypes: dict[Tensor, str | dict[str, str]] = field(default_factory=dict)
    """What `state_dtype` says of a parameter, if it says anything."""
    scaler: tuple[Any, Any] = (None, None)
    """During a step on a device: a GradScaler's `found_inf` and `grad_scale`."""

    @property
    def counts_steps(self) -> bool:
        """Whether torch's states have a count of steps: random bits depend on it, too."""
        return bool(self.spec.counts_steps or self.options["stochastic_rounding"])

    def storage(self, param: Tensor, values: Mapping[str, Any], label: str = "a parameter") -> ParamStorage:
        """How a parameter with these hyperparameters is stored.

        Raises
        ------
        TypeError
            The options are not possible with its dtype.
        """
        wanted = self.state_dtypes.get(param)
        if wanted is None and not self.options["master_weights"]:
            return PLAIN
        group = {**values, "state_dtype": wanted}
        name, size = tensors.dtype_name(param), param.numel()
        return param_storage(label, self.spec, group, self.options, name, size, f"{self.name}: ")

    def is_split(self, param: Tensor) -> bool:
        """Whether a parameter has master weights; then its states are of float32, too."""
        return bool(self.options["master_weights"]) and param.dtype is torch.bfloat16

    def makes_states(self, param: Tensor) -> bool:
        """Whether the states of a parameter are other ones than torch makes."""
        return self.is_split(param) or param in self.state_dtypes

    def state_dtype(self, param: Tensor) -> torch.dtype:
        """The dtype of a parameter's new states, of those that are in no format."""
        return torch.float32 if self.makes_states(param) else param.dtype

    def n_threads(self) -> int:
        """The number of threads that a step uses at most."""
        given: int | None = self.options["n_threads"]
        return min(torch.get_num_threads(), get_num_threads()) if given is None else given

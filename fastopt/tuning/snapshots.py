"""An optimizer and its parameters as they are now, and back again, in the same memory and to the last bit."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..optimizers.base import Optimizer, check_in_main_memory


@dataclass(frozen=True)
class Snapshot:
    """Copies of everything that steps write: parameters, states, counts, bound gradients; and the groups' values."""

    arrays: list[tuple[np.ndarray, np.ndarray]]
    groups: list[dict[str, Any]]
    counters: dict[str, Any]

    @classmethod
    def of(cls, optimizer: Optimizer) -> Snapshot:
        """Copy an optimizer. The copies are as large as its parameters and states."""
        check_in_main_memory("fastopt.tuning", optimizer)
        arrays: list[np.ndarray] = [*optimizer._params, optimizer._steps]
        arrays += [array for state in optimizer._states for array in state.values()]
        arrays += [gradient for gradient in optimizer._gradients or () if gradient is not None]
        for part in (optimizer._progress, optimizer._settings):
            arrays += [getattr(part, each.name) for each in fields(part)]
        groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        return cls([(array, array.copy()) for array in arrays], groups, copy.copy(vars(optimizer._nonfinite)))

    def restore(self, optimizer: Optimizer) -> None:
        """Put everything back."""
        for array, saved in self.arrays:
            if array.flags.writeable:  # bound gradients need not be
                array[...] = saved
        vars(optimizer._nonfinite).update(self.counters)
        for group, values in zip(optimizer.param_groups, self.groups, strict=True):
            group.update(values)

"""What the divergence guard and the range test read of an optimizer, and how they put it back."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..kernels.engine import host_memory
from ..state import arrays, rate_changes
from ..state.contents import Contents
from ..state.states import decoded_states
from .base import Optimizer


@dataclass(frozen=True)
class SavedState:
    """Copies of every array that a step writes, the values of the groups, and the counts of skipped steps."""

    arrays: list[tuple[np.ndarray, np.ndarray]]
    groups: list[dict[str, Any]]
    skips: dict[str, Any]


class OptimizerView:
    """An optimizer over NumPy arrays, for code that watches its training from outside.

    Only this class knows where an optimizer keeps its parts. Everything is read anew at each access, because groups can
    be added and states replaced at any time.

    Parameters
    ----------
    optimizer: Optimizer
    reader: str
        Who reads, for the error message.

    Raises
    ------
    TypeError
        The optimizer's arrays are on a device.
    """

    def __init__(self, optimizer: Optimizer, reader: str) -> None:
        if optimizer._room.backend.memory is not host_memory:
            raise TypeError(
                f"{reader} is for arrays in main memory; those of backend={optimizer.backend!r} are on a device"
            )
        self.optimizer = optimizer

    @property
    def _contents(self) -> Contents:
        return self.optimizer._room.contents

    # --- parameters, states, gradients ------------------------------------------------------------------------------

    @property
    def names(self) -> list[Any]:
        """For each parameter its key in the dict that it was given in, else its position."""
        return [name for name, _ in self._contents.params.names]

    @property
    def labels(self) -> list[str]:
        """For each parameter what error messages call its gradient: "grads['W']"."""
        labels: list[str] = self._contents.params.tree.labels("grads")
        return labels

    @property
    def params(self) -> Sequence[np.ndarray]:
        """The parameters, flattened over the groups."""
        params: Sequence[np.ndarray] = self._contents.params.arrays
        return params

    @property
    def states(self) -> Sequence[Mapping[str, np.ndarray]]:
        """For each parameter its states by torch's names."""
        return self._contents.states

    def decoded_states(self, index: int) -> Mapping[str, np.ndarray]:
        """The states of a parameter, those that are stored in another format as copies in float32."""
        contents = self._contents
        return decoded_states(contents.states[index], contents.params.arrays[index], contents.storages[index])

    @property
    def frozen(self) -> np.ndarray:
        """For each parameter whether steps leave it out."""
        return self._contents.settings.frozen

    @property
    def bound_gradients(self) -> Sequence[np.ndarray | None] | None:
        """The gradients that were bound at construction; None where `step` takes them."""
        return self._contents.gradients

    def check_gradients(self, grads: Any) -> Sequence[np.ndarray | None]:
        """Gradients in the shape that `step` takes, flattened and checked as `step` would.

        Raises
        ------
        TypeError, ValueError
            A gradient is not usable.
        """
        given: list[Any] = self._contents.params.tree.flatten(grads)
        labels: list[str] | None = None
        for index, (gradient, param) in enumerate(zip(given, self.params, strict=True)):
            fits = gradient is None or (
                type(gradient) is np.ndarray
                and gradient.dtype is param.dtype
                and gradient.shape == param.shape
                and gradient.flags.c_contiguous
            )
            if not fits:
                labels = labels or self.labels
                given[index] = arrays.check_gradient(labels[index], gradient, param, zeroed=self.zeroes_gradients)
        return given

    # --- options ----------------------------------------------------------------------------------------------------

    @property
    def clips(self) -> bool:
        """Whether steps limit gradients, by any of the three ways of clipping."""
        limits = [group[name] for group in self.optimizer.param_groups for name in ("clip_norm", "clip_value")]
        return self.clips_global_norm or any(map(_limits, limits))

    @property
    def clips_global_norm(self) -> bool:
        """Whether steps limit the norm of all gradients together, and so measure it."""
        return _limits(self.optimizer.max_grad_norm)

    @property
    def skips_nonfinite(self) -> bool:
        """Whether steps skip gradients that are not finite."""
        return bool(self._contents.options["nonfinite"] == "skip")

    @property
    def accumulates(self) -> bool:
        """Whether several calls of `step` make one update."""
        return bool(self._contents.options["accumulate_steps"] > 1)

    @property
    def zeroes_gradients(self) -> bool:
        """Whether steps zero the gradients that they have read."""
        return bool(self._contents.options["zero_grads"])

    # --- going back -------------------------------------------------------------------------------------------------

    def complete_state_dict(self) -> dict[str, Any]:
        """`state_dict()` with every step count; `state_dict()` itself omits those that no update depends on.

        It has no changes of schedules: those are for optimizers that were constructed anew.
        """
        saved = self.optimizer.state_dict(encoded=True)
        for group in saved["param_groups"]:
            for key in rate_changes.KEYS:
                group.pop(key, None)
        for index, states in saved["state"].items():
            states["step"] = int(self.optimizer.state[index]["step"])
        return saved

    def save(self) -> SavedState:
        """Copy everything that steps write: parameters, states, counts, bound gradients; and the groups' values.

        Unlike a state dict, it also holds gradients, pending accumulation and the counts of skipped steps, and costs no
        conversion. It can be restored as long as no group is added and no state dict loaded.
        """
        contents = self._contents
        written = list(self.params)
        written += [array for state in self.states for array in state.values()]
        written += [gradient for gradient in self.bound_gradients or () if gradient is not None]
        for part in (contents.records, contents.progress):
            written += [getattr(part, each.name) for each in fields(part)]
        groups = [{key: value for key, value in group.items() if key != "params"} for group in contents.groups]
        return SavedState([(array, array.copy()) for array in written], groups, copy.copy(vars(contents.report)))

    def restore(self, saved: SavedState) -> None:
        """Put back what `save` copied, in the same memory and to the last bit."""
        for array, copied in saved.arrays:
            if array.flags.writeable:  # bound gradients need not be
                array[...] = copied
        vars(self._contents.report).update(saved.skips)
        for group, values in zip(self.optimizer.param_groups, saved.groups, strict=True):
            group.update(values)


def _limits(limit: float | None) -> bool:
    return limit is not None and limit < math.inf

"""An optimizer's state dicts, pickles and copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..kernels.engine.contract import SegmentRecords
from ..state import state_dicts
from ..step.planning import extra_states
from .core import OptimizerCore


class SavableOptimizer(OptimizerCore):
    """What can be written to a file, and goes on from there as if nothing had happened."""

    def state_dict(self) -> dict[str, Any]:
        """A copy of all states and hyperparameters, in torch's form, with NumPy arrays where torch has tensors.

        See Also
        --------
        load_state_dict : takes this back, or a state dict of the torch.optim class of the same name.
        """
        self._engine.fetch()
        saved: dict[str, Any] = self._engine.alone(self._saved)
        return saved

    def _saved(self) -> dict[str, Any]:
        self._check_not_swapped()
        saved = state_dicts.save(
            self.spec,
            self._groups,
            self._states,
            self._records,
            int(self._progress.iterations[0]),
            self._backend.memory,
        )
        if self._options["accumulate_steps"] > 1:
            saved["accumulated"] = {
                "calls": int(self._progress.accumulated[0]),
                "params": np.flatnonzero(self._records.pending).tolist(),
            }
        return saved

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over states and hyperparameters from a state dict of this class, fastopt's or torch's.

        Raises
        ------
        TypeError, ValueError
            It does not fit: other groups, shapes, dtypes or states. Nothing has been changed.
        """
        self._check_not_swapped()
        extra = extra_states(self._options)
        loaded = state_dicts.read(
            self.spec, self._groups, self._params, state_dict, extra, self._options["accumulate_steps"]
        )

        def change() -> None:
            self._states = []
            for group, values, names in zip(self._groups, loaded.groups, loaded.names, strict=True):
                group.fix_states(names)
                if callable(group["lr"]):  # A schedule belongs to construction, and goes on where it was.
                    del values["lr"]
                group.update(values)
                self._states += self._new_states(group, len(self._states), tuple(dict.fromkeys((*names, *extra))))
            for mine, theirs in zip(self._states, loaded.states, strict=True):
                for name, value in theirs.items():
                    self._backend.memory.copy(mine[name], value)
            self._records = SegmentRecords(
                steps=np.array(loaded.steps, np.int64),
                pending=np.array(loaded.pending, np.bool_),
                carried=np.array(loaded.carried, np.float64).reshape(len(loaded.steps), len(self.spec.carried)),
            )
            self._progress = replace(
                self._progress,
                accumulated=np.array([loaded.accumulated]),
                iterations=np.array([loaded.iterations]),
            )
            self._build(self._gradients)

        self._all_or_nothing(change)

    def __getstate__(self) -> dict[str, Any]:
        if not self._backend.memory.PICKLES:
            raise TypeError(
                f"{type(self).__name__} with backend={self._backend.name!r} cannot be pickled or copied: its "
                "parameters are in the memory of a device. Save state_dict(), which is in main memory, and the "
                "parameters apart"
            )
        return {
            "layout": self._layout,
            "groups": [(list(group["params"]), state_dicts.without_params(group)) for group in self._groups],
            "defaults": self.defaults,
            "options": self._options,
            "gradients": self._gradients,
            "settings": self._settings,
            "nonfinite": self._nonfinite,
            "progress": self._progress,
            "state_dict": self.state_dict(),
            "steps": self._records.steps.copy(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set_up(state["layout"], state["groups"], state["defaults"], state["options"], state["gradients"])
        self._settings, self._nonfinite, self._progress = state["settings"], state["nonfinite"], state["progress"]
        self.load_state_dict(state["state_dict"])
        self._records.steps[:] = state["steps"]  # SGD's are not in its state dict

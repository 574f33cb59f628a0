"""Copies of an optimizer's parameters and states in memory, to restore them from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..optimizers.view import OptimizerView
from ..schedules.factors import scaled


@dataclass
class Snapshot:
    """The parameters and the state dict of an optimizer after a number of the guard's steps."""

    step: int
    params: list[np.ndarray]
    state_dict: dict[str, Any]


class Snapshots:
    """The last two snapshots of an optimizer.

    Two, because divergence is detected some steps after it starts, and the newest snapshot may have been taken in
    between. Parameters are copied into buffers that are reused; each snapshot has a new state dict.
    """

    def __init__(self, view: OptimizerView) -> None:
        self.view = view
        self.kept: list[Snapshot] = []
        self._unfinished: tuple[Snapshot, list[Any]] | None = None

    @property
    def last_step(self) -> int:
        return self.kept[-1].step

    def take(self, step: int) -> None:
        """Take a snapshot. It replaces the older one if there are two."""
        state_dict = self.view.complete_state_dict()  # may raise, so it comes first
        params = self.view.params
        if self.kept and len(self.kept[0].params) != len(params):  # groups were added: the snapshots do not fit
            self.kept = [Snapshot(step, [param.copy() for param in params], state_dict)]
            return
        if len(self.kept) == 2:
            buffers, self.kept = self.kept[0].params, self.kept[1:]
        else:
            buffers = [np.empty_like(param) for param in params]
        for buffer, param in zip(buffers, params, strict=True):
            np.copyto(buffer, param)
        self.kept = [*self.kept, Snapshot(step, buffers, state_dict)]

    def restore(self, before: int, factor: float, step: int) -> None:
        """Restore the newest snapshot of step `before` or earlier, or else the oldest, and lower the learning rates.

        The rates become the groups' current ones times `factor`. The snapshot then counts as taken at `step`, and newer
        ones are dropped. A KeyboardInterrupt is raised after everything is written; if a second one comes meanwhile,
        `finish` writes the rest.
        """
        old_enough = [index for index, snapshot in enumerate(self.kept) if snapshot.step <= before]
        self.kept = self.kept[: max(old_enough, default=0) + 1]
        snapshot = self.kept[-1]
        rates = [scaled(group["lr"], factor) for group in self.view.optimizer.param_groups]
        snapshot.step = step
        self._unfinished = snapshot, rates
        try:
            self.finish()
        except KeyboardInterrupt:
            self.finish()
            raise

    def finish(self) -> None:
        """Complete an interrupted `restore`, if there is one."""
        if self._unfinished is None:
            return
        snapshot, rates = self._unfinished
        self.view.optimizer.load_state_dict(snapshot.state_dict)
        for buffer, param in zip(snapshot.params, self.view.params, strict=True):
            np.copyto(param, buffer)
        for group, rate in zip(self.view.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._unfinished = None

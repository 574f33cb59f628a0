"""Copies of an optimizer's parameters and states in memory, and the way back to one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import real_number
from ..optimizers.view import OptimizerView


@dataclass(frozen=True)
class ScaledRate:
    """A rate that is a function of the step, times a factor.

    Examples
    --------
    >>> from fastopt.guard.snapshots import ScaledRate
    >>> ScaledRate(lambda step: 0.5**step, 0.1)(1)
    0.05
    """

    rate: Callable[[int], float]
    factor: float

    def __call__(self, step: int) -> float:
        return real_number("lr(step)", self.rate(step)) * self.factor


def scaled_rate(rate: Any, factor: float) -> Any:
    """A rate, as groups have it, times a factor: a number, a schedule or another function of the step."""
    if not callable(rate):
        return rate * factor
    if isinstance(rate, ScaledRate):
        return ScaledRate(rate.rate, rate.factor * factor)
    return rate * factor if hasattr(rate, "__mul__") else ScaledRate(rate, factor)


@dataclass
class Snapshot:
    """The parameters and the state dict of an optimizer after so many of the guard's steps."""

    step: int
    params: list[np.ndarray]
    state_dict: dict[str, Any]


class Snapshots:
    """The last two snapshots of an optimizer.

    The older one is kept because a training that diverges is found out some steps later: the newest snapshot may have
    been taken in between. Parameters are copied into buffers that are made once; state dicts are made anew.
    """

    def __init__(self, view: OptimizerView) -> None:
        self.view = view
        self.kept: list[Snapshot] = []
        self._unfinished: tuple[Snapshot, list[Any]] | None = None

    @property
    def last_step(self) -> int:
        return self.kept[-1].step

    def take(self, step: int) -> None:
        """Copy everything; the older of two snapshots makes room."""
        state_dict = self.view.complete_state_dict()  # which may refuse, before anything here is changed
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
        """Go back to the newest snapshot of the step `before` or earlier, else to the oldest, and lower the rates.

        It counts as taken at `step` from now on, and newer ones are dropped.

        The rates are those that the groups have now, times `factor`. An interrupt in the middle is raised after all is
        written; should another come even then, `finish` does the rest.
        """
        old_enough = [index for index, snapshot in enumerate(self.kept) if snapshot.step <= before]
        self.kept = self.kept[: max(old_enough, default=0) + 1]
        snapshot = self.kept[-1]
        rates = [scaled_rate(group["lr"], factor) for group in self.view.optimizer.param_groups]
        snapshot.step = step
        self._unfinished = snapshot, rates
        try:
            self.finish()
        except KeyboardInterrupt:
            self.finish()
            raise

    def finish(self) -> None:
        """Write what an interrupted `restore` was to write; nothing when none was interrupted."""
        if self._unfinished is None:
            return
        snapshot, rates = self._unfinished
        self.view.optimizer.load_state_dict(snapshot.state_dict)
        for buffer, param in zip(snapshot.params, self.view.params, strict=True):
            np.copyto(param, buffer)
        for group, rate in zip(self.view.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._unfinished = None

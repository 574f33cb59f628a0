"""Optimizers whose parameters train beside their average: `train`, `eval`, and a `with` block."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..step.evaluation import TRAIN_MODE

if TYPE_CHECKING:
    from .base import NativeOptimizer as _Base
else:
    _Base = object


class AveragingOptimizer(_Base):
    """What Schedule-Free optimizers have beside `NativeOptimizer`'s methods.

    While they train, parameters are where gradients are to be taken. `eval` shows the average, which is what is
    trained: evaluate it, and use it in the end.
    """

    def eval(self) -> None:
        """Let the parameters be their average, for evaluation; if they are, do nothing.

        In one pass over memory, in place. Until `train`, `step` raises a RuntimeError. Each parameter is kept as it was
        in its state `y`, which takes its memory: `train` restores it to the last bit. State dicts can be taken, and
        hold the mode (`train_mode` in their groups) and `y`.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            Another thread is in the middle of a step, or a parameter or a state is not usable. Nothing has been
            changed.
        """
        self._show_average(True)

    def train(self) -> None:
        """Let the parameters be what gradients are taken of, as before `eval`; if they are, do nothing.

        Elements that were changed since `eval` count as elements of the average, and are moved to where training goes
        on from there; so do all where a state dict was loaded that has no `y`.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As `eval`.
        """
        self._show_average(False)

    @contextlib.contextmanager
    def averaged_params(self) -> Iterator[None]:
        """A block in which the parameters are their average, whether or not they are around it.

        Examples
        --------
        >>> import torch
        >>> from fastopt.torch import ScheduleFreeSGD
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = ScheduleFreeSGD([w], lr=1.0, momentum=0.5)
        >>> for gradient in (-1.0, -2.0):
        ...     w.grad = torch.full((1,), gradient)
        ...     optimizer.step()
        >>> with optimizer.averaged_params():
        ...     print(w.item())
        2.0
        >>> w.item()
        2.5
        """
        shown = self.averages_swapped_in
        self.eval()
        try:
            yield
        finally:
            if not shown:
                self.train()

    @property
    def averages_swapped_in(self) -> bool:
        """Whether the parameters are their average now."""
        return bool(self._host.progress.swapped[0])

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def _show_average(self, shown: bool) -> None:
        self._stepper.alone(functools.partial(self._show, shown))

    def _show(self, shown: bool) -> None:
        if self.averages_swapped_in == shown:
            return
        from .stepping import evaluation

        self._stepper.write_counts()
        try:
            with torch.inference_mode(False), torch.no_grad():
                evaluation.exchange(self._host, self.param_groups, self.__dict__["state"])
        finally:
            self._stepper.choose_walk()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As `NativeOptimizer`'s; the group is in the mode of the others."""
        if "_given" in self.__dict__:
            param_group = {**param_group, TRAIN_MODE: not self.averages_swapped_in}
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._host.progress.swapped[0] = bool(self.param_groups) and not self.param_groups[0][TRAIN_MODE]

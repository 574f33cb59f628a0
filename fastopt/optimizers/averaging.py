"""Optimizers whose parameters train beside their average: `train`, `eval`, and a `with` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .base import Optimizer


class AveragingOptimizer(Optimizer):
    """The base class of Schedule-Free optimizers.

    While they train, parameters are where gradients are to be taken. `eval` shows the average, which is what is
    trained: evaluate it, and use it in the end.
    """

    def eval(self) -> None:
        """Let the parameters be their average, for evaluation; if they are, do nothing.

        In one pass over memory, in place. Until `train`, `step` and all that changes what is stepped raise a
        RuntimeError. The memory of one more copy of the parameters holds them meanwhile, as they were: `train` restores
        them to the last bit. State dicts, pickles and checkpoints can be taken, and hold this copy, too.

        Raises
        ------
        RuntimeError
            Another thread is in the middle of a step. Nothing has been changed.
        """
        self._room.show_average(True)

    def train(self) -> None:
        """Let the parameters be what gradients are taken of, as before `eval`; if they are, do nothing.

        Elements that were changed since `eval` count as elements of the average, and are moved to where training goes
        on from there.

        Raises
        ------
        RuntimeError
            Another thread is in the middle of a step. Nothing has been changed.
        """
        self._room.show_average(False)

    @contextlib.contextmanager
    def averaged_params(self) -> Iterator[None]:
        """A block in which the parameters are their average, whether or not they are around it.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> p = np.zeros(1)
        >>> opt = fastopt.ScheduleFreeSGD(p, lr=1.0, momentum=0.5)
        >>> opt.step(np.array([-1.0])); opt.step(np.array([-2.0]))
        >>> with opt.averaged_params():
        ...     print(p)
        [2.]
        >>> p
        array([2.5])
        """
        shown = self.averages_swapped_in
        self.eval()
        try:
            yield
        finally:
            if not shown:
                self.train()

"""The averages of parameters, and evaluating with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .streams import StreamedOptimizer


class AveragingOptimizer(StreamedOptimizer):
    """What can exchange its parameters with their averages."""

    def swap_averages(self) -> None:
        """Exchange the parameters with their averages, in place; a second call changes them back.

        In between, `step`, `state_dict` and the like raise a RuntimeError. See `averaged_params` for a `with` block.

        Raises
        ------
        RuntimeError
            There are no averages (no `ema_decay`).
        """
        if self._options["ema_decay"] is None:
            raise RuntimeError("there are no averages to swap in; construct the optimizer with ema_decay=")
        self._engine.swap()

    @property
    def averages_swapped_in(self) -> bool:
        """Whether the parameters are their averages now."""
        return bool(self._progress.swapped[0])

    @contextlib.contextmanager
    def averaged_params(self) -> Iterator[None]:
        """Within, the parameters are their averages: for evaluation.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> p = np.zeros(1)
        >>> opt = fastopt.SGD(p, lr=1.0, ema_decay=0.5)
        >>> opt.step(np.array([-1.0])); opt.step(np.array([-2.0]))
        >>> with opt.averaged_params():
        ...     print(p)
        [2.]
        >>> p
        array([3.])
        """
        self.swap_averages()
        try:
            yield
        finally:
            self.swap_averages()

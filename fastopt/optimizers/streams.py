"""What concerns steps that run on a device: their stream, and what was changed between replays of a graph."""

from __future__ import annotations

from typing import Any

from ..step.rates import is_scheduled
from .saving import SavableOptimizer


class StreamedOptimizer(SavableOptimizer):
    """What can be told on which stream of a device to run."""

    @property
    def stream(self) -> Any:
        """The CUDA stream on which steps run, with `backend="cuda"`; it can be set between steps.

        0 at first, the default stream. What it can be set to: a stream's address, as torch.cuda.Stream's `cuda_stream`
        and cupy.cuda.Stream's `ptr` are, an object with `__cuda_stream__`, or a Numba stream. Gradients must be
        complete on that stream, or the stream must wait for them.

        Raises
        ------
        AttributeError
            The backend is none that runs on a device.
        TypeError
            What it is set to is no stream.
        """
        self._check_has_stream()
        return self._engine.stream

    @stream.setter
    def stream(self, value: Any) -> None:
        self._check_has_stream()
        self._engine.stream = value

    def _check_has_stream(self) -> None:
        if not hasattr(self._engine, "stream"):
            raise AttributeError(
                f"stream: steps of backend={self._backend.name!r} run on the processor, only those of "
                "backend='cuda' run on a stream"
            )

    def apply_changes(self) -> None:
        """Take over now what was assigned to `param_groups` and the like, not in the next call of `step`.

        For CUDA graphs: a replay of a captured step calls no Python, so that nobody would look at what was assigned.
        The new values are sent to the device on `stream`. A rate that is a function is asked for the update to come,
        for which the count of updates is fetched from the device.

        Raises
        ------
        RuntimeError
            What was assigned takes other kernels than those that were captured (`amsgrad`, `projection`...), or another
            thread is in the middle of a step.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD(np.zeros(3), lr=1.0)
        >>> opt.param_groups[0]["lr"] = 0.5
        >>> opt.apply_changes()
        """
        if any(map(is_scheduled, self._groups)):
            self._engine.fetch()
        if self._structure != self._current_structure():
            raise RuntimeError(
                "apply_changes(): what was assigned changes what a step does, not only its numbers, which a graph that "
                "was captured before cannot follow; call step(), and capture again"
            )
        self._refresh()
        self._engine.upload()

"""The check of the gradients that a step is given."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

from ..kernels.engine.plan import Segment
from . import arrays
from .parameters import Parameters


class GradientChecker:
    """Raises the error that says what is wrong with a gradient, or returns it as an array that engines can read.

    Engines call it with the position of the parameter.

    Parameters
    ----------
    params: the parameters.
    segments: the same with their states, which steps write to as well.
    bound: whether the gradients are those that are bound to the optimizer.
    zeroed: whether steps write to gradients.
    """

    def __init__(
        self, params: Parameters, segments: Sequence[Segment], *, bound: bool = False, zeroed: bool = False
    ) -> None:
        self.memory = params.memory
        self.bound = bound
        self.zeroed = zeroed
        self.labels = params.tree.labels("grads")
        self.params = params.arrays
        spans = []
        for label, segment in zip(params.tree.labels("params"), segments, strict=True):
            kept = (each for each in (segment.param, *segment.states) if each.nbytes)
            spans += [(*arrays.memory_span(each, self.memory), label) for each in kept]
        self.written = sorted(spans)

    def __call__(self, index: int, gradient: object) -> Any:
        """Check one gradient, and return the array that engines read: itself, or one for a scalar.

        Raises
        ------
        TypeError, ValueError
            It is not an array of its parameter's dtype and shape, or it shares memory that a step writes to.
        """
        label = self.labels[index]
        checked = arrays.check_gradient(
            label, gradient, self.params[index], bound=self.bound, zeroed=self.zeroed, memory=self.memory
        )
        begin, end = arrays.memory_span(checked, self.memory)
        if begin == end:
            return checked
        position = bisect.bisect_right(self.written, (end, 0, "")) - 1
        if position >= 0 and self.written[position][1] > begin:
            raise ValueError(
                f"{label} shares memory with {self.written[position][2]} or its state, which the step writes; "
                "a gradient needs memory of its own"
            )
        return checked


def fill_with_zeros(params: Parameters, gradients: Sequence[Any]) -> None:
    """Fill the gradients of all parameters with zeros, or none.

    Raises
    ------
    ValueError
        One is read-only.
    """
    memory = params.memory
    found = [memory.as_array(gradient) for gradient in gradients]
    for index, gradient in enumerate(found):
        if gradient is not None and not memory.is_writable(gradient):
            raise ValueError(f"{params.tree.labels('grads')[index]} is read-only; zero_grad() cannot fill it")
    for gradient in found:
        if gradient is not None:
            memory.fill(gradient, 0)

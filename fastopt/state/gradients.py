"""The check of gradients that a step is given."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from ..kernels.backends import Memory
from ..kernels.engine.plan import Segment
from . import arrays
from .param_tree import Layout


class GradientChecker:
    """Raises the error that says what is wrong with a gradient; engines call it, with the position of its parameter."""

    def __init__(self, layout: Layout, segments: Sequence[Segment], memory: Memory, written: bool = False) -> None:
        self.memory = memory
        self.zeroed = written
        self.labels = layout.labels("grads")
        self.params = [segment.param for segment in segments]
        spans = []
        for label, segment in zip(layout.labels("params"), segments, strict=True):
            kept = (each for each in (segment.param, *segment.states) if each.nbytes)
            spans += [(*arrays.memory_span(each, memory), label) for each in kept]
        self.written = sorted(spans)

    def __call__(self, index: int, gradient: object) -> None:
        """Check one gradient.

        Raises
        ------
        TypeError, ValueError
            It is no array of its parameter's dtype and shape, or shares memory with what a step writes.
        """
        label = self.labels[index]
        checked = arrays.check_like(label, gradient, self.params[index], writable=self.zeroed, memory=self.memory)
        begin, end = arrays.memory_span(checked, self.memory)
        if begin == end:
            return
        position = bisect.bisect_right(self.written, (end, 0, "")) - 1
        if position >= 0 and self.written[position][1] > begin:
            raise ValueError(
                f"{label} shares memory with {self.written[position][2]} or its state, which the step writes; "
                "a gradient needs memory of its own"
            )

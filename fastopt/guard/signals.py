"""Running statistics of losses, gradient norms and directions, which tell divergence from noise.

They work on plain numbers and know no optimizer. The docstring of `DivergenceGuard` has the formulas.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

MEMORY = 10
"""The largest excess seen so far decays by half over this many windows."""

BLOCKS_AT_LEAST = 4
"""Stagnation is reported after at least this many windows of losses."""

REVERSAL = -0.98
"""Gradients oscillate if the mean cosine between consecutive ones is below this. Sound full-batch training at a rate
near the largest stable one reaches -0.96. With k alternating batches near their common minimum the cosine is
-1 / (k - 1), so two batches look like an oscillation."""

SHRINKING = 0.9
"""An oscillation dies out if its amplitude falls below this fraction from one half of the window to the next."""

CONVERGED = 1e-3
"""A fraction of the initial gradient norm; oscillations below it count as convergence."""


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])


def standard_deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


class Signal:
    """A sequence of numbers: its last `window` values, its start, and its largest upward deviation.

    Attributes
    ----------
    recent: deque of float
        The last `window` values.
    early: float
        The median of the first `window` values; NaN until then.
    early_excess: float
        The distance from the median of the first `window` values up to the largest of them.
    excess: float
        The largest excess above the running median, halved every 10 windows.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.recent: deque[float] = deque(maxlen=window)
        self.first = math.nan
        self.last = math.nan
        self.early = math.nan
        self.early_excess = 0.0
        self.excess = 0.0
        self.median = math.nan
        self.leaps = 0
        self._decay = 0.5 ** (1 / (MEMORY * window))

    @property
    def is_full(self) -> bool:
        return len(self.recent) == self.window

    def add(self, value: float) -> None:
        """Record a value that is not an outlier."""
        if self.is_full:
            self.excess = max(value - self.median, self.excess * self._decay)
        if math.isnan(self.first):
            self.first = value
        self.recent.append(value)
        if self.is_full or math.isnan(self.early):
            self.median = median(self.recent)
        if self.is_full and math.isnan(self.early):
            self.early = self.median
            self.excess = self.early_excess = max(self.recent) - self.median

    def forget_recent(self) -> None:
        """Forget the recent values, after the optimizer was restored, but not the first ones."""
        self.recent.clear()
        self.last, self.leaps = math.nan, 0

    def is_outlier(self, value: float, factor: float, least: float) -> str | None:
        """Why the next value is out of proportion to the recent ones, in words; None if it is in proportion.

        Parameters
        ----------
        value: float
            Not yet recorded.
        factor: float
            An outlier exceeds the median by more than `factor` times the median and `factor` times the largest excess.
        least: float
            An outlier exceeds the median by more than `least` times the early median.
        """
        rise = value - self.median
        if not self.is_full or not rise > max(factor * abs(self.median), factor * self.excess, least * abs(self.early)):
            return None
        return f"its median over {self.window} steps is {self.median:.4g}"

    def outgrows_start(self, value: float, factor: float) -> str | None:
        """Why the next value is too far above the first ones, in words; None if it is not."""
        is_far = value - self.first > factor**2 * abs(self.first) > 0
        self.leaps = self.leaps + 1 if is_far or value > self.last else 0
        self.last = value
        if is_far and self.leaps >= 2:
            return f"it began at {self.first:.4g}, and rose to more than {factor**2:.4g} times that"
        if value - self.early > factor * max(abs(self.early), self.early_excess):  # not while early is NaN
            return f"its median over the first {self.window} steps was {self.early:.4g}"
        return None

    def state_dict(self) -> dict[str, Any]:
        values = {name: value for name, value in vars(self).items() if name not in ("window", "_decay")}
        return {**values, "recent": list(self.recent)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        vars(self).update(saved)
        self.recent = deque(saved["recent"], maxlen=self.window)


class Progress:
    """Whether the loss has fallen from its start by more than its noise.

    Losses are grouped in blocks of `window`, and only the median of each block is kept.
    """

    def __init__(self, window: int, patience: int, min_improvement: float) -> None:
        self.window = window
        self.blocks_needed = max(-(-patience // window), BLOCKS_AT_LEAST)
        self.min_improvement = min_improvement
        self.block: list[float] = []
        self.medians: list[float] = []
        self.start = math.nan
        self.noise = 0.0
        self.has_improved = False

    def add(self, loss: float) -> None:
        if self.has_improved:
            return
        self.block.append(loss)
        if len(self.block) < self.window:
            return
        if not self.medians:
            self.start = min(self.block[0], median(self.block[:3]))
        self.medians = [*self.medians, median(self.block)][: self.blocks_needed + 1]
        if len(self.medians) > self.blocks_needed:  # keep the first and the latest
            del self.medians[1]
        self.noise = standard_deviation(self.block)
        self.block = []
        self.has_improved = len(self.medians) >= self.blocks_needed and self._improves()

    @property
    def stagnates(self) -> bool:
        return not self.has_improved and not self.block and len(self.medians) >= self.blocks_needed

    @property
    def level(self) -> float:
        """The mean of the later half of the blocks' medians."""
        later = self.medians[len(self.medians) // 2 :]
        return sum(later) / len(later)

    def _improves(self) -> bool:
        least = self.min_improvement * abs(self.start)
        noise_of_median = 1.25 * self.noise / math.sqrt(self.window)
        fast = self.start - self.level  # counts progress within the first block
        steady = self.medians[0] - self.level
        return fast > max(least, 2 * self.noise) or steady > max(least, 3 * noise_of_median)

    def state_dict(self) -> dict[str, Any]:
        names = ("block", "medians", "start", "noise", "has_improved")
        return {name: value if not isinstance(value := getattr(self, name), list) else list(value) for name in names}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        vars(self).update({name: list(value) if isinstance(value, list) else value for name, value in saved.items()})


class Oscillation:
    """Whether gradients point back and forth for two windows, while neither their norm nor the loss falls."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.cosines, self.losses, self.norms = (deque[float](maxlen=2 * window) for _ in range(3))

    @property
    def mean_cosine(self) -> float:
        return sum(self.cosines) / len(self.cosines)

    def add(self, cosine: float, loss: float) -> None:
        self.cosines.append(cosine)
        self.losses.append(loss)

    def goes_on(self, early_norm: float) -> bool:
        """Whether there is an oscillation; `early_norm` is the gradients' norm at the start of training."""
        if not len(self.cosines) == len(self.norms) == 2 * self.window or not self.mean_cosine < REVERSAL:
            return False
        norm_before, norm_after = self._medians(self.norms)
        loss_before, loss_after = self._medians(self.losses)
        return (
            norm_after > SHRINKING * norm_before
            and norm_after > CONVERGED * early_norm
            and loss_before - loss_after < (1 - SHRINKING) * abs(loss_before)
        )

    def _medians(self, values: deque[float]) -> tuple[float, float]:
        listed = list(values)
        return median(listed[: self.window]), median(listed[self.window :])

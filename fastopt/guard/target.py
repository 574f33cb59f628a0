"""What a guard sees of an optimizer: names, gradients, norms, rates; and how it goes back to a state of before."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

Leaves = Sequence[Any]
"""The gradient of each parameter, or None."""

PROBED_ELEMENTS = 4096
PROBED_ARRAYS = 16


class Target(ABC):
    """An optimizer, as a guard needs it. Gradients are what `leaves` gave."""

    @property
    @abstractmethod
    def names(self) -> list[Any]:
        """What its owner calls each parameter."""

    @property
    @abstractmethod
    def dimensions(self) -> list[int]:
        """How many dimensions each parameter has."""

    @property
    @abstractmethod
    def rates(self) -> list[float]:
        """The rate of each group that the next step uses."""

    @property
    @abstractmethod
    def clips(self) -> bool:
        """Whether gradients are clipped by the optimizer."""

    @property
    @abstractmethod
    def skips(self) -> bool:
        """Whether the optimizer skips gradients that are not finite."""

    @property
    def takes_norm(self) -> bool:
        """Whether the optimizer measures and limits the norm itself and refuses what is not finite: then a guard needs
        no pass of its own, and `norm_of_last_step` says what it was."""
        return False

    @abstractmethod
    def leaves(self, grads: Any) -> Leaves:
        """The gradients that a step would read, checked.

        Raises
        ------
        TypeError, ValueError
            They are not usable.
        """

    @abstractmethod
    def norm(self, leaves: Leaves) -> float:
        """The norm of all together, as the optimizer would see it."""

    @abstractmethod
    def nonfinite(self, leaves: Leaves) -> list[tuple[int, float]]:
        """Positions of the gradients that are not finite, and which part of their elements is not."""

    @abstractmethod
    def nonfinite_values(self) -> int | None:
        """The position of the first parameter that is not finite itself, or whose state is not."""

    @abstractmethod
    def probe(self, leaves: Leaves) -> np.ndarray | None:
        """Some thousand elements of the gradients, always the same ones; None where gradients are missing."""

    @abstractmethod
    def step(self, grads: Any) -> bool:
        """Let the optimizer step; whether it did, and did not skip it."""

    @abstractmethod
    def discard(self, leaves: Leaves) -> None:
        """What the optimizer does to the gradients of a step that it does not do."""

    def norms(self, leaves: Leaves) -> list[float]:
        """The norm of each gradient; NaN where there is none."""
        return [math.nan if leaf is None else self.norm([leaf]) for leaf in leaves]

    def norm_of_last_step(self) -> float:
        """The norm of the gradients of the last step; NaN when it was skipped."""
        raise NotImplementedError

    def first_nonfinite_of_last_step(self) -> Any:
        """The name of the first parameter whose gradient made the optimizer skip."""
        raise NotImplementedError


def choose_probes(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Which of the arrays to read, and every how many elements: the largest, in order, some thousand elements."""
    largest = sorted(range(len(sizes)), key=lambda index: -sizes[index])[:PROBED_ARRAYS]
    stride = max(1, -(-sum(sizes[index] for index in largest) // PROBED_ELEMENTS))
    return [(index, stride) for index in sorted(largest) if sizes[index]]


def origin(parts: Sequence[tuple[int, float]], names: Sequence[Any]) -> Any:
    """Where the elements that are not finite began: from layer to layer they become more, backwards.

    So it is where the smallest part of the elements is not finite; among equals the last, which backpropagation came to
    first.
    """
    if not parts:
        return None
    index, _ = min(reversed(parts), key=lambda each: each[1])
    return names[index]

"""The interface between a guard and an optimizer: names, gradients, norms, learning rates, and the step itself."""

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
    """An optimizer, as a guard sees it. The methods take gradients as `leaves` returns them."""

    @property
    @abstractmethod
    def names(self) -> list[Any]:
        """The user's name of each parameter."""

    @property
    @abstractmethod
    def dimensions(self) -> list[int]:
        """The number of dimensions of each parameter."""

    @property
    @abstractmethod
    def rates(self) -> list[float]:
        """The learning rate that the next step uses, for each group."""

    @property
    @abstractmethod
    def clips(self) -> bool:
        """Whether the optimizer clips gradients."""

    @property
    @abstractmethod
    def skips(self) -> bool:
        """Whether the optimizer skips gradients that are not finite."""

    @property
    def takes_norm(self) -> bool:
        """Whether the optimizer limits the global norm and skips gradients that are not finite.

        The guard then needs no pass of its own over the gradients and reads `norm_of_last_step` after the step.
        """
        return False

    @abstractmethod
    def leaves(self, grads: Any) -> Leaves:
        """The gradients that a step would read, after checks.

        Raises
        ------
        TypeError, ValueError
            A gradient is not usable.
        """

    @abstractmethod
    def norm(self, leaves: Leaves) -> float:
        """The L2 norm of all gradients together, divided by `grad_scale`."""

    @abstractmethod
    def nonfinite(self, leaves: Leaves) -> list[tuple[int, float]]:
        """For each gradient with NaN or infinity, its position and the fraction of its elements that are not finite."""

    @abstractmethod
    def nonfinite_values(self) -> int | None:
        """The position of the first parameter with NaN or infinity in itself or in its state."""

    @abstractmethod
    def probe(self, leaves: Leaves) -> np.ndarray | None:
        """About 4,000 elements of the gradients, the same ones at each call; None if a gradient is missing."""

    @abstractmethod
    def step(self, grads: Any) -> bool:
        """Let the optimizer step. Return False if it skipped the step."""

    @abstractmethod
    def discard(self, leaves: Leaves) -> None:
        """Treat the gradients of a step that is not done as the optimizer would: zero them with `zero_grads`."""

    def norms(self, leaves: Leaves) -> list[float]:
        """The norm of each gradient; NaN for a missing one."""
        return [math.nan if leaf is None else self.norm([leaf]) for leaf in leaves]

    def norm_of_last_step(self) -> float:
        """The global norm of the gradients in the last step; NaN if that step was skipped."""
        raise NotImplementedError

    def first_nonfinite_of_last_step(self) -> Any:
        """The name of the parameter whose gradient most likely caused the skip; see `origin`."""
        raise NotImplementedError


def choose_probes(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Choose which arrays to probe, and the stride: about 4,000 elements in all, from the largest arrays."""
    largest = sorted(range(len(sizes)), key=lambda index: -sizes[index])[:PROBED_ARRAYS]
    stride = max(1, -(-sum(sizes[index] for index in largest) // PROBED_ELEMENTS))
    return [(index, stride) for index in sorted(largest) if sizes[index]]


def origin(parts: Sequence[tuple[int, float]], names: Sequence[Any]) -> Any:
    """The name of the gradient in which the first NaN or infinity most likely appeared.

    Backpropagation spreads them from layer to layer, so the origin is the gradient with the smallest fraction of
    elements that are not finite; among equals the last, which backpropagation reaches first.
    """
    if not parts:
        return None
    index, _ = min(reversed(parts), key=lambda each: each[1])
    return names[index]

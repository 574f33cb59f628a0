"""What a guard sees of an optimizer: names, gradients, norms, rates; and how it goes back to a state of before."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..norms import norm_of
from ..optimizers.base import Optimizer, check_in_main_memory
from ..state import arrays

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


class ArrayTarget(Target):
    """One of fastopt's optimizers over NumPy arrays."""

    def __init__(self, optimizer: Optimizer) -> None:
        check_in_main_memory("DivergenceGuard", optimizer)
        self.optimizer = optimizer
        self._chosen: list[tuple[int, int]] = []
        self._size = -1
        self._skipped = optimizer.skipped_steps

    @property
    def names(self) -> list[Any]:
        return [name for name, _ in self.optimizer._names()]

    @property
    def dimensions(self) -> list[int]:
        return [param.ndim for param in self.optimizer._params]

    @property
    def rates(self) -> list[float]:
        return list(self.optimizer.current_lr)

    @property
    def clips(self) -> bool:
        limits = [self.optimizer.max_grad_norm]
        limits += [group[name] for group in self.optimizer.param_groups for name in ("clip_norm", "clip_value")]
        return any(limit is not None and limit < math.inf for limit in limits)

    @property
    def skips(self) -> bool:
        return bool(self.optimizer._options["nonfinite"] == "skip")

    @property
    def takes_norm(self) -> bool:
        limit = self.optimizer.max_grad_norm
        return (
            limit is not None and limit < math.inf and self.skips and self.optimizer._options["accumulate_steps"] == 1
        )

    def leaves(self, grads: Any) -> Leaves:
        optimizer = self.optimizer
        if optimizer._gradients is not None:
            if grads is not None:
                raise TypeError("gradients are bound to this optimizer; call the guard without any")
            given = optimizer._gradients
        elif grads is None:
            raise TypeError("the guard needs gradients: pass them, or bind them with grads= to the optimizer")
        else:
            given = optimizer._layout.flatten(grads)
            labels: list[str] | None = None
            for index, (gradient, param) in enumerate(zip(given, optimizer._params, strict=True)):
                fits = gradient is None or (
                    type(gradient) is np.ndarray
                    and gradient.dtype is param.dtype
                    and gradient.shape == param.shape
                    and gradient.flags.c_contiguous
                )
                if not fits:
                    labels = labels or optimizer._layout.labels("grads")
                    arrays.check_like(labels[index], gradient, param, writable=False)
        if optimizer._settings.frozen.any():
            return [None if frozen else leaf for frozen, leaf in zip(optimizer._settings.frozen, given, strict=True)]
        return given

    def norm(self, leaves: Leaves) -> float:
        return norm_of([leaf for leaf in leaves if leaf is not None]) / self.optimizer.grad_scale

    def nonfinite(self, leaves: Leaves) -> list[tuple[int, float]]:
        counts = [(i, 0 if leaf is None else int((~np.isfinite(leaf)).sum())) for i, leaf in enumerate(leaves)]
        return [(index, count / leaves[index].size) for index, count in counts if count]

    def nonfinite_values(self) -> int | None:
        for index, param in enumerate(self.optimizer._params):
            states = self.optimizer._states[index].values()
            if not all(np.isfinite(array).all() for array in (param, *states)):
                return index
        return None

    def probe(self, leaves: Leaves) -> np.ndarray | None:
        if len(leaves) != self._size:
            self._chosen, self._size = choose_probes([param.size for param in self.optimizer._params]), len(leaves)
        found = [leaves[index] for index, _ in self._chosen]
        if any(leaf is None for leaf in found):
            return None
        parts = [leaf.reshape(-1)[::stride] for leaf, (_, stride) in zip(found, self._chosen, strict=True)]
        return np.concatenate(parts, dtype=np.float64) if parts else None

    def step(self, grads: Any) -> bool:
        self._skipped = self.optimizer.skipped_steps
        self.optimizer.step(grads)
        return self.optimizer.skipped_steps == self._skipped

    def discard(self, leaves: Leaves) -> None:
        if self.optimizer._options["zero_grads"]:
            for leaf in leaves:
                if leaf is not None:
                    leaf.fill(0)

    def norm_of_last_step(self) -> float:
        return math.nan if self.optimizer.skipped_steps > self._skipped else self.optimizer.grad_norm

    def first_nonfinite_of_last_step(self) -> Any:
        counts = self.optimizer.nonfinite_counts
        names = zip(self.optimizer._layout.labels("grads"), self.names, self.optimizer._params, strict=True)
        parts = [
            (index, counts[label] / param.size, name)
            for index, (label, name, param) in enumerate(names)
            if label in counts
        ]
        return origin([(index, part) for index, part, _ in parts], self.names)


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


def make_target(optimizer: Any) -> Target:
    """What a guard needs of this optimizer.

    Raises
    ------
    TypeError
        It is neither fastopt's nor torch's.
    """
    if isinstance(optimizer, Optimizer):
        return ArrayTarget(optimizer)
    if "torch" in sys.modules:
        from .torch_target import TorchTarget, is_torch_optimizer

        if is_torch_optimizer(optimizer):
            return TorchTarget(optimizer)
    raise TypeError(f"optimizer must be one of fastopt's or a torch.optim.Optimizer, got {type(optimizer).__name__}")

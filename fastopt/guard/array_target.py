"""A guard's target: one of fastopt's optimizers over NumPy arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..norms import norm_of
from ..optimizers.base import Optimizer
from ..optimizers.view import OptimizerView
from .target import Leaves, Target, choose_probes, origin


class ArrayTarget(Target):
    """One of fastopt's optimizers over NumPy arrays."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.view = OptimizerView(optimizer, "DivergenceGuard")
        self.optimizer = optimizer
        self._chosen: list[tuple[int, int]] = []
        self._size = -1
        self._skipped = optimizer.skipped_steps

    @property
    def names(self) -> list[Any]:
        return self.view.names

    @property
    def dimensions(self) -> list[int]:
        return [param.ndim for param in self.view.params]

    @property
    def rates(self) -> list[float]:
        return list(self.optimizer.current_lr)

    @property
    def clips(self) -> bool:
        return self.view.clips

    @property
    def skips(self) -> bool:
        return self.view.skips_nonfinite

    @property
    def takes_norm(self) -> bool:
        return self.view.clips_global_norm and self.view.skips_nonfinite and not self.view.accumulates

    def leaves(self, grads: Any) -> Leaves:
        given = self.view.bound_gradients
        if given is None:
            if grads is None:
                raise TypeError("the guard needs gradients: pass them, or bind them with grads= to the optimizer")
            given = self.view.check_gradients(grads)
        elif grads is not None:
            raise TypeError("gradients are bound to this optimizer; call the guard without any")
        frozen = self.view.frozen
        if frozen.any():
            return [None if is_frozen else leaf for is_frozen, leaf in zip(frozen, given, strict=True)]
        return given

    def norm(self, leaves: Leaves) -> float:
        return norm_of([leaf for leaf in leaves if leaf is not None]) / self.optimizer.grad_scale

    def nonfinite(self, leaves: Leaves) -> list[tuple[int, float]]:
        counts = [(i, 0 if leaf is None else int((~np.isfinite(leaf)).sum())) for i, leaf in enumerate(leaves)]
        return [(index, count / leaves[index].size) for index, count in counts if count]

    def nonfinite_values(self) -> int | None:
        for index, param in enumerate(self.view.params):
            states = self.view.decoded_states(index)
            if not all(np.isfinite(array).all() for array in (param, *states.values())):
                return index
        return None

    def probe(self, leaves: Leaves) -> np.ndarray | None:
        if len(leaves) != self._size:
            self._chosen, self._size = choose_probes([param.size for param in self.view.params]), len(leaves)
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
        if self.view.zeroes_gradients:
            for leaf in leaves:
                if leaf is not None:
                    leaf.fill(0)

    def norm_of_last_step(self) -> float:
        return math.nan if self.optimizer.skipped_steps > self._skipped else self.optimizer.grad_norm

    def first_nonfinite_of_last_step(self) -> Any:
        counts = self.optimizer.nonfinite_counts
        sizes = zip(self.view.labels, self.view.params, strict=True)
        parts = [(index, counts[label] / param.size) for index, (label, param) in enumerate(sizes) if label in counts]
        return origin(parts, self.names)

"""Detection of what goes wrong, in one step or over many: `signals` has the statistics, `guard` acts on findings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .findings import Kind
from .signals import Oscillation, Progress, Signal
from .target import Leaves, Target, origin

LOOKS_TO_VANISH = 5
"""Vanishing is reported after this many consecutive looks at single gradients in which it holds."""


@dataclass(frozen=True)
class Diagnosis:
    """A finding before the guard has decided on an action; see `Finding`."""

    kind: Kind
    message: str
    parameter: Any = None
    zero_gradient: bool = False


@dataclass(frozen=True)
class Thresholds:
    """The arguments of `DivergenceGuard` with these names."""

    window: int
    explosion_factor: float
    patience: int | None
    min_improvement: float
    vanishing_ratio: float


class Detector:
    """Keeps the statistics of losses, gradient norms and directions, and compares each step with them."""

    def __init__(self, target: Target, thresholds: Thresholds) -> None:
        self.target = target
        self.thresholds = thresholds
        window = thresholds.window
        self.steps = 0
        self.losses, self.norms = Signal(window), Signal(window)
        self.progress = Progress(window, thresholds.patience or 1, thresholds.min_improvement)
        self.forget_gradients()

    @property
    def number_of_gradients(self) -> int:
        return len(self.zero_looks)

    def forget_gradients(self) -> None:
        """Reset the statistics of gradient directions and of single gradients."""
        size = len(self.target.names)
        self.oscillation = Oscillation(self.thresholds.window)
        self.probe: np.ndarray | None = None
        self.last_look: list[float] = []
        self.zero_looks, self.small_looks = [0] * size, [0] * size

    def forget_recent(self) -> None:
        """Reset what was recorded since the snapshot, after the optimizer was restored."""
        self.losses.forget_recent()
        self.norms.forget_recent()
        self.forget_gradients()

    def state_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("losses", "norms", "progress")}
        return {"steps": self.steps, **parts}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.steps = saved["steps"]
        for name in ("losses", "norms", "progress"):
            getattr(self, name).load_state_dict(saved[name])

    # --- in one step ------------------------------------------------------------------------------------------------

    def harm(self, loss: float, leaves: Leaves, norm: float | None) -> Diagnosis | None:
        """Why this update would do harm; None if it would not. `norm` is None if it is not known yet."""
        self.steps += 1
        if not math.isfinite(loss) or (norm is not None and not math.isfinite(norm)):
            return self._nonfinite(loss, leaves)
        factor = self.thresholds.explosion_factor
        reason = self.losses.outgrows_start(loss, factor) or self.losses.is_outlier(loss, factor, 1 / factor)
        if reason is not None:
            return Diagnosis("explosion", f"the loss is {loss:.4g}; {reason}", self._grew_most(leaves))
        if norm is not None and not self.target.clips:
            reason = self.norms.is_outlier(norm, factor, factor)
            if reason is not None:
                message = f"the norm of the gradients is {norm:.4g}; {reason}; the loss is {loss:.4g}"
                return Diagnosis("explosion", message, self._grew_most(leaves))
        return None

    def _nonfinite(self, loss: float, leaves: Leaves) -> Diagnosis:
        names, parts = self.target.names, self.target.nonfinite(leaves)
        if math.isfinite(loss) and not parts:
            message = f"the norm of the gradients overflows, though each element is finite; the loss is {loss:.4g}"
            return Diagnosis("explosion", message, self._grew_most(leaves))
        message = f"the loss is {loss:.4g}; "
        if parts:
            shown = [f"{names[index]!r} ({part:.3g} of it)" for index, part in parts[:5]]
            more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
            message += f"gradients that are not finite: {', '.join(shown)}{more}"
        else:
            message += "all gradients that are known are finite"
        index = self.target.nonfinite_values()
        if index is None:
            return Diagnosis("nonfinite", message, origin(parts, names))
        return Diagnosis("nonfinite", f"{message}; {names[index]!r} or its state is not finite already", names[index])

    def _grew_most(self, leaves: Leaves) -> Any:
        """The name of the parameter whose gradient grew most since the last look, or else of the largest gradient."""
        norms = self.target.norms(leaves)
        growth = [now / before if before > 0 else 0.0 for now, before in zip(norms, self.last_look, strict=False)]
        return _name_of_largest(growth or norms, self.target.names)

    # --- over many steps --------------------------------------------------------------------------------------------

    def record(self, loss: float, leaves: Leaves) -> None:
        """Record a sound step."""
        self.losses.add(loss)
        if self.thresholds.patience is not None:
            self.progress.add(loss)
        before, self.probe = self.probe, self.target.probe(leaves)
        if before is None or self.probe is None:
            self.oscillation = Oscillation(self.thresholds.window)
            return
        size = math.sqrt(float(before @ before) * float(self.probe @ self.probe))
        self.oscillation.add(float(before @ self.probe) / size if 0 < size < math.inf else 0.0, loss)

    def record_norm(self, norm: float) -> None:
        """Record a sound norm: before `record`, or after the step in which the optimizer measured it."""
        self.norms.add(norm)
        self.oscillation.norms.append(norm)

    def disorders(self, loss: float, leaves: Leaves) -> Iterator[Diagnosis]:
        """Findings over many steps, the last one recorded. Single gradients are examined once every window."""
        window = self.thresholds.window
        if self.oscillation.goes_on(self.norms.early):
            message = (
                f"for {2 * window} steps each gradient pointed against the one before (mean cosine "
                f"{self.oscillation.mean_cosine:.3f}), and neither their norm, {self.norms.recent[-1]:.4g}, "
                f"nor the loss, {loss:.4g}, shrinks"
            )
            yield Diagnosis("oscillation", message, _name_of_largest(self.target.norms(leaves), self.target.names))
        if self.steps % window == 0:
            norms = self.last_look = self.target.norms(leaves)
            yield from self._vanishing(norms)
            yield from self._stagnation(loss, norms)

    def _vanishing(self, norms: list[float]) -> Iterator[Diagnosis]:
        weights = {index for index, dimensions in enumerate(self.target.dimensions) if dimensions >= 2}
        known = {index: norm for index, norm in enumerate(norms) if not math.isnan(norm)}
        largest = max((norm for index, norm in known.items() if index in weights), default=0.0)
        for index, norm in enumerate(norms):
            is_small = index in weights and 0 < norm < self.thresholds.vanishing_ratio * largest
            is_zero = index in weights and norm == 0 < max(known.values())
            self.small_looks[index] = self.small_looks[index] + 1 if is_small else 0
            self.zero_looks[index] = self.zero_looks[index] + 1 if is_zero else 0
        small = [index for index, looks in enumerate(self.small_looks) if looks >= LOOKS_TO_VANISH]
        if small:
            least = min(small, key=lambda index: norms[index])
            message = (
                f"the norm of its gradient is {norms[least]:.4g}, that of the largest {largest:.4g}; "
                f"in the last {LOOKS_TO_VANISH} looks it was so for {len(small)} of {len(weights)} weights"
            )
            yield Diagnosis("vanishing", message, self.target.names[least])

    def _stagnation(self, loss: float, norms: list[float]) -> Iterator[Diagnosis]:
        patience, names = self.thresholds.patience, self.target.names
        if patience is None:
            return
        silent = [name for name, norm in zip(names, norms, strict=True) if norm == 0]
        dead = [index for index, looks in enumerate(self.zero_looks) if looks * self.thresholds.window >= patience]
        if self.progress.stagnates and (loss != 0 or len(silent) < len(norms)):
            message = f"the loss is {loss:.4g}, and was {self.progress.start:.4g} in the first steps"
            if silent:
                message += f"; the gradient is exactly 0 in {', '.join(map(repr, silent[:5]))}"
            yield Diagnosis("stagnation", message, silent[0] if silent else None, bool(silent))
        elif dead:
            message = f"its gradient was exactly 0 in each of the last {self.zero_looks[dead[0]]} looks"
            yield Diagnosis("stagnation", message, names[dead[0]], True)


def _name_of_largest(values: list[float], names: list[Any]) -> Any:
    """The name of the largest value; NaN, for missing gradients, is ignored."""
    return names[max(range(len(values)), key=lambda index: -1.0 if math.isnan(values[index]) else values[index])]

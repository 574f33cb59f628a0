"""The guard: it examines each step before the update and reacts to what it finds."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..checks import Fixed, whole_number
from .arguments import between, check_like, choice, read_loss
from .array_target import ArrayTarget
from .detector import Detector, Diagnosis, Thresholds
from .findings import DIVERGENCES, Circumstances, DivergenceError, DivergenceWarning, Finding, advice
from .make_target import make_target
from .snapshots import Snapshots
from .target import Leaves

OnDivergence = Literal["raise", "stop", "skip", "restore", "warn"]
OnStall = Literal["warn", "raise", "stop"]

KEPT_FINDINGS = 100

QUIET_WINDOWS = 10
"""The same kind of finding is warned about again after this many windows."""

DONE = {"raise": "raised", "stop": "stopped", "skip": "skipped", "restore": "restored", "warn": "warned"}
"""A finding's `action` for each policy."""


class DivergenceGuard:
    """Watches training, detects when and where it goes wrong, suggests remedies, and acts before the harmful update.

    Call `step(loss, grads)` in place of `optimizer.step(grads)`, or call `check(loss)` before each update.

    Parameters
    ----------
    optimizer: fastopt.Optimizer or torch.optim.Optimizer
        The optimizer to watch. With torch's optimizers, fastopt.torch's included, gradients are read from the
        parameters' `.grad`.
    on_divergence: "raise", "stop", "skip", "restore" or "warn", default "raise"
        The reaction to a loss or gradient that is not finite, to an explosion and to an oscillation:

        - "raise": raise a DivergenceError. The update is not done; parameters and states stay unchanged.
        - "stop": set `should_stop`, and update nothing any more.
        - "skip": leave out this update; the next one is done if it is sound. Skipping one step does not end an
          oscillation, so it only causes a warning.
        - "restore": restore the last good state, in place, and multiply the rate of each group by `lr_factor`.
        - "warn": issue a DivergenceWarning and do the update.
    on_stall: "warn", "raise" or "stop", default "warn"
        The reaction to stagnation and vanishing gradients, which call for another model or rate, not another step.
    window: int, default 20
        The number of steps over which medians and directions are taken, and between looks at single gradients. At
        least 4.
    explosion_factor: float, default 10
        See Notes. `math.inf` for losses that may grow. More than 1.
    patience: int or None, default 500
        Training stagnates after this many steps without improvement. None turns this off.
    min_improvement: float, default 1e-3
        The least improvement that counts, as a fraction of the first loss.
    vanishing_ratio: float, default 1e-5
        A weight's gradient vanishes if its norm is less than this fraction of the largest norm of a weight's gradient.
    lr_factor: float, default 0.5
        The factor for learning rates at each restoration. Between 0 and 1.
    max_restores: int, default 3
        The number of restorations over the guard's life; after that a DivergenceError is raised.
    max_consecutive_skips: int, default 10
        The number of steps that may be skipped in a row; after that a DivergenceError is raised.
    snapshot_every: int, default 100
        The number of good steps between two copies of the state; only used with "restore".

    Attributes
    ----------
    finding: Finding or None
        The latest finding.
    findings: list of Finding
        The last 100 findings.
    should_stop: bool
        Whether to end training.
    restores: int
        The number of restorations.

    Raises
    ------
    TypeError, ValueError
        An argument is not usable. "restore" is not usable with torch's optimizers.

    Notes
    -----
    l is the loss and n = |g|_2 the norm of all gradients (divided by `grad_scale`), w = `window`, f =
    `explosion_factor`. For x = l and x = n, statistics are kept over the steps that were in proportion: x_0 is the
    first value, m(x) the median of the last w, early(x) the first of these medians, and excess(x) the largest x - m(x),
    which decays by half over 10 w steps.

    - *nonfinite*: l, or an element of a gradient, is NaN or infinite.
    - *explosion*, if any of these holds (losses may be negative, and batches noisy):
      x - m(x) > f max(|m(x)|, excess(x)) and x - m(x) > c |early(x)|, with c = 1 / f for l, and f for n (n is not
      checked if the optimizer clips);
      l - early(l) > f max(|early(l)|, the largest excess of the first w);
      l - l_0 > f^2 |l_0|, in the second such step in a row, or the second in a row in which l rose;
      n overflows float64.
    - *oscillation*: the mean of cos(g_t, g_{t-1}) over 2 w steps is below -0.98, from the first w to the second w of
      these steps the medians of n and of l fall by less than a tenth, and n is above a thousandth of early(n). The loss
      alone would not show it: just under the largest stable rate, 2 / L, the loss of a quadratic hardly changes. The
      cosine is computed over about 4,000 elements of the gradients, always the same ones.
    - *stagnation*: after `patience` steps (at least 4 w) the loss has not improved. Its level is the mean of medians of
      w steps over the later half of `patience`. It has improved if it is below the start by more than `min_improvement`
      of the start and by more than noise: two standard deviations of l below the first three steps, or three of the
      median below the first w. A weight also stagnates if its gradient was exactly 0 in all looks for `patience` steps
      while others' were not. A plateau after progress is not reported, since it may be convergence.
    - *vanishing*: in 5 looks in a row, one every w steps, the gradient of a parameter with two or more dimensions has a
      norm above 0 and below `vanishing_ratio` times the largest such norm.

    `finding.parameter` is, for *nonfinite*, a parameter with NaN or infinity in itself or in its state. If all are
    finite, it is the one whose gradient has the smallest fraction of elements that are not finite, because
    backpropagation spreads them; among equals it is the last, because parameters usually come in the order of layers.
    For *explosion* it is the parameter whose gradient grew most since the last look, for *oscillation* the one with the
    largest gradient, for *stagnation* and *vanishing* the one with the smallest.

    Cost: each step reads the gradients once more (4 bytes per float32 parameter; a step of Adam moves 28), and once
    every `window` steps again. With `max_grad_norm=` and `nonfinite="skip"` in the optimizer, `step` reads nothing:
    it takes the optimizer's `grad_norm`, and a step that the optimizer skipped counts as a finding (`check` always
    reads). A call takes some tens of microseconds in Python. "restore" keeps two copies of parameters and states (24
    bytes per parameter for float32 Adam) and makes one every `snapshot_every` steps, in one pass.

    "restore" restores the newest copy that is at least `window` steps old, or else the oldest. Parameters, in their own
    memory, and states get the same bits as then. Step counts and schedules continue from that point; your batches do
    not. Each rate is its value at the time of the finding times `lr_factor`; a schedule given as `lr=` is scaled as a
    whole, and a rate that you assign later replaces it. All checks come before the first write. A KeyboardInterrupt
    during restoration is raised after everything is written; if a second one prevents that, the next call completes it
    first.

    See Also
    --------
    fastopt.Optimizer : `nonfinite="skip"` and `max_grad_norm=` are cheaper, if they are enough.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([1.0])
    >>> guard = fastopt.DivergenceGuard(fastopt.SGD({"w": w}, lr=2.5), on_divergence="stop")
    >>> while not guard.should_stop:
    ...     _ = guard.step(float(w[0] ** 2), {"w": 2 * w})  # the rate is too high: w is multiplied by -4
    >>> print(guard.finding)
    explosion at step 2, in parameter 'w' (stopped): the loss is 256; it began at 1, and rose to more ...
      try: lower the rate from 2.5 to 0.25, or warm it up from 0
      try: clip with max_grad_norm=1.0
      try: scale the inputs (and targets) to mean 0 and variance 1

    References
    ----------
    .. [1] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
    .. [2] A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, section 5.1: restart from
       before a spike of the loss, and skip its batches.
    .. [3] J. Cohen et al., "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability", ICLR 2021.
    """

    def __init__(
        self,
        optimizer: Any,
        on_divergence: OnDivergence = "raise",
        *,
        on_stall: OnStall = "warn",
        window: int = 20,
        explosion_factor: float = 10.0,
        patience: int | None = 500,
        min_improvement: float = 1e-3,
        vanishing_ratio: float = 1e-5,
        lr_factor: float = 0.5,
        max_restores: int = 3,
        max_consecutive_skips: int = 10,
        snapshot_every: int = 100,
    ) -> None:
        self._target = make_target(optimizer)
        self._on_divergence: str = choice("on_divergence", on_divergence, get_args(OnDivergence))
        self._on_stall: str = choice("on_stall", on_stall, get_args(OnStall))
        self._thresholds = Thresholds(
            whole_number("window", window, least=4),
            between("explosion_factor", explosion_factor, 1, math.inf),
            None if patience is None else whole_number("patience", patience),
            between("min_improvement", min_improvement, 0, 1),
            between("vanishing_ratio", vanishing_ratio, 0, 1),
        )
        self._lr_factor = between("lr_factor", lr_factor, 0, 1)
        self._max_restores = whole_number("max_restores", max_restores)
        self._max_consecutive_skips = whole_number("max_consecutive_skips", max_consecutive_skips)
        self._snapshot_every = whole_number("snapshot_every", snapshot_every)
        self._detector = Detector(self._target, self._thresholds)
        self._restores = self._consecutive_skips = 0
        self._should_stop = False
        self._findings: list[Finding] = []
        self._quiet_until: dict[str, int] = {}
        self._snapshots: Snapshots | None = None
        if self._on_divergence == "restore":
            if not isinstance(self._target, ArrayTarget):
                raise ValueError(
                    'on_divergence="restore" is for optimizers over NumPy arrays: torch\'s schedulers would undo the '
                    f'lower rate of {type(optimizer).__name__}; use "stop" and load a checkpoint, or "skip"'
                )
            self._snapshots = Snapshots(self._target.view)
            self._snapshots.take(0)

    optimizer = Fixed(lambda guard: guard._target.optimizer)
    on_divergence = Fixed(lambda guard: guard._on_divergence)
    on_stall = Fixed(lambda guard: guard._on_stall)
    window = Fixed(lambda guard: guard._thresholds.window)
    explosion_factor = Fixed(lambda guard: guard._thresholds.explosion_factor)
    patience = Fixed(lambda guard: guard._thresholds.patience)
    min_improvement = Fixed(lambda guard: guard._thresholds.min_improvement)
    vanishing_ratio = Fixed(lambda guard: guard._thresholds.vanishing_ratio)
    lr_factor = Fixed(lambda guard: guard._lr_factor)
    max_restores = Fixed(lambda guard: guard._max_restores)
    max_consecutive_skips = Fixed(lambda guard: guard._max_consecutive_skips)
    snapshot_every = Fixed(lambda guard: guard._snapshot_every)

    # --- what users call --------------------------------------------------------------------------------------------

    @property
    def finding(self) -> Finding | None:
        """The latest finding; None if there is none."""
        return self._findings[-1] if self._findings else None

    @property
    def findings(self) -> list[Finding]:
        """The last 100 findings."""
        return list(self._findings)

    @property
    def should_stop(self) -> bool:
        """Whether a finding has set the guard to stop."""
        return self._should_stop

    @property
    def restores(self) -> int:
        """The number of restorations."""
        return self._restores

    def step(self, loss: Any, grads: Any = None) -> bool:
        """Examine the loss and the gradients, and let the optimizer step unless the update would do harm.

        Parameters
        ----------
        loss: number or array or tensor without dimensions
            The loss that the gradients belong to, at the current parameters.
        grads: as `optimizer.step` takes them
            Omitted if gradients are bound, and with torch.

        Returns
        -------
        updated: bool
            Whether the optimizer stepped. If not, `finding` has the reason.

        Raises
        ------
        DivergenceError
            The guard found a problem and is set to raise.
        TypeError, ValueError
            The loss or a gradient is not usable. Nothing has been changed.
        """
        value, leaves = read_loss(loss), self._target.leaves(grads)
        if not self._target.takes_norm:
            return self._look(value, leaves, self._target.norm(leaves)) and self._target.step(grads)
        if not self._look(value, leaves, None):
            return False
        self._target.step(grads)
        return self._judge_last_step(leaves)

    def check(self, loss: Any, grads: Any = None) -> bool:
        """Examine a step as `step` does, but leave the update to you: do it if this returns True.

        Returns
        -------
        sound: bool
            Whether the update should be done.

        Examples
        --------
        >>> import torch, fastopt
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> guard = fastopt.DivergenceGuard(optimizer, on_divergence="skip")
        >>> loss = model(torch.ones(1, 3)).square().mean()
        >>> loss.backward()
        >>> if guard.check(loss):
        ...     optimizer.step()
        """
        value, leaves = read_loss(loss), self._target.leaves(grads)
        return self._look(value, leaves, self._target.norm(leaves))

    def state_dict(self) -> dict[str, Any]:
        """Counters and statistics as numbers, lists and dicts. Findings and snapshots are not included."""
        return {
            "restores": self._restores,
            "consecutive_skips": self._consecutive_skips,
            "should_stop": self._should_stop,
            "quiet_until": dict(self._quiet_until),
            "window": self._thresholds.window,
            "detector": self._detector.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`. Load the optimizer's first: with "restore", this takes a snapshot of it.

        Raises
        ------
        TypeError, ValueError
            It is not a guard's state dict, or its window differs. Nothing has been changed.
        """
        expected = self.state_dict()
        check_like("state_dict", state_dict, expected)
        if state_dict["window"] != self._thresholds.window:
            raise ValueError(
                f"state_dict is of a guard with window={state_dict['window']!r}, this one has "
                f"window={self._thresholds.window}"
            )
        restores = whole_number("state_dict['restores']", state_dict["restores"], least=0)
        skips = whole_number("state_dict['consecutive_skips']", state_dict["consecutive_skips"], least=0)
        detector = Detector(self._target, self._thresholds)
        detector.load_state_dict(state_dict["detector"])
        if self._snapshots is not None:
            snapshots = Snapshots(self._snapshots.view)
            snapshots.take(detector.steps)
            self._snapshots = snapshots
        self._detector, self._restores, self._consecutive_skips = detector, restores, skips
        self._should_stop, self._quiet_until = bool(state_dict["should_stop"]), dict(state_dict["quiet_until"])

    # --- looking ----------------------------------------------------------------------------------------------------

    def _look(self, loss: float, leaves: Leaves, norm: float | None) -> bool:
        """Whether the update should be done. `norm` is None if the optimizer measures it in the step."""
        if self._snapshots is not None:
            self._snapshots.finish()
        if self._should_stop:
            return False
        detector = self._detector
        if len(leaves) != detector.number_of_gradients:  # groups were added
            detector.forget_gradients()
            if self._snapshots is not None:
                self._snapshots.take(detector.steps)
        harm = detector.harm(loss, leaves, norm)
        if harm is not None:
            return self._act(harm, leaves)
        if norm is not None:
            self._record_norm(norm)
        detector.record(loss, leaves)
        if not all(self._act(disorder, leaves) for disorder in detector.disorders(loss, leaves)):
            return False
        if self._snapshots is not None and detector.steps - 1 - self._snapshots.last_step >= self._snapshot_every:
            self._snapshots.take(detector.steps - 1)
        return True

    def _record_norm(self, norm: float) -> None:
        self._detector.record_norm(norm)
        self._consecutive_skips = 0

    def _judge_last_step(self, leaves: Leaves) -> bool:
        """Whether the optimizer, which measures the norm itself, has done the step."""
        norm = self._target.norm_of_last_step()
        if math.isfinite(norm):
            self._record_norm(norm)
            return True
        where = self._target.first_nonfinite_of_last_step()
        self._act(Diagnosis("nonfinite", "the gradients are not finite; the optimizer skipped them", where), leaves)
        return False

    # --- acting -----------------------------------------------------------------------------------------------------

    def _act(self, diagnosis: Diagnosis, leaves: Leaves) -> bool:
        """React to a finding; whether the update should still be done."""
        kind, message, step = diagnosis.kind, diagnosis.message, self._detector.steps - 1
        action = self._on_divergence if kind in DIVERGENCES else self._on_stall
        if action == "skip" and kind == "oscillation":
            action = "warn"
        if action == "warn":
            if step < self._quiet_until.get(kind, 0):
                return True
            self._quiet_until[kind] = step + QUIET_WINDOWS * self._thresholds.window
        if action == "restore" and self._restores >= self._max_restores:
            action, message = "raise", f"{message}; max_restores={self._max_restores} restorations did not help"
        if action == "skip" and self._consecutive_skips >= self._max_consecutive_skips:
            action, message = "raise", f"{message}; {self._consecutive_skips} steps in a row were skipped before"
        rates = self._target.rates
        now = Circumstances(rates, self._target.clips, self._target.skips, diagnosis.zero_gradient)
        finding = Finding(kind, step, message, diagnosis.parameter, advice(kind, now), DONE[action])
        self._findings = [*self._findings, finding][-KEPT_FINDINGS:]
        if action == "raise":
            raise DivergenceError(finding)
        if action == "warn":
            warnings.warn(str(finding), DivergenceWarning, stacklevel=_level_outside())
            return True
        if action == "skip":
            self._consecutive_skips += 1
        elif action == "stop":
            self._should_stop = True
        elif self._snapshots is not None:
            self._restores += 1
            self._detector.forget_recent()
            self._snapshots.restore(step - self._thresholds.window, self._lr_factor, step + 1)
        self._target.discard(leaves)
        return False


def _level_outside() -> int:
    """The `stacklevel` with which a warning points to the caller of the guard."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame, level = frame.f_back, level + 1
    return level

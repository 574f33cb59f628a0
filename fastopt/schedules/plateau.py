"""Reduction of learning rates when a metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..checks import Fixed, at_least_zero, one_of, real_number, whole_number
from . import Scaled, Schedule
from .factors import as_schedule, factor_of, with_factor
from .plateau_conventions import CONVENTIONS, Change, Convention, Counters, Settings


class ReduceOnPlateau:
    """Multiplies an optimizer's learning rates by `factor` when a metric has stopped improving.

    If a group's lr is a number, it becomes max(lr * factor, min_lr). If it is a schedule, it becomes schedule * factor,
    with a factor that is limited so that the rate of the next step is at least `min_lr`.

    Parameters
    ----------
    optimizer: an optimizer of fastopt, fastopt.torch or torch.optim
    mode: "min" or "max", default "min"
        Whether lower or higher metrics are better.
    factor: float, default 0.1
        At least 0 and less than 1.
    patience: int, default 10
        The number of steps (calls of `step`, usually once an epoch) without improvement that are tolerated. Keras'
        convention reduces in the last of them, torch's in the step after.
    convention: "torch" or "keras", default "torch"
        The framework whose rules and defaults apply; the notes list the differences.
    threshold: float, default 1e-4 (torch's convention only)
        An improvement is a metric below best * (1 - threshold), or below best - threshold with `threshold_mode="abs"`.
        With mode "max" it is above best * (1 + threshold) or best + threshold. At least 0.
    threshold_mode: "rel" or "abs", default "rel" (torch's convention only)
    eps: float, default 1e-8 (torch's convention only)
        A rate that would change by at most this much is not changed. At least 0.
    min_delta: float, default 1e-4 (Keras' convention only)
        An improvement is metric + min_delta < best, or with mode "max" metric - min_delta > best. At least 0.
    cooldown: int, default 0
        The number of steps after a reduction that do not count as bad.
    min_lr: float or one for each group, default 0
        The lower bound of rates.
    raise_factor: float, optional
        Above 1. If `raise_patience` consecutive reductions have brought no improvement, the next plateau multiplies the
        rates by this factor instead, and the count of reductions restarts. Useful if the loss is stuck in a narrow
        minimum or in a flat region, where smaller rates do not help. Requires `raise_patience` and `max_lr`.
    raise_patience: int, optional
        At least 1. Reductions that change nothing because of `min_lr` count too.
    max_lr: float or one for each group, optional
        The upper bound for raised rates.

    Attributes
    ----------
    best: float or None
        The best metric; None before the first one.
    num_bad_epochs: int
        The number of steps without improvement; Keras' `wait`.
    cooldown_counter: int
        The number of remaining steps of the cooldown.
    num_reductions: int
        The number of reductions since the last improvement or raise.
    last_change: "reduced", "raised" or None
        What the last step did.

    Notes
    -----
    Keras' convention reduces when the wait reaches `patience`, torch's when it exceeds it. Improvements are absolute in
    Keras' convention and relative in torch's. Keras counts the step in which the cooldown ends, torch does not. At
    `min_lr`, Keras keeps waiting, and torch starts another cooldown.

    A NaN counts as a step without improvement, as in torch. If the first metric is NaN, Keras keeps it as the best, and
    nothing improves on it any more; here the first metric that is not NaN becomes the best.

    Keras compares metrics and keeps rates in float32, fastopt in float64.

    Raises
    ------
    TypeError, ValueError
        An argument is not usable, or belongs to the other convention.

    References
    ----------
    torch.optim.lr_scheduler.ReduceLROnPlateau; keras.callbacks.ReduceLROnPlateau.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.zeros(3), lr=0.5)
    >>> plateau = fastopt.ReduceOnPlateau(opt, factor=0.5, patience=1)
    >>> [plateau.step(loss) for loss in (3.0, 2.0, 2.0, 2.0, 1.0)]
    [False, False, False, True, False]
    >>> opt.param_groups[0]["lr"]
    0.25
    """

    def __init__(
        self,
        optimizer: Any,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        *,
        convention: Literal["torch", "keras"] = "torch",
        threshold: float | None = None,
        threshold_mode: Literal["rel", "abs"] | None = None,
        eps: float | None = None,
        min_delta: float | None = None,
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        raise_factor: float | None = None,
        raise_patience: int | None = None,
        max_lr: float | Sequence[float] | None = None,
    ) -> None:
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"optimizer must have param_groups, got {optimizer!r} of type {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.factor = real_number("factor", factor)
        if not 0 <= self.factor < 1:
            raise ValueError(f"factor must be at least 0 and less than 1, got {factor!r}")
        self.cooldown = whole_number("cooldown", cooldown, least=0)
        self._convention = one_of(*CONVENTIONS)("convention", convention)
        own = {"threshold": threshold, "threshold_mode": threshold_mode, "eps": eps, "min_delta": min_delta}
        for name, value in own.items():  # refuse arguments of the other convention
            if value is not None and name not in self._rules.defaults:
                raise ValueError(f"{name} is not an argument of convention={convention!r}, got {value!r}")
        own = {name: default if own[name] is None else own[name] for name, default in self._rules.defaults.items()}
        name = "threshold" if "threshold" in own else "min_delta"
        self._settings = Settings(
            mode=one_of("min", "max")("mode", mode),
            patience=whole_number("patience", patience, least=0),
            threshold=at_least_zero(name, own[name]),
            threshold_mode=one_of("rel", "abs")("threshold_mode", own.get("threshold_mode", "abs")),
            eps=at_least_zero("eps", own.get("eps", 0.0)),
        )
        self.min_lr = _limits("min_lr", min_lr, len(optimizer.param_groups))
        together = {"raise_factor": raise_factor, "raise_patience": raise_patience, "max_lr": max_lr}
        missing = [name for name, value in together.items() if value is None]
        if 0 < len(missing) < len(together):
            raise ValueError(f"raise_factor, raise_patience and max_lr go together, got no {' and no '.join(missing)}")
        self.raise_factor: float | None = None
        self.raise_patience: int | None = None
        self.max_lr: float | tuple[float, ...] = math.inf
        if not missing:
            self.raise_factor = real_number("raise_factor", raise_factor)
            if not 1 < self.raise_factor < math.inf:
                raise ValueError(f"raise_factor must be finite and more than 1, got {raise_factor!r}")
            self.raise_patience = whole_number("raise_patience", raise_patience)
            self.max_lr = _limits("max_lr", max_lr, len(optimizer.param_groups))
        self._counters = Counters()

    convention = Fixed(lambda plateau: plateau._convention)
    mode = Fixed(lambda plateau: plateau._settings.mode)
    patience = Fixed(lambda plateau: plateau._settings.patience)
    threshold = Fixed(lambda plateau: plateau._settings.threshold)
    threshold_mode = Fixed(lambda plateau: plateau._settings.threshold_mode)
    eps = Fixed(lambda plateau: plateau._settings.eps)
    min_delta = Fixed(lambda plateau: plateau._settings.threshold)

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def _rules(self) -> Convention:
        return CONVENTIONS[self.convention]  # not kept: functions of this table cannot be pickled

    @property
    def best(self) -> float | None:
        return self._counters.best

    @property
    def num_bad_epochs(self) -> int:
        return self._counters.num_bad_epochs

    @property
    def cooldown_counter(self) -> int:
        return self._counters.cooldown_counter

    @property
    def num_reductions(self) -> int:
        return self._counters.num_reductions

    @property
    def last_change(self) -> Change | None:
        return self._counters.last_change

    # --- steps ------------------------------------------------------------------------------------------------------

    def step(self, metric: Any) -> bool:
        """Record a metric, and reduce the rates if it has stopped improving.

        Parameters
        ----------
        metric: float
            Or an array or tensor without dimensions.

        Returns
        -------
        bool
            Whether any rate was reduced.

        Raises
        ------
        TypeError, ValueError
            The metric is not a number, or the number of groups differs from that of `min_lr` or `max_lr`. Nothing has
            been changed.
        """
        value = real_number("metric", metric)
        better = not math.isnan(value) and self._rules.is_better(self._settings, value, self.best)
        counters = self._counters._replace(last_change=None)
        if better:
            counters = counters._replace(best=value, num_reductions=0)
        counters, plateau = self._rules.counted(self._settings, counters, better)
        if not plateau:
            self._counters = counters
            return False
        raising = self.raise_patience is not None and counters.num_reductions >= self.raise_patience
        changes = self._raised() if raising else self._reduced()
        if changes or self._rules.acts_at_the_limit or self.raise_patience is not None:
            counters = counters._replace(
                num_bad_epochs=0,
                cooldown_counter=self.cooldown,
                num_reductions=0 if raising else counters.num_reductions + 1,
            )
        change: Change | None = ("raised" if raising else "reduced") if changes else None
        for group, lr in changes:
            _assign(group, lr)
        self._counters = counters._replace(last_change=change)
        return change == "reduced"

    def _reduced(self) -> list[tuple[Any, Any]]:
        """The groups whose rate falls, with their new lr."""
        changes = []
        for group, lr, rate, least in self._rates("min_lr", self.min_lr):
            new = max(rate * self.factor, least)
            if self._rules.lowers(self._settings, rate, new):
                changes.append((group, _scaled(lr, self._iteration, rate, new, self.factor)))
        return changes

    def _raised(self) -> list[tuple[Any, Any]]:
        assert self.raise_factor is not None
        changes = []
        for group, lr, rate, most in self._rates("max_lr", self.max_lr):
            new = min(rate * self.raise_factor, most)
            if new > rate:
                changes.append((group, _scaled(lr, self._iteration, rate, new, self.raise_factor)))
        return changes

    @property
    def _iteration(self) -> int:
        return int(getattr(self.optimizer, "iterations", 0))

    def _rates(self, name: str, limits: float | tuple[float, ...]) -> list[tuple[Any, Any, float, float]]:
        """For each group: the group, its lr (a number or a Schedule), its current rate, and its limit."""
        groups = self.optimizer.param_groups
        each_limit = limits if isinstance(limits, tuple) else (limits,) * len(groups)
        if len(each_limit) != len(groups):
            raise ValueError(f"{name} must be a number or one for each group, got {len(each_limit)} for {len(groups)}")
        rows = []
        for group, limit in zip(groups, each_limit, strict=True):
            lr = group["lr"]
            if callable(lr):
                lr = as_schedule(lr)
                rows.append((group, lr, lr(self._iteration), limit))
            else:
                rows.append((group, lr, float(lr), limit))
        return rows

    # --- saving -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The counters and, for each group, the current factor of its schedule (None if its lr is a number).

        The optimizer's state dict has rates that are numbers. Constructor arguments are not saved.
        """
        factors = [factor_of(group["lr"]) for group in self.optimizer.param_groups]
        return {**self._counters._asdict(), "factors": factors}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a `state_dict`, and scale the optimizer's schedules as they were scaled then.

        The optimizer must have the schedules that it was constructed with. Their current factor is replaced, so loading
        twice has the same effect as loading once.

        Raises
        ------
        TypeError, ValueError
            It is not a plateau's state dict, or the optimizer had other groups. Nothing has been changed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict, got {state_dict!r}")
        expected = {*Counters._fields, "factors"}
        if set(state_dict) != expected:
            raise ValueError(
                f"state_dict must have the keys {', '.join(sorted(expected))}, got {', '.join(map(repr, state_dict))}"
            )
        counters, factors = _checked_counters(state_dict), state_dict["factors"]
        groups = self.optimizer.param_groups
        if not isinstance(factors, (list, tuple)) or len(factors) != len(groups):
            raise ValueError(f"state_dict['factors'] must be one for each of {len(groups)} groups, got {factors!r}")
        changes = []
        for index, (group, factor) in enumerate(zip(groups, factors, strict=True)):
            lr = group["lr"]
            if (factor is None) == callable(lr):
                saved, present = ("a number", "a schedule") if factor is None else ("a schedule", "a number")
                raise ValueError(
                    f"the lr of group {index} was {saved} when the state was saved and is {present} now; load the "
                    "optimizer's state first"
                )
            if factor is not None and factor != factor_of(lr):
                changes.append((group, with_factor(lr, at_least_zero(f"state_dict['factors'][{index}]", factor))))
        for group, lr in changes:
            _assign(group, lr)
        self._counters = counters

    def __repr__(self) -> str:
        return (
            f"ReduceOnPlateau(mode={self._settings.mode!r}, factor={self.factor!r}, "
            f"patience={self._settings.patience!r}, convention={self.convention!r}, cooldown={self.cooldown!r}, "
            f"best={self.best!r}, num_bad_epochs={self.num_bad_epochs!r})"
        )


# --- rates ----------------------------------------------------------------------------------------------------------


def _scaled(lr: Any, step: int, rate: float, new: float, factor: float) -> Any:
    """The new lr: a number, or the schedule times the factor, or times the factor that meets the limit."""
    if not isinstance(lr, Schedule):
        return new
    if new == rate * factor:
        return lr * factor
    scaled = Scaled(lr, new / rate)
    inwards = math.inf if new < rate else 0.0
    for _ in range(8):  # rounding may have pushed the product beyond the limit
        reached = scaled(step)
        if reached >= new if new < rate else reached <= new:
            break
        scaled = with_factor(scaled, math.nextafter(scaled.factor, inwards))
    return scaled


def _assign(group: Any, lr: Any) -> None:
    """Set a group's lr; a tensor is filled, as torch's schedulers do."""
    if hasattr(group["lr"], "fill_"):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


# --- checks ---------------------------------------------------------------------------------------------------------


def _limits(name: str, value: Any, groups: int) -> float | tuple[float, ...]:
    if not isinstance(value, (list, tuple)):
        return at_least_zero(name, value)
    if len(value) != groups:
        raise ValueError(f"{name} must be a number or one for each group, got {len(value)} for {groups} groups")
    return tuple(at_least_zero(f"{name}[{index}]", each) for index, each in enumerate(value))


def _checked_counters(state: Mapping[str, Any]) -> Counters:
    best, change = state["best"], state["last_change"]
    if change not in (None, "reduced", "raised"):
        raise ValueError(f"state_dict['last_change'] must be 'reduced', 'raised' or None, got {change!r}")
    counts = {
        name: whole_number(f"state_dict[{name!r}]", state[name], least=0)
        for name in ("num_bad_epochs", "cooldown_counter", "num_reductions")
    }
    return Counters(
        best=None if best is None else real_number("state_dict['best']", best), last_change=change, **counts
    )

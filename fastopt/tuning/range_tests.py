"""The range test: one short run in which the rate grows at each step, to find where the loss falls fastest."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..checks import real_number, whole_number
from ..optimizers.base import Optimizer
from ..optimizers.view import OptimizerView
from .choices import choose_optimizer, logarithmic_grid
from .histories import read_number
from .sources import Problem, ProblemSource, load_source, loss_and_gradients
from .suggestions import SUGGESTIONS, most_counted, smooth, suggest

if TYPE_CHECKING:
    from rich.table import Table

Closure = Callable[[int], Any]
"""Takes the step, from 0; returns the loss, or the loss and the gradients."""

StepDone = Callable[[int, float, float], None]
"""Called after each step with the number of steps so far, the rate and the loss."""

AVERAGING = 0.8
"""The decay per step of the running average that detects divergence."""


@dataclass(frozen=True)
class RangeTest:
    """The result of `range_test`.

    Attributes
    ----------
    name, optimizer: str
        What was trained, and the optimizer.
    rates, losses, smoothed: tuple of floats
        For each step until the loss diverged: the rate, the loss before the step with this rate, and the smoothed loss.
    suggestions: dict
        The suggested rate of each method (see `SUGGESTIONS`); empty if the loss did not fall.
    method: str
        The method of `suggestion`.
    diverged_at: float or None
        The rate at which the loss became NaN, infinite or too large; None if the test reached the last rate.
    """

    name: str
    optimizer: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestions: Mapping[str, float]
    method: str
    diverged_at: float | None

    @property
    def suggestion(self) -> float | None:
        """The rate that `method` suggests; None if the loss did not fall at any rate."""
        return self.suggestions.get(self.method)

    @property
    def reason(self) -> str:
        """The reason for the suggestion, or for its absence, in one sentence."""
        if self.suggestion is None:
            why = "it diverged at once" if self.diverged_at is not None and len(self.rates) < 10 else "it did not fall"
            hint = "lower" if self.diverged_at is not None else "higher"
            return f"no suggestion: {why}; try {hint} rates, or more points"
        return f"{self.suggestion:.3g} is {SUGGESTIONS[self.method]}"

    def to_json(self) -> str:
        """Everything as a JSON object."""
        return json.dumps(
            {**asdict(self), "suggestion": self.suggestion, "reason": self.reason}, indent=2, allow_nan=False
        )

    def table(self) -> Table:
        """Some of the rates with their losses, for a terminal; needs rich."""
        from .tables import range_test_table

        title = f"{self.name}, {self.optimizer}"
        return range_test_table(title, self.rates, self.losses, self.smoothed, self.suggestions)

    def plot(self, path: str | Path) -> Path:
        """Draw loss over rate, with the suggestions marked, to a PNG, SVG or PDF file; needs matplotlib."""
        from .plots import plot_range_test, save

        curves = self.rates, self.losses, self.smoothed
        title = f"Range test: {self.name}, {self.optimizer}"
        return save(plot_range_test(title, *curves, self.suggestions, self.method, self.diverged_at), path)

    def __repr__(self) -> str:
        rate = "none" if self.suggestion is None else f"{self.suggestion:.3g}"
        return f"RangeTest({self.name}, {self.optimizer}, suggestion={rate}, {len(self.rates)} rates)"


def range_test(
    target: Any,
    closure: Closure | None = None,
    *,
    optimizer: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    points: int = 100,
    method: str = "steepest",
    smoothing: float = 0.04,
    divergence: float = 4.0,
    seed: int = 0,
    progress: StepDone | None = None,
) -> RangeTest:
    """Train for `points` steps at a growing rate, suggest a rate, and restore everything.

    In step i of n, the rate is min_lr * (max_lr / min_lr) ** (i / (n - 1)). The losses are smoothed over log(lr) by a
    Gaussian window, which has no lag; a loss counts for at most `divergence` times the first. Two rates are suggested:

    - "steepest": the rate at which the smoothed loss falls fastest over log(lr), as in fastai's `lr_find`;
    - "minimum": a tenth of the rate at which the smoothed loss is lowest, the rule of Smith and Gugger.

    The test ends early if the loss is NaN or infinite, or if its running average exceeds `divergence` times its lowest
    value so far.

    Parameters
    ----------
    target: optimizer, problem, function or str
        Your optimizer (fastopt's, fastopt.torch's or torch.optim's), with `closure`; or a problem, a function that
        makes one, or its name (see `load_source`).
    closure: callable, with an optimizer
        `closure(step)` computes the loss of a batch and its gradients. It returns (loss, gradients), or only the loss
        if gradients are bound to the optimizer, or are in the `.grad` of torch's parameters: a closure for torch calls
        `optimizer.zero_grad()` and `loss.backward()`. It must not call `step()`.
    optimizer: str or callable, default "Adam"
        For problems: see `choose_optimizer`.
    hyperparameters: dict, optional
        Further arguments of the optimizer.
    min_lr, max_lr: float, per step
        The first and the last rate of the first group. Other groups keep the ratio of their rate to it.
    points: int
        The number of steps, at least 10.
    method: "steepest" or "minimum"
        Selects `suggestion`.
    smoothing: float
        The standard deviation of the window as a fraction of the points; 0 for no smoothing.
    divergence: float
        More than 1. fastai and Lightning use 4, too.
    seed: int
        The seed for a problem that this function makes.
    progress: callable, optional
        Called after each step with the number of steps so far, the rate and the loss.

    Returns
    -------
    RangeTest

    Raises
    ------
    TypeError, ValueError
        An argument is not usable, or the optimizer's steps do not use the rate (Rprop). Nothing has been changed.

    Notes
    -----
    Parameters, states, step counts, averages, bound gradients (torch's `.grad`) and rates are restored in the same
    memory and to the last bit, even if `closure` raises. Other things that `closure` changes are not restored, such as
    random number generators, the position of a data loader, and buffers of a torch module. `points` counts calls of
    `step`; with `accumulate_steps=k` every k-th call makes an update.

    Examples
    --------
    >>> import numpy as np, fastopt, fastopt.tuning
    >>> w, target = np.zeros(50), np.linspace(-1, 1, 50)
    >>> opt = fastopt.SGD(w, lr=0.1)
    >>> found = fastopt.tuning.range_test(
    ...     opt, lambda step: (np.square(w - target).mean(), 2 / 50 * (w - target)), min_lr=1e-3, max_lr=1e3
    ... )
    >>> 1 < found.suggestion < 50, found.diverged_at is not None
    (True, True)
    >>> w.any(), opt.param_groups[0]["lr"]
    (np.False_, 0.1)

    References
    ----------
    Smith, Cyclical learning rates for training neural networks, 2017, arXiv:1506.01186; Gugger, How do you find a good
    learning rate, 2018; fastai's `Learner.lr_find`; Lightning's `Tuner.lr_find`.
    """
    rates = logarithmic_grid(min_lr, max_lr, whole_number("points", points, 10))
    if method not in SUGGESTIONS:
        raise ValueError(f"method must be one of {', '.join(map(repr, SUGGESTIONS))}, got {method!r}")
    width = real_number("smoothing", smoothing)
    if not 0 <= width <= 0.5:
        raise ValueError(f"smoothing must be at least 0 and at most 0.5, got {smoothing!r}")
    limit = real_number("divergence", divergence)
    if not limit > 1:
        raise ValueError(f"divergence must be > 1, got {divergence!r}")
    if isinstance(target, Optimizer) or _is_torch_optimizer(target):
        if closure is None or optimizer is not None or hyperparameters is not None:
            raise TypeError("an optimizer of your own needs closure, and neither optimizer nor hyperparameters")
        if not callable(closure):
            raise TypeError(f"closure must be a function of the step, got {closure!r}")
        view, name, used = _view(target), getattr(closure, "__qualname__", "closure"), type(target).__name__
    else:
        if closure is not None:
            raise TypeError(f"closure goes with an optimizer of your own, got {target!r}")
        choice = choose_optimizer("Adam" if optimizer is None else optimizer, hyperparameters)
        _view(choice.create(np.zeros(1), 1e-3))
        source = load_source(target)
        if not isinstance(source, ProblemSource):
            raise TypeError(
                f"{source.name} trains by itself, and its rate cannot be set from step to step: a range test needs a "
                "problem (see fastopt.tuning.Problem), or your optimizer and a closure"
            )
        problem = source.make(whole_number("seed", seed, 0))
        view, name, used = _view(choice.create(problem.params, rates[0])), source.name, choice.describe()
        closure = _closure(problem)
    restore = view.save()
    try:
        losses, diverged_at = _grow(view, closure, rates, limit, progress)
    finally:
        restore()
    kept = rates[: len(losses)]
    smoothed = smooth(np.minimum(losses, most_counted(losses, limit)), width * len(rates))
    found = suggest(np.array(kept), smoothed)
    return RangeTest(name, used, kept, tuple(losses), tuple(smoothed.tolist()), found, method, diverged_at)


class View(Protocol):
    """An optimizer, as the range test sees it."""

    optimizer: Any

    @property
    def rates(self) -> list[float]: ...

    def set_rates(self, rates: list[float], /) -> None: ...

    def save(self) -> Callable[[], None]:
        """Copy everything that steps change; what is returned puts it back."""


class ArrayView:
    """One of fastopt's optimizers over NumPy arrays."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def rates(self) -> list[float]:
        return list(self.optimizer.current_lr)

    def set_rates(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def save(self) -> Callable[[], None]:
        view = OptimizerView(self.optimizer, "fastopt.tuning")
        saved = view.save()
        return lambda: view.restore(saved)


def _is_torch_optimizer(value: Any) -> bool:
    if "torch" not in sys.modules:
        return False
    from .torch_view import is_torch_optimizer

    return is_torch_optimizer(value)


def _view(optimizer: Any) -> View:
    """The view of an optimizer whose steps use the rate.

    Raises
    ------
    ValueError
        They do not.
    """
    if isinstance(optimizer, Optimizer):
        view: View = ArrayView(optimizer)
        uses_lr = optimizer.spec.uses_lr
    else:
        from . import torch_view

        view, uses_lr = torch_view.TorchView(optimizer), torch_view.uses_lr(optimizer)
    if not uses_lr:
        raise ValueError(f"lr is not used in the steps of {type(optimizer).__name__}: sweep it instead")
    return view


def _closure(problem: Problem) -> Closure:
    batches = (batch for epoch in itertools.count() for batch in _some(problem, epoch))

    def closure(step: int) -> tuple[float, Any]:
        metrics, gradients = loss_and_gradients(problem, next(batches))
        return metrics["loss"], gradients

    return closure


def _some(problem: Problem, epoch: int) -> Iterator[Any]:
    count = 0
    for batch in problem.batches(epoch):
        count += 1
        yield batch
    if not count:
        raise ValueError(f"batches({epoch}) has no batches")


def _grow(
    view: View, closure: Closure, rates: tuple[float, ...], limit: float, progress: StepDone | None
) -> tuple[list[float], float | None]:
    """The losses at growing rates, and the rate at which the loss diverged, or None."""
    optimizer, ratios = view.optimizer, _ratios(view.rates)
    losses: list[float] = []
    average, lowest = 0.0, math.inf
    for step, rate in enumerate(rates):
        view.set_rates([rate * ratio for ratio in ratios])
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # divergence is a valid result
            try:
                loss, *gradients = _read(closure(step), optimizer)
                if not math.isfinite(loss):
                    return losses, rate
                optimizer.step(*gradients)
            except (FloatingPointError, OverflowError):
                return losses, rate
        losses.append(loss)
        average = AVERAGING * average + (1 - AVERAGING) * loss
        now = average / (1 - AVERAGING ** (step + 1))
        lowest = min(lowest, now)
        if progress is not None:
            progress(step + 1, rate, loss)
        if now > lowest + (limit - 1) * abs(lowest):
            return losses, rate
    return losses, None


def _ratios(rates: list[float]) -> list[float]:
    """Each group's rate as a multiple of the first group's; all 1 if that is zero."""
    return [rate / rates[0] for rate in rates] if rates[0] > 0 else [1.0] * len(rates)


def _read(returned: Any, optimizer: Any) -> tuple[Any, ...]:
    """The result of a closure as a tuple: the loss, and the gradients if it returned them."""
    if isinstance(returned, tuple):
        if not isinstance(optimizer, Optimizer):
            raise TypeError("closure must return the loss alone; gradients are in the .grad of torch's parameters")
        if len(returned) != 2:
            raise TypeError(f"closure must return the loss, or (loss, gradients), got a tuple of {len(returned)}")
        return read_number("what closure returned", "the loss", returned[0]), returned[1]
    return (read_number("what closure returned", "the loss", returned),)

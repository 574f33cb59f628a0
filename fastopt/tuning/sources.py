"""Sources of training runs: problems, for which fastopt runs the loop, and training functions, which run their own."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..checks import whole_number
from ..optimizers.averaging import AveragingOptimizer
from ..optimizers.base import Optimizer
from .choices import OptimizerChoice
from .histories import History, is_finite, read_epochs, read_metrics, read_number

BUNDLED = {
    "digits": "handwritten digits (scikit-learn), softmax regression: 650 parameters",
    "digits-mlp": "handwritten digits (scikit-learn), one hidden layer of 32: 2,410 parameters",
    "diabetes": "progression of diabetes in 442 patients (scikit-learn), linear regression: 11 parameters",
    "char-rnn": "a small recurrent network on the beginning of Python's documentation",
}
"""The bundled problems, functions in `problems`, by name with hyphens."""

PASSED = ("lr", "seed", "epochs", "optimizer")
"""The arguments that a training function can take; it gets those that it names."""

EpochDone = Callable[[int, Mapping[str, float]], None]
"""Called after each epoch with its number (from 1) and metrics."""


@runtime_checkable
class Problem(Protocol):
    """A model with its data, for which fastopt runs the training loop. Any class with these members is a problem.

    An optional method `evaluate`, without arguments, returns the metrics over held-out data as a dict such as
    {"loss": 0.3, "accuracy": 0.9}. They are recorded as in Keras: "val_loss", "val_accuracy".

    Attributes
    ----------
    params: numpy.ndarray, list or dict of them, or list of groups
        The parameters, trained in place, in any form that optimizers accept.
    epochs: int
        The default number of epochs.

    Examples
    --------
    >>> import numpy as np, fastopt.tuning
    >>> class Line:
    ...     def __init__(self, seed: int) -> None:
    ...         random = np.random.default_rng(seed)
    ...         self.x = random.normal(size=(8, 4))
    ...         self.params = {"slope": np.zeros(()), "offset": np.zeros(())}
    ...         self.epochs = 30
    ...
    ...     def batches(self, epoch):
    ...         return self.x
    ...
    ...     def loss_and_gradients(self, x):
    ...         error = self.params["slope"] * x + self.params["offset"] - (3 * x + 1)
    ...         gradients = {"slope": np.array(2 * np.mean(error * x)), "offset": np.array(2 * error.mean())}
    ...         return np.mean(error**2), gradients
    >>> fastopt.tuning.diagnose(Line, optimizer="SGD", lr=0.1).reading
    'good'
    """

    params: Any
    epochs: int

    def batches(self, epoch: int) -> Iterable[Any]:
        """The batches of an epoch, counted from 0, as arguments for `loss_and_gradients`.

        Before training, fastopt also takes the batches of epoch 0 once, to measure the initial loss.
        """

    def loss_and_gradients(self, batch: Any) -> tuple[Any, Any]:
        """The loss of a batch, or a dict with "loss" and other metrics; and the gradients, in the form of `params`."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run. `lr` may be a function of the step if the optimizer is fastopt's."""

    lr: Any
    seed: int
    optimizer: OptimizerChoice = field(default_factory=OptimizerChoice)
    epochs: int | None = None


class Source:
    """Something to train, and how to train it once."""

    name: str

    def run(self, settings: Settings, on_epoch: EpochDone = lambda epoch, metrics: None) -> History:
        """Train from the start; stop if a loss is NaN or infinite."""
        history = History()
        try:
            with (
                np.errstate(over="ignore", invalid="ignore", divide="ignore"),  # divergence is a valid result
                contextlib.closing(self.epochs(settings, history)) as epochs,
            ):
                for metrics in epochs:
                    history.epochs.append(metrics)
                    on_epoch(len(history.epochs), metrics)
                    if not is_finite(metrics):
                        break
        except (FloatingPointError, OverflowError):  # from nonfinite="raise", or from Python's functions
            history.epochs.append({"loss": math.nan})
        return history

    def epochs(self, settings: Settings, history: History) -> Generator[dict[str, float], None, None]:
        raise NotImplementedError


# --- problems ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProblemSource(Source):
    """A function that makes a problem, called as `create(seed=...)`, or as `create()` if it takes no seed."""

    name: str
    create: Callable[..., Any]
    takes_seed: bool = True

    def make(self, seed: int) -> Problem:
        """Make a new problem and check it.

        Raises
        ------
        TypeError
            It lacks a member of `Problem`.
        """
        problem = self.create(seed=seed) if self.takes_seed else self.create()
        missing = [name for name in ("params", "batches", "loss_and_gradients") if not hasattr(problem, name)]
        if missing:
            raise TypeError(
                f"{self.name} must return a problem with params, batches and loss_and_gradients (see "
                f"fastopt.tuning.Problem), got {problem!r} without {', '.join(missing)}; a training function must name "
                "lr or optimizer among its arguments"
            )
        return problem  # type: ignore[no-any-return]

    def epochs(self, settings: Settings, history: History) -> Generator[dict[str, float], None, None]:
        problem = self.make(settings.seed)
        n_epochs = settings.epochs
        if n_epochs is None:
            if not hasattr(problem, "epochs"):
                raise TypeError(f"{self.name} has no epochs, and none were given")
            n_epochs = whole_number("epochs", problem.epochs)
        optimizer = settings.optimizer.create(problem.params, settings.lr)
        arrays = [param for group in optimizer.param_groups for param in group["params"]]
        start = [array.copy() for array in arrays]
        history.initial.update(train_epoch(problem, None, 0))
        try:
            for epoch in range(n_epochs):
                yield train_epoch(problem, optimizer, epoch)
        finally:
            history.parameter_change = relative_change(start, arrays)


def relative_change(before: list[np.ndarray], after: list[np.ndarray]) -> float | None:
    """norm(after - before) / norm(before) over all arrays; None if that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        size = math.sqrt(sum(float(np.square(each, dtype=np.float64).sum()) for each in before))
        way = math.sqrt(
            sum(float(np.square(b.astype(np.float64) - a).sum()) for a, b in zip(before, after, strict=True))
        )
    return way / size if size > 0 and math.isfinite(way / size) else None


def train_epoch(problem: Problem, optimizer: Optimizer | None, epoch: int) -> dict[str, float]:
    """Train one epoch: the mean metrics of batches, the rate and the held-out metrics. With None, only measure."""
    sums: dict[str, float] = {}
    count, lr = 0, math.nan
    for batch in problem.batches(epoch):
        metrics, gradients = loss_and_gradients(problem, batch)
        if not math.isfinite(metrics["loss"]):
            return {"loss": metrics["loss"], "lr": lr}
        if optimizer is not None:
            lr = optimizer.current_lr[0]
            optimizer.step(gradients)
        count += 1
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value
    if not count:
        raise ValueError(f"batches({epoch}) has no batches")
    # Schedule-Free optimizers train their average: it is what is evaluated.
    with optimizer.averaged_params() if isinstance(optimizer, AveragingOptimizer) else contextlib.nullcontext():
        held_out = evaluate(problem)
    return {**{name: value / count for name, value in sums.items()}, **held_out, "lr": lr}


def loss_and_gradients(problem: Problem, batch: Any) -> tuple[dict[str, float], Any]:
    """The metrics of a batch, with "loss", and the gradients.

    Raises
    ------
    TypeError, ValueError
        `problem.loss_and_gradients` returned something else.
    """
    owner = "what loss_and_gradients returned"
    returned = problem.loss_and_gradients(batch)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"{owner}: expected a pair (loss, gradients), got {type(returned).__name__}")
    loss, gradients = returned
    if not isinstance(loss, Mapping):
        return {"loss": read_number(owner, "the loss", loss)}, gradients
    metrics = read_metrics(owner, loss)
    if "loss" not in metrics:
        raise ValueError(f"{owner}: expected 'loss' among the metrics, got {', '.join(map(repr, metrics))}")
    return metrics, gradients


def evaluate(problem: Problem) -> dict[str, float]:
    """The held-out metrics with the prefix "val_"; empty if the problem has no `evaluate`."""
    function = getattr(problem, "evaluate", None)
    if function is None:
        return {}
    return {f"val_{name}": value for name, value in read_metrics("what evaluate returned", function()).items()}


# --- training functions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingSource(Source):
    """A function that trains by itself, called with those of `PASSED` that it takes."""

    name: str
    function: Callable[..., Any]
    takes: frozenset[str]

    def epochs(self, settings: Settings, history: History) -> Generator[dict[str, float], None, None]:
        known = {"lr": settings.lr, "seed": settings.seed}
        if settings.epochs is not None:
            known["epochs"] = settings.epochs
        known["optimizer"] = functools.partial(settings.optimizer.create, lr=settings.lr)
        arguments = {name: value for name, value in known.items() if name in self.takes}
        yield from read_epochs(self.name, self.function(**arguments))


def describe_optimizer(source: Source, choice: OptimizerChoice) -> str:
    """The description of the optimizer; "" if a training function uses its own."""
    uses_own = isinstance(source, TrainingSource) and "optimizer" not in source.takes
    return "" if uses_own else choice.describe()


def check_settings_are_used(source: Source, *, epochs: bool, optimizer: bool) -> None:
    """Raise a ValueError if `epochs` or `optimizer` were given for a training function that does not take them."""
    if isinstance(source, TrainingSource):
        for name, given in (("epochs", epochs), ("optimizer", optimizer)):
            if given and name not in source.takes:
                raise ValueError(f"{name} has no effect: {source.name} has no argument of that name")


# --- by name ----------------------------------------------------------------------------------------------------------


def load_source(target: Any) -> Source:
    """The source for a name, function or problem.

    Parameters
    ----------
    target: str, callable or problem
        The name of a bundled problem; "module:function", with a module that can be imported, also from the current
        directory; or a function. A function (or class) with an argument `lr` or `optimizer` trains by itself, and is
        called with those of `lr`, `seed`, `epochs` and `optimizer` that it takes. Any other function makes a `Problem`,
        and is called with `seed` if it takes that.

    Raises
    ------
    TypeError, ValueError
        It is none of these, or cannot be called this way.
    ImportError
        The module cannot be imported; for a bundled problem, scikit-learn.

    Examples
    --------
    >>> load_source("digits").name
    'digits'
    >>> load_source("nonsense")
    Traceback (most recent call last):
    ...
    ValueError: unknown problem: 'nonsense' (expected module:function, or one of digits, digits-mlp, diabetes, char-rnn)
    """
    if isinstance(target, Source):
        return target
    if isinstance(target, str):
        if target in BUNDLED:
            problems = importlib.import_module(".problems", __package__)
            problems.check_available(target)
            return ProblemSource(target, getattr(problems, target.replace("-", "_")))
        return _classify(target, _import(target))
    if hasattr(target, "params") and hasattr(target, "loss_and_gradients") and not inspect.isclass(target):
        return ProblemSource(type(target).__name__, lambda: target, takes_seed=False)
    if hasattr(target, "param_groups"):
        raise TypeError(
            "expected what trains from the start, a fastopt.tuning.Problem or a training function of lr, got "
            f"an optimizer of type {type(target).__name__}; only range_test(optimizer, closure) takes one"
        )
    if not callable(target):
        raise TypeError(f"expected a problem, a function or a name, got {target!r} of type {type(target).__name__}")
    return _classify(name_of(target), target)


def name_of(function: Callable[..., Any]) -> str:
    """The module and name of a function; the name of its type if it has none."""
    inner = function.func if isinstance(function, functools.partial) else function
    name = getattr(inner, "__qualname__", None)
    if name is None:
        return type(inner).__qualname__
    return f"{inner.__module__}:{name}"


def _import(target: str) -> Callable[..., Any]:
    module_name, separator, function_name = target.partition(":")
    if not (separator and module_name and function_name):
        expected = f"module:function, or one of {', '.join(BUNDLED)}"
        raise ValueError(f"unknown problem: {target!r} (expected {expected})")
    if module_name.endswith(".py") or "/" in module_name:
        raise ValueError(
            f"{target!r} names a file, expected a module: {Path(module_name).stem}:{function_name}, from the folder "
            "that the file is in"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module raises
        raise ImportError(f"cannot import {module_name}: {type(error).__name__}: {error}") from error
    found: Any = module
    for part in function_name.split("."):
        if not hasattr(found, part):
            known = [name for name, each in vars(module).items() if callable(each) and not name.startswith("_")]
            hint = f" (it has {', '.join(known[:8])})" if known else ""
            raise ValueError(f"module {module_name} has no {function_name}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{target} must be a function, got {found!r} of type {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _classify(name: str, function: Callable[..., Any]) -> Source:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise TypeError(f"{name} has no signature that Python can see; wrap it in a function") from None
    by_name = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    takes = frozenset(each.name for each in by_name if each.name in PASSED)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for each in parameters:
        if each.default is each.empty and each.kind not in variable and each.name not in takes:
            raise TypeError(
                f"{name} has an argument {each.name!r} without a default that nobody fills in (a training function "
                "takes lr or optimizer, and seed and epochs; a function that makes a problem takes seed)"
            )
    if takes & {"lr", "optimizer"}:
        return TrainingSource(name, function, takes)
    if "epochs" in takes and next(each for each in by_name if each.name == "epochs").default is inspect.Parameter.empty:
        raise TypeError(f"{name} makes a problem, and must have a default for its argument 'epochs'")
    return ProblemSource(name, function, "seed" in takes)

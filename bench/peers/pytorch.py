"""PyTorch's optimizers: one tensor after the other, foreach, fused, and compiled."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cases import Problem, Variant
from ..runner import Peer, Runner


def unavailable_in(package: str, **options: object) -> Callable[[Problem], str | None]:
    """Says why a package does not have a problem's optimizer with these options, or None when it does."""

    def unavailable(problem: Problem) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "torch is not installed"
        name = problem.variant.optimizer
        optimizer = getattr(importlib.import_module(package), name, None)
        if optimizer is None:
            return f"{package} has no {name}"
        accepted = inspect.signature(optimizer).parameters
        wanted = (*options, *problem.variant.hyperparameters)
        missing = ", ".join(option for option in wanted if option not in accepted)
        return f"{package}.{name} has no {missing}" if missing else None

    return unavailable


@dataclass
class Tensors:
    """The parameters of a problem as parameters of torch, with their own gradients."""

    problem: Problem
    params: list[Any]
    grads: list[Any]

    @classmethod
    def of(cls, problem: Problem, device: str = "cpu", dtype: str = "float32") -> Tensors:
        import torch

        torch.set_num_threads(problem.n_threads)

        def copies(arrays: list[np.ndarray]) -> list[Any]:
            return [torch.tensor(array, device=device, dtype=getattr(torch, dtype)) for array in arrays]

        params = [torch.nn.Parameter(param) for param in copies(problem.params)]
        grads = copies(problem.grads)  # foreach SGD with Nesterov momentum writes to them
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        return cls(problem, params, grads)

    def results(self) -> list[np.ndarray]:
        return [param.detach().cpu().float().numpy() for param in self.params]

    def take_gradients(self) -> None:
        import torch

        for mine, given in zip(self.grads, self.problem.grads, strict=True):
            mine.copy_(torch.from_numpy(given))

    def renew_gradients(self) -> None:
        """Give each parameter its gradient in a new tensor; the last one's memory is freed only then."""
        for param, grad in zip(self.params, self.grads, strict=True):
            param.grad = grad.clone()

    def optimizer(self, package: str, **options: object) -> Any:
        variant = self.problem.variant
        optimizer_class = getattr(importlib.import_module(package), variant.optimizer)
        made = optimizer_class(self.params, **variant.hyperparameters, **options)
        self.grads = [param.grad for param in self.params]  # some optimizers move gradients into their own memory
        return made


def torch_peer(
    name: str,
    package: str = "torch.optim",
    *,
    prepare: Callable[[Tensors], None] | None = None,
    learning_steps: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    **options: object,
) -> Peer:
    """An optimizer over torch's parameters on a device; `prepare` is called before each step, untimed."""

    def start(problem: Problem) -> Runner:
        tensors = Tensors.of(problem, device, dtype)
        step = tensors.optimizer(package, **options).step
        before = None if prepare is None else functools.partial(prepare, tensors)
        return Runner(step, tensors.results, tensors.take_gradients, learning_steps, before)

    def bytes_of(variant: Variant) -> float:
        """torch stores states in the dtype of their parameter."""
        return variant.bytes_per_parameter * (0.5 if dtype in ("bfloat16", "float16") else 1)

    return Peer(name, start, unavailable_in(package, **options), bytes_of=bytes_of)


TORCH: dict[str, dict[str, Any]] = {
    "torch default": {"foreach": False},
    "torch foreach": {"foreach": True},
    "torch fused": {"fused": True},
}
TORCH_DEFAULT, TORCH_FOREACH, TORCH_FUSED = (torch_peer(name, **options) for name, options in TORCH.items())


# --- torch.compile ----------------------------------------------------------------------------------------------------

MOST_TENSORS = 200
"""Compiling takes some 0.25 seconds for each tensor on two processors: 20 for 100, more than 200 for 500."""


def cannot_compile(problem: Problem) -> str | None:
    reason = unavailable_in("torch.optim", **TORCH["torch foreach"])(problem)
    if reason:
        return reason
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler.split()[0]) is None:
        return f"torch.compile needs a C++ compiler: there is no {compiler}"
    n_tensors = len(problem.params)
    return f"compiling a step of {n_tensors} tensors takes minutes" if n_tensors > MOST_TENSORS else None


@functools.cache
def quieten_compiler() -> None:
    """Silence warnings about torch itself: about one of its imports, and about a profiler label that it omits."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script_method", category=DeprecationWarning)
        importlib.import_module("torch.utils.mkldnn")
    importlib.import_module("torch._logging").set_logs(dynamo=logging.ERROR)


def start_compiled(problem: Problem, device: str = "cpu") -> Runner:
    """torch.compile of the step of the foreach optimizer, as torch's tutorial on compiled optimizers has it.

    It is compiled by the first step; with a momentum, whose first step is another, by the second as well. Rates are
    plain numbers: as tensors they would be for schedulers, so that a new value compiles nothing. Here none changes.
    """
    import torch

    quieten_compiler()
    torch._dynamo.reset()  # what earlier cases compiled counts against a limit
    tensors = Tensors.of(problem, device)
    step = torch.compile(tensors.optimizer("torch.optim", **TORCH["torch foreach"]).step)
    return Runner(step, tensors.results, tensors.take_gradients)


TORCH_COMPILE = Peer("torch compile", start_compiled, cannot_compile)

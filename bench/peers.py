"""Other people's optimizers: the table to which a new peer is added as a row."""

from __future__ import annotations

import importlib.util
import inspect

from .cases import Problem
from .runner import Peer, Runner


def _torch(name: str, **options: bool) -> Peer:
    def start(problem: Problem) -> Runner:
        import torch

        torch.set_num_threads(problem.n_threads)
        params = [torch.nn.Parameter(torch.tensor(param)) for param in problem.params]
        grads = [torch.tensor(grad) for grad in problem.grads]  # foreach SGD with Nesterov momentum writes to them
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad

        def take_gradients() -> None:
            for mine, given in zip(grads, problem.grads, strict=True):
                mine.copy_(torch.from_numpy(given))

        optimizer = getattr(torch.optim, problem.variant.optimizer)
        step = optimizer(params, **problem.variant.hyperparameters, **options).step
        return Runner(step, lambda: [param.detach().numpy() for param in params], take_gradients)

    def unavailable(problem: Problem) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "torch is not installed"
        import torch

        optimizer = getattr(torch.optim, problem.variant.optimizer, None)
        if optimizer is None:
            return f"torch.optim has no {problem.variant.optimizer}"
        accepted = inspect.signature(optimizer).parameters
        missing = ", ".join(option for option in options if option not in accepted)
        return f"torch.optim.{problem.variant.optimizer} has no {missing}" if missing else None

    return Peer(name, start, unavailable)


TORCH_DEFAULT = _torch("torch default", foreach=False)
TORCH_FOREACH = _torch("torch foreach", foreach=True)
TORCH_FUSED = _torch("torch fused", fused=True)


def _clip_step_zero(problem: Problem) -> Runner:
    """What a training loop calls: clip_grad_norm_, a fused step, zero_grad."""
    import torch

    torch.set_num_threads(problem.n_threads)
    params = [torch.nn.Parameter(torch.tensor(param)) for param in problem.params]
    for param, grad in zip(params, problem.grads, strict=True):
        param.grad = torch.tensor(grad)
    optimizer = getattr(torch.optim, problem.variant.optimizer)(params, **problem.variant.hyperparameters, fused=True)

    def take_gradients() -> None:
        for param, given in zip(params, problem.grads, strict=True):
            assert param.grad is not None
            param.grad.copy_(torch.from_numpy(given))

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return Runner(step, lambda: [param.detach().numpy() for param in params], take_gradients)


MAX_GRAD_NORM = 1.0
TORCH_CLIP_STEP_ZERO = Peer(
    "torch, three calls",
    _clip_step_zero,
    lambda problem: None if importlib.util.find_spec("torch") else "torch is not installed",
)

PEERS: tuple[Peer, ...] = (TORCH_DEFAULT, TORCH_FOREACH, TORCH_FUSED)
"""Whom fastopt is compared with in every case. To measure one more, add a row."""

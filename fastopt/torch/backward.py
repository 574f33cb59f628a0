"""The optimizer in the backward pass: each parameter is stepped as soon as its gradient is there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch

from .base import NativeOptimizer

Class = TypeVar("Class", bound=NativeOptimizer)

NEEDS_ALL_GRADIENTS = {"max_grad_norm": None, "nonfinite": "propagate", "zero_grads": False}
"""Options that look at all gradients before the first update, or need them after it, and their harmless values."""


def step_in_backward(module: torch.nn.Module | Iterable[Any], optimizer_class: type[Class], **options: Any) -> Class:
    """An optimizer whose steps are taken by `backward()`: each parameter is updated while its gradient is in the cache,
    and the gradient is freed at once.

    At no time is there more than one gradient of a parameter, where otherwise there are all of them: as much memory as
    the parameters take. The updates are those of `optimizer.step()` after `backward()`, bit by bit.

    Parameters
    ----------
    module: torch.nn.Module, or what `optimizer_class` takes as its parameters
        Parameters of a module that do not require gradients are left out.
    optimizer_class: one of this package's, as `fastopt.torch.Adam`
    options: the arguments of `optimizer_class`
        Not `max_grad_norm`, `nonfinite` and `zero_grads`, which need all gradients at once.

    Returns
    -------
    optimizer: optimizer_class
        For schedulers, state dicts, hyperparameters. Its `step()` and `zero_grad()` find nothing left to do; a training
        loop may go on calling them. Its states are made now. Groups that are added are stepped in the same way.
        The parameters keep it, so it need not be; `optimizer.step_after_backward()` ends this.

    Raises
    ------
    TypeError, ValueError
        An argument is not usable. From `backward()`: what `step()` raises; parameters whose gradients came before have
        been updated then.

    Notes
    -----
    Every `backward()` is a step: gradients cannot be accumulated over several, nor clipped by their common norm (clip
    each parameter's with `clip_norm`). A GradScaler cannot unscale them. Hooks of `step()` are not called. Built on
    torch.Tensor.register_post_accumulate_grad_hook.

    Keep the optimizer: once it is gone, nothing is stepped, and gradients stay. A parameter that is taken out of its
    group is not stepped any more. A copy of the optimizer with its module, by `copy.deepcopy` or pickle, steps its own
    parameters in the backward pass, too.

    Examples
    --------
    >>> import torch
    >>> from fastopt.torch import Adam, step_in_backward
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = step_in_backward(model, Adam, lr=1e-3)
    >>> before = model.weight.clone()
    >>> model(torch.ones(1, 3)).sum().backward()
    >>> bool((model.weight != before).all()), model.weight.grad
    (True, None)
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, NativeOptimizer)):
        raise TypeError(
            f"optimizer_class must be one of fastopt.torch's, as fastopt.torch.Adam, got {optimizer_class!r}"
        )
    for name, harmless in NEEDS_ALL_GRADIENTS.items():
        if options.get(name, harmless) != harmless:
            raise ValueError(
                f"{name}={options[name]!r} needs all gradients at once; in the backward pass there is one at a time"
            )
    if isinstance(module, torch.nn.Module):
        module = [param for param in module.parameters() if param.requires_grad]
    optimizer = optimizer_class(module, **options)
    optimizer.step_in_backward()
    return optimizer

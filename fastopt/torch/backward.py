"""The optimizer in the backward pass: each parameter is stepped as soon as its gradient is complete."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from .base import NativeOptimizer

if TYPE_CHECKING:
    from .stepping.buckets import CommHook

Class = TypeVar("Class", bound=NativeOptimizer)

NEEDS_ALL_GRADIENTS = {"max_grad_norm": None, "nonfinite": "propagate", "zero_grads": False}
"""Options that need all gradients at once, and the values with which they do not."""


def step_in_backward(
    module: torch.nn.Module | Iterable[Any],
    optimizer_class: type[Class],
    *,
    comm_hook: CommHook | None = None,
    comm_state: object = None,
    **options: Any,
) -> Class:
    """An optimizer that steps in `backward()`: each parameter is updated while its gradient is in the cache, and the
    gradient is freed at once.

    Only one parameter's gradient exists at a time. That saves as much memory as the parameters take. The updates have
    the same bits as those of `optimizer.step()` after `backward()`.

    Parameters
    ----------
    module: torch.nn.Module, or the parameters as `optimizer_class` takes them
        Parameters of a module that do not require gradients are left out. Where DistributedDataParallel averages
        gradients, parameters are stepped once it has, a bucket at a time; wrap a module before it comes here.
    optimizer_class: a class of this package, for example `fastopt.torch.Adam`
    comm_hook: callable, optional
        The communication hook of the DistributedDataParallel module, for example torch's `fp16_compress_hook`, instead
        of `module.register_comm_hook`, which takes one hook only. By default the module averages as without a hook.
    comm_state: object, optional
        The first argument of `comm_hook`.
    options: the arguments of `optimizer_class`
        All but `max_grad_norm`, `nonfinite` and `zero_grads`, which need all gradients at once.

    Returns
    -------
    optimizer: optimizer_class
        For schedulers, state dicts and hyperparameters. A training loop may still call its `step()` and `zero_grad()`,
        which find nothing to do. Its states are made now. Groups that are added later are stepped in the same way.
        The parameters keep the optimizer alive. `optimizer.step_after_backward()` ends stepping in `backward()`.

    Raises
    ------
    TypeError, ValueError
        An argument is not usable. `backward()` raises the errors of `step()`; by then, parameters whose gradients were
        complete earlier have been updated.
    RuntimeError
        The parameters are wrapped in DistributedDataParallel or FullyShardedDataParallel afterwards; the wrapper's
        constructor raises this.

    Notes
    -----
    Every `backward()` is a step: gradients cannot be accumulated over several of them, nor clipped by their common norm
    (clip each parameter's with `clip_norm`). A GradScaler cannot unscale them. Hooks of `step()` are not called. Built
    on torch.Tensor.register_post_accumulate_grad_hook and DistributedDataParallel.register_comm_hook. Under the latter,
    a `backward()` in `no_sync()` accumulates, and the next one steps. docs/distributed.md has the details.

    A parameter that is taken out of its group is no longer stepped. A copy of the optimizer with its module, by
    `copy.deepcopy` or pickle, also steps its own parameters in the backward pass (with DistributedDataParallel it is a
    RuntimeError).

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
            f"optimizer_class must be a class of fastopt.torch, for example fastopt.torch.Adam, got {optimizer_class!r}"
        )
    if comm_hook is not None and not callable(comm_hook):
        raise TypeError(f"comm_hook must be a communication hook of torch.distributed, got {comm_hook!r}")
    for name, harmless in NEEDS_ALL_GRADIENTS.items():
        if options.get(name, harmless) != harmless:
            raise ValueError(
                f"{name}={options[name]!r} needs all gradients at once; in the backward pass there is one at a time"
            )
    if optimizer_class.spec.has_sums_over_all:
        raise ValueError(
            f"{optimizer_class.__name__} adds something up over all parameters; in the backward pass there is the "
            "gradient of one at a time"
        )
    params: Any = module
    whole = None
    if isinstance(module, torch.nn.Module):
        whole = module
        named = [(name, param) for name, param in module.named_parameters() if param.requires_grad]
        params = named if callable(options.get("state_dtype")) else [param for _, param in named]
    optimizer = optimizer_class(params, **options)
    optimizer.step_in_backward(comm_hook, comm_state, whole)
    return optimizer

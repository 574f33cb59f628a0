"""The classes, each beside torch's of the same name."""

from __future__ import annotations

import torch

from .base import NativeOptimizer


class SGD(NativeOptimizer, torch.optim.SGD):
    """torch.optim.SGD with a native step; `fastopt.SGD` has its maths, `NativeOptimizer` the options.

    Examples
    --------
    >>> import torch
    >>> from fastopt.torch import SGD
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = SGD([w], lr=0.5, momentum=0.9)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w.tolist()
    [0.0, 0.0]
    """


class Adam(NativeOptimizer, torch.optim.Adam):
    """torch.optim.Adam with a native step; `fastopt.Adam` has its maths, `NativeOptimizer` the options.

    Examples
    --------
    >>> import torch
    >>> from fastopt.torch import Adam
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = Adam([w], lr=0.5, max_grad_norm=1.0)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w.tolist(), round(optimizer.grad_norm, 3)
    ([0.5, 1.5], 4.472)
    >>> int(optimizer.state[w]["step"])
    1
    """


class AdamW(NativeOptimizer, torch.optim.AdamW):
    """torch.optim.AdamW with a native step; `fastopt.AdamW` has its maths, `NativeOptimizer` the options."""


class RMSprop(NativeOptimizer, torch.optim.RMSprop):
    """torch.optim.RMSprop with a native step; `fastopt.RMSprop` has its maths, `NativeOptimizer` the options."""


class Adagrad(NativeOptimizer, torch.optim.Adagrad):
    """torch.optim.Adagrad with a native step; `fastopt.Adagrad` has its maths, `NativeOptimizer` the options."""


class Rprop(NativeOptimizer, torch.optim.Rprop):
    """torch.optim.Rprop with a native step; `fastopt.Rprop` has its maths, `NativeOptimizer` the options."""

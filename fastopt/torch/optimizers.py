"""The classes, each beside torch's of the same name; Lion's is in `lion`."""

from __future__ import annotations

import torch

from . import lion
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


class Adadelta(NativeOptimizer, torch.optim.Adadelta):
    """torch.optim.Adadelta with a native step; `fastopt.Adadelta` has its maths, `NativeOptimizer` the options."""


class Adamax(NativeOptimizer, torch.optim.Adamax):
    """torch.optim.Adamax with a native step; `fastopt.Adamax` has its maths, `NativeOptimizer` the options."""


class NAdam(NativeOptimizer, torch.optim.NAdam):
    """torch.optim.NAdam with a native step; `fastopt.NAdam` has its maths, `NativeOptimizer` the options.

    Torch keeps `mu_product` in its default dtype, and rounds it in each step. Here the step itself goes by the product
    before it is rounded: with float64 parameters, updates differ from torch's by some 1e-8 of their size. They do not
    under `torch.set_default_dtype(torch.float64)`.

    Examples
    --------
    >>> import torch
    >>> from fastopt.torch import NAdam
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = NAdam([w])
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> round(float(optimizer.state[w]["mu_product"]), 6)
    0.450073
    """


class RAdam(NativeOptimizer, torch.optim.RAdam):
    """torch.optim.RAdam with a native step; `fastopt.RAdam` has its maths, `NativeOptimizer` the options."""


class Lion(NativeOptimizer, lion.Lion):
    """`fastopt.torch.lion.Lion`, which torch.optim does not have, with a native step.

    `fastopt.Lion` has its maths, `NativeOptimizer` the options.

    Examples
    --------
    >>> import torch
    >>> from fastopt.torch import Lion
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = Lion([w], lr=0.25)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w.tolist()
    [0.75, 1.75]
    """

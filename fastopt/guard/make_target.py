"""The choice of the target for an optimizer."""

from __future__ import annotations

import sys
from typing import Any

from ..optimizers.base import Optimizer
from .array_target import ArrayTarget
from .target import Target


def make_target(optimizer: Any) -> Target:
    """The target of an optimizer over NumPy arrays or torch's tensors.

    Raises
    ------
    TypeError
        The optimizer is neither fastopt's nor torch's.
    """
    if isinstance(optimizer, Optimizer):
        return ArrayTarget(optimizer)
    if "torch" in sys.modules:
        from .torch_target import TorchTarget, is_torch_optimizer

        if is_torch_optimizer(optimizer):
            return TorchTarget(optimizer)
    raise TypeError(f"optimizer must be one of fastopt's or a torch.optim.Optimizer, got {type(optimizer).__name__}")

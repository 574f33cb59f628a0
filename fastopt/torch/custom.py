"""A custom rule (see `fastopt.rule`) as a torch.optim optimizer: `Momentum.torch`."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from .base import NativeOptimizer
from .plain import class_with


def torch_class(rule: type[Any]) -> type[NativeOptimizer]:
    """The class for PyTorch's parameters of a class that `fastopt.rule` made; the same one each time."""
    key: Any = rule
    made: type[NativeOptimizer] = _torch_class(key)
    return made


@functools.cache
def _torch_class(rule: Any) -> type[NativeOptimizer]:
    shared = {"__module__": rule.__module__, "__qualname__": f"{rule.__qualname__}.torch"}
    parameters = [
        each for each in rule.__signature__.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    plain = class_with(rule.spec, inspect.Signature(parameters), shared)
    text = f"`{rule.__qualname__}` as a torch.optim optimizer; see `fastopt.torch.NativeOptimizer` for its options."
    return type(rule.__name__, (NativeOptimizer, plain), {**shared, "__doc__": text})

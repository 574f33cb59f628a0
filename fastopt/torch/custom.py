"""A custom rule (see `fastopt.rule`) as a torch.optim optimizer: `Momentum.torch`."""

from __future__ import annotations

import functools
import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import bound_arguments
from ..definitions.specs import Spec
from .base import NativeOptimizer


class PlainRule(torch.optim.Optimizer):
    """What torch.optim's own class would be: arguments, groups and states; the step is the native one."""

    spec: ClassVar[Spec]
    plain_signature: ClassVar[inspect.Signature]
    """Without our options, which `NativeOptimizer` takes."""

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        given = bound_arguments(cls.__qualname__, self.plain_signature, params, *args, **kwargs)
        values = {**self.spec.defaults, **{name: value for name, value in given.items() if name != "params"}}
        for name, value in values.items():
            self.spec.hyperparameters[name].convert(value.item() if isinstance(value, Tensor) else value)
        if callable(values["lr"]):
            raise TypeError(f"{cls.__qualname__}: lr must be a number; use torch.optim.lr_scheduler for schedules")
        super().__init__(params, values)

    def _init_group(self, group: dict[str, Any]) -> None:
        """Make the states of parameters that have a gradient and none yet."""
        for param in group["params"]:
            state = self.state[param]
            if param.grad is None or state:
                continue
            dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32  # as torch's others
            state["step"] = torch.tensor(0.0, dtype=dtype)
            state |= {name: torch.full((), start, dtype=dtype) for name, start in self.spec.carried.items()}
            for name in self.spec.all_states:
                start = self.spec.initial.get(name, 0.0)
                value = float(group[start]) if isinstance(start, str) else start
                state[name] = torch.full_like(param, value, memory_format=torch.preserve_format)


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
    plain = type(
        rule.__name__, (PlainRule,), {**shared, "spec": rule.spec, "plain_signature": inspect.Signature(parameters)}
    )
    text = f"`{rule.__qualname__}` as a torch.optim optimizer; see `fastopt.torch.NativeOptimizer` for its options."
    return type(rule.__name__, (NativeOptimizer, plain), {**shared, "__doc__": text})

"""What the range test reads of a torch.optim optimizer, and how it puts it back. Imported only if torch already is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from ..definitions.specs import SPECS

Restore = Callable[[], None]


def is_torch_optimizer(optimizer: Any) -> bool:
    return isinstance(optimizer, torch.optim.Optimizer)


def uses_lr(optimizer: Any) -> bool:
    """Whether steps use the rate; of optimizers that fastopt does not know, one assumes so."""
    spec = getattr(optimizer, "spec", None) or SPECS.get(type(optimizer).__name__)
    return spec is None or spec.uses_lr


class TorchView:
    """One of fastopt.torch's or torch.optim's optimizers, whose gradients are the parameters' `.grad`."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    @property
    def rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def set_rates(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def save(self) -> Restore:
        """Copy parameters, gradients, states and the groups' values; what is returned puts them back.

        Tensors that exist now get their values back in the same memory; states that steps have made are taken away.
        """
        optimizer = self.optimizer
        params = [param for group in optimizer.param_groups for param in group["params"]]
        tensors = [_saved(param) for param in params]
        gradients = [(param, param.grad, None if param.grad is None else _saved(param.grad)) for param in params]
        states = {  # what hooks and others keep beside them may be no dicts
            param: (state, _saved_values(state if isinstance(state, dict) else {}))
            for param, state in optimizer.state.items()
        }
        groups = [(group, _saved_values(group, "params")) for group in optimizer.param_groups]
        counts = getattr(optimizer, "_saved_counts", None)
        restore_counts = None if counts is None else counts()

        def restore() -> None:
            with torch.no_grad():
                for put_back in tensors:
                    put_back()
                for param, gradient, put_back_gradient in gradients:
                    param.grad = gradient
                    if put_back_gradient is not None:
                        put_back_gradient()
                for param in [each for each in optimizer.state if each not in states]:
                    del optimizer.state[param]
                for param, (state, put_back_values) in states.items():
                    put_back_values()
                    optimizer.state[param] = state
                for _, put_back_values in groups:
                    put_back_values()
            if restore_counts is not None:
                restore_counts()

        return restore


def _saved(tensor: Any) -> Restore:
    kept = tensor.detach().clone()

    def put_back() -> None:
        tensor.detach().copy_(kept)

    return put_back


def _saved_values(values: dict[str, Any], without: str = "") -> Restore:
    """What puts all values of a dict back, its tensors in the same memory."""
    kept = {key: value for key, value in values.items() if key != without}
    tensors = [_saved(value) for value in kept.values() if isinstance(value, torch.Tensor)]
    others = {key: copy.deepcopy(value) for key, value in kept.items() if not isinstance(value, torch.Tensor)}

    def put_back() -> None:
        for each in tensors:
            each()
        for key in [each for each in values if each not in kept and each != without]:
            del values[key]
        values.update({**kept, **others})

    return put_back

"""Optimizers that torch.optim does not have, as plain PyTorch: steps by the textbook's updates, in NumPy.

`examples/textbook.py` is written independently of the rules. Arguments and states are those of the classes under test.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastopt.definitions.specs import SPECS, Spec
from fastopt.examples.textbook import TEXTBOOK
from fastopt.torch.plain import PlainOptimizer, plain_class


class _WithStep(PlainOptimizer):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which loads numbers that are carried from step to step in the dtype of the parameter."""
        super().load_state_dict(state_dict)
        ids = [key for group in state_dict["param_groups"] for key in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for key, param in zip(ids, params, strict=True):
            for name in self.spec.carried if key in state_dict["state"] else ():
                self.state[param][name] = torch.as_tensor(state_dict["state"][key][name], dtype=torch.float64).clone()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._init_group(group)
        stepped = [(group, param) for group in self.param_groups for param in group["params"] if param.grad is not None]
        if self.spec.common:
            step_together(self.spec, self.param_groups, stepped, self.state)
            return loss
        for group, param in stepped:
            step_one(self.spec, group, param, self.state[param])
        return loss


Stepped = list[tuple[dict[str, Any], Tensor]]
"""Parameters that have a gradient, with their groups."""


def step_together(spec: Spec, groups: list[dict[str, Any]], stepped: Stepped, state: Any) -> None:
    """One update of parameters that have numbers in common: of one array that has the elements of all."""
    values = {name: plain(groups[0].get(name, default)) for name, default in spec.defaults.items()}
    names = spec.states(values)
    for _, param in stepped:
        if not state[param]["step"]:
            for name in spec.starts_as_param:
                state[param][name].copy_(param)
    moving = [(group, param) for group, param in stepped if group["lr"] != 0]
    if moving:
        tensors = [[param, *(state[param][name] for name in names)] for _, param in moving]
        new, *states = (np.concatenate(list(map(as_array, each))) for each in zip(*tensors, strict=True))
        decays = [np.full(param.numel(), group["weight_decay"], new.dtype) for group, param in moving]
        grads = [-as_array(param.grad) if group["maximize"] else as_array(param.grad) for group, param in moving]
        decay, grad = np.concatenate(decays), np.concatenate(grads)
        values |= {"lr": float(moving[0][0]["lr"]), "weight_decay": decay if values.pop("decouple") else 0.0}
        del values["maximize"]
        if isinstance(values["weight_decay"], float):
            grad = grad + decay * new
        textbook: Any = TEXTBOOK[spec.name](new, **values)
        textbook.states, textbook.steps = states, 1  # what starts as the parameter has done so
        textbook.estimate[:] = [float(groups[0][name]) for name in spec.common]
        with np.errstate(all="ignore"):
            textbook.step(grad)
        for group in groups:
            group.update(zip(spec.common, textbook.estimate.tolist(), strict=True))
        first = 0
        for tensors_of_param in tensors:
            size = tensors_of_param[0].numel()
            for tensor, array in zip(tensors_of_param, (new, *states), strict=True):
                tensor.copy_(torch.from_numpy(array[first : first + size]).reshape(tensor.shape))
            first += size
    for _, param in stepped:
        state[param]["step"] += 1


def step_one(spec: Spec, group: dict[str, Any], param: Tensor, state: dict[str, Any]) -> None:
    """One update of a parameter and its states."""
    values = {name: plain(group.get(name, default)) for name, default in spec.defaults.items()}
    names = spec.states(values)
    arrays = [as_array(each) for each in (param, param.grad, *(state[name] for name in names))]
    new, grad, *states = arrays
    if values.pop("maximize"):
        grad = -grad
    decay = values.pop("weight_decay", 0.0)
    known = inspect.signature(TEXTBOOK[spec.name]).parameters
    if not values.pop("decoupled_weight_decay", True):
        grad = grad + decay * new
    elif "weight_decay" in known:
        values["weight_decay"] = decay
    else:
        new *= 1 - values["lr"] * decay
    textbook = TEXTBOOK[spec.name](new, **values)
    textbook.states, textbook.steps = states, int(state["step"])
    for name in spec.carried:
        setattr(textbook, name, float(state[name]))
    with np.errstate(all="ignore"):
        textbook.step(grad)
    state["step"] += 1
    for name in spec.carried:
        state[name].fill_(getattr(textbook, name))
    for tensor, array in zip((param, *(state[name] for name in names)), (new, *states), strict=True):
        tensor.copy_(torch.from_numpy(array).reshape(tensor.shape))


def as_array(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().resolve_neg().contiguous().reshape(-1).numpy().copy()


def plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(float, value))
    return value if value is None or isinstance(value, bool) else float(value)


CLASSES = {
    spec.name: type(spec.name, (_WithStep, plain_class(spec)), {"__module__": __name__})
    for spec in SPECS.values()
    if not spec.in_torch
}
globals().update(CLASSES)  # where pickle looks for them

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
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._init_group(group)
            for param in group["params"]:
                if param.grad is not None:
                    step_one(self.spec, group, param, self.state[param])
        return loss


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
    with np.errstate(all="ignore"):
        textbook.step(grad)
    state["step"] += 1
    for tensor, array in zip((param, *(state[name] for name in names)), (new, *states), strict=True):
        tensor.copy_(torch.from_numpy(array).reshape(tensor.shape))


def as_array(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().resolve_neg().contiguous().reshape(-1).numpy().copy()


def plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(float, value))
    return value if isinstance(value, bool) else float(value)


CLASSES = {
    spec.name: type(spec.name, (_WithStep, plain_class(spec)), {"__module__": __name__})
    for spec in SPECS.values()
    if not spec.in_torch
}
globals().update(CLASSES)  # where pickle looks for them

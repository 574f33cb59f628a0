"""For optimizers that torch does not have: what torch.optim's class would be, made from the spec."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import bound_arguments, flag
from ..definitions.specs import CAUTION, Spec
from ..step.evaluation import TRAIN_MODE
from .stepping import states


class PlainOptimizer(torch.optim.Optimizer):
    """Arguments, groups and states in torch's form. It has no step: `NativeOptimizer` brings the native one."""

    spec: ClassVar[Spec]
    plain_signature: ClassVar[inspect.Signature]
    """Without our options, which `NativeOptimizer` takes."""

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        given = bound_arguments(cls.__qualname__, self.plain_signature, params, *args, **kwargs)
        values = {**_defaults(self.plain_signature), **given}
        del values["params"]
        for name, value in values.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"Tensor {name} must be 1-element")
            if name in self.spec.hyperparameters:
                self.spec.hyperparameters[name].convert(value.item() if isinstance(value, Tensor) else value)
            elif value is not None:  # foreach
                flag(name, value)
        if callable(values["lr"]):
            raise TypeError(f"{cls.__qualname__}: lr must be a number; use torch.optim.lr_scheduler for schedules")
        if self.spec.average is not None:
            values[TRAIN_MODE] = True
        super().__init__(params, values)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes over state dicts of the authors' classes, too: they may count in the group, in plain numbers or not."""
        super().__setstate__(state)
        for group in self.param_groups:
            counted = {"step": 0.0, **self.spec.carried}
            counted |= {own: group.pop(name) for name, own in self.spec.in_groups.items() if name in group}
            more = {} if self.spec.average is None else {TRAIN_MODE: True}
            for name, value in {**_defaults(self.plain_signature), **more}.items():
                group.setdefault(name, value)
            self._add_common(group)
            for param in group["params"]:
                found = self.state.get(param, {})
                for name, value in counted.items() if found else ():
                    if not isinstance(found.get(name), Tensor):
                        found[name] = states.new_number(float(found.get(name, value)), exact=name != "step")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._add_common(self.param_groups[-1])

    def _add_common(self, group: dict[str, Any]) -> None:
        """Give a group the numbers that all have in common: those of the first group, where it has some."""
        starts = self.spec.common_starts({**_defaults(self.plain_signature), **group})
        for name, start in starts.items():
            group.setdefault(name, self.param_groups[0].get(name, start))

    def _init_group(self, group: dict[str, Any]) -> None:
        """Make the states of parameters that have a gradient and none yet."""
        for param in group["params"]:
            if param.grad is None:
                continue
            if param.grad.is_sparse:
                raise RuntimeError(f"{self.spec.name} does not support sparse gradients")
            state = self.state[param]
            if not state:
                states.add_missing(self.spec, group, state, param)


def _defaults(signature: inspect.Signature) -> dict[str, Any]:
    return {
        name: each.default for name, each in signature.parameters.items() if each.default is not inspect.Parameter.empty
    }


def plain_class(spec: Spec) -> type[PlainOptimizer]:
    """That of a built-in optimizer, with torch's usual keyword-only arguments."""
    kind = inspect.Parameter
    by_keyword = ("maximize", *CAUTION)
    positional = [
        kind(name, kind.POSITIONAL_OR_KEYWORD, default=spec.defaults[name])
        for name in spec.arguments
        if name not in by_keyword
    ]
    parameters = [
        kind("params", kind.POSITIONAL_OR_KEYWORD),
        *positional,
        kind("foreach", kind.KEYWORD_ONLY, default=None),
        *(kind(name, kind.KEYWORD_ONLY, default=False) for name in by_keyword if name in spec.defaults),
    ]
    return class_with(spec, inspect.Signature(parameters), {"__module__": __name__})


def class_with(spec: Spec, signature: inspect.Signature, names: dict[str, Any]) -> type[PlainOptimizer]:
    """The class that takes these arguments; `names` are further attributes of it."""

    def __init__(self: PlainOptimizer, params: Any, *args: Any, **kwargs: Any) -> None:
        PlainOptimizer.__init__(self, params, *args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[own, *signature.parameters.values()]
    )
    attributes = {"spec": spec, "plain_signature": signature, "__init__": __init__, **names}
    return type(spec.name, (PlainOptimizer,), attributes)

"""The native step over the variables of a Keras optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..state.borrowed import BorrowedStep, state_names
from ..step.operations import AVERAGE
from .rows import Row

DTYPES = (torch.float32, torch.float64)


class VariableStep:
    """One native call for all trainable variables of an optimizer.

    It is made for certain memory, and for options and hyperparameters of one structure: see `is_for`.

    Attributes
    ----------
    variables: those that are updated, in the order of the optimizer's.
    positions: the position of each among them, by id.
    averages: whether a step also updates the averages of the variables that it updates.
    """

    def __init__(self, optimizer: Any, row: Row) -> None:
        self.row = row
        self.name = f"fastopt.keras.{type(optimizer).__name__}"
        self.variables = [each for each in optimizer._trainable_variables if not is_overwritten(each)]
        self.positions = {id(variable): position for position, variable in enumerate(self.variables)}
        self.options = options_of(optimizer)
        self.averages = "ema_decay" in self.options
        self.values = self.values_of(optimizer)
        names = state_names(row.spec, self.values, self.options)
        attributes = {**row.states, AVERAGE: "_model_variables_moving_average"}
        places = [optimizer._get_variable_index(variable) for variable in self.variables]
        states = [[getattr(optimizer, attributes[name])[place] for name in names] for place in places]
        self.everything = [*self.variables, *(each for own in states for each in own)]
        self.dtype = self.variables[0]._value.dtype
        self.check()
        self.memory = self.addresses()
        self.step = BorrowedStep(
            row.spec,
            self.values,
            self.options,
            [array_of(variable) for variable in self.variables],
            [dict(zip(names, map(array_of, own), strict=True)) for own in states],
            self._reject,
        )
        for position, variable in enumerate(self.variables):
            if not optimizer._use_weight_decay(variable):
                self.step.settings.weight_decay[position] = 0.0
        self.step.engine.settings_changed()

    def check(self) -> None:
        """Raise a TypeError if the step cannot be done in the memory of a variable."""
        for each in self.everything:
            value, label = each._value, label_of(each)
            if value.device.type != "cpu":
                raise TypeError(
                    f"{self.name} updates variables in main memory, {label} is on {value.device}: use Keras' own there"
                )
            if value.dtype not in DTYPES or value.dtype is not self.dtype:
                raise TypeError(
                    f"{self.name} updates variables that are all float32 or all float64, {label} is {value.dtype}: use "
                    "Keras' own for others"
                )
            if not value.is_contiguous():
                raise TypeError(f"{self.name} updates variables whose elements follow each other, {label} has gaps")

    def addresses(self) -> list[int]:
        return [each._value.data_ptr() for each in self.everything]

    def values_of(self, optimizer: Any) -> dict[str, Any]:
        """All hyperparameters of an optimizer, by fastopt's names; of the rate, any."""
        decay = optimizer.weight_decay
        return {**self.row.defaults, **self.row.numbers(optimizer), "weight_decay": 0.0 if decay is None else decay}

    def is_for(self, optimizer: Any) -> bool:
        """Whether this is still the step of an optimizer; changed hyperparameters are taken over."""
        if self.options != options_of(optimizer) or self.memory != self.addresses():
            return False
        values = self.values_of(optimizer)
        if values != self.values:
            if self.step.structure != self.step.structure_of(values):
                return False
            self.step.set_values(values)
            self.values = values
        return True

    def gradients(self, grads: Sequence[Any], variables: Sequence[Any]) -> list[Tensor | None]:
        """Gradients by position, as tensors of the variables' dtype; as Keras does, others are converted.

        Raises
        ------
        TypeError, ValueError
            One is sparse, not in main memory, or of another shape than its variable.
        """
        found: list[Tensor | None] = [None] * len(self.variables)
        for gradient, variable in zip(grads, variables, strict=True):
            if not isinstance(gradient, Tensor):
                gradient = torch.as_tensor(gradient)
            if gradient.layout != torch.strided or gradient.device.type != "cpu":
                raise TypeError(
                    f"{self.name} reads dense gradients in main memory, that of {label_of(variable)} is "
                    f"{gradient.layout} on {gradient.device}"
                )
            if gradient.shape != variable._value.shape:
                raise ValueError(
                    f"the gradient of {label_of(variable)} must have the shape {tuple(variable._value.shape)}, got "
                    f"{tuple(gradient.shape)}"
                )
            found[self.positions[id(variable)]] = gradient.detach().to(self.dtype).contiguous()
        return found

    def are_plain(self, grads: Sequence[Any]) -> bool:
        """Whether gradients are what `gradients` would return, but for shapes and strides, which the step checks."""
        dtype, layout = self.dtype, torch.strided
        return all(
            type(each) is Tensor
            and each.dtype is dtype
            and each.layout is layout
            and each.is_cpu
            and not each.requires_grad
            for each in grads
        )

    def run(self, optimizer: Any, gradients: Sequence[Tensor | None], count: int, divisor: float) -> None:
        """Do the update that comes after `count` others, with gradients that are first divided by `divisor`."""
        step = self.step
        step.set_divisor(divisor)
        step.engine.set_lr(0, rate_of(optimizer))
        step.records.steps[:] = count
        if self.averages:
            step.begin_average(count > 0)
        for name, attribute in self.row.carried.items():
            step.carried(name)[:] = getattr(optimizer, attribute)._value.item()
        step.engine.step([None if each is None else each.numpy() for each in gradients])
        stepped = [position for position, each in enumerate(gradients) if each is not None]
        for name, attribute in self.row.carried.items():
            getattr(optimizer, attribute)._value.fill_(step.carried(name)[stepped[0]])
        torch.autograd.graph.increment_version([self.variables[position]._value for position in stepped])

    def _reject(self, position: int, gradient: np.ndarray) -> np.ndarray:
        """Return a contiguous array for a gradient, or raise an error."""
        variable = self.variables[position]
        if gradient.shape != tuple(variable._value.shape):
            raise ValueError(
                f"the gradient of {label_of(variable)} must have the shape {tuple(variable._value.shape)}, got "
                f"{gradient.shape}"
            )
        if not gradient.flags.c_contiguous:
            return np.ascontiguousarray(gradient)
        raise ValueError(f"the gradient of {label_of(variable)} shares memory with variables that the step writes")


def array_of(variable: Any) -> np.ndarray:
    """A NumPy array with the memory of a variable.

    `_value` is the tensor itself, which `value` may have cast to another dtype.
    """
    array: np.ndarray = variable._value.detach().numpy()
    return array


def is_overwritten(variable: Any) -> bool:
    """Whether Keras sets a variable to its gradient, as those of float8 layers."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def label_of(variable: Any) -> str:
    return str(getattr(variable, "path", variable))


def rate_of(optimizer: Any) -> float:
    """The learning rate of the next update."""
    rate = optimizer._get_current_learning_rate()
    return float(getattr(rate, "_value", rate))


def options_of(optimizer: Any) -> dict[str, Any]:
    """The options of an optimizer's native step, by fastopt's names; of ways to clip, the one that Keras uses."""
    options: dict[str, Any] = {}
    if optimizer.clipnorm and optimizer.clipnorm > 0:
        options["clip_norm"] = optimizer.clipnorm
    elif optimizer.global_clipnorm and optimizer.global_clipnorm > 0:
        options["max_grad_norm"] = optimizer.global_clipnorm
    elif optimizer.clipvalue and optimizer.clipvalue > 0:
        options["clip_value"] = optimizer.clipvalue
    # With accumulation, Keras updates averages also where it does not update variables.
    if optimizer.use_ema and not optimizer.gradient_accumulation_steps and optimizer.ema_momentum < 1:
        options["ema_decay"] = optimizer.ema_momentum
    return options

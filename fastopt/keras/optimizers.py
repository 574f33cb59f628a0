"""Keras' classes with a native step."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import torch
from keras.src.backend.common.stateless_scope import in_stateless_scope

from .rows import ROWS, Row
from .steps import VariableStep


class NativeOptimizer:
    """The base class of this package's optimizers: `fastopt.keras.Adam` is `keras.optimizers.Adam` with a faster step.

    Arguments, defaults, variables, `get_config`, `save_own_variables` and the like are those of Keras' class: models
    that were saved with one load with the other's variables. `apply` clips, decays weights, updates and averages all
    variables in one native call, in the arithmetic of Keras, and writes to the memory of their tensors.

    Variables are all float32 or all float64, and in main memory. Gradients are dense; those of other dtypes or layouts
    are converted, as Keras does.

    Raises
    ------
    TypeError, ValueError
        At the first update, or the first with them: variables or gradients of another kind. The message names the
        variable, and nothing has been changed.
    RuntimeError
        `stateless_apply`, which returns new variables instead of writing to those that there are.
    """

    row: ClassVar[Row]
    _native: VariableStep | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if NativeOptimizer in cls.__bases__:
            cls.row = ROWS[cls.__name__]

    @torch._disable_dynamo  # type: ignore[attr-defined]  # loads nothing until it is called
    @torch.no_grad()
    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Update variables by their gradients, as Keras' `apply` does.

        Where every variable of the optimizer has a gradient, nothing has to be sorted out first.
        """
        own: Any = self
        if trainable_variables is not None and not isinstance(trainable_variables, list):
            trainable_variables = list(trainable_variables)
        native = self._native
        if (
            native is None
            or own.gradient_accumulation_steps
            or len(grads) != len(native.variables)
            or not are_same(native.variables, own._trainable_variables)
            or not (trainable_variables is None or are_same(trainable_variables, native.variables))
            or not native.are_plain(grads)
            or in_stateless_scope()
        ):
            super().apply(grads, trainable_variables)  # type: ignore[misc]
            return
        scale = own.loss_scale_factor
        self._update(list(grads), 1.0 if scale is None else scale)
        for variable in native.variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))
        own._iterations._value.add_(1)

    @torch.no_grad()
    def _backend_apply_gradients(self, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
        """What Keras' `apply` calls with the gradients that there are, divided by the loss' scale."""
        if in_stateless_scope():
            raise RuntimeError(
                f"fastopt.keras.{type(self).__name__} writes to the memory of variables, and stateless_apply() returns "
                "new ones: use Keras' own optimizers for it"
            )
        native = self._native_step()
        self._update(native.gradients(grads, trainable_variables), 1.0)

    def _native_step(self) -> VariableStep:
        native = self._native
        if native is None or not native.is_for(self):
            native = VariableStep(self, self.row)
            object.__setattr__(self, "_native", native)  # Keras would look for variables in it
        return native

    def _update(self, gradients: list[torch.Tensor | None], divisor: float) -> None:
        """Clip, decay weights, update, and average, by gradients at the positions of variables."""
        own: Any = self
        native = self._native_step()
        every = own.gradient_accumulation_steps or 1
        calls = int(own._iterations._value)
        count, gathered = divmod(calls, every)
        if every > 1:
            gradients = self._accumulated(native, gradients)
            divisor *= every
        if gathered + 1 == every:
            native.run(own, gradients, count, divisor)
            if every > 1:
                torch._foreach_zero_([each._value for each in own._accumulated_gradients if each is not None])
        if own.use_ema:
            self._average(native, count, gradients)

    def _accumulated(self, native: VariableStep, gradients: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Add gradients to Keras' accumulators, and return these; None where there is no gradient."""
        own: Any = self
        pairs = [
            (own._accumulated_gradients[own._get_variable_index(variable)]._value, gradient)
            for variable, gradient in zip(native.variables, gradients, strict=True)
        ]
        given = [(accumulator, gradient) for accumulator, gradient in pairs if gradient is not None]
        torch._foreach_add_(*map(list, zip(*given, strict=True)))
        return [None if gradient is None else accumulator for accumulator, gradient in pairs]

    def _average(self, native: VariableStep, count: int, gradients: Sequence[torch.Tensor | None]) -> None:
        """Update the averages that the step has not, and set variables to averages where it is time for that."""
        own: Any = self
        given = (each for each, gradient in zip(native.variables, gradients, strict=True) if gradient is not None)
        done = set(map(id, given)) if native.averages else set()
        pairs = zip(own._trainable_variables, own._model_variables_moving_average, strict=True)
        left = [
            (average._value, each._value) for each, average in pairs if average is not None and id(each) not in done
        ]
        if left:
            momentum = own.ema_momentum if count else 0.0
            averages, values = map(list, zip(*left, strict=True))
            torch._foreach_mul_(averages, momentum)
            torch._foreach_add_(averages, values, alpha=1 - momentum)
        frequency = own.ema_overwrite_frequency
        if frequency and (count + 1) % frequency == 0:
            own._overwrite_model_variables_with_average_value(own._trainable_variables)


def are_same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether these are the same objects; `==` of variables is not about that."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


register = keras.saving.register_keras_serializable("fastopt")


@register
class SGD(NativeOptimizer, keras.optimizers.SGD):  # type: ignore[misc]
    """keras.optimizers.SGD with a native step: see `NativeOptimizer`."""


@register
class Adam(NativeOptimizer, keras.optimizers.Adam):  # type: ignore[misc]
    """keras.optimizers.Adam with a native step: see `NativeOptimizer`.

    Examples
    --------
    >>> import keras, numpy as np, fastopt.keras
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile(optimizer=fastopt.keras.Adam(1e-2, clipnorm=1.0), loss="mse")
    >>> history = model.fit(np.ones((8, 3)), np.ones((8, 1)), epochs=2, verbose=0)
    >>> history.history["loss"][1] < history.history["loss"][0]
    True
    """


@register
class AdamW(NativeOptimizer, keras.optimizers.AdamW):  # type: ignore[misc]
    """keras.optimizers.AdamW with a native step: see `NativeOptimizer`."""


@register
class RMSprop(NativeOptimizer, keras.optimizers.RMSprop):  # type: ignore[misc]
    """keras.optimizers.RMSprop with a native step: see `NativeOptimizer`."""


@register
class Adagrad(NativeOptimizer, keras.optimizers.Adagrad):  # type: ignore[misc]
    """keras.optimizers.Adagrad with a native step: see `NativeOptimizer`."""


@register
class Adadelta(NativeOptimizer, keras.optimizers.Adadelta):  # type: ignore[misc]
    """keras.optimizers.Adadelta with a native step: see `NativeOptimizer`."""


@register
class Adamax(NativeOptimizer, keras.optimizers.Adamax):  # type: ignore[misc]
    """keras.optimizers.Adamax with a native step: see `NativeOptimizer`."""


@register
class Nadam(NativeOptimizer, keras.optimizers.Nadam):  # type: ignore[misc]
    """keras.optimizers.Nadam with a native step: see `NativeOptimizer`."""


@register
class Lion(NativeOptimizer, keras.optimizers.Lion):  # type: ignore[misc]
    """keras.optimizers.Lion with a native step: see `NativeOptimizer`."""

"""thinc's optimizer class with a native step."""

from __future__ import annotations

from typing import Any

import numpy as np
import thinc.optimizers
import thinc.schedules

from .steps import Key, KeyStep, Numbers, check_weights, state_of

MISSING = np.empty(0, np.float32)
"""Stands for an average that does not exist yet."""

CONSTANT = getattr(getattr(thinc.schedules, "constant", lambda rate: None)(0.0), "_schedule", None)
"""The function of a schedule that is constant, in thinc 9."""


def number_of(value: Any) -> Any:
    """The value of a number or of a constant schedule; other schedules as they are."""
    if type(value) is float or getattr(value, "_schedule", None) is not CONSTANT:
        return value
    return value.attrs["rate"]


class Optimizer(thinc.optimizers.Optimizer):  # type: ignore[misc]
    """`thinc.optimizers.Optimizer` whose calls are one native step; see `Adam`, `RAdam` and `SGD`, which make one.

    Arguments, attributes and results are those of thinc's class: `mom1`, `mom2` and `averages` have the arrays that
    steps write to. Weights are updated in place, and the gradient is filled with zeros. A key's step is kept for as
    long as its weights stay at the same address, whichever array has them: thinc's shims for PyTorch make a new array
    each time.

    Weights and gradients are NumPy arrays of float32. Those that are not contiguous are copied, to step and back.

    Raises
    ------
    TypeError, ValueError
        Weights, gradient or a state are of another type, dtype or shape. The message names the key, and nothing has
        been changed.
    """

    def __init__(self, learn_rate: Any, **options: Any) -> None:
        super().__init__(learn_rate, **options)
        self._steps: dict[Key, KeyStep] = {}

    def __call__(
        self, key: Key, weights: np.ndarray, gradient: np.ndarray, *, lr_scale: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Update weights in place, and fill the gradient with zeros.

        Parameters
        ----------
        key: (int, str)
            What identifies the weights: their states are found by it.
        weights, gradient: numpy.ndarray of float32 and the same shape
        lr_scale: float, default 1
            A factor for the learning rate.

        Returns
        -------
        weights, gradient: the arrays that were given
        """
        if len(gradient) < 1:
            return weights, gradient
        count = self.nr_update[key] + 1
        step = self._steps.get(key)
        if step is None or not step.steps(weights, self.mom1.get(key), self.mom2.get(key), self._average(key)):
            step = self._new_step(key, weights, lr_scale)
        schedules = (self.learn_rate, self.L2, self.grad_clip, self.b1, self.b2, self.eps)
        given = (*map(number_of, schedules), lr_scale, self.use_radam, self.L2_is_weight_decay)
        if step.varies or given != step.given:
            numbers = self._numbers(key, lr_scale)
            if numbers.structure != step.structure:
                step = self._new_step(key, weights, lr_scale)
            step.set_numbers(numbers, count)
            step.given = given
            step.varies = numbers.radam or any(map(callable, given))
        step.run(weights, gradient, count)
        self.nr_update[key] = count
        return weights, gradient

    def _average(self, key: Key) -> np.ndarray | None:
        return None if self.averages is None else self.averages.get(key, MISSING)

    def _numbers(self, key: Key, lr_scale: float) -> Numbers:
        """The numbers of this step, which schedules are asked for."""

        def now(value: Any) -> float:
            return float(value(self.step, key=key, last_score=self.last_score) if callable(value) else value)

        numbers = Numbers(
            learn_rate=now(self.learn_rate),
            L2=now(self.L2),
            grad_clip=now(self.grad_clip),
            beta1=now(self.b1),
            beta2=now(self.b2),
            eps=now(self.eps),
            lr_scale=lr_scale,
            radam=self.use_radam,
            decays=self.L2_is_weight_decay,
        )
        numbers.check()
        return numbers

    def _new_step(self, key: Key, weights: np.ndarray, lr_scale: float) -> KeyStep:
        """Make the step of these weights, and the states that they do not have yet."""
        check_weights(key, weights)
        numbers = self._numbers(key, lr_scale)
        tables = {"exp_avg": self.mom1, "exp_avg_sq": self.mom2} if numbers.adaptive else {}
        if self.averages is not None:
            tables["param_average"] = self.averages
        states = {name: state_of(key, name, table.get(key), weights) for name, table in tables.items()}
        step = KeyStep(key, weights, states, numbers)
        for name, table in tables.items():
            table[key] = states[name]
        self._steps[key] = step
        return step

    def __getstate__(self) -> dict[str, Any]:
        """All attributes but the steps, which are made again: copies have arrays of their own."""
        slots = thinc.optimizers.Optimizer.__slots__
        own = {name: getattr(self, name) for name in slots if hasattr(self, name)}
        return {**own, **self.__dict__, "_steps": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

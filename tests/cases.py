"""The table that drives the tests: every optimizer in every variant. A new row of `SPECS` is tested by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

import fastopt
from fastopt.specs import SPECS

DTYPES = (np.float32, np.float64)
BACKENDS = ("cython", "numba", "reference")

# Values that switch a variant on, and what else makes a rule do all that it can.
TURNED_ON: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "amsgrad": True, "centered": True}
FULL: dict[str, Any] = {
    "weight_decay": 0.03,
    "lr": 0.02,
    "lr_decay": 0.1,
    "initial_accumulator_value": 0.25,
    "dampening": 0.3,
    "eps": 1e-6,
    "step_sizes": (0.015, 0.03),
}
EXTRAS: tuple[dict[str, Any], ...] = ({}, {"maximize": True}, {"decoupled_weight_decay": True})


@dataclass(frozen=True)
class Case:
    """One optimizer with hyperparameters; `torch_options` is False where torch has no such option."""

    optimizer: str
    options: dict[str, Any] = field(hash=False)

    @property
    def in_torch(self) -> bool:
        return not self.options.get("decoupled_weight_decay") or self.optimizer in ("Adam", "AdamW")

    def make(self, params: Any, **more: Any) -> fastopt.Optimizer:
        optimizer: fastopt.Optimizer = getattr(fastopt, self.optimizer)(params, **{**self.options, **more})
        return optimizer

    def __str__(self) -> str:
        shown = [name if value is True else f"{name}={value}" for name, value in self.options.items() if value]
        return "-".join([self.optimizer, *shown])


def _cases() -> list[Case]:
    cases = []
    for spec in SPECS.values():
        signature = getattr(fastopt, spec.name).__init__.__kwdefaults__ or {}
        for switches in product((False, True), repeat=len(spec.variants)):
            on = {name: TURNED_ON[name] for name, switch in zip(spec.variants, switches, strict=True) if switch}
            if on.get("nesterov") and not on.get("momentum"):
                continue
            full = {name: value for name, value in FULL.items() if name in spec.defaults}
            if on.get("nesterov"):
                full.pop("dampening")
            for extra in EXTRAS:
                if all(name in spec.defaults and name in signature for name in extra):
                    cases.append(Case(spec.name, {**full, **on, **extra}))
    return cases


CASES = _cases()
PLAIN = [Case(spec.name, {}) for spec in SPECS.values()]
"""Every optimizer with nothing but defaults."""


def random_gradient(rng: np.random.Generator, shape: Any, dtype: Any) -> np.ndarray:
    """Zeros, both signs, huge and tiny values; squares stay finite in the dtype."""
    decades = 17 if dtype == np.float32 else 140
    values = rng.standard_normal(shape) * np.where(rng.random(shape) < 0.2, 10.0 ** rng.uniform(-40, decades, shape), 1)
    return np.asarray(np.where(rng.random(shape) < 0.2, 0.0, values)).astype(dtype)


def equal_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """The same bits, signs of zeros included; any NaN equals any other."""
    unsigned = np.dtype(f"u{a.itemsize}")
    same = (a.view(unsigned) == b.view(unsigned)) | (np.isnan(a) & np.isnan(b))
    return a.shape == b.shape and a.dtype == b.dtype and bool(same.all())

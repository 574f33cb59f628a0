"""The table that drives the tests: every optimizer in every variant. A new row of `SPECS` is tested by itself."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.definitions.conventions import conventions_of, spec_of
from fastopt.definitions.specs import CAUTION, SPECS, Spec
from fastopt.examples.textbook import TEXTBOOK


def own_rate(optimizer: str, lr: Any) -> dict[str, Any]:
    """The rate of one of several groups, where the optimizer lets groups have different ones."""
    return {} if SPECS[optimizer].common else {"lr": lr}


DTYPES = (np.float32, np.float64)
BACKENDS = ("cython", "numba", "reference")

# Values that switch a variant on, and what else makes a rule do all that it can.
TURNED_ON: dict[str, Any] = {
    "momentum": 0.9,
    "nesterov": True,
    "amsgrad": True,
    "centered": True,
    "cautious": True,
    "cautious_weight_decay": True,
}
EXCLUDED = (
    {"nesterov": True, "momentum": 0.0},
    {"nesterov": True, "amsgrad": True},
    {"cautious": True, "cautious_weight_decay": False, "amsgrad": True},
    {"cautious": False, "cautious_weight_decay": True, "amsgrad": True},
    {"cautious": True, "cautious_weight_decay": True, "amsgrad": False},
)
"""Variants that no optimizer has together; and what AdamW's other variants of its cautious rules cover."""
FULL: dict[str, Any] = {
    "weight_decay": 0.03,
    "lr": 0.02,
    "lr_decay": 0.1,
    "initial_accumulator_value": 0.25,
    "dampening": 0.3,
    "eps": 1e-6,
    "step_sizes": (0.015, 0.03),
    "rho": 0.8,
    "momentum_decay": 0.05,
    "decay": 0.1,
    "eps_root": 1e-5,
    "eps_in_sqrt": False,
    "initial_scale": 0.5,
    "bias_correction": True,
    "threshold": 4.0,
    "beta3_warmup": 6.0,
    "alpha_warmup": 9.0,
    "trust_coeff": 0.5,
    "lambd": 0.1,
    "t0": 2.0,
    "beta3": 0.9,
    "d0": 0.5,
    "d_coef": 1.5,
    "growth_rate": 1.25,
    "warmup_steps": 3.0,
    "r": 0.5,
    "weight_lr_power": 1.5,
}
EXTRAS: tuple[dict[str, Any], ...] = (
    {},
    {"maximize": True},
    {"decoupled_weight_decay": True},
    {"use_clipping": False},
    {"no_prox": True},
    {"decouple": False},
    {"use_bias_correction": True, "safeguard_warmup": True},
)


@functools.cache
def arguments_in_torch(name: str) -> tuple[str, ...]:
    """Those of the class that torch.optim has of this name."""
    import torch

    return tuple(inspect.signature(getattr(torch.optim, name)).parameters)


@functools.cache
def moves_at_once(name: str) -> bool:
    param = np.ones(1)
    TEXTBOOK[name](param).step(np.ones(1))
    return bool(param[0] != 1)


@dataclass(frozen=True)
class Case:
    """One optimizer with hyperparameters."""

    optimizer: str
    options: dict[str, Any] = field(hash=False)

    @property
    def spec(self) -> Spec:
        return spec_of(self.optimizer, self.options.get("convention", "torch"))

    @property
    def values(self) -> dict[str, Any]:
        """All hyperparameters."""
        return {name: self.options.get(name, default) for name, default in self.spec.defaults.items()}

    @property
    def has_sums(self) -> bool:
        """Whether a step adds up whole parameters before it updates them."""
        return self.spec.terms(self.values) is not None

    @property
    def in_torch(self) -> bool:
        """Whether torch.optim can do it."""
        if not self.spec.in_torch or self.spec.convention != "torch":
            return False
        return set(arguments_in_torch(self.optimizer)).issuperset(self.options)

    @property
    def moves_at_once(self) -> bool:
        """Whether the first step changes a parameter: by the textbook, not by what is tested."""
        return moves_at_once(self.optimizer)

    def can(self, options: dict[str, Any]) -> bool:
        """Whether the optimizer has all that is asked for around its update."""
        if self.spec.average is not None:
            own = ("ema_decay", "ema_warmup", "ema_overwrite_frequency", "prox", "projection")
            return all(options.get(name) is None for name in own)
        if options.get("prox") is None or options["prox"].row is not None:
            return True
        return self.spec.rule({**self.spec.defaults, **self.options}) in self.spec.proximal

    def possible(self, options: dict[str, Any]) -> dict[str, Any]:
        """Those of these options that the optimizer has."""
        return {name: value for name, value in options.items() if self.can({name: value})}

    def make(self, params: Any, **more: Any) -> fastopt.Optimizer:
        optimizer: fastopt.Optimizer = getattr(fastopt, self.optimizer)(params, **{**self.options, **more})
        return optimizer

    def __str__(self) -> str:
        shown = [name if value is True else f"{name}={value}" for name, value in self.options.items() if value]
        return "-".join([self.optimizer, *shown])


def _variants(spec: Spec) -> list[dict[str, Any]]:
    """For each variant the hyperparameters that make its rule do all that it can."""
    variants = []
    for switches in product((False, True), repeat=len(spec.variants)):
        on = {name: TURNED_ON[name] for name, switch in zip(spec.variants, switches, strict=True) if switch}
        if any({**spec.defaults, **on}.items() >= excluded.items() for excluded in EXCLUDED):
            continue
        full = {name: value for name, value in FULL.items() if name in spec.defaults}
        if on.get("nesterov"):
            full.pop("dampening", None)
        variants.append({**full, **on})
    return variants


def _cases() -> list[Case]:
    cases = []
    for spec in SPECS.values():
        signature = inspect.signature(getattr(fastopt, spec.name)).parameters
        for variant in _variants(spec):
            cautious = any(name in variant for name in CAUTION)
            for extra in EXTRAS[:1] if cautious else EXTRAS:
                if all(name in spec.defaults and name in signature for name in extra):
                    cases.append(Case(spec.name, {**variant, **extra}))
    return cases


def _convention_cases() -> list[Case]:
    return [
        Case(name, {"convention": convention, **variant})
        for name in SPECS
        for convention in conventions_of(name)
        if convention != "torch"
        for variant in _variants(spec_of(name, convention))
    ]


CASES = _cases()
CONVENTION_CASES = _convention_cases()
"""The same of every other framework's convention: one for each variant."""
VARIANTS = [case for case in CASES if not any(name in case.options for extra in EXTRAS for name in extra)]
"""One for each variant of each rule."""
PLAIN = [Case(spec.name, {}) for spec in SPECS.values()]
"""Every optimizer with nothing but defaults."""


def dealt(cases: list[Case], hand: int, hands: int) -> list[Case]:
    """Of cases dealt to so many hands, those of one: all hands together have each case once."""
    return cases[hand % hands :: hands]


def each_pair(**tables: Mapping[str, Any] | Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize by three tables or more: few combinations, in which any two values still occur together."""
    rows = [
        list(table.items()) if isinstance(table, Mapping) else [(_name(value), value) for value in table]
        for table in tables.values()
    ]
    assert sum(len(each) > 1 for each in rows) > 2, "with two tables, all combinations are needed"
    chosen = sorted(_covering(tuple(map(len, rows))))
    values = [[row[index] for row, index in zip(rows, each, strict=True)] for each in chosen]
    return pytest.mark.parametrize(
        tuple(tables),
        [pytest.param(*(value for _, value in each), id="-".join(name for name, _ in each)) for each in values],
    )


@functools.cache
def _covering(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Combinations of indices in which each pair occurs; first those with the most pairs that are new."""
    chosen: list[tuple[int, ...]] = []
    covered: set[Any] = set()
    every = [(each, set(combinations(enumerate(each), 2))) for each in product(*map(range, sizes))]
    for new in range(len(sizes) * (len(sizes) - 1) // 2, 0, -1):
        for each, pairs in every:
            if len(pairs - covered) >= new:
                chosen.append(each)
                covered |= pairs
    return chosen


def _name(value: Any) -> str:
    return value.__name__ if isinstance(value, type | types.FunctionType) else str(value)


def repr_without_addresses(value: Any) -> str:
    """A name for a test that is the same in each process."""
    return re.sub(r"( object)? at 0x[0-9a-f]+", "", repr(value))


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


def extra_options() -> dict[str, dict[str, Any]]:
    """What can be done around an update, by a name for each: the table that drives the tests of options."""
    c = fastopt.constraints
    return {
        "grad_scale": {"grad_scale": 1024.0},
        "max_grad_norm": {"max_grad_norm": 0.5},
        "max_grad_norm, scaled": {"max_grad_norm": 0.5, "grad_scale": 8.0},
        "clip_norm": {"clip_norm": 0.25},
        "clip_value": {"clip_value": 0.3},
        "clip_value, scaled": {"clip_value": 0.3, "grad_scale": 4.0},
        "nonfinite": {"nonfinite": "skip"},
        "nonfinite, clipped": {"nonfinite": "raise", "max_grad_norm": 0.5},
        "accumulate": {"accumulate_steps": 3},
        "accumulate, clipped": {"accumulate_steps": 2, "max_grad_norm": 0.5, "grad_scale": 2.0},
        "accumulate, values": {"accumulate_steps": 3, "clip_value": 0.1, "nonfinite": "skip", "grad_scale": 4.0},
        "average": {"ema_decay": 0.75},
        "average, warmup": {"ema_decay": 0.35, "ema_warmup": True},
        "average, overwritten": {"ema_decay": 0.75, "ema_overwrite_frequency": 3},
        "zero_grads": {"zero_grads": True},
        "box": {"projection": c.Box(-0.5, 0.75)},
        "non-negative": {"projection": c.NonNegative()},
        "L2 ball": {"projection": c.L2Ball(0.5)},
        "L2 ball, rows": {"projection": c.L2Ball(0.5, per="row")},
        "L1 ball": {"projection": c.L1Ball(2.0)},
        "L1 ball, rows": {"projection": c.L1Ball(0.75, per="row")},
        "simplex": {"projection": c.Simplex()},
        "simplex, rows": {"projection": c.Simplex(2.0, per="row")},
        "L1": {"prox": c.L1(0.3)},
        "L2": {"prox": c.L2(0.3)},
        "elastic net": {"prox": c.ElasticNet(0.2, 0.1)},
        "group lasso": {"prox": c.GroupLasso(1.5)},
        "group lasso, whole": {"prox": c.GroupLasso(5.0, per="param")},
        "group lasso in a ball": {"prox": c.GroupLasso(5.0), "projection": c.L2Ball(0.5, per="row")},
        "everything": {
            "grad_scale": 2.0,
            "accumulate_steps": 2,
            "max_grad_norm": 1.0,
            "nonfinite": "skip",
            "ema_decay": 0.5,
            "ema_overwrite_frequency": 2,
            "zero_grads": True,
            "prox": c.L1(0.01),
            "projection": c.L2Ball(1.0, per="row"),
        },
        "everything else": {
            "accumulate_steps": 2,
            "clip_value": 0.2,
            "ema_decay": 0.5,
            "zero_grads": True,
            "prox": c.GroupLasso(0.1),
            "projection": c.Box(-1, 1),
        },
    }

"""The cases: every variant of every optimizer in `SPECS`, on flat arrays and lists of tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fastopt.definitions.hyperparameters import HYPERPARAMETERS
from fastopt.definitions.specs import SPECS, Spec
from fastopt.kernels.formulas import registry
from fastopt.kernels.formulas.rule_sums import Terms
from fastopt.state.arrays import empty_aligned

FLOAT32 = np.dtype(np.float32)
SMALLEST_GRADIENT = 0.01


@dataclass(frozen=True)
class Variant:
    """An optimizer with the hyperparameters that choose one of its rules."""

    optimizer: str
    rule: str
    hyperparameters: Mapping[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        return " ".join([self.optimizer, *self.hyperparameters])

    @property
    def states(self) -> tuple[str, ...]:
        states: tuple[str, ...] = registry.rule(self.rule).states
        return states

    @property
    def bytes_per_parameter(self) -> int:
        """Bytes moved by a float32 step: it reads parameter, gradient and states, and writes parameter and states.

        Rules with sums read once more, before, what their sums are made of.
        """
        reads, writes = 2 + len(self.states), 1 + len(self.states)
        terms = self.terms
        before = 0 if terms is None else len(registry.loop(registry.terms_name(self.rule)).operands) - len(terms.names)
        return (before + reads + writes) * FLOAT32.itemsize

    @property
    def terms(self) -> Terms | None:
        """What a step adds up before it updates anything."""
        spec = SPECS.get(self.optimizer)  # there is none for calls that are no steps
        return None if spec is None else spec.terms({**spec.defaults, **self.hyperparameters})


def _variants(spec: Spec) -> list[Variant]:
    found: dict[tuple[str, bool], Variant] = {}
    for chosen, rule in spec.rules.items():
        names = [name for name, is_chosen in zip(spec.variants, chosen, strict=True) if is_chosen]
        values = {name: True if HYPERPARAMETERS[name].flag else 0.9 for name in names}
        if spec.check({**spec.defaults, **values}) is None:
            variant = Variant(spec.name, rule, values)
            found.setdefault((rule, variant.terms is None), variant)
    return list(found.values())


VARIANTS: dict[str, Variant] = {each.name: each for spec in SPECS.values() for each in _variants(spec)}
"""Every optimizer with each of its rules, with and without sums; a new row of SPECS appears here automatically."""

ADAM = VARIANTS["Adam"]
MAIN = tuple(VARIANTS[name] for name in ("Adam", "RMSprop", "Rprop", "Adagrad", "SGD momentum"))
"""The variants for cases in which measuring every variant would take too long."""


@dataclass(frozen=True)
class Workload:
    """Tensors of these shapes, whose elements initially lie within plus or minus half of `spread`."""

    name: str
    shapes: tuple[tuple[int, ...], ...] = field(repr=False)
    spread: float = 1.0

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)


class Named(Protocol):
    """An object with a name."""

    @property
    def name(self) -> str: ...


def identifier(each: Named) -> str:
    """A name that `pytest -k` accepts."""
    return each.name.replace(", ", "-").replace(" ", "-").replace(",", "_")


def flat(size: int) -> Workload:
    """One flat tensor."""
    return Workload(f"{size:,}", ((size,),))


def _gpt2() -> tuple[tuple[int, ...], ...]:
    width, vocabulary, context, layers = 768, 50257, 1024, 12
    norm: tuple[tuple[int, ...], ...] = ((width,), (width,))
    attention = ((width, 3 * width), (3 * width,), (width, width), (width,))
    perceptron = ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    return ((vocabulary, width), (context, width), *(norm + attention + norm + perceptron) * layers, *norm)


def _resnet50() -> tuple[tuple[int, ...], ...]:
    classes, expansion = 1000, 4

    def convolution(out: int, into: int, kernel: int) -> tuple[tuple[int, ...], ...]:
        return (out, into, kernel, kernel), (out,), (out,)  # without a bias, and the norm after it

    shapes, into = [*convolution(64, 3, 7)], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        out = expansion * width
        for block in range(blocks):
            shapes += convolution(width, into, 1) + convolution(width, width, 3) + convolution(out, width, 1)
            shapes += convolution(out, into, 1) if block == 0 else ()  # the shortcut's
            into = out
    return (*shapes, (classes, into), (classes,))


FLAT = tuple(flat(10**power) for power in range(3, 9))
MANY = Workload("500 tensors of 256", ((256,),) * 500)
THOUSAND = Workload("1,000 tensors of 1,000", ((1000,),) * 1000)
RESNET50 = Workload("ResNet-50, 161 tensors", _resnet50())
GPT2 = Workload("GPT-2 124M, 148 tensors", _gpt2())
SMALL = Workload("10 tensors, 2,100 in all", ((20, 20), (20,)) * 5)
TENSOR_LISTS = {
    SMALL: VARIANTS.values(),
    MANY: VARIANTS.values(),
    THOUSAND: MAIN,
    RESNET50: MAIN,
    GPT2: VARIANTS.values(),
}
"""Lists, and which variants are measured on each: some peers take seconds for a step."""
LISTS = [(workload, variant) for workload, variants in TENSOR_LISTS.items() for variant in variants]

PUBLISHED = {RESNET50: (161, 25_557_032), GPT2: (148, 124_439_808)}
"""How many tensors and parameters the networks have."""
assert {each: (len(each.shapes), each.size) for each in PUBLISHED} == PUBLISHED


@dataclass
class Problem:
    """The input of an optimizer: parameters to copy, and the gradients that all sides share."""

    variant: Variant
    workload: Workload
    n_threads: int
    params: list[np.ndarray]
    grads: list[np.ndarray]

    @classmethod
    def make(cls, variant: Variant, workload: Workload, n_threads: int) -> Problem:
        params, grads = _numbers(workload.size)
        if workload.spread != 1:
            params = params * FLOAT32.type(workload.spread)
        views = [_views(params, workload), copies(_views(grads, workload))]
        return cls(variant, workload, n_threads, *views)

    def change_gradients(self) -> None:
        """Change, in place, the sign and the magnitude of a part of the gradients."""
        for grad in self.grads:
            grad.reshape(-1)[::3] *= -0.75


@functools.lru_cache(maxsize=1)
def _numbers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and gradients, random, the gradients not zero; kept for the next case of the same size."""
    generator = np.random.default_rng(size)
    params = generator.random(size, np.float32) - FLOAT32.type(0.5)
    grads = generator.random(size, np.float32) - FLOAT32.type(0.5)
    grads += np.copysign(FLOAT32.type(SMALLEST_GRADIENT), grads)
    params.flags.writeable = grads.flags.writeable = False
    return params, grads


def _views(numbers: np.ndarray, workload: Workload) -> list[np.ndarray]:
    views, start = [], 0
    for shape in workload.shapes:
        stop = start + math.prod(shape)
        views.append(numbers[start:stop].reshape(shape))
        start = stop
    return views


def copies(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """A copy of each array, aligned to a cache line, as torch allocates its tensors."""
    made = []
    for array in arrays:
        copy = empty_aligned(array.size, array.dtype).reshape(array.shape)
        copy[...] = array
        made.append(copy)
    return made

"""Rules without `regularize`, where that changes nothing: the bits of the reference, which never leaves it out."""

from __future__ import annotations

import ast
import ctypes
import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from arrays import at_offset
from cases import BACKENDS, DTYPES, PLAIN, Case, each_pair, equal_bits

import fastopt
from fastopt.definitions.specs import SPECS
from fastopt.kernels import cpu, floating_point, native
from fastopt.kernels.formulas import passing, registry
from fastopt.kernels.formulas.dialect import Function
from fastopt.kernels.numba import loops as numba_loops
from fastopt.kernels.python import reference
from fastopt.kernels.render import cython_source, numba_source
from fastopt.kernels.render.spelling import ALONE

LEVELS = [level for level in (*cpu.LEVELS, cpu.OTHER) if native.CAPABILITIES.get(level.replace("-", "_"))] or [
    cpu.OTHER
]
MODULES = {level: importlib.import_module(f"fastopt.kernels.native.{cpu.module_name(level)}") for level in LEVELS}
RULES = sorted(registry.rules())
LENGTHS = (0, 1, 7, 15, 16, 17, 63, 64, 65, 127, 129, 1000)

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
by_rule = pytest.mark.parametrize("rule", RULES)


def compiled(address: int) -> Callable[[list[np.ndarray], np.ndarray, int], None]:
    """A loop at an address, as a function of operands, coefficients and the distance to prefetch."""
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_ssize_t)(address)

    def run(operands: list[np.ndarray], coefficients: np.ndarray, prefetch: int) -> None:
        addresses = (ctypes.c_void_p * len(operands))(*(each.ctypes.data for each in operands))
        function(ctypes.addressof(addresses), operands[0].size, coefficients.ctypes.data, prefetch)

    return run


def addresses(rule: str, dtype: Any) -> dict[str, int]:
    """The loops of a rule that this processor can run."""
    key = rule, np.dtype(dtype).name
    found = {level: module.ADDRESSES[key] for level, module in MODULES.items()}
    found |= {f"{level}, sharing": module.SHARING[key] for level, module in MODULES.items() if key in module.SHARING}
    return found | {"numba": numba_loops.loop(rule, np.dtype(dtype))}


def special_values(dtype: Any) -> np.ndarray:
    """Both zeros, denormals, infinities, NaN that is quiet and NaN that signals, the least and the largest numbers."""
    limits = np.finfo(dtype)
    tiny, largest = float(limits.tiny), float(limits.max)
    positive = [0, tiny / 1024, tiny / 8, tiny, 1e-30, 1e-3, 1, 1.5, 1e15, largest, np.inf, np.nan]
    values = np.array([*positive, *(-each for each in positive)], dtype)
    unsigned = np.dtype(f"u{values.itemsize}")
    signalling = np.array([np.inf], dtype).view(unsigned) + unsigned.type(1)
    return np.concatenate([values, signalling.view(dtype)])


def operands_of(loop: registry.Loop, size: int, dtype: Any, flush: bool, rng: np.random.Generator) -> list[np.ndarray]:
    """Half of the elements of each operand are special. Steps that flush leave no denormal state."""
    special = special_values(dtype)
    denormal = (special != 0) & (np.abs(special) < np.finfo(dtype).tiny)
    found = []
    for index, name in enumerate(loop.operands):
        ordinary = rng.standard_normal(size).astype(dtype)
        possible = special if name in ("param", "grad") or not flush else special[~denormal]
        values = np.where(rng.random(size) < 0.5, rng.choice(possible, size), ordinary)
        found.append(at_offset(values, (5 * index + size) % 16))
    return found


def coefficients_of(loop: registry.Loop, first: tuple[float, ...], dtype: Any, rng: np.random.Generator) -> np.ndarray:
    return np.array([*first, *rng.uniform(0.01, 0.99, len(loop.coefficients) - len(first))], dtype)


NEARLY_IDLE = [
    registry.IDLE,
    (1.0, -0.0, 1.0),
    (-1.0, 0.0, 1.0),
    (1 + 2.0**-20, 0.0, 1.0),
    (1.0, 2.0**-40, 1.0),
    (1.0, 0.0, 1 - 2.0**-20),
    (0.5, 0.03, 0.99),
]
"""Coefficients of `regularize`: with which it changes nothing, nearly nothing, and something."""


@each_pair(rule=RULES, dtype=DTYPES, flush={"flush": True, "keep": False})
def test_every_loop_has_the_bits_of_the_reference(rule: str, dtype: Any, flush: bool, rng: np.random.Generator) -> None:
    loop = registry.loop(rule)
    expect = reference.loop(rule, np.dtype(dtype))
    runs = {name: compiled(address) for name, address in addresses(rule, dtype).items()}
    for first in NEARLY_IDLE:
        for size in LENGTHS if first is registry.IDLE else LENGTHS[-1:]:
            starts = operands_of(loop, size, dtype, flush, rng)
            coefficients = coefficients_of(loop, first, dtype, rng)
            expected = [each.copy() for each in starts]
            with np.errstate(all="ignore"):
                floating_point.with_denormals(flush, lambda: expect(expected, list(coefficients)))  # noqa: B023
            for name, run in runs.items():
                for prefetch in (0, 64):
                    actual = [at_offset(each, index) for index, each in enumerate(starts)]
                    floating_point.with_denormals(flush, lambda: run(actual, coefficients, prefetch))  # noqa: B023
                    for operand, mine, theirs in zip(loop.operands, actual, expected, strict=True):
                        label = f"{rule} {name}, {first}, {size} elements, prefetch {prefetch}: {operand}"
                        assert equal_bits(mine, theirs), label


# --- which rules can be without it -----------------------------------------------------------------------------------


def test_most_rules_can_be_alone() -> None:
    assert [rule for rule in RULES if registry.loop(rule).alone is None] == ["adan", "rprop"], (
        "they store the gradient as it is"
    )
    assert all(registry.loop(name).alone is None for name in registry.operations())


@by_rule
def test_a_loop_alone_takes_the_remaining_coefficients(rule: str) -> None:
    loop = registry.loop(rule)
    if loop.alone is not None:
        assert loop.coefficients[len(registry.IDLE) :] == loop.alone.coefficients
        assert loop.operands == loop.alone.operands


@functools.cache
def rendered() -> str:
    return cython_source.loops_source(cpu.LEVELS[0])


@by_rule
def test_which_loops_are_rendered_twice(rule: str) -> None:
    loop = registry.loop(rule)
    cython = rendered()
    for real in registry.REALS:
        twice = loop.alone is not None and real in ALONE
        assert (f"{rule}_alone_{real}(" in cython) == (twice and rule not in cython_source.SPARING)
        assert numba_source.numba_source(loop, real).count(f" = {rule}(") == 2 + twice


HALF = Function("half", ("x",), (), (ast.parse("x / 2", mode="eval").body,))
SAME = Function("same", ("x", "y"), (), (ast.parse("maximum(y, x)", mode="eval").body,))

BODIES = [
    ("s = grad", True),
    ("s = -grad", True),
    ("s = 2 * grad", False),
    ("s = select(s > 0, grad, s)", True),
    ("s = select(grad > 0, s, 0)", False),
    ("s = clip(grad, -c, c)", True),
    ("s = clip(s, -grad, grad)", True),
    ("s = sign(grad)", False),
    ("s = sqrt(param)", False),
    ("g = grad\n    s = g", True),
    ("g = grad\n    g = g + s\n    s = g", False),
    ("s = half(grad)", False),
    ("s = half(same(grad, s))", False),
    ("s = same(s, grad)", True),
    ("s = same(half(grad), s)", False),
    ("g, s = s, grad", True),
    ("grad = grad * c\n    s = grad", False),
]
"""What a rule does with its state `s`, and whether that can be what was given."""


@pytest.mark.parametrize(("body", "stored"), BODIES, ids=[body.replace("\n    ", "; ") for body, _ in BODIES])
def test_what_a_rule_stores_as_it_was_given(body: str, stored: bool) -> None:
    text = f"def rule(param, grad, s, c):\n    {body}\n    param = param - c * grad\n"
    (tree,) = ast.parse(text).body
    assert isinstance(tree, ast.FunctionDef)
    results = tuple(ast.parse(name, mode="eval").body for name in ("param", "s"))
    function = Function("rule", ("param", "grad", "s", "c"), tuple(tree.body), results)  # type: ignore[arg-type]
    known = {"half": HALF, "same": SAME}
    assert passing.stores_as_given(function, frozenset(("param", "grad")), known) == stored


# --- what `regularize` does without weight decay ---------------------------------------------------------------------


AVERAGING = {"ASGD", *(name for name, spec in SPECS.items() if spec.starts_as_param)}
"""Optimizers with a state that is an average of the parameter, or starts as it."""

WITH_DECAY = [
    case for case in PLAIN if "weight_decay" in SPECS[case.optimizer].defaults and case.optimizer not in AVERAGING
]


@pytest.mark.parametrize("case", WITH_DECAY, ids=str)
@by_dtype
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_weight_decay_a_parameter_leaves_states_alone(case: Case, dtype: Any, backend: str) -> None:
    """Whatever the parameter is: infinite, NaN, or of either sign beside a gradient of -0.0."""
    odd = np.array([np.inf, -np.inf, np.nan, 1, -1, 1, -1], dtype)
    gradient = np.array([0.5, 0.5, 0.5, -0.0, -0.0, 0, 0], dtype)
    params = [odd, np.zeros_like(odd)]
    optimizers = [getattr(fastopt, case.optimizer)(each, lr=0.01, weight_decay=0, backend=backend) for each in params]
    with np.errstate(all="ignore"):
        for optimizer, _ in itertools.product(optimizers, range(3)):
            optimizer.step(gradient)
    mine, theirs = (optimizer.state[0] for optimizer in optimizers)
    for name, value in theirs.items():
        same = mine[name] == value if isinstance(value, (int, float)) else equal_bits(mine[name], value)
        assert same, name
    assert np.array_equal(np.isnan(odd), [False, False, True, False, False, False, False])

"""Rules made up by hypothesis: Numba and NumPy give the same bits, and `describe` can say what they do."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, equal_bits, random_gradient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastopt
from fastopt import rules

NAMES = ("param", "grad", "first", "second", "lr", "beta", "step")
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
numbers = st.sampled_from(["0", "1", "2", "0.5", "0.1", "3.7", "1e-3", "True"])


def extended(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def spelled(form: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.tuples(*parts).map(lambda each: form.format(*each))

    return st.one_of(
        *(spelled(f"({{}} {operator} {{}})", inner, inner) for operator in "+-*/"),
        spelled("-{}", inner),
        spelled("sqrt({})", inner),
        spelled("floor({})", inner),
        spelled("sign({})", inner),
        spelled("maximum({}, {})", inner, inner),
        spelled("clip({}, {}, {})", inner, inner, inner),
        spelled("select({} {} {}, {}, {})", inner, st.sampled_from(COMPARISONS), inner, inner, inner),
    )


expressions = st.recursive(st.one_of(st.sampled_from(NAMES), numbers), extended, max_leaves=8)

RULE = """
from fastopt import rule
from fastopt.rules import clip, floor, maximum, select, sign, sqrt

@rule(state=("first", "second"), hyper=dict(lr=0.1, beta=0.9))
def Made(param, grad, first, second, lr, beta, step):
    first = {}
    {} = {}
    second = {}
    param = {}
    return param, first, second
"""

counter = itertools.count()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda each: each.__name__)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=st.tuples(expressions, st.sampled_from(["local", *NAMES[:4]]), expressions, expressions, expressions),
    seed=st.integers(0, 2**32),
)
def test_every_backend_gives_the_same_bits(
    dtype: Any, tmp_path_factory: pytest.TempPathFactory, parts: tuple[str, ...], seed: int
) -> None:
    path = Path(tmp_path_factory.mktemp("rules")) / f"made_{next(counter)}.py"
    path.write_text(RULE.format(*parts))
    module = ModuleType(path.stem)
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    made: type[rules.RuleOptimizer] = module.Made
    rng = np.random.default_rng(seed)
    initial, gradients = random_gradient(rng, 130, dtype), [random_gradient(rng, 130, dtype) for _ in range(3)]
    results: list[list[np.ndarray]] = []
    for backend in ("numba", "reference"):
        w = initial.copy()
        optimizer: fastopt.Optimizer = made(w, backend=backend)
        for gradient in gradients:
            optimizer.step(gradient)
        results.append([w, optimizer.state[0]["first"], optimizer.state[0]["second"]])
    assert all(map(equal_bits, *results)), path.read_text()
    optimizer.describe()

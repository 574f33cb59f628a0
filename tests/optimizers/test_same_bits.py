"""All backends, thread counts, lengths and alignments give the same bits: parameters and every state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from arrays import at_offset
from cases import BACKENDS, CASES, DTYPES, PLAIN, VARIANTS, Case, equal_bits, random_gradient
from comparing import assert_same, run

LENGTHS = (0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 4097)
OFFSETS = range(16)
STEPS = 10  # the last of the warm-ups in the cases takes 9
LARGE = 300_007

OTHER_COEFFICIENTS = [pytest.param(case, marks=pytest.mark.exhaustive) for case in CASES if case not in VARIANTS]
"""The cases that have the loops of others."""

by_case = pytest.mark.parametrize("case", [*VARIANTS, *OTHER_COEFFICIENTS], ids=str)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


@by_case
@by_dtype
@pytest.mark.usefixtures("threads_always")
def test_every_length_at_every_offset(case: Case, dtype: Any, rng: np.random.Generator) -> None:
    sizes = [length for length in LENGTHS for _ in OFFSETS]
    starts = [rng.standard_normal(size).astype(dtype) for size in sizes]
    gradients = [
        [at_offset(random_gradient(rng, size, dtype), (3 * index + step) % 16) for index, size in enumerate(sizes)]
        for step in range(STEPS)
    ]
    expected = run(case, starts, gradients, backend="reference")
    for backend, n_threads in (("cython", 1), ("cython", 7), ("numba", 5)):
        actual = run(case, starts, gradients, backend=backend, n_threads=n_threads)
        assert_same(case, expected, actual, f"{backend}, {n_threads} threads")


@pytest.mark.parametrize("case", VARIANTS, ids=str)
@by_dtype
@pytest.mark.usefixtures("threads_always")
def test_every_number_of_threads(case: Case, dtype: Any, rng: np.random.Generator) -> None:
    """Of every loop: the other cases are other coefficients of the same ones, which threads are given."""
    starts = [rng.standard_normal(LARGE).astype(dtype)]
    gradients = [[random_gradient(rng, LARGE, dtype)] for _ in range(3)]
    expected = run(case, starts, gradients, backend="reference")
    for backend in ("cython", "numba"):
        for n_threads in range(1, 9):
            actual = run(case, starts, gradients, backend=backend, n_threads=n_threads)
            assert_same(case, expected, actual, f"{backend}, {n_threads} threads")


@pytest.mark.parametrize("case", PLAIN, ids=str)
@by_dtype
@pytest.mark.parametrize("flush", [True, False])
def test_denormals_and_nonfinite_values(case: Case, dtype: Any, flush: bool, rng: np.random.Generator) -> None:
    tiny = np.finfo(dtype).tiny
    special = np.array([0, -0.0, tiny, -tiny, tiny / 8, -tiny / 1024, np.inf, -np.inf, np.nan, 1, -1], dtype)
    starts = [rng.choice(special, 1000)]
    gradients = [[rng.choice(special, 1000)] for _ in range(STEPS)]
    with np.errstate(all="ignore"):
        expected, *others = (
            run(case, starts, gradients, backend=name, flush_denormals=flush) for name in ("reference", *BACKENDS)
        )
    for backend, actual in zip(BACKENDS, others, strict=True):
        assert_same(case, expected, actual, f"{backend}, flush_denormals={flush}")


COMPARING = ("Adamax", "ADOPT", "Lion", "Rprop")
"""The optimizers that compare numbers, as those with amsgrad do."""


@pytest.mark.parametrize(
    "case", [each for each in VARIANTS if each.optimizer in COMPARING or "amsgrad" in str(each)], ids=str
)
@by_dtype
@pytest.mark.parametrize("flush", [True, False])
def test_states_that_are_denormal(case: Case, dtype: Any, flush: bool, rng: np.random.Generator) -> None:
    """As they can be loaded, whatever a step does to denormals: amsgrad's maximum is compared, and stored as it is."""
    tiny = np.finfo(dtype).tiny
    special = np.array([0, -0.0, tiny, tiny / 2, tiny / 1024, np.finfo(dtype).smallest_subnormal, 1e-20, 1], dtype)
    values = {name: rng.choice(special, 1000) for name in case.spec.all_states}
    gradients = rng.choice(np.concatenate([special, -special]), (3, 1000))
    found: dict[str, Any] = {}
    for backend in ("reference", *BACKENDS):
        param = np.ones(1000, dtype)
        optimizer = case.make(param, backend=backend, flush_denormals=flush)
        optimizer.step(gradients[0])
        for name, state in optimizer.state[0].items():
            if isinstance(state, np.ndarray):
                state[:] = values[name]
        with np.errstate(all="ignore"):
            optimizer.step(gradients[1])
            optimizer.step(gradients[2])
        found[backend] = {"param": param, **optimizer.state[0]}
    for backend in BACKENDS:
        for name, expected in found["reference"].items():
            if isinstance(expected, np.ndarray):
                assert equal_bits(expected, found[backend][name]), (backend, name)


def test_the_comparison_can_fail() -> None:
    a = np.array([0.0, 1.0, np.nan], np.float32)
    assert equal_bits(a, a.copy())
    assert not equal_bits(a, np.array([-0.0, 1.0, np.nan], np.float32))
    assert not equal_bits(a, np.array([0.0, np.nextafter(np.float32(1), np.float32(2)), np.nan], np.float32))
    assert not equal_bits(a, np.array([0.0, 1.0, 1.0], np.float32))

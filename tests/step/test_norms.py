"""The norm of arrays: exact, the same bits with any number of threads, and the norm that optimizers clip by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import DTYPES

import fastopt
from fastopt.kernels import backends


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("sizes", [[0], [1], [63], [64, 65], [4095, 4096, 4097, 0, 3], [200_000, 7]])
@pytest.mark.usefixtures("threads_always")
def test_the_same_bits_and_exact(dtype: Any, sizes: list[int], rng: np.random.Generator) -> None:
    arrays = [rng.standard_normal(size).astype(dtype) for size in sizes]
    exact = math.sqrt(math.fsum(x * x for array in arrays for x in array.astype(float).tolist()))
    reference = backends.load("reference")
    sums = reference.add_up_arrays(arrays, reference.sum_over("square", np.dtype(dtype)), 0)
    found = {fastopt.global_norm(arrays, n_threads=n) for n in (1, 2, 3, 8)} | {math.sqrt(sums)}
    optimizer = fastopt.SGD([np.zeros_like(array) for array in arrays], max_grad_norm=math.inf)
    optimizer.step(arrays)
    assert found == {optimizer.grad_norm}
    assert found.pop() == pytest.approx(exact, rel=1e-14, abs=0)


def test_large_values_of_float32_do_not_overflow_and_small_ones_do_not_vanish() -> None:
    assert fastopt.global_norm(np.full(4, 3e38, np.float32)) == pytest.approx(6e38)
    assert fastopt.global_norm(np.full(4, 1e-44, np.float32)) == pytest.approx(2 * float(np.float32(1e-44)))


def test_what_it_takes() -> None:
    assert fastopt.global_norm({"a": np.array([3.0]), "b": None, "c": np.array([[4.0]])}) == 5
    assert fastopt.global_norm([]) == 0
    assert math.isnan(fastopt.global_norm((np.array([1.0, np.nan]),)))
    assert fastopt.global_norm(np.array([np.inf, 1])) == math.inf


WRONG: list[tuple[Any, type[Exception], str]] = [
    (1.0, TypeError, "arrays must be a numpy.ndarray, or a dict or sequence of them, got float"),
    ("abc", TypeError, "got str"),
    ([np.ones(2), 1.0], TypeError, r"arrays\[1\] must be a numpy.ndarray, got float"),
    (
        {"w": np.ones(2, int)},
        TypeError,
        r"arrays\['w'\] must be of dtype float32, float64, bfloat16 or float16, got int64",
    ),
    (
        [np.ones(2), np.ones(2, np.float32)],
        TypeError,
        r"one dtype, or of .*: arrays\[0\] is float64, arrays\[1\] is float32",
    ),
    (np.ones((3, 4)).T, ValueError, "C-contiguous"),
]


@pytest.mark.parametrize(("arrays", "error", "match"), WRONG)
def test_wrong_arrays(arrays: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        fastopt.global_norm(arrays)

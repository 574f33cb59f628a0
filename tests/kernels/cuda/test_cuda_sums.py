"""Sums over device arrays, and changes of arrays: the order of adding is fixed, and as on the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, Case, equal_bits
from engines import Pair, on_device

import fastopt
from fastopt.kernels import backends
from fastopt.kernels.cuda import engine as engines
from fastopt.kernels.cuda import memory
from fastopt.kernels.cuda.availability import is_simulated
from fastopt.kernels.cuda.launches import LaunchShape

MANY = 65 * 4096 + 17
"""More partial sums than are added one after the other."""


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_the_norm_has_the_bits_of_the_other_backends(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(size).astype(dtype) for size in (1, 64, 0, 100, 4096 + 71)]
    cuda = backends.load("cuda")
    there = [on_device(each) for each in arrays]
    norm = math.sqrt(cuda.add_up_arrays(there, cuda.sum_over("square", np.dtype(dtype)), 0))
    assert norm == fastopt.global_norm(arrays)
    arrays[3][:7] = [np.nan, np.inf, -np.inf, 0, 1, 1e30, -1e30]
    there = [on_device(each) for each in arrays]
    assert cuda.add_up_arrays(there, cuda.sum_over("unusable", np.dtype(dtype)), 0) == sum(
        int((~(np.abs(each) <= 0)).sum()) for each in arrays
    )
    assert cuda.add_up_arrays([], cuda.sum_over("square", np.dtype(dtype)), 0) == 0


@pytest.mark.skipif(not is_simulated(), reason="a device has one number of threads")
def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    param, gradient = np.zeros(MANY, np.float32), rng.standard_normal(MANY).astype(np.float32)
    norms = []
    for threads in (4, 1):
        shape = LaunchShape(threads=threads, chunk=1 << 20, blocks_per_multiprocessor=1)
        monkeypatch.setattr(engines, "LAUNCH_SHAPE", shape)
        pair = Pair(Case("SGD", {}), [param.copy()], max_grad_norm=1.0)
        pair.engine.set_addresses([memory.address(there := on_device(gradient))])
        pair.engine.upload()
        for name in ("sums", "prepare"):
            pair.engine._launch[name](pair.engine.tables.header)
        pair.engine.fetch()
        norms.append(pair.engine.progress.grad_norm[0])
        del there
    assert norms[0] == norms[1]
    assert norms[0] == pytest.approx(fastopt.global_norm(gradient), rel=1e-15)


def test_arrays_are_changed_in_place() -> None:
    from fastopt.kernels.formulas import registry

    arrays = [np.arange(70, dtype=np.float32), np.float32(3).reshape(()), np.zeros(0, np.float32)]
    there = [on_device(each) for each in arrays]
    cuda = backends.load("cuda")
    cuda.change_arrays(there, cuda.loop("scale", np.dtype(np.float32)), (0.5,), 0)
    for mine, other in zip(arrays, there, strict=True):
        assert equal_bits(mine * np.float32(0.5), memory.to_host(other))
    cuda.change_arrays([], registry.loop("scale"), (0.5,), 0)

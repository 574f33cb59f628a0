"""Sums over gradients on the device: the order of adding is fixed, and as on the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, Case
from engines import Pair, on_device

import fastopt
from fastopt.kernels.cuda import engine as engines
from fastopt.kernels.cuda import memory
from fastopt.kernels.cuda.availability import is_simulated
from fastopt.kernels.cuda.launches import LaunchShape

MANY = 65 * 4096 + 17
"""More partial sums than are added one after the other."""


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_the_norm_has_the_bits_of_the_other_backends(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    gradients = [rng.standard_normal(size).astype(dtype) for size in (1, 64, 0, 100, 4096 + 71)]
    params = [np.zeros_like(each) for each in gradients]
    pair = Pair(Case("SGD", {}), params, max_grad_norm=math.inf, nonfinite="skip")
    pair.step(gradients)
    pair.check()
    assert pair.engine.progress.grad_norm[0] == fastopt.global_norm(gradients)
    gradients[3][:7] = [np.nan, np.inf, -np.inf, 0, 1, 1e30, -1e30]
    gradients[4][-1] = np.nan
    pair.step(gradients)
    pair.check()
    unusable = [int((~np.isfinite(each)).sum()) for each in gradients]
    assert pair.engine.unusable() == [(index, count) for index, count in enumerate(unusable) if count]


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

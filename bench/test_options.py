"""Clipping, zeroing, checks and norms: fused into the update, and as separate calls."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import fastopt

from . import clipping, custom_loops
from .cases import ADAM, MANY, Problem, Variant, Workload, flat, identifier
from .measure import Record, Settings

Compare = Callable[..., None]

SLOW_AVERAGES = Variant("AdamW", "adam", {"betas": (0.9999, 0.99999)})
"""Gradients are zero from the second step on: with the usual betas, moments would decay to denormals."""

SIZES = tuple(flat(10**power) for power in (4, 6, 8))
workloads = pytest.mark.parametrize("workload", SIZES, ids=identifier)


@pytest.mark.parametrize("workload", [*SIZES, MANY], ids=identifier)
def test_clip_step_zero(compare: Compare, workload: Workload) -> None:
    section, peers = "Clip, step, zero", clipping.CLIP_STEP_ZERO
    compare(section, SLOW_AVERAGES, workload, subject=custom_loops.CLIP_STEP_ZERO, peers=peers, only_moves=False)


@workloads
def test_finite_checks(compare: Compare, workload: Workload) -> None:
    compare("Finite checks", ADAM, workload, subject=custom_loops.CHECKED, peers=(custom_loops.FASTOPT,))


@workloads
def test_norms(
    benchmark: BenchmarkFixture,
    settings: Settings,
    record: Callable[[Record], None],
    workload: Workload,
) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(settings.n_threads)
    gradient = Problem.make(ADAM, workload, settings.n_threads).grads[0]
    tensor = torch.from_numpy(gradient)
    exact = math.sqrt(float(np.sum(gradient.astype(np.float64) ** 2)))  # NumPy adds in pairs

    def ours() -> float:
        return fastopt.global_norm(gradient, n_threads=settings.n_threads)

    def theirs() -> float:
        return float(torch.linalg.vector_norm(tensor))

    errors = abs(ours() / exact - 1), abs(theirs() / exact - 1)
    assert errors[0] < 1e-13
    seconds: list[float] = []

    def take_turn() -> None:
        start = time.perf_counter()
        theirs()
        seconds.append(time.perf_counter() - start)

    rounds = max(5, min(1000, int(settings.seconds / 1e-9 / workload.size / 2)))
    benchmark.pedantic(ours, rounds=rounds, teardown=take_turn, warmup_rounds=3)
    if benchmark.stats is None:  # --benchmark-disable
        return
    mine, torchs = statistics.median(benchmark.stats.stats.data), statistics.median(seconds)
    record(
        {
            "section": "Norms",
            "name": f"norm, {workload.name}",
            "values": {
                "fastopt": (mine * 1e6, "us"),
                "torch": (torchs * 1e6, "us"),
                "torch / fastopt": (torchs / mine, "x"),
                "fastopt's error": (errors[0], ""),
                "torch's error": (errors[1], ""),
            },
        }
    )

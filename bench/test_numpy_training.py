"""Whole training iterations of a network in plain NumPy."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from pytest_benchmark.fixture import BenchmarkFixture

from . import numpy_training
from .cases import ADAM, Problem
from .measure import Record, Settings, time_steps
from .numpy_training import FASTOPT, NETWORK, WITHOUT_OPTIMIZER

ROUNDS, ITERATIONS = 60, 20


def test_numpy_training(compare: Callable[..., None]) -> None:
    section = "NumPy: whole training iterations"
    compare(section, ADAM, NETWORK, subject=FASTOPT, peers=numpy_training.PEERS, only_moves=False)


def test_numpy_training_without_optimizer(
    benchmark: BenchmarkFixture, settings: Settings, record: Callable[[Record], None]
) -> None:
    """What no optimizer can be faster than: forward and backward alone, beside iterations with fastopt's."""
    problem = Problem.make(ADAM, NETWORK, settings.n_threads)
    bare, ours = (peer.start(problem).step for peer in (WITHOUT_OPTIMIZER, FASTOPT))
    seconds: list[float] = []

    def take_turn() -> None:
        seconds.append(time_steps(ours, ITERATIONS))

    benchmark.pedantic(bare, rounds=ROUNDS, iterations=ITERATIONS, teardown=take_turn, warmup_rounds=3)
    if benchmark.stats is None:  # --benchmark-disable
        return
    pairs = list(zip(benchmark.stats.stats.data, seconds, strict=False))
    values = {
        "without optimizer": (1e6 * statistics.median(first for first, _ in pairs), "us"),
        "with fastopt": (1e6 * statistics.median(second for _, second in pairs), "us"),
        "without / with": (statistics.median(first / second for first, second in pairs), ""),
    }
    record({"section": "NumPy: the least an iteration can take", "name": NETWORK.name, "values": values})

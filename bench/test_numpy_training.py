"""Whole training iterations of a network in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable

from pytest_benchmark.fixture import BenchmarkFixture

from . import numpy_training
from .cases import ADAM, Problem
from .measure import Record, Settings, bare_beside_ours
from .numpy_training import FASTOPT, NETWORK, WITHOUT_OPTIMIZER


def test_numpy_training(compare: Callable[..., None]) -> None:
    section = "NumPy: whole training iterations"
    compare(section, ADAM, NETWORK, subject=FASTOPT, peers=numpy_training.PEERS, only_moves=False)


def test_numpy_training_without_optimizer(
    benchmark: BenchmarkFixture, settings: Settings, record: Callable[[Record], None]
) -> None:
    """The lower bound: forward and backward pass alone, and iterations with fastopt."""
    problem = Problem.make(ADAM, NETWORK, settings.n_threads)
    bare, ours = (peer.start(problem).step for peer in (WITHOUT_OPTIMIZER, FASTOPT))
    if values := bare_beside_ours(benchmark, bare, ours):
        record({"section": "NumPy: lower bound of an iteration", "name": NETWORK.name, "values": values})

"""Half of the gradients become zero: the moments of that half decay to denormals, unless they are flushed."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from . import own
from .cases import VARIANTS, Problem, flat
from .measure import Record, Settings
from .peers import TORCH_DEFAULT, TORCH_FUSED
from .runner import Peer

EARLY, LATE, STEPS = 10, 3_000, 200
"""Steps 10 and 3,000 are timed as the medians of so many steps that start there: denormals come after about 800."""

TORCH = {"Adam": TORCH_FUSED, "RMSprop momentum": TORCH_DEFAULT, "SGD momentum": TORCH_FUSED}
CASES = [(name, peer) for name, torch in TORCH.items() for peer in (own.CYTHON, own.NUMBA, torch)]


@pytest.mark.parametrize(("name", "peer"), CASES, ids=[f"{name}-{peer.name}" for name, peer in CASES])
def test_half_dead_gradients(
    benchmark: BenchmarkFixture,
    settings: Settings,
    record: Callable[[Record], None],
    quick: bool,
    name: str,
    peer: Peer,
) -> None:
    workload = flat(100_000 if quick else 1_000_000)
    problem = Problem.make(VARIANTS[name], workload, settings.n_threads)
    reason = peer.unavailable(problem)
    if reason:
        pytest.skip(reason)
    runner = peer.start(problem)
    runner.step()
    for grad in problem.grads:
        grad[: grad.size // 2] = 0
    runner.take_gradients()
    benchmark.pedantic(runner.step, rounds=LATE + STEPS)
    if benchmark.stats is None:  # --benchmark-disable
        return
    seconds = benchmark.stats.stats.data
    early, late = (statistics.median(seconds[first - 2 : first - 2 + STEPS]) for first in (EARLY, LATE))
    record(
        {
            "section": "Half-dead gradients",
            "name": f"{name}, {peer.name}",
            "values": {
                f"step {EARLY}": (early * 1e6, "us"),
                f"step {LATE:,}": (late * 1e6, "us"),
                "growth": (late / early, "x"),
            },
        }
    )

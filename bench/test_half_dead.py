"""Half of the gradients become zero, and their averages decay to denormals unless those are flushed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from . import custom_loops
from .cases import VARIANTS, flat, identifier
from .half_dead import MILESTONES, History
from .measure import Record, Settings
from .memory import give_memory_back
from .peers import DEEPSPEED, PEERS, TORCH_FUSED

DECAYING = tuple(VARIANTS[name] for name in ("Adam", "AdamW", "RMSprop momentum", "SGD momentum"))
"""Variants with a state that loses a tenth in each step; other states take far more steps to become denormal."""

BESIDE = tuple(peer for peer in PEERS if not peer.approximate)
QUICK_BESIDE = (TORCH_FUSED, DEEPSPEED)


@pytest.fixture(scope="module", params=DECAYING, ids=identifier)
def history(request: pytest.FixtureRequest, settings: Settings, quick: bool) -> Iterator[History]:
    size, peers, patience = (100_000, QUICK_BESIDE, 10) if quick else (1_000_000, BESIDE, 8)
    beside = settings.chosen((custom_loops.NUMBA, *peers))
    yield History(request.param, flat(size), settings.n_threads, custom_loops.FASTOPT, beside, patience)
    give_memory_back()


def name(history: History) -> str:
    return f"{history.problem.variant.name}, {history.problem.workload.name}"


@pytest.mark.parametrize("milestone", MILESTONES, ids=lambda milestone: f"step_{milestone}")
def test_half_dead_gradients(
    benchmark: BenchmarkFixture, record: Callable[[Record], None], history: History, milestone: int
) -> None:
    benchmark.pedantic(history.reach, (milestone,))
    results = history.results(milestone)
    found: Record = {
        "section": "Half-dead gradients",
        "name": f"{name(history)}, step {milestone:,}",
        "variant": history.problem.variant.name,
        "workload": history.problem.workload.name,
        "parameters": history.problem.workload.size,
        "threads": history.problem.n_threads,
        "subject": history.subject.name,
        "checked": all("wrong" not in result for result in results.values()),
        "seconds": statistics.median(history.ours.seconds[milestone]),
        "peers": results,
    }
    record(found)
    wrong = {peer: result["wrong"] for peer, result in results.items() if "wrong" in result}
    assert not wrong, f"WRONG: fastopt disagrees with {wrong}"


@pytest.mark.parametrize("milestone", MILESTONES[1:], ids=lambda milestone: f"step_{milestone}")
def test_growth(
    benchmark: BenchmarkFixture, record: Callable[[Record], None], history: History, milestone: int
) -> None:
    benchmark.pedantic(history.reach, (milestone,))
    values = {peer: (growth, "x") for peer, growth in history.growth(milestone).items()}
    record(
        {
            "section": "Half-dead gradients: growth",
            "name": f"{name(history)}, step {milestone:,}",
            "values": values,
        }
    )

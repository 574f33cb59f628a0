"""The memory of optimizers, and memory still held after a million steps."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import fastopt

from . import custom_loops, memory
from .cases import FLOAT32, VARIANTS, Variant, Workload, flat, identifier
from .measure import Record, Settings
from .peers import PEERS
from .runner import Peer

Keep = Callable[[Record], None]

pytestmark = pytest.mark.skipif(memory.unavailable() is not None, reason=str(memory.unavailable()))


@pytest.mark.parametrize("peer", [custom_loops.FASTOPT, *PEERS], ids=identifier)
@pytest.mark.parametrize("workload", [flat(10**7)], ids=identifier)
@pytest.mark.parametrize("variant", [VARIANTS["Adam"], VARIANTS["RMSprop"]], ids=identifier)
def test_memory(
    benchmark: BenchmarkFixture, settings: Settings, record: Keep, variant: Variant, workload: Workload, peer: Peer
) -> None:
    arguments = variant, workload, peer, settings.n_threads
    found = benchmark.pedantic(memory.measure_in_a_fresh_process, arguments)
    name, values = f"{variant.name}, {peer.name}", {}
    if isinstance(found, str):
        name += f": {found}"
    else:
        values = {
            "states in float32": (float(len(variant.states) * FLOAT32.itemsize), "bytes"),
            "kept": (found.kept, "bytes"),
            "more during a step": (found.peak, "bytes"),
            "at most": (found.kept + found.peak, "bytes"),
        }
    record({"section": "Memory per parameter", "name": name, "values": values})


def test_memory_of_steps(benchmark: BenchmarkFixture, record: Keep, quick: bool) -> None:
    params, grads = np.zeros(1000, np.float32), np.ones(1000, np.float32)
    step = fastopt.Adam(params, grads=grads).step
    count = 100_000 if quick else 1_000_000
    for _ in range(1000):
        step()
    resident, blocks = memory.resident_bytes(), sys.getallocatedblocks()
    benchmark.pedantic(step, rounds=1, iterations=count)
    growth, kept = memory.resident_bytes() - resident, sys.getallocatedblocks() - blocks
    tracemalloc.start()
    step()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    step()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    values = {
        "steps": (count, ""),
        "memory growth": (growth / 1e3, "kB"),
        "blocks kept per step": (kept // count, ""),
        "most bytes in use during a step": (peak, ""),
    }
    record({"section": "A million steps", "name": "steps", "values": values})

"""What a process pays before its first step, and what a million steps leave behind."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import fastopt

from .measure import Record

Keep = Callable[[Record], None]

START = """
import time
import numpy
start = time.perf_counter()
import fastopt
imported = time.perf_counter()
params, grads = numpy.zeros(1000, numpy.float32), numpy.ones(1000, numpy.float32)
fastopt.Adam(params, grads=grads, backend={backend!r}).step()
print(imported - start, time.perf_counter() - start)
"""
"""Prints the seconds of the import and of everything up to the end of the first step."""


@pytest.mark.parametrize(("name", "backend"), [("start", "auto"), ("start, numba", "numba")])
def test_start(benchmark: BenchmarkFixture, record: Keep, quick: bool, name: str, backend: str) -> None:
    found: list[list[float]] = []

    def start() -> None:
        command = [sys.executable, "-c", START.format(backend=backend)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.append([1e3 * float(seconds) for seconds in printed.split()])

    # The first process writes the bytecode that the others read.
    benchmark.pedantic(start, rounds=3 if quick else 9, warmup_rounds=1)
    imports, firsts = (statistics.median(milliseconds) for milliseconds in zip(*found[1:] or found, strict=True))
    values = {"import": (imports, "ms"), "import and first step": (firsts, "ms")}
    record({"section": "Start and memory", "name": name, "values": values})


def resident_bytes() -> int:
    """Physical memory of this process; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_of_steps(benchmark: BenchmarkFixture, record: Keep, quick: bool) -> None:
    params, grads = np.zeros(1000, np.float32), np.ones(1000, np.float32)
    step = fastopt.Adam(params, grads=grads).step
    count = 100_000 if quick else 1_000_000
    for _ in range(1000):
        step()
    resident, blocks = resident_bytes(), sys.getallocatedblocks()
    benchmark.pedantic(step, rounds=1, iterations=count)
    growth, kept = resident_bytes() - resident, sys.getallocatedblocks() - blocks
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
    record({"section": "Start and memory", "name": "steps", "values": values})

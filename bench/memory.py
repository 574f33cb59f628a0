"""The memory of an optimizer, measured in its own process; Linux only."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .cases import Problem, Variant, Workload, flat
from .runner import Peer, Runner

ROLLUP = Path("/proc/self/smaps_rollup")
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"

WARM_WORKLOAD = flat(1_000)
STEPS = 3
"""Steps before the measurement: memory allocated in the first steps and kept is not part of the peak."""


def unavailable() -> str | None:
    """Why memory cannot be measured here, or None."""
    missing = [str(path) for path in (ROLLUP, STATUS, CLEAR) if not path.exists()]
    return f"there is no {', '.join(missing)}" if missing else None


def give_memory_back() -> None:
    """Return to the system garbage and memory kept by the allocator: gigabytes, after lists of large tensors."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Physical memory of this process, counted page by page: /proc/self/statm can be some hundred kilobytes behind."""
    return _bytes(ROLLUP, "Rss:")


def most_resident_bytes() -> int:
    """The most physical memory of this process since the peak was reset."""
    return _bytes(STATUS, "VmHWM:")


def _bytes(path: Path, field: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in path.read_text().splitlines() if line.startswith(field))


@dataclass(frozen=True)
class Memory:
    """Bytes per parameter."""

    kept: float
    """Kept from step to step, including the parameters and the gradients."""
    peak: float
    """The most during a step, in addition to `kept`."""


def measure(variant: Variant, workload: Workload, peer: Peer, n_threads: int) -> Memory | str:
    """The memory that a peer takes in this process, or why it cannot run."""
    small = Problem.make(variant, WARM_WORKLOAD, n_threads)
    reason = peer.unavailable(small)
    if reason:
        return reason
    _start(peer, small)  # libraries and threads take memory as well, but no more of it for more parameters
    problem = Problem.make(variant, workload, n_threads)
    give_memory_back()
    before = resident_bytes()
    runner = _start(peer, problem)
    give_memory_back()
    kept = resident_bytes()
    CLEAR.write_text(RESET_PEAK)
    runner.prepared_step()
    peak = most_resident_bytes()
    return Memory((kept - before) / workload.size, max(0, peak - kept) / workload.size)


def _start(peer: Peer, problem: Problem) -> Runner:
    runner = peer.start(problem)
    for _ in range(STEPS):
        runner.prepared_step()
    return runner


def measure_by_name(variant: Variant, workload: Workload, peer: str, n_threads: int) -> Memory | str:
    from . import custom_loops
    from .peers import PEERS

    peers = {each.name: each for each in (custom_loops.FASTOPT, *PEERS)}
    return measure(variant, workload, peers[peer], n_threads)


def measure_in_a_fresh_process(variant: Variant, workload: Workload, peer: Peer, n_threads: int) -> Memory | str:
    """As `measure`, for fastopt and for one of PEERS: only a name can be handed over."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_by_name, variant, workload, peer.name, n_threads).result()

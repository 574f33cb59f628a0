"""Measures fastopt and its peers in turns, and writes down what came of it.

A record is what one test found out, as plain values for JSON. All have `section` and `name`. A comparison has

- `variant`, `workload`, `parameters`, `subject`: what ran;
- `checked`: whether results were compared and agree;
- `seconds`: a step of fastopt, the median; `bytes_per_second`, where it only moves bytes;
- `peers`: per name `seconds`, `ratio` (theirs / ours: the median of the pairs), `ratio_min`, `ratio_max`; or `wrong`,
  what the results disagree in, and then it was not timed; or `unavailable`, the reason;
- `best_peer` and its `ratio`, `ratio_min`, `ratio_max`.

A measurement has `values`: per label a number and its unit. The `record` fixture adds `busy`: how many processors other
work used in the meantime.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from . import check
from .cases import FLOAT32, Problem, Variant, Workload
from .clock import CLOCK
from .own import FASTOPT
from .peers import PEERS
from .runner import Peer, Runner

Record = dict[str, Any]

BLOCK_SECONDS = 0.01
"""Steps are timed in blocks of about so long."""

WARM_SECONDS = 0.012
"""So long a runner steps untimed before its block: its data comes into the caches and its threads wake, and the threads
of another OpenMP runtime, which spin for some milliseconds after their last work, go to sleep."""

SLOW_SECONDS = 0.1
TRIES = 3
"""How long steps take is the least of so many more tries, since one can be slow for its own reasons; but not where the
first took longer than SLOW_SECONDS."""

LEAST_PAIRS, MOST_PAIRS = 3, 100


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure."""

    n_threads: int
    seconds: float
    """About how long a case is measured, its preparation not counted."""

    peers: tuple[str, ...] = ()
    """Names of peers, or the first words of names; none: all peers."""

    def chosen(self, peers: Iterable[Peer]) -> tuple[Peer, ...]:
        """Those that are asked for."""
        return tuple(peer for peer in peers if not self.peers or any(fits(name, peer.name) for name in self.peers))


def fits(asked: str, name: str) -> bool:
    """Whether what was asked for is a name, or its first words, whatever the case."""
    return f"{name} ".lower().startswith(f"{asked.strip()} ".lower())


@dataclass
class Turn:
    """A runner and how many steps it takes in its turn."""

    runner: Runner
    step_seconds: float

    @property
    def steps(self) -> int:
        return max(1, round(BLOCK_SECONDS / self.step_seconds))

    @property
    def seconds(self) -> float:
        return WARM_SECONDS + self.steps * self.step_seconds

    def rounds(self, seconds: float) -> int:
        """How many turns about fill so long a time."""
        return min(MOST_PAIRS, max(LEAST_PAIRS, int(seconds / self.seconds)))

    def get_ready(self) -> None:
        if self.step_seconds < WARM_SECONDS:
            step, end = self.runner.prepared_step, time.perf_counter() + WARM_SECONDS
            while time.perf_counter() < end:
                step()

    def take(self) -> float:
        """The seconds of a step, from one block of them."""
        self.get_ready()
        return time_steps(self.runner.prepared_step, self.steps)


def time_steps(step: Callable[..., Any], count: int) -> float:
    """The seconds of one of so many steps, called in the way in which pytest-benchmark calls ours."""
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    loops = range(count)
    start = CLOCK.now()
    for _ in loops:
        step(*arguments, **keywords)
    return (CLOCK.now() - start) / count


def make_turn(runner: Runner, step_seconds: float) -> Turn:
    """A turn of the right length, from what a step took; a short one is looked at again."""
    for _ in range(runner.learning_steps):
        step_seconds = min(step_seconds, time_steps(runner.prepared_step, 1))
    for _ in range(TRIES):
        if step_seconds < SLOW_SECONDS:
            count = math.ceil(BLOCK_SECONDS / TRIES / step_seconds)
            step_seconds = min(step_seconds, time_steps(runner.prepared_step, count))
    return Turn(runner, step_seconds)


def take_turns(
    benchmark: BenchmarkFixture, settings: Settings, ours: Turn, peers: dict[str, Turn]
) -> tuple[list[float], dict[str, list[float]]]:
    """Time ours, theirs, ours, theirs...; the seconds of a step, for each turn. Slow peers leave after fewer rounds."""
    share = settings.seconds / (1 + len(peers))
    rounds = {name: turn.rounds(share) for name, turn in peers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in peers}

    def others() -> None:
        for name, turn in peers.items():
            if len(seconds[name]) < rounds[name]:
                seconds[name].append(turn.take())
        ours.get_ready()

    ours.get_ready()
    benchmark.pedantic(
        ours.runner.prepared_step,
        rounds=max(rounds.values(), default=LEAST_PAIRS),
        iterations=ours.steps,
        teardown=others,
    )
    if benchmark.stats is None:  # --benchmark-disable
        return [ours.step_seconds], {name: [turn.step_seconds] for name, turn in peers.items()}
    return list(benchmark.stats.stats.data), seconds


def compared(ours: list[float], theirs: list[float]) -> Record:
    """Their time and the ratios, pair by pair; where one of the two has more rounds, its last ones are left out."""
    ratios = [their / our for our, their in zip(ours, theirs, strict=False)]
    return {
        "seconds": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def memory_shortage(variant: Variant, workload: Workload, sides: int) -> str | None:
    """Why there is not enough memory for so many optimizers at once, or None; Linux only."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    shared, temporary = 3, 3  # the numbers that cases start from, the gradients; what torch needs during a step
    arrays = shared + temporary + sides * (2 + len(variant.states))
    needed = arrays * workload.size * FLOAT32.itemsize
    return None if needed < available else f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} are available"


def compare(
    benchmark: BenchmarkFixture,
    settings: Settings,
    section: str,
    variant: Variant,
    workload: Workload,
    subject: Peer = FASTOPT,
    peers: tuple[Peer, ...] = PEERS,
    label: str = "",
    relative: float = check.RELATIVE,
    only_moves: bool = True,
) -> Record:
    """Check a subject against its peers, then time them in turns.

    `label` is added to the case's name; results may differ by `relative`; no GB/s where a step does not only move
    parameters, gradients and states.
    """
    peers = settings.chosen(peers)
    if not peers:
        pytest.skip("none of the peers that were asked for")
    shortage = memory_shortage(variant, workload, 1 + len(peers))
    if shortage:
        pytest.skip(shortage)
    problem = Problem.make(variant, workload, settings.n_threads)
    reason = subject.unavailable(problem)
    if reason:
        pytest.skip(reason)
    results: dict[str, Record] = {}
    runners: dict[str, Runner] = {}
    for peer in peers:
        reason = peer.unavailable(problem)
        if reason:
            results[peer.name] = {"unavailable": reason}
        else:
            runners[peer.name] = peer.start(problem)
    ours = subject.start(problem)
    last_seconds = check.take_steps(problem, {subject.name: ours, **runners})
    for name, runner in list(runners.items()):
        wrong = check.disagreement(problem, ours, runner, relative)
        if wrong:
            results[name] = {"wrong": wrong}
            del runners[name]
    turns = {name: make_turn(runner, last_seconds[name]) for name, runner in runners.items()}
    mine, theirs = take_turns(benchmark, settings, make_turn(ours, last_seconds[subject.name]), turns)
    timed = {name: compared(mine, seconds) for name, seconds in theirs.items()}
    results |= timed
    seconds = statistics.median(mine)
    record: Record = {
        "section": section,
        "name": ", ".join(filter(None, (variant.name, workload.name, label))),
        "variant": variant.name,
        "workload": workload.name,
        "parameters": workload.size,
        "subject": subject.name,
        "checked": all("wrong" not in result for result in results.values()),
        "seconds": seconds,
        "peers": {peer.name: results[peer.name] for peer in peers},
    }
    if only_moves:
        record["bytes_per_second"] = variant.bytes_per_parameter * workload.size / seconds
    if timed:
        best = min(timed, key=lambda name: timed[name]["seconds"])
        record["best_peer"] = best
        record |= {key: timed[best][key] for key in ("ratio", "ratio_min", "ratio_max")}
    return record

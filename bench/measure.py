"""Measures fastopt and its peers in turns, and records the results.

A record holds the findings of one test, as plain values for JSON. All have `section` and `name`. A comparison has

- `variant`, `workload`, `parameters`, `subject`: the case and the side that ran;
- `checked`: whether results were compared and agreed;
- `seconds`: a step of fastopt, the median; `first_seconds`: making the optimizer, and its first step;
- `peers`: per name `seconds`, `first_seconds`, `ratio` (theirs / ours: the median of the pairs), `ratio_min`,
  `ratio_max`, and `approximate` or `by_hand` if they apply; or `wrong`, the disagreement of the results, for a peer
  that was therefore not timed; or `unavailable`, the reason.

If a step only moves parameters, gradients and states, a comparison also has `bytes_per_second`, for fastopt and per
peer, and `bytes_per_parameter` if the subject moves other than float32. From 100,000 parameters on, it has `roofline`,
the `seconds` of a loop that only moves the subject's bytes, `fraction` (the time of this loop / ours, the median of the
pairs), `fraction_min`, `fraction_max`, and per peer `fraction`, of a loop that moves the peer's bytes.

A measurement has `values`: per label a number and its unit. The `record` fixture adds `busy`: the number of processors
used by other work in the meantime.
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
from .custom_loops import FASTOPT
from .peers import PEERS
from .roofline import ROOFLINE
from .runner import Peer, Runner

Record = dict[str, Any]

BLOCK_SECONDS = 0.01
"""Approximate length of the blocks in which steps are timed."""

WARM_SECONDS = 0.012
"""How long a runner steps untimed before its block. Meanwhile its data enters the caches and its threads wake. Threads
of another OpenMP runtime, which spin for some milliseconds after their last work, go to sleep."""

SLOW_SECONDS = 0.1
TRIES = 3
"""Further tries to find how long steps take: the least counts, since a single try can be slow by chance. There are no
further tries if the first took longer than SLOW_SECONDS."""

LEAST_PAIRS, MOST_PAIRS = 3, 100


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure."""

    n_threads: int
    seconds: float
    """Approximate time to measure each side of a case, without its preparation."""

    peers: tuple[str, ...] = ()
    """Names of peers, or the first words of names; none: all peers but those that are left out."""

    left_out: tuple[str, ...] = ()

    def chosen(self, peers: Iterable[Peer]) -> tuple[Peer, ...]:
        """The requested peers among these."""
        if self.peers:
            return tuple(peer for peer in peers if any(fits(name, peer.name) for name in self.peers))
        return tuple(peer for peer in peers if peer.name not in self.left_out)


def fits(asked: str, name: str) -> bool:
    """Whether the requested text is a name, or its first words, in upper or lower case."""
    return f"{name} ".lower().startswith(f"{asked.strip()} ".lower())


Run = Callable[[Callable[[], Any], int, int, Callable[[], None]], list[float]]
"""Times (a step, how many rounds, steps in each, what to do after each round): the seconds of a step, per round."""


def pytest_benchmark_run(benchmark: BenchmarkFixture) -> Run:
    """Times with pytest-benchmark, which can be called only once per test. Empty with --benchmark-disable."""

    def run(step: Callable[[], Any], rounds: int, steps: int, after: Callable[[], None]) -> list[float]:
        benchmark.pedantic(step, rounds=rounds, iterations=steps, teardown=after)
        return [] if benchmark.stats is None else list(benchmark.stats.stats.data)

    return run


def plain_run(step: Callable[[], Any], rounds: int, steps: int, after: Callable[[], None]) -> list[float]:
    seconds = []
    for _ in range(rounds):
        seconds.append(time_steps(step, steps))
        after()
    return seconds


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
        """How many turns take about this many seconds."""
        return min(MOST_PAIRS, max(LEAST_PAIRS, int(seconds / self.seconds)))

    def get_ready(self) -> None:
        if self.step_seconds < WARM_SECONDS:
            step, end = self.runner.prepared_step, time.perf_counter() + WARM_SECONDS
            while time.perf_counter() < end:
                step()
                CLOCK.wait()

    def take(self) -> float:
        """The seconds of a step, from one block of them."""
        self.get_ready()
        return time_steps(self.runner.prepared_step, self.steps)


def time_steps(step: Callable[..., Any], count: int) -> float:
    """The seconds per step, averaged over `count` steps, called as pytest-benchmark calls ours."""
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    loops = range(count)
    start = CLOCK.now()
    for _ in loops:
        step(*arguments, **keywords)
    return (CLOCK.now() - start) / count


def bare_beside_ours(benchmark: BenchmarkFixture, bare: Callable[[], Any], ours: Callable[[], Any]) -> Record | None:
    """The values of a measurement: iterations without any optimizer, in turns with ours. None if nothing is timed."""
    seconds: list[float] = []
    iterations = 20

    def take_turn() -> None:
        seconds.append(time_steps(ours, iterations))

    benchmark.pedantic(bare, rounds=60, iterations=iterations, teardown=take_turn, warmup_rounds=3)
    if benchmark.stats is None:  # --benchmark-disable
        return None
    pairs = list(zip(benchmark.stats.stats.data, seconds, strict=False))
    return {
        "without optimizer": (1e6 * statistics.median(first for first, _ in pairs), "us"),
        "with fastopt": (1e6 * statistics.median(second for _, second in pairs), "us"),
        "without / with": (statistics.median(first / second for first, second in pairs), ""),
    }


def make_turn(runner: Runner, step_seconds: float) -> Turn:
    """A turn of the right length, given the time of a step; a short step is timed again."""
    for _ in range(runner.learning_steps):
        step_seconds = min(step_seconds, time_steps(runner.prepared_step, 1))
    for _ in range(TRIES):
        if step_seconds < SLOW_SECONDS:
            count = math.ceil(BLOCK_SECONDS / TRIES / step_seconds)
            step_seconds = min(step_seconds, time_steps(runner.prepared_step, count))
    return Turn(runner, step_seconds)


@dataclass
class Timed:
    """The seconds of a step, turn by turn, of ours and of each peer; and of everyone's first."""

    ours: list[float]
    peers: dict[str, list[float]]
    first_seconds: dict[str, float]
    wrong: dict[str, str]


def take_turns(
    run: Run, settings: Settings, ours: Turn, peers: dict[str, Turn]
) -> tuple[list[float], dict[str, list[float]]]:
    """Time ours, theirs, ours, theirs...; the seconds of a step, for each turn. Slow peers leave after fewer rounds."""
    rounds = {name: turn.rounds(settings.seconds) for name, turn in peers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in peers}

    def others() -> None:
        for name, turn in peers.items():
            if len(seconds[name]) < rounds[name]:
                seconds[name].append(turn.take())
        ours.get_ready()

    ours.get_ready()
    mine = run(ours.runner.prepared_step, max(rounds.values(), default=LEAST_PAIRS), ours.steps, others)
    return mine or [ours.step_seconds], {name: found or [peers[name].step_seconds] for name, found in seconds.items()}


def quotients(numerators: list[float], denominators: list[float], name: str) -> Record:
    """Pair by pair: the median, the least and the greatest; where one has more rounds, its last ones are left out."""
    found = [above / below for above, below in zip(numerators, denominators, strict=False)]
    return {name: statistics.median(found), f"{name}_min": min(found), f"{name}_max": max(found)}


def available_memory() -> float:
    """Available memory in bytes; infinite if the system does not tell. Linux only."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


SHARED_ARRAYS = 3
"""Arrays that the sides of a problem share: the initial numbers of cases, and the gradients."""

TEMPORARY_ARRAYS = 4
"""Arrays that a peer may need during a step beyond those that it keeps."""


def sides_in_memory(variant: Variant, workload: Workload) -> int:
    """How many optimizers fit into memory at once."""
    n_bytes = workload.size * FLOAT32.itemsize
    free = available_memory() - (SHARED_ARRAYS + TEMPORARY_ARRAYS) * n_bytes
    return int(min(free / ((2 + len(variant.states)) * n_bytes), 1000))


def batches(peers: tuple[Peer, ...], size: int) -> list[tuple[Peer, ...]]:
    return [peers[first : first + size] for first in range(0, len(peers), size)]


def measure_batch(
    run: Run, settings: Settings, problem: Problem, subject: Peer, peers: tuple[Peer, ...], relative: float
) -> Timed:
    """Start, check, and time in turns, the subject and those peers that agree with it."""
    first_seconds, runners = {}, {}
    for peer in (subject, *peers):
        start = CLOCK.now()
        runners[peer.name] = peer.start(problem)
        first_seconds[peer.name] = CLOCK.now() - start
    taken = check.take_steps(problem, runners)
    ours = runners.pop(subject.name)
    wrong = {}
    for peer in peers:
        difference = check.disagreement(problem, ours, runners[peer.name], relative, peer.absolute)
        if difference:
            wrong[peer.name] = difference
            del runners[peer.name]
    turns = {name: make_turn(runner, taken[name][-1]) for name, runner in runners.items()}
    mine, theirs = take_turns(run, settings, make_turn(ours, taken[subject.name][-1]), turns)
    first_seconds = {name: seconds + taken[name][0] for name, seconds in first_seconds.items()}
    return Timed(mine, theirs, first_seconds, wrong)


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
    n_threads: int | None = None,
    roofline: Peer = ROOFLINE,
    sides: Callable[[Variant, Workload], int] = sides_in_memory,
    make: Callable[[Variant, Workload, int], Problem] = Problem.make,
) -> Record:
    """Check a subject against its peers, then time them in turns; as many at once as there is memory for.

    `label` is added to the case's name; results may differ by `relative`. `only_moves`: a step reads and writes
    parameters, gradients and states and nothing else, so bytes and the `roofline` are looked at. `n_threads`: other
    than the settings'. `sides`: how many optimizers there is memory for. `make` makes the input.
    """
    peers = settings.chosen(peers)
    if not peers:
        pytest.skip("none of the peers that were asked for")
    room = sides(variant, workload) - 2  # the subject, the roofline
    if room < 1:
        pytest.skip(f"not enough memory: {available_memory() / 1e9:.1f} GB are available")
    problem = make(variant, workload, settings.n_threads if n_threads is None else n_threads)
    reason = subject.unavailable(problem)
    if reason:
        pytest.skip(reason)
    results: dict[str, Record] = {}
    for peer in peers:
        reason = peer.unavailable(problem)
        if reason:
            results[peer.name] = {"unavailable": reason}
    there = tuple(peer for peer in peers if peer.name not in results)
    beside = (roofline,) if only_moves and not roofline.unavailable(problem) else ()
    moved = {peer.name: peer.bytes_of(variant) for peer in (subject, *there)}
    run = pytest_benchmark_run(benchmark)
    mine: list[float] = []
    firsts: list[float] = []
    bounds: list[tuple[float, float]] = []
    for batch in batches(there, room) or [()]:
        timed = measure_batch(run, settings, problem, subject, (*batch, *beside), relative)
        run = plain_run
        bound = timed.peers.pop(roofline.name, [])
        for name, seconds in timed.peers.items():
            results[name] = {
                "seconds": statistics.median(seconds),
                "first_seconds": timed.first_seconds[name],
                **quotients(seconds, timed.ours, "ratio"),
            }
            if bound:
                share = moved[name] / moved[subject.name]
                results[name]["fraction"] = share * quotients(bound, seconds, "fraction")["fraction"]
        results |= {name: {"wrong": difference} for name, difference in timed.wrong.items()}
        for peer in batch:
            results[peer.name] |= marks(peer)
        firsts.append(timed.first_seconds[subject.name])
        bounds += zip(bound, timed.ours, strict=False)
        mine += timed.ours
    record: Record = {
        "section": section,
        "name": ", ".join(filter(None, (variant.name, workload.name, label))),
        "variant": variant.name,
        "workload": workload.name,
        "parameters": workload.size,
        "threads": problem.n_threads,
        "subject": subject.name,
        "checked": all("wrong" not in result for result in results.values()),
        "seconds": statistics.median(mine),
        "first_seconds": statistics.median(firsts),
        "peers": {peer.name: results[peer.name] for peer in peers},
    }
    if only_moves:
        for name, each in {subject.name: record, **record["peers"]}.items():
            if "seconds" in each:
                each["bytes_per_second"] = moved[name] * workload.size / each["seconds"]
    if moved[subject.name] != variant.bytes_per_parameter:
        record["bytes_per_parameter"] = moved[subject.name]
    if bounds:
        record["roofline"] = {"seconds": statistics.median(least for least, _ in bounds)}
        record |= quotients([least for least, _ in bounds], [our for _, our in bounds], "fraction")
    return record


def marks(peer: Peer) -> Record:
    """What is said of a peer beside its results."""
    return {mark: True for mark in ("approximate", "by_hand") if getattr(peer, mark)}

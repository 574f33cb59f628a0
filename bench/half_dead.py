"""Optimizers that take the same steps while half of the gradients are zero, timed in turns at some of the steps."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import check
from .cases import Problem, Variant, Workload
from .measure import WARM_SECONDS, Record, marks, quotients, time_steps
from .runner import Peer, Runner

MILESTONES = (10, 1_000, 3_000)
"""Timing starts at each of these steps. A momentum of 0.9 decays to denormals by about step 800."""

TURNS, UNTIMED_STEPS, TIMED_STEPS = 5, 100, 50
"""In its turn, each optimizer takes this number of steps, so all are at the same step. The last turn after step 10 ends
at step 760."""

assert MILESTONES[0] + TURNS * (UNTIMED_STEPS + TIMED_STEPS) < 800


@dataclass
class Walker:
    """An optimizer, the steps it has taken, and the seconds of a step in each of its turns at each milestone.

    `recent`: the seconds of each of the last few steps of its last walk.
    """

    runner: Runner
    steps: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=5))
    seconds: dict[int, list[float]] = field(default_factory=dict)

    def walk(self, count: int, until: float = float("inf")) -> bool:
        """Take `count` steps; stop and return False after the first one that ends later than `until`."""
        step = self.runner.prepared_step
        for _ in range(count):
            start = time.perf_counter()
            step()
            end = time.perf_counter()
            self.recent.append(end - start)
            self.steps += 1
            if end > until:
                return False
        return True

    def take_turn(self, milestone: int) -> None:
        time.sleep(WARM_SECONDS)  # the threads of the previous optimizer go to sleep
        self.walk(UNTIMED_STEPS)
        self.seconds.setdefault(milestone, []).append(time_steps(self.runner.prepared_step, TIMED_STEPS))
        self.steps += TIMED_STEPS


class History:
    """A subject and its peers. Gradients of the first half are zero from the second step on.

    A peer leaves if its steps to a milestone, or its timing there, take longer than `patience`, in seconds.
    """

    def __init__(
        self,
        variant: Variant,
        workload: Workload,
        n_threads: int,
        subject: Peer,
        peers: Sequence[Peer],
        patience: float,
    ) -> None:
        self.problem, self.patience = Problem.make(variant, workload, n_threads), patience
        self.subject, self.peers = subject, peers
        self.ours = Walker(subject.start(self.problem))
        self.absent: dict[str, Record] = {}
        self.others: dict[str, Walker] = {}
        for peer in peers:
            reason = peer.unavailable(self.problem)
            if reason:
                self.absent[peer.name] = {"unavailable": reason}
            else:
                self.others[peer.name] = Walker(peer.start(self.problem))
        for walker in self._walkers():
            walker.walk(1)
        for grad in self.problem.grads:
            grad.reshape(-1)[: grad.size // 2] = 0
        for walker in self._walkers():
            walker.runner.take_gradients()
            walker.walk(MILESTONES[0] - 1)
        limits = {peer.name: peer.absolute for peer in peers}
        for name, walker in list(self.others.items()):
            wrong = check.disagreement(self.problem, self.ours.runner, walker.runner, absolute=limits[name])
            if wrong:
                self._leave(name, {"wrong": wrong})

    def _walkers(self) -> list[Walker]:
        return [self.ours, *self.others.values()]

    def _leave(self, name: str, why: Record) -> None:
        self.absent[name] = why
        del self.others[name]

    def reach(self, milestone: int) -> None:
        """Time this milestone and all earlier ones that are not yet timed."""
        for each in MILESTONES[: MILESTONES.index(milestone) + 1]:
            if each not in self.ours.seconds:
                self._walk_to(each)
                for _ in range(TURNS):
                    for walker in self._walkers():
                        walker.take_turn(each)

    def _walk_to(self, milestone: int) -> None:
        self.ours.walk(milestone - self.ours.steps)
        for name, walker in list(self.others.items()):
            arrived = walker.walk(milestone - walker.steps, time.perf_counter() + self.patience)
            if not arrived or min(walker.recent) * TURNS * (UNTIMED_STEPS + TIMED_STEPS) > self.patience:
                reason = f"{name}: the steps up to {milestone:,}, or the next ones, take more than {self.patience:g} s"
                self._leave(name, {"unavailable": reason})

    def results(self, milestone: int) -> dict[str, Record]:
        """The result of each peer at a milestone that has been reached, in the given order of peers."""
        mine, timed = self.ours.seconds[milestone], {}
        for name, walker in self.others.items():
            theirs = walker.seconds[milestone]
            timed[name] = {"seconds": statistics.median(theirs), **quotients(theirs, mine, "ratio")}
        return {peer.name: (timed.get(peer.name) or self.absent[peer.name]) | marks(peer) for peer in self.peers}

    def growth(self, milestone: int) -> dict[str, float]:
        """The time of a step at a milestone divided by its time in the beginning, for each peer that reached it."""

        def growth(walker: Walker) -> float:
            first, last = (statistics.median(walker.seconds[each]) for each in (MILESTONES[0], milestone))
            return last / first

        return {self.subject.name: growth(self.ours)} | {name: growth(each) for name, each in self.others.items()}

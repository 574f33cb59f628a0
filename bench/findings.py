"""Evaluation of comparisons: which sides are peers, the best of them, the cases that fastopt loses."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]

OWN = "fastopt"
"""First word of the names of other ways to run fastopt, which are not peers."""


def is_peer(name: str) -> bool:
    return not name.startswith(OWN)


def comparisons(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if "peers" in record]


def timed(record: Record) -> dict[str, Record]:
    """The peers that were timed, the fastest first."""
    found = {name: result for name, result in record["peers"].items() if "ratio" in result}
    return dict(sorted(found.items(), key=lambda item: item[1]["ratio"]))


def best(record: Record) -> tuple[str, Record] | None:
    """The fastest library that was timed and is not approximate; if there is none, the fastest peer of any kind."""
    exact = {name: result for name, result in timed(record).items() if "approximate" not in result}
    peers = {name: result for name, result in exact.items() if is_peer(name)} or exact
    libraries = {name: result for name, result in peers.items() if "by_hand" not in result}
    return next(iter((libraries or peers).items()), None)


def best_by_hand(record: Record) -> tuple[str, Record] | None:
    """The fastest of the updates written by hand, without a library."""
    return next(((name, result) for name, result in timed(record).items() if "by_hand" in result), None)


def faster(record: Record) -> dict[str, Record]:
    """The peers that are faster than fastopt."""
    return {name: result for name, result in timed(record).items() if is_peer(name) and result["ratio"] < 1}


@dataclass
class Losses:
    """Comparisons in which peers are faster: (record, name, result), the greatest loss first; and the number of all."""

    rows: list[tuple[Record, str, Record]]
    compared: int

    @classmethod
    def of(cls, records: Iterable[Record]) -> Losses:
        chosen = comparisons(records)
        rows = [(record, name, result) for record in chosen for name, result in faster(record).items()]
        rows.sort(key=lambda row: row[2]["ratio"])
        return cls(rows, sum(is_peer(name) for record in chosen for name in timed(record)))


@dataclass(frozen=True)
class Counts:
    """How many comparisons with a peer are won and lost, and their ratios."""

    won: int
    lost: int
    lowest: float
    median: float
    highest: float


def counts(records: Iterable[Record]) -> dict[str, Counts]:
    """By section, where there is a peer."""
    ratios: dict[str, list[float]] = {}
    for record in comparisons(records):
        for name, result in timed(record).items():
            if is_peer(name):
                ratios.setdefault(record["section"], []).append(result["ratio"])
    return {
        section: Counts(
            sum(ratio >= 1 for ratio in found),
            sum(ratio < 1 for ratio in found),
            min(found),
            statistics.median(found),
            max(found),
        )
        for section, found in ratios.items()
    }


@dataclass
class Attendance:
    """In how many comparisons a peer was timed, was wrong, and could not take part, with the reasons."""

    timed: int = 0
    wrong: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def asked(self) -> int:
        return self.timed + self.wrong + self.reasons.total()


def attendance(records: Iterable[Record]) -> dict[str, Attendance]:
    found: dict[str, Attendance] = {}
    for name, result in results_of_peers(records):
        counted = found.setdefault(name, Attendance())
        if "unavailable" in result:
            counted.reasons[result["unavailable"]] += 1
        elif "wrong" in result:
            counted.wrong += 1
        else:
            counted.timed += 1
    return found


def results_of_peers(records: Iterable[Record]) -> Iterator[tuple[str, Record]]:
    for record in comparisons(records):
        yield from record["peers"].items()

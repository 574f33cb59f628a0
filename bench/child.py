"""A share of a run, in a process of its own, which `processes.py` starts.

It tells the process that started it what happens, as JSON, an event a line: `shares`, the cases of all shares, where
none was named; `started`, `failed` with its `reason`, and `finished`, with the name of a case; and at last `ended`,
pytest's exit code, and what pytest `said`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TextIO

import pytest

from . import suite

MOST_CASES = 12
"""Cases of one share. In a process that had run for an hour everyone's steps were slower, so that late cases could not
be compared with early ones; with one process for each case, loading all peers would take most of the time."""

ALL_CASES = "--all-cases"
"""Instead of the names of cases: all that the options select, of which this process runs the first share."""


def shares_of(names: Iterable[str], most: int | None) -> list[list[str]]:
    """The cases of each process: of one test, `most` of them at most, in the order of the run; None: all in one."""
    if most is None:
        everything = list(names)
        return [everything] if everything else []
    found: list[list[str]] = []
    for name in names:
        test = name.split("[")[0]
        if not found or len(found[-1]) == most or found[-1][0].split("[")[0] != test:
            found.append([])
        found[-1].append(name)
    return found


@dataclass(eq=False)  # pytest 8.0 keeps plugins in sets
class Telling:
    """A plugin that tells events, and leaves all cases but those of the first share to other processes."""

    tell: Callable[..., None]
    share: bool

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if not self.share or config.getoption("collectonly"):
            return
        most = None if config.getoption("--quick") else MOST_CASES
        shares = shares_of([item.nodeid for item in items], most)
        self.tell(shares=shares)
        first = set(shares[0] if shares else ())
        items[:] = [item for item in items if item.nodeid in first]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.tell(started=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            from .outcomes import reason

            self.tell(failed=report.nodeid, reason=reason(report))

    @pytest.hookimpl(trylast=True)  # the results of the case have been saved
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.tell(finished=nodeid)


def teller(stream: TextIO) -> Callable[..., None]:
    def tell(**event: Any) -> None:
        try:
            print(json.dumps(event), file=stream, flush=True)
        except BrokenPipeError:  # nobody listens any more
            os._exit(1)

    return tell


def main(arguments: list[str]) -> None:
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no event
    tell = teller(stream)
    divider = arguments.index("--")
    options, names = arguments[:divider], arguments[divider + 1 :]
    share = names == [ALL_CASES]
    ended = suite.run(options, Telling(tell, share), cases=() if share else names)
    tell(ended=ended.exit_code, said=ended.said)

"""Runs the suite share by share, each in a process of its own, and puts the results together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from . import machine
from .child import ALL_CASES
from .results import BUSY, EARLY, MEASURED, RUNTIMES, TOOK, Results
from .suite import Ended, Progressing

PROGRAM = """
import sys
sys.path[:] = [path for path in sys.path if path]  # not what lies in the folder that it was started in
from fastopt.bench.child import main
main(sys.argv[1:])
"""


@dataclass
class Interrupts:
    """Ctrl-C ends the process that measures, and this one shows what there is; the second time it ends this as well."""

    happened: bool = False
    child: subprocess.Popen[bytes] | None = None

    @contextmanager
    def heard(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _hear(self, *_: object) -> None:
        if self.happened:
            raise KeyboardInterrupt
        self.happened = True
        if self.child is not None and os.name == "posix":  # elsewhere it has heard of it itself
            self.child.send_signal(signal.SIGINT)


@dataclass
class Share:
    """One process: its events as they come, and what it left behind when it has ended."""

    options: list[str]
    cases: list[str]
    folder: Path
    interrupts: Interrupts
    ended: Ended | None = None
    """None if the process did not come to its end."""
    running: str = ""
    """The case that it is at."""
    finished: set[str] = field(default_factory=set)
    why: str = ""

    @property
    def path(self) -> Path:
        return self.folder / "results.json"

    def events(self) -> Iterator[dict[str, Any]]:
        command = [sys.executable, "-c", PROGRAM, *self.options, "--results", str(self.path)]
        with (self.folder / "errors").open("w+b") as errors:
            # In a session of its own: Ctrl-C reaches this process alone, which passes it on.
            child = subprocess.Popen(
                [*command, "--", *self.cases], stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
            self.interrupts.child = child
            try:
                yield from self._listen(child)
            except BaseException:
                child.kill()
                raise
            finally:
                child.wait()
                self.interrupts.child = None
                if child.stdout is not None:
                    child.stdout.close()
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines()
                self.why = _ending(child.returncode) + (f": {lines[-1].strip()}" if lines else "")

    def _listen(self, child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
        assert child.stdout is not None
        for line in child.stdout:
            if not line.endswith(b"\n"):  # it was killed meanwhile
                return
            event = json.loads(line)
            if "started" in event:
                self.running = event["started"]
            elif "finished" in event:
                self.finished.add(event["finished"])
                self.running = ""
            elif "ended" in event:
                self.ended = Ended(event["ended"], event["said"])
            yield event

    def results(self) -> Results:
        """What it has found so far."""
        return Results.load(self.path) if self.path.exists() else Results()


def _ending(code: int) -> str:
    with suppress(ValueError):
        return f"its process ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def together(parts: list[Results], took: float) -> Results:
    """The results of several processes as those of one run."""
    described = next((part.machine for part in reversed(parts) if part.machine), {})
    runtimes = {name: None for part in parts for name in part.machine.get(RUNTIMES, "").split(", ") if name}
    of_the_run = {RUNTIMES: ", ".join(runtimes) or "unknown", TOOK: _minutes(took)}
    return Results(
        [record for part in parts for record in part.records],
        described and {**described, **of_the_run},
        {name: reason for part in parts for name, reason in part.left_out.items()},
        {name: reason for part in parts for name, reason in part.failures.items()},
        {name: seconds for part in parts for name, seconds in part.took.items()},
        parts[0].datetime,
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"


def short(name: str) -> str:
    """The name of a case without folders."""
    return name.rpartition("/")[2]


def run(options: list[str], progress: Progressing, partial: Path | None = None) -> tuple[Ended, Results]:
    """The whole run; `partial` is written after each case."""
    start, load, interrupts = time.perf_counter(), machine.Load(), Interrupts()
    parts: list[Results] = []
    ended = Ended(int(pytest.ExitCode.OK), "")
    waiting: list[list[str]] = [[ALL_CASES]]
    with interrupts.heard():
        while waiting and not interrupts.happened:
            with tempfile.TemporaryDirectory() as folder:
                share = Share(options, waiting.pop(0), Path(folder), interrupts)
                for event in share.events():
                    if "shares" in event:
                        first, *waiting = event["shares"] or [[]]
                        share.cases, progress.total = first, sum(map(len, event["shares"]))
                    _show(event, progress)
                    if "finished" in event and partial is not None:
                        together([*parts, share.results()], time.perf_counter() - start).save(partial)
                found = share.results()
            if share.ended is None and not interrupts.happened:
                if share.cases == [ALL_CASES]:
                    return Ended(int(pytest.ExitCode.INTERNAL_ERROR), share.why), Results()
                waiting = _after_a_crash(share, found, progress) + waiting
            parts.append(found)
            if share.ended is not None and share.ended.exit_code != pytest.ExitCode.OK:
                ended = share.ended
            if ended.exit_code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                break
    progress.interrupted = interrupts.happened
    results = together(parts, time.perf_counter() - start)
    if results.machine:
        results.machine[BUSY] = f"{load.processors():.2f} on average"
    if waiting and EARLY not in results.machine.get(MEASURED, EARLY):
        results.machine[MEASURED] += f", {EARLY}"
    return ended, results


def _show(event: dict[str, Any], progress: Progressing) -> None:
    if "started" in event:
        progress.start(short(event["started"]))
    elif "failed" in event:
        progress.say(f"{short(event['failed'])}: {event['reason']}")
    elif "finished" in event:
        progress.finish()


def _after_a_crash(share: Share, found: Results, progress: Progressing) -> list[list[str]]:
    """Count the case that ended its process as failed; the share of those that it left."""
    left = [name for name in share.cases if name not in share.finished]
    culprit = share.running or (left or share.cases[-1:])[0]
    found.failures[short(culprit)] = share.why
    progress.say(f"{short(culprit)}: {share.why}")
    if culprit in left:
        progress.finish()
        left.remove(culprit)
    return [left] if left else []

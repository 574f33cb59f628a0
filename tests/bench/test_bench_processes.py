"""Shares of a run, each in a process of its own: how they are made, and what becomes of those that end early."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from fastopt.bench import processes
from fastopt.bench.child import MOST_CASES, shares_of
from fastopt.bench.results import BUSY, RUNTIMES, TOOK, Results
from fastopt.bench.suite import Progressing

OPTIONS = ["--seconds", "0.005", "--threads", "1"]
TWO = "test_flat_tensor and 1_000- and (Adagrad or Rprop)"


@pytest.fixture
def progress() -> Progressing:
    progress = Progress(console=Console(file=io.StringIO()), disable=True)
    heard: list[str] = []
    made = Progressing(progress, heard.append, every_case=True)
    made.heard = heard  # type: ignore[attr-defined]
    return made


def test_shares_are_of_one_test_and_not_long() -> None:
    names = [f"a.py::first[{number}]" for number in range(MOST_CASES + 2)] + ["a.py::second", "b.py::third[x[y]]"]
    shares = shares_of(names, MOST_CASES)
    assert [name for share in shares for name in share] == names
    assert list(map(len, shares)) == [MOST_CASES, 2, 1, 1]
    assert shares_of(names, None) == [names]
    assert shares_of([], None) == shares_of([], 3) == []


def broken(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have each process begin with this code."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


DIES = """
import os, sys
from fastopt.examples import textbook

def numbers(self):
    sys.__stderr__.write("out of order\\n")
    os.kill(os.getpid(), 9)

textbook.Adagrad.numbers = numbers
"""


@pytest.mark.slow
def test_a_case_that_ends_its_process_is_a_failure_and_others_go_on(
    progress: Progressing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(tmp_path, monkeypatch, DIES)
    _, results = processes.run([*OPTIONS, "--peers", "numpy", "-k", TWO], progress, tmp_path / "partial.json")
    (name,) = results.failures
    assert name == "test_peers.py::test_flat_tensor[1_000-Adagrad]"
    assert results.failures[name].startswith("its process ended by SIGKILL")
    assert [record["name"] for record in results.records] == ["Rprop, 1,000"]
    assert progress.done == progress.total == 2
    assert Results.load(tmp_path / "partial.json").records == results.records


@pytest.mark.slow
def test_several_processes_make_one_run(progress: Progressing) -> None:
    cases = "(test_ways_to_call or test_threads_of_adam) and 1_000 and not 000_000"
    ended, results = processes.run([*OPTIONS, "-k", cases], progress)
    assert ended.exit_code == 0
    assert {record["section"] for record in results.records} == {"Ways to call", "Threads"}
    assert progress.heard[0].startswith(f"1 of {progress.total}: ")  # type: ignore[attr-defined]
    assert progress.done == progress.total
    assert {BUSY, RUNTIMES, TOOK} <= set(results.machine)
    assert "ended early" not in results.machine["measured"]


def test_a_process_that_cannot_start(progress: Progressing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(tmp_path, monkeypatch, "import sys; sys.modules['fastopt.bench.suite'] = None")
    ended, results = processes.run(OPTIONS, progress)
    assert ended.exit_code == pytest.ExitCode.INTERNAL_ERROR
    assert ended.error.startswith("its process ended with exit code 1: ")
    assert results.records == []

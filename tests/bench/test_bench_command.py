"""`fastopt bench`: its errors, its lists, and a tiny run, in folders where a user's own pytest is set up otherwise."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import fastopt
from fastopt.bench import command, listing, suite
from fastopt.bench.results import Results
from fastopt.command import main as cli

ONE_CASE = ("--seconds", "0.01", "--select", "test_flat_tensor and 1_000-Adagrad")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pytest has settings, a plugin and tests that would spoil the run."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise AssertionError\n")
    (tmp_path / "test_users.py").write_text("def test_fails():\n    assert False\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.setenv("PYTEST_PLUGINS", "no_such_plugin")
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "fastopt", "bench", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=300)


def test_one_case_from_another_folder(folder: Path) -> None:
    before = set(folder.iterdir())
    result = bench(*ONE_CASE, "--peers", "numpy", "--json", "found.json", "--report", "report")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "1 of 1: test_peers.py::test_flat_tensor[1_000-Adagrad]\n"
    for said in ("Flat tensors", "Adagrad, 1,000", "NumPy", "First steps", "Where a peer is faster"):
        assert said in result.stdout
    for clutter in ("passed", "====", "benchmark:", "rootdir"):
        assert clutter not in result.stdout
    assert set(folder.iterdir()) - before == {folder / "found.json", folder / "report"}
    (record,) = Results.load(folder / "found.json").records
    assert record["checked"]
    assert set(record["peers"]) == {"NumPy"}
    machine = json.loads((folder / "report" / "results.json").read_text())["machine"]
    assert machine["fastopt"] == fastopt.__version__
    assert "peers numpy, 0.01 s a side" in machine["measured"]
    assert machine["command"] == shlex.join(
        ["fastopt", "bench", *ONE_CASE[:-2], "--peers", "numpy", "-k", ONE_CASE[-1]]
    )
    assert "| Adagrad, 1,000" in (folder / "report" / "report.md").read_text()


def test_a_wrong_result_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer whose result differs: the textbook's update, with another rate."""
    (folder / "sitecustomize.py").write_text("""
from fastopt.examples import textbook

numbers = textbook.Adagrad.numbers
textbook.Adagrad.numbers = lambda self: tuple(1.5 * number for number in numbers(self))
""")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    result = bench(*ONE_CASE, "--peers", "numpy", "--json", "found.json")
    assert result.returncode == 1
    assert "WRONG" in result.stdout
    assert result.stderr.splitlines()[-1] == "fastopt: error: 1 of 1 cases failed"
    found = Results.load(folder / "found.json")
    assert "ratio" not in found.records[0]["peers"]["NumPy"]
    assert len(found.failures) == 1


def test_interrupted(folder: Path) -> None:
    program = [sys.executable, "-m", "fastopt", "bench", "--peers", "numpy", "--seconds", "100", *ONE_CASE[2:]]
    child = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert child.stderr.readline().startswith("1 of 1")
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=100)
    assert errors == "fastopt: error: interrupted: 0 of 1 cases were measured\n"
    assert child.returncode == 130


def test_killed(folder: Path) -> None:
    """What was found until then is there."""
    cases = ("--quick", "--seconds", "0.01", "--select", "test_flat_tensor and 1_000", "--peers", "numpy")
    program = [sys.executable, "-m", "fastopt", "bench", *cases, "--json", "found.json"]
    child = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    while not child.stderr.readline().startswith("2 of "):
        assert child.poll() is None
    child.kill()
    child.communicate(timeout=100)
    assert not (folder / "found.json").exists()
    found = Results.load(folder / "found.json.partial")
    assert len(found.records) >= 1
    assert found.machine["fastopt"] == fastopt.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "expected a whole number of at least 1, got '0'"),
        (["--seconds", "-1"], "expected a number above 0, got '-1'"),
        (["--seconds", "nan"], "expected a number above 0, got 'nan'"),
        (["--peers", "numpy,nobody"], "no peer is called nobody; there are: torch default"),
        (["--peers", ","], "no peer is called"),
        (["--json", "no/such/folder.json"], "cannot write no/such/folder.json"),
        (["--report", "pytest.ini"], "cannot make pytest.ini"),
        (["--select", "(", "--list"], "Wrong expression passed to '-k'"),
        (["--select", "nothing_is_called_so", "--json", "found.json"], "no case fits 'nothing_is_called_so'"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--quick", "--all"], "not allowed with argument"),
    ],
    ids=" ".join,
)
def test_arguments_that_cannot_be_used(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(folder.iterdir())
    assert cli.main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fastopt: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(folder.iterdir()) == before


def test_a_report_that_cannot_be_written_is_known_before_an_hour_of_measuring(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**keywords: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert cli.main(["bench", "--report", "there"]) == 2
    error = "argument --report: cannot make there: Permission denied (give another place)"
    assert capsys.readouterr().err == f"fastopt: error: {error} (see fastopt bench --help)\n"


def test_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--list", "--quick"]) == 0
    printed = capsys.readouterr().out
    for name in listing.peer_names():
        assert name in printed
    assert "test_flat_tensor" in printed
    assert "torch.optim has no Lion" in printed
    assert "test_every_pair_agrees" not in printed


NEEDED = ("pytest", "pytest_benchmark", "rich")
"""What every run needs; a report also needs matplotlib."""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("matplotlib", (*ONE_CASE, "--report", "report")),
        *zip(NEEDED, (("--quick",), ("--list",), ("--peers", "numpy")), strict=True),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_missing_package(folder: Path, name: str, arguments: tuple[str, ...]) -> None:
    program = (
        f"import sys; sys.modules[{name!r}] = None; import fastopt.command.main; "
        f"sys.exit(fastopt.command.main.main({['bench', *arguments]!r}))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    distribution, extra = cli.EXTRA[name]
    assert (
        result.stderr
        == f"fastopt: error: {distribution} is not installed: `pip install 'fastopt[{extra}]'` installs it\n"
    )


def test_a_name_is_a_peer_or_its_first_words() -> None:
    assert listing.unknown_peers(["torch", "Torch Fused", "numba.njit", "fastopt numba", "Keras"]) == []
    assert listing.unknown_peers(["tor", "torch fuse", ""]) == ["tor", "torch fuse", ""]


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-v")
    monkeypatch.delenv("PYTEST_PLUGINS", raising=False)
    with suite.environment({"PYTEST_ADDOPTS": None, "PYTEST_PLUGINS": "x"}):
        assert "PYTEST_ADDOPTS" not in os.environ
        assert os.environ["PYTEST_PLUGINS"] == "x"
    assert os.environ["PYTEST_ADDOPTS"] == "-v"
    assert "PYTEST_PLUGINS" not in os.environ


def test_the_command_loads_no_peer() -> None:
    """Their imports count as first steps, and start threads."""
    code = (
        "import sys, fastopt.command.main; fastopt.command.main.make_parser('bench'); "
        f"import {command.__name__}; print(*sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "jax", "keras", "optax", "thinc", "deepspeed", "bitsandbytes", "numba"} & set(printed)
    assert "pytest" not in printed

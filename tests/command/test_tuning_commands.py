"""The commands `fastopt diagnose`, `range-test` and `sweep`, in this process and in one of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from fastopt.command import arguments, tuning, tuning_arguments
from fastopt.command import main as cli

USERS_MODULE = """
import os, signal, time

def train(lr, seed):
    x = 1.0 + 0.1 * seed
    for epoch in range(12):
        x -= lr * 2 * x
        yield {"loss": x * x + 1}

def no_argument():
    return 3

def raises(lr):
    raise OSError("the data\\nare gone")

def exits(lr):
    raise SystemExit("enough")

def interrupted(lr, seed):
    if lr > 0.1:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    return lr

def slow(lr, seed):
    time.sleep(0.3 if lr < 0.05 else 60)
    return lr

def tells(lr):
    with open("pid", "w") as file:
        file.write(str(os.getpid()))
    time.sleep(300)

def returns_nothing(lr):
    pass

class FitResult:
    def __init__(self, **history):
        self.history = history

def fits(lr):
    return FitResult(loss=[9.0, 3.0, 1.2, 1.02, 1.01, 1.0])

def overfits(lr):
    return {"loss": [9.0, 3.0, 1.2, 1.02, 1.01, 1.0], "val_loss": [9.0, 3.0, 1.2, 1.5, 1.6, 1.7]}

def wanders(lr):
    return {"loss": [2.3, 16.0, 2.4, 2.36, 2.35, 2.4], "val_loss": [2.4, 2.3, 2.5, 2.4, 2.4, 2.5]}

def measures_much(lr):
    return {name: [9, 3, 1.2, 1.02, 1.01] for name in ["loss", *(f"metric_{index:02}" for index in range(20))]}

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def _one_thread_for_matrices() -> Iterator[None]:
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a module of a user's."""
    (tmp_path / "my_training.py").write_text(USERS_MODULE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_training", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"
    )


# --- diagnose ---------------------------------------------------------------------------------------------------------


@pytest.mark.blas
@pytest.mark.parametrize(
    ("arguments", "reading"),
    [
        (["digits", "--optimizer", "SGD", "--lr", "1"], "good"),
        (["digits", "--optimizer", "SGD", "--lr", "1e-4", "--epochs", "5"], "too low"),
        (["diabetes", "--optimizer", "SGD", "--lr", "1"], "diverged"),
        (
            ["--optimizer", "SGD", "--set", "momentum=0.9", "--set", "nesterov=True", "--lr", "1", "--seed", "2"],
            "too high",
        ),
        (["my_training:train", "--lr", "0.2"], "good"),
        (["my_training:train", "--lr", "1e-4", "--quick"], "too low"),
    ],
)
def test_diagnose(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reading: str) -> None:
    before = set(files(folder))
    assert cli.main(["diagnose", *arguments]) == 0
    output = capsys.readouterr().out
    assert f"Reading: {reading}." in output
    assert set(files(folder)) - before == {"fastopt-diagnose/diagnosis.json", "fastopt-diagnose/diagnosis.png"}
    assert json.loads((folder / "fastopt-diagnose/diagnosis.json").read_text())["reading"] == reading


def test_hyperparameters_reach_the_optimizer(folder: Path) -> None:
    arguments = [
        "--optimizer",
        "Adam",
        "--set",
        "betas=0.8,0.9",
        "--set",
        "max_grad_norm=1",
        "--lr",
        "1e-2",
        "--epochs",
        "3",
    ]
    assert cli.main(["diagnose", "diabetes", *arguments, "--output", "there", "--plot", "elsewhere/curve.svg"]) == 0
    assert (
        json.loads((folder / "there/diagnosis.json").read_text())["optimizer"]
        == "Adam(betas=(0.8, 0.9), max_grad_norm=1)"
    )
    assert b"<svg" in (folder / "elsewhere/curve.svg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "lr"),
    [([], 1e-3), (["--optimizer", "Adadelta"], 1.0), (["--optimizer", "SGD", "--set", "convention=keras"], 1e-2)],
)
def test_the_default_rate_is_the_optimizers(folder: Path, arguments: list[str], lr: float) -> None:
    assert cli.main(["diagnose", "diabetes", *arguments, "--epochs", "3"]) == 0
    assert json.loads((folder / "fastopt-diagnose/diagnosis.json").read_text())["lr"] == lr


def test_what_model_fit_returns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diagnose", "my_training:fits", "--lr", "0.2"]) == 0
    assert "Reading: good." in capsys.readouterr().out


def test_no_overfitting_where_nothing_is_learned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for falling in (True, False):
        assert cli.main(["diagnose", f"my_training:{'overfits' if falling else 'wanders'}", "--lr", "1"]) == 0
        output = capsys.readouterr().out
        assert ("the held-out loss has been rising" in output.lower()) == falling
        assert ("Reading: too high" in output) != falling


def test_output_to_a_file_is_not_broken_to_the_width_of_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["diagnose", "my_training:measures_much", "--lr", "1"]
    names = [f"metric_{index:02}" for index in range(20)]
    for columns in (None, "60"):
        monkeypatch.delenv("COLUMNS") if columns is None else monkeypatch.setenv("COLUMNS", columns)
        assert cli.main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        heads = [line for line in lines if "epoch" in line and "metric_00" in line]
        assert any(line.split() == ["epoch", "loss", *names] for line in heads) == (columns is None)
        assert any("Reading: " in line and "epochs." in line for line in lines) == (columns is None)


def test_narrow_terminals_cut_nothing_off(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert cli.main(["diagnose", "digits", "--quick"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 50
    assert "…" not in output


@pytest.mark.parametrize("arguments", [["diagnose", "diabetes", "--output", "there"], ["describe", "Adam"]])
def test_nobody_reads_the_output(folder: Path, arguments: list[str]) -> None:
    """As with `| head`, which ends when it has what it wants: no traceback, and the files are there."""
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-m", "fastopt", *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")
    assert (folder / "there").exists() == ("there" in arguments)
    if "there" in arguments:
        assert sorted(path.name for path in (folder / "there").iterdir()) == ["diagnosis.json", "diagnosis.png"]


# --- range-test -------------------------------------------------------------------------------------------------------


@pytest.mark.blas
def test_range_test(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["range-test", "digits-mlp", "--quick", "--method", "minimum", "--plot", "range.svg"]) == 0
    found = json.loads((folder / "fastopt-range-test/range-test.json").read_text())
    assert len(found["rates"]) <= 40
    assert found["suggestion"] == found["suggestions"]["minimum"]
    assert f"Suggestion: {found['suggestion']:.3g} is a tenth of the rate at which" in capsys.readouterr().out
    assert b"<svg" in (folder / "range.svg").read_bytes()


@pytest.mark.blas
def test_range_test_without_a_suggestion(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["range-test", "digits", "--max-lr", "1e-6", "--quick"]) == 0
    assert "No suggestion: it did not fall; try higher rates" in capsys.readouterr().out


# --- sweep ------------------------------------------------------------------------------------------------------------


def test_sweep_and_resume(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "my_training:train", "--min-lr", "0.01", "--max-lr", "2", "--points", "5", "--seeds", "2"]
    assert cli.main([*command, "--workers", "2"]) == 0
    output = capsys.readouterr().out
    assert "from before" not in output
    assert "Best: lr 0.532, loss 1; about as good from 0.141 to 0.532." in output
    assert "2 diverged" in output
    names = ["runs.jsonl", "sweep.csv", "sweep.json", "sweep.png"]
    assert files(folder / "fastopt-sweep") == names
    before = {name: (folder / "fastopt-sweep" / name).read_bytes() for name in names[:3]}
    assert cli.main([*command, "--workers", "0"]) == 0
    assert {name: (folder / "fastopt-sweep" / name).read_bytes() for name in names[:3]} == before
    assert "10 of the 10 runs were in fastopt-sweep from before; if your code or data" in capsys.readouterr().out
    assert cli.main([*command, "--workers", "0", "--refine", "2"]) == 0
    assert "10 of the 14 runs were in fastopt-sweep from before" in capsys.readouterr().out
    assert len(json.loads((folder / "fastopt-sweep/sweep.json").read_text())["runs"]) == 14
    assert cli.main(["sweep", "digits", "--output", "fastopt-sweep"]) == 2
    error = capsys.readouterr().err
    assert "holds the runs of another sweep: problem 'my_training:train', not 'digits'" in error
    assert "give another folder with --output, or --overwrite" in error


@pytest.mark.blas
def test_sweep_says_that_the_best_is_at_the_edge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--optimizer", "SGD", "--min-lr", "1e-4", "--max-lr", "1e-2", "--quick", "--workers", "0"]
    assert cli.main(["sweep", "digits", *arguments]) == 0
    assert "The best rate is the highest of the grid: extend the grid (raise max_lr)." in capsys.readouterr().out
    assert len(json.loads((folder / "fastopt-sweep/sweep.json").read_text())["runs"]) == 6


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_sweep_in_which_all_fails(folder: Path, capsys: pytest.CaptureFixture[str], workers: str) -> None:
    assert cli.main(["sweep", "my_training:raises", "--quick", "--workers", workers]) == 1
    *shown, message = capsys.readouterr().err.splitlines()
    expected = "every run failed: OSError: the data are gone (tracebacks in fastopt-sweep/sweep.json)"
    assert message == f"fastopt: error: {expected}"
    (place,) = [line for line in shown if line.startswith('  File "')]
    assert "my_training.py" in place


def test_an_interrupt_leaves_what_was_done(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--min-lr", "0.01", "--max-lr", "1", "--points", "3", "--seeds", "1", "--workers", "0"]
    assert cli.main(["sweep", "my_training:interrupted", *arguments]) == 130
    captured = capsys.readouterr()
    message = "interrupted: the runs so far are in fastopt-sweep, and the same command goes on with the others"
    assert captured.err.splitlines()[-1] == f"fastopt: error: {message}"
    assert len(json.loads((folder / "fastopt-sweep/sweep.json").read_text())["runs"]) == 2


def test_an_interrupt_of_the_whole_group_of_processes(folder: Path) -> None:
    """As Ctrl-C in a terminal, which every process gets."""
    arguments = ["--min-lr", "0.01", "--max-lr", "1", "--points", "3", "--seeds", "1", "--workers", "2"]
    child = subprocess.Popen(
        [sys.executable, "-m", "fastopt", "sweep", "my_training:slow", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    runs, deadline = folder / "fastopt-sweep/runs.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (runs.exists() and runs.read_bytes().count(b"\n") >= 2):
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    message = "interrupted: the runs so far are in fastopt-sweep, and the same command goes on with the others"
    assert errors == f"fastopt: error: {message}\n"
    assert output == ""
    assert (folder / "fastopt-sweep/sweep.csv").exists()


def test_workers_end_when_the_program_is_killed(folder: Path) -> None:
    arguments = ["--min-lr", "0.1", "--max-lr", "1", "--points", "2", "--seeds", "1", "--workers", "1"]
    child = subprocess.Popen([sys.executable, "-m", "fastopt", "sweep", "my_training:tells", *arguments])
    told, deadline = folder / "pid", time.monotonic() + 60
    while time.monotonic() < deadline and not (told.exists() and told.read_text()):
        time.sleep(0.05)
    child.kill()
    child.wait()
    worker = Path("/proc") / told.read_text() / "stat"
    while time.monotonic() < deadline and is_running(worker):
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(stat: Path) -> bool:
    """Whether a process is there, and no zombie that nobody has waited for."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- errors -----------------------------------------------------------------------------------------------------------

LR = ["--lr", "0.1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diagnose", "my_training:train"], "--lr is needed: my_training:train has an optimizer of its own, whose"),
        (["sweep", "--lr", "0.1"], "unrecognized arguments: --lr (see fastopt sweep --help)"),
        (["range-test", "digits", "diabetes"], "unrecognized arguments: diabetes (see fastopt range-test --help)"),
        (["diagnose", "--lr", "0"], "argument --lr: expected a number above 0, got '0'"),
        (["diagnose", "--lr", "fast"], "argument --lr: expected a number above 0, got 'fast'"),
        (["diagnose", "--lr", "nan"], "argument --lr: expected a number above 0, got 'nan'"),
        (["diagnose", *LR, "--epochs", "2"], "--epochs must be at least 3 for a reading, got 2"),
        (["diagnose", *LR, "--optimizer", "adam"], "unknown optimizer: 'adam' (expected one of SGD, Adam, AdamW"),
        (["diagnose", *LR, "--set", "momentum"], "argument --set: expected NAME=VALUE, got 'momentum'"),
        (["diagnose", *LR, "--set", "momentum=0.9"], "unexpected keyword argument 'momentum'"),
        (["diagnose", *LR, "--set", "eps=small"], "eps must be a real number, got 'small'"),
        (["diagnose", *LR, "--set", "lr=3"], "--set lr=3: give this with --lr"),
        (["diagnose", *LR, "--set", "epochs=3"], "--set epochs=3: give this with --epochs"),
        (["range-test", "--set", "lr=3"], "--set lr=3: give this with --min-lr and --max-lr"),
        (["sweep", "--set", "lr=3"], "--set lr=3: give this with --min-lr and --max-lr"),
        (["sweep", "--set", "min_lr=3"], "--set min_lr=3: give this with --min-lr"),
        (["sweep", "--set", "optimizer=SGD"], "--set optimizer=SGD: give this with --optimizer"),
        (["describe", "Adam", "--set", "convention=keras"], "--set convention=keras: give this with --convention"),
        (["diagnose", *LR, "--plot", "a.jpg"], "argument --plot: cannot plot to 'a.jpg': expected a name that ends in"),
        (
            ["diagnose", *LR, "--output", "my_training.py"],
            "cannot write to the folder my_training.py: File exists (a file has this name); give another with --output",
        ),
        (
            ["range-test", "--output", "my_training.py/deeper"],
            "cannot write to the folder my_training.py/deeper: Not a directory (a file has the name of one of its",
        ),
        (["sweep", "--plot", "my_training.py/plot.png"], "my_training.py: File exists (a file has this name); give"),
        (["sweep", "--plot", "folder.png"], "cannot write folder.png: it is a folder; give the name of a file with"),
        (["diagnose", "digit", *LR], "unknown problem: 'digit' (expected module:function, or one of digits,"),
        (["diagnose", "my_training.py:train", *LR], "names a file, expected a module: my_training:train, from the"),
        (["diagnose", "./my_training:train", *LR], "names a file, expected a module: my_training:train, from the"),
        (["diagnose", "nowhere:train", *LR], "cannot import nowhere: ModuleNotFoundError: No module named 'nowhere'"),
        (["diagnose", "my_training:trian", *LR], "module my_training has no trian (it has train, no_argument"),
        (["diagnose", "my_training:NUMBER", *LR], "my_training:NUMBER must be a function, got 3 of type int"),
        (["diagnose", "my_training:train", *LR, "--epochs", "5"], "epochs has no effect: my_training:train has no"),
        (["diagnose", "my_training:train", *LR, "--set", "eps=1"], "optimizer has no effect: my_training:train has no"),
        (["range-test", "my_training:train"], "trains by itself; a range test needs a problem, whose rate it can set"),
        (["range-test", "--min-lr", "1", "--max-lr", "0.1"], "min_lr must be less than max_lr, got 1.0 and 0.1"),
        (["range-test", "--points", "5"], "--points must be at least 10, got 5"),
        (["range-test", "--method", "best"], "argument --method: invalid choice: 'best'"),
        (["range-test", "--optimizer", "Rprop"], "lr is not used in the steps of Rprop: sweep it instead"),
        (["sweep", "--min-lr", "1", "--max-lr", "1"], "min_lr must be less than max_lr, got 1.0 and 1.0"),
        (["sweep", "--points", "0"], "argument --points: expected a whole number of at least 1, got '0'"),
        (["sweep", "--points", "1"], "points must be at least 2"),
        (["sweep", "--workers", "-1"], "argument --workers: expected a whole number of at least 0, got '-1'"),
        (["sweep", "--seeds", "0"], "argument --seeds: expected a whole number of at least 1, got '0'"),
        (["sweep", "--mode", "low"], "argument --mode: invalid choice: 'low'"),
    ],
)
def test_bad_arguments(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    (folder / "folder.png").mkdir()
    before = files(folder)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fastopt: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert files(folder) == before


def test_an_unknown_metric(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "digits", "--quick", "--workers", "0", "--metric", "auc"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "fastopt: error: unknown metric: 'auc' (expected one of loss, accuracy, val_loss, val_accuracy)"


@pytest.mark.parametrize("command", ["diagnose", "range-test", "sweep"])
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_folder_that_cannot_be_written_is_known_before_the_work(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    command: str,
) -> None:
    def refuse(**keywords: object) -> None:
        raise error

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    for option, words in (("--output", []), ("--output", ["--output", "there"])):
        assert cli.main([command, *words]) == 2
        where = words[-1] if words else f"fastopt-{command}"
        expected = f"cannot write to the folder {where}: {error.strerror}; give another with {option}"
        assert capsys.readouterr().err == f"fastopt: error: {expected}\n"


def test_a_full_disk_leaves_the_result_on_the_screen(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(tuning, "write_file", full)
    assert cli.main(["diagnose", "my_training:fits", "--lr", "0.2"]) == 1
    captured = capsys.readouterr()
    assert "Reading: good." in captured.out
    expected = "cannot write fastopt-diagnose/diagnosis.json: No space left on device"
    assert captured.err == f"fastopt: error: {expected}\n"


BROKEN = [
    ("1 / 0\n", "1 / 0", "ZeroDivisionError: division by zero"),
    ("def train(lr):\n    return lr +\n", "return lr +", "SyntaxError: invalid syntax (broken.py, line 2)"),
    ("import no_such_package\n", "import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    ("import sys\nsys.exit(3)\n", "sys.exit(3)", "SystemExit: 3"),
    ("import also_broken\n", "raise KeyError('deep')", "KeyError: 'deep'"),
    ("try:\n    1 / 0\nexcept ArithmeticError:\n    raise KeyError('then')\n", "1 / 0", "KeyError: 'then'"),
]


@pytest.mark.parametrize("command", ["diagnose", "range-test", "sweep"])
@pytest.mark.parametrize(("text", "line", "error"), BROKEN, ids=[case[2] for case in BROKEN])
def test_a_module_that_fails_shows_its_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, line: str, error: str, command: str
) -> None:
    (folder / "broken.py").write_text(text)
    (folder / "also_broken.py").write_text("def deep():\n    raise KeyError('deep')\n\ndeep()\n")
    before = files(folder)
    assert cli.main([command, "broken:train"]) == 2
    captured = capsys.readouterr()
    *shown, message = captured.err.splitlines()
    assert message == f"fastopt: error: cannot import broken: {error}"
    assert any(each.strip() == line for each in shown)
    assert any(each.startswith(f'  File "{folder / "broken.py"}", line ') for each in shown)
    places = [each for each in shown if each.startswith('  File "')]
    assert all(str(folder) in each for each in places)  # no frame of fastopt's or of importlib's
    assert files(folder) == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("my_training:raises", "my_training:raises: OSError: the data are gone"),
        ("my_training:exits", "my_training:exits: SystemExit: enough"),
        ("my_training:no_argument", "TypeError: my_training:no_argument must return a problem with params, batches"),
        (
            "my_training:returns_nothing",
            "TypeError: what my_training:returns_nothing returned: expected a number, a dict",
        ),
    ],
)
def test_errors_of_users_code(folder: Path, capsys: pytest.CaptureFixture[str], target: str, message: str) -> None:
    assert cli.main(["diagnose", target, "--lr", "0.1"]) == 1
    *shown, error = capsys.readouterr().err.splitlines()
    assert message in error
    assert error.endswith("(whole traceback in fastopt-diagnose/error.txt)")
    assert "Traceback (most recent call last)" in (folder / "fastopt-diagnose/error.txt").read_text()
    places = [line for line in shown if line.startswith('  File "')]
    assert len(places) == ("raises" in target or "exits" in target)  # the others are errors of no line of the user's
    assert all("my_training.py" in line for line in places)


# --- output that cannot be written ------------------------------------------------------------------------------------

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [
        (["config"], ""),
        (["describe", "Adam"], "1"),
        (["--help"], "1"),
        (["--version"], ""),
        (["diagnose", "my_training:fits", *LR], ""),
    ],
)
def test_a_full_device(folder: Path, arguments: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with FULL.open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "fastopt", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.stderr == "fastopt: error: cannot write the output: No space left on device\n"
    assert result.returncode == 1


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_nobody_can_be_told(folder: Path) -> None:
    with FULL.open("w") as full:
        program = [sys.executable, "-m", "fastopt", "describe", "Nothing"]
        assert subprocess.run(program, stdout=full, stderr=full, check=False).returncode == 2


def test_output_that_is_closed(folder: Path) -> None:
    program = f"exec {sys.executable} -m fastopt diagnose my_training:fits --lr 0.1 >&-"
    result = subprocess.run(["sh", "-c", program], stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert (folder / "fastopt-diagnose/diagnosis.json").exists()


# --- the commands and the rest ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["diagnose", "range-test", "sweep"])
def test_help_has_examples_and_all_problems(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    assert f"fastopt {name} my_training:" in output
    assert all(word in output for word in ("digits-mlp", "diabetes", "char-rnn", "module:function", "class Line:"))
    assert ("def train(lr, seed)" in output) == (name != "range-test")  # which takes problems only


@pytest.mark.parametrize("name", ["diagnose", "range-test", "sweep"])
def test_the_code_in_help_runs(name: str, folder: Path) -> None:
    lines = tuning_arguments.PROBLEM_CODE.format(begin="").splitlines()[2:]
    (folder / "copied.py").write_text("import numpy as np\n" + "\n".join(line[6:] for line in lines))
    options = {"sweep": ["--workers", "0", "--seeds", "1", "--points", "3"]}
    assert cli.main([name, "copied:Line", *options.get(name, [])]) == 0
    del sys.modules["copied"]


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    listed = lines[lines.index("commands:") + 1 :]
    assert [line.split()[0] for line in listed] == sorted(cli.COMMANDS)
    assert {"config", "demo", "diagnose", "range-test", "sweep"} <= cli.COMMANDS.keys()
    assert all(len(line) <= 80 and line.endswith(cli.COMMANDS[line.split()[0]].summary) for line in listed)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("betas=0.9,0.99", ("betas", (0.9, 0.99))),
        ("momentum=9e-1", ("momentum", 0.9)),
        ("nesterov=True", ("nesterov", True)),
        ("max_grad_norm=None", ("max_grad_norm", None)),
        ("convention=keras", ("convention", "keras")),
    ],
)
def test_settings(words: str, value: tuple[str, object]) -> None:
    assert arguments.setting(words) == value


@pytest.mark.parametrize("package", ["rich", "matplotlib", "sklearn"])
def test_missing_extra(folder: Path, package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; import fastopt.command.main; "
        "sys.exit(fastopt.command.main.main(['diagnose', 'digits', '--lr', '1']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    name = {"sklearn": "scikit-learn"}.get(package, package)
    assert result.stderr == f"fastopt: error: {name} is not installed: `pip install 'fastopt[cli]'` installs it\n"


def test_nothing_of_it_is_loaded_by_others(folder: Path) -> None:
    check = (
        "import sys, fastopt.command.main; code = fastopt.command.main.main(['config']); "
        "sys.exit(code or any(name.startswith(('fastopt.tuning', 'fastopt.examples')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, check=False).returncode == 0
    check = (
        "import sys, fastopt.tuning; "
        "sys.exit(any(name in sys.modules for name in ('rich', 'matplotlib', 'sklearn', 'fastopt.examples')))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0

"""The folders of `fastopt diagnose`, `range-test` and `sweep`: a run goes on with its own, and none is lost."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fastopt.command import main as cli
from fastopt.command import tuning_arguments
from fastopt.tuning import plans, problems

USERS_MODULE = """
import numpy as np

class Line:
    epochs = 3

    def __init__(self, seed):
        self.x = np.random.default_rng(seed).normal(size=(20, 8))
        self.params = {"slope": np.zeros(1)}

    def batches(self, epoch):
        return self.x

    def loss_and_gradients(self, x):
        error = (self.params["slope"] - 3) * x
        return np.mean(error**2), {"slope": np.mean(2 * error * x, keepdims=True)}

    def evaluate(self):
        return {"loss": (self.params["slope"].item() - 3) ** 2}

make_problem = Line

def train(lr, seed):
    return [{"loss": 1 / epoch + lr, "val_accuracy": lr / (1 + lr)} for epoch in range(1, 6)]
"""

COMMANDS = {
    "diagnose": (["my_training:train"], ["--lr", "0.1"], ["--lr", "0.2"], ["--lr", "0.3", "--seed", "1"]),
    "range-test": (
        ["my_training:Line"],
        ["--points", "10"],
        ["--points", "10", "--set", "amsgrad=True"],
        ["--points", "10", "--method", "minimum"],
    ),
    "sweep": (
        ["my_training:Line", "--points", "3", "--seeds", "1", "--workers", "0"],
        ["--epochs", "1"],
        ["--epochs", "2"],
        ["--epochs", "1", "--optimizer", "SGD"],
    ),
}
"""For each command its arguments, and three settings whose results differ."""

RESULTS = {"diagnose": "diagnosis.json", "range-test": "range-test.json", "sweep": "sweep.json"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_training.py").write_text(USERS_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_training", raising=False)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
def test_other_settings_get_another_folder_and_the_same_ones_the_same(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, *settings = COMMANDS[command]
    names = [f"fastopt-{command}{end}" for end in ("", "-2", "-3")]
    before: dict[str, dict[str, bytes]] = {}
    for name, chosen in [*zip(names, settings, strict=True), *zip(names, settings, strict=True)]:
        assert cli.main([command, *shared, *chosen]) == 0
        output = capsys.readouterr().out
        assert f"data in {name}/{RESULTS[command]}." in " ".join(output.split())
        assert (f"{name} is the folder of this run" in output) == (name != names[0])
        assert ("from before" in output) == (name in before)
        assert before == {each: contents(folder / each) for each in before if each != name} | (
            {name: before[name]} if name in before else {}
        )
        before[name] = contents(folder / name)
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("fastopt")) == names


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_named_is_not_overwritten_unasked(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, first, second, _ = COMMANDS[command]
    shared = [*shared, "--output", "there"]
    assert cli.main([command, *shared, *first]) == 0
    before = contents(folder)
    capsys.readouterr()
    assert cli.main([command, *shared, *second]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(
        r"fastopt: error: there/\S+ (has another result|holds the runs of another sweep): .*, not .*; "
        r"give another folder with --output, or --overwrite\n",
        captured.err,
    )
    assert contents(folder) == before
    assert cli.main([command, *shared, *second, "--overwrite"]) == 0
    assert contents(folder) != before
    assert cli.main([command, *shared, *second]) == 0  # it is its own now
    assert cli.main([command, *shared, *first]) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_overwriting_runs_everything_anew(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared, settings, *_ = COMMANDS[command]
    assert cli.main([command, *shared, *settings]) == 0
    path = folder / f"fastopt-{command}" / RESULTS[command]
    before = json.loads(path.read_text())
    (folder / "my_training.py").write_text(USERS_MODULE.replace("- 3)", "- 4)").replace("1 / epoch", "2 / epoch"))
    importlib.invalidate_caches()
    del sys.modules["my_training"]
    (folder / "__pycache__").exists() and [each.unlink() for each in (folder / "__pycache__").iterdir()]
    assert cli.main([command, *shared, *settings, "--overwrite"]) == 0
    assert json.loads(path.read_text()) != before
    assert not list(folder.glob("fastopt-*-2"))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("content", ["{}", "[1]", "no JSON", '{"configuration": 3}', '{"configuration": {}}'])
def test_files_of_others_are_kept(command: str, content: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of earlier versions, which did not write down the settings, and of whatever else has these names."""
    shared, settings, *_ = COMMANDS[command]
    default = folder / f"fastopt-{command}"
    default.mkdir()
    (default / RESULTS[command]).write_text(content)
    assert cli.main([command, *shared, *settings]) == 0
    assert contents(default) == {str(default / RESULTS[command]): content.encode()}
    assert (folder / f"fastopt-{command}-2" / RESULTS[command]).exists()


def test_a_folder_without_results_is_free(folder: Path) -> None:
    (folder / "fastopt-diagnose").mkdir()
    (folder / "fastopt-diagnose" / "notes.txt").write_text("mine")
    assert cli.main(["diagnose", "my_training:train", "--lr", "0.1"]) == 0
    found = {path.name for path in (folder / "fastopt-diagnose").iterdir()}
    assert found == {"notes.txt", "diagnosis.json", "diagnosis.png"}


def test_a_numbered_folder_without_results_is_free(folder: Path) -> None:
    assert cli.main(["diagnose", "my_training:train", "--lr", "0.1"]) == 0
    before = contents(folder / "fastopt-diagnose")
    (folder / "fastopt-diagnose-2").mkdir()
    (folder / "fastopt-diagnose-3").mkdir()
    assert cli.main(["diagnose", "my_training:train", "--lr", "0.2"]) == 0
    assert contents(folder / "fastopt-diagnose") == before
    assert (folder / "fastopt-diagnose-2" / "diagnosis.json").exists()
    assert not list((folder / "fastopt-diagnose-3").iterdir())


def test_the_three_commands_share_a_folder(folder: Path) -> None:
    for command, (shared, settings, *_) in COMMANDS.items():
        assert cli.main([command, *shared, *settings, "--output", "all"]) == 0
    assert set(RESULTS.values()) <= {path.name for path in (folder / "all").iterdir()}


class Tiny:
    """A problem in place of the bundled ones."""

    def __init__(self, seed: int) -> None:
        self.params, self.epochs, self.x = np.zeros(3), 3, np.random.default_rng(seed).normal(size=(10, 3))

    def batches(self, epoch: int) -> np.ndarray:
        return self.x

    def loss_and_gradients(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        error = self.params - x
        return float(error @ error), 2 * error


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_the_help_run_one_after_the_other(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("digits", "digits_mlp", "diabetes", "char_rnn"):
        monkeypatch.setattr(problems, name, Tiny)
    monkeypatch.setattr(plans, "get_num_threads", lambda: 0)  # no processes
    parser = cli.make_parser(command)
    helped = parser._subparsers._group_actions[0].choices[command].format_help()  # type: ignore[union-attr]
    examples = re.findall(rf"^  fastopt {command}(.*?)(?:#.*)?$", helped, re.MULTILINE)
    assert len(examples) >= 3
    for example in [*examples, *examples]:
        assert cli.main([command, *example.replace("--workers 4", "--workers 0").split()]) == 0
    assert len(list(folder.glob(f"fastopt-{command}*"))) == len(examples)
    assert tuning_arguments.FILES.format(output=f"fastopt-{command}") in helped

"""The example in PyTorch: it learns, goes on from a checkpoint to the same bits, and says what is wrong with one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastopt.examples import torch_digits
from fastopt.examples.torch_digits import CheckpointError, Training

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "torch_digits.py"


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def same_bits(left: Training, right: Training) -> bool:
    pairs = zip(left.model.parameters(), right.model.parameters(), strict=True)
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in pairs)


def test_it_learns(capsys: pytest.CaptureFixture[str]) -> None:
    training = torch_digits.main(["--quick"])
    assert training.accuracy() > 0.93
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == training.epochs + 1
    assert re.fullmatch(r"accuracy \d\d\.\d\d% on 360 images that were not trained on", printed[-1])


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_has_the_same_bits(stop: int, tmp_path: Path) -> None:
    checkpoint = ["--epochs", "3", "--checkpoint", str(tmp_path / "digits.pt")]
    uninterrupted = torch_digits.main(["--epochs", "3"])
    stopped = torch_digits.main([*checkpoint, "--stop-after", str(stop)])
    assert stopped.epoch == stop
    assert not same_bits(stopped, uninterrupted)
    torch.manual_seed(123)  # the checkpoint brings the random numbers, too
    resumed = torch_digits.main([*checkpoint, "--resume", "--seed", "7"])
    assert resumed.epoch == 3
    assert same_bits(resumed, uninterrupted)
    assert resumed.scheduler.state_dict() == uninterrupted.scheduler.state_dict()
    mine, expected = (training.optimizer.state_dict()["state"] for training in (resumed, uninterrupted))
    assert all(torch.equal(mine[index][name], state) for index in expected for name, state in expected[index].items())
    assert [path.name for path in tmp_path.iterdir()] == ["digits.pt"]


def test_a_finished_run_can_be_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--epochs", "1", "--checkpoint", str(tmp_path / "digits.pt")]
    finished = torch_digits.main(arguments)
    assert same_bits(torch_digits.main([*arguments, "--resume"]), finished)
    assert capsys.readouterr().out.count("epoch") == 1


def test_the_optimizer_is_torchs_in_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "digits.pt"
    torch_digits.main(["--epochs", "1", "--checkpoint", str(path)])
    model = Training(epochs=1).model
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(torch.load(path, weights_only=True)["optimizer"])
    assert float(optimizer.state[next(model.parameters())]["step"]) == 45


def wrong_checkpoints(path: Path) -> dict[str, tuple[object, str]]:
    torch_digits.main(["--epochs", "1", "--checkpoint", str(path)])
    good = torch.load(path, weights_only=True)
    model = {name: value for name, value in good["model"].items() if name != "0.bias"}
    other = {"state": {}, "param_groups": []}
    return {
        "epochs": ({**good, "epochs": 9}, "is of a training over 9 epochs, not 1"),
        "model": ({**good, "model": model}, 'Missing key(s) in state_dict: "0.bias"'),
        "optimizer": ({**good, "optimizer": other}, "different number of parameter groups"),
        "incomplete": ({"epochs": 1}, "KeyError: 'model'"),
        "no dict": (torch.zeros(3), "cannot go on from"),
    }


@pytest.mark.parametrize("wrong", ["epochs", "model", "optimizer", "incomplete", "no dict"])
def test_wrong_checkpoints(wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "digits.pt"
    content, message = wrong_checkpoints(path)[wrong]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        Training(epochs=1).load(path)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"], ids=["missing", "empty", "text"])
def test_files_that_are_no_checkpoints(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "digits.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        torch_digits.main(["--quick", "--resume", "--checkpoint", str(path)])
    assert caught.value.code == 2
    assert f"cannot go on from {path}" in capsys.readouterr().err


def test_resuming_needs_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        torch_digits.main(["--resume"])
    assert "--resume needs --checkpoint FILE" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["torch", "sklearn"])
def test_what_is_missing_is_named(package: str, tmp_path: Path) -> None:
    (tmp_path / f"{package}.py").write_text('raise ModuleNotFoundError("not installed")')
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), "--quick"]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "needs PyTorch and scikit-learn: pip install" in result.stderr

"""The command line, the demo, and the two examples that it shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import fastopt
from fastopt.command import comparison, demo
from fastopt.command import main as cli
from fastopt.definitions.specs import SPECS
from fastopt.examples import char_rnn, textbook

TIMING = comparison.Timing(repeats=3, seconds=3e-4)
TEXT = char_rnn.python_documentation()[:20_000]


@pytest.fixture(autouse=True)
def _one_thread_for_matrices() -> Iterator[None]:
    """Threads that wait for each other make small products slow where other programs run."""
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(output: str) -> dict[str, list[str]]:
    """The rows of printed tables by their first word, in the order of the tables."""
    found: dict[str, list[str]] = {}
    for line in output.splitlines():
        if line.split():
            found.setdefault(line.split()[0], []).append(line)
    return found


# --- the network ------------------------------------------------------------------------------------------------------


def test_gradients_are_finite_differences() -> None:
    random = np.random.default_rng(0)
    network = char_rnn.CharacterNetwork(n_characters=5, n_hidden=4, seed=0, dtype=np.float64)
    network.flat[:] = random.normal(size=network.flat.size)  # far from zero, so that no derivative is tiny
    inputs, targets = random.integers(0, 5, (2, 6, 3))
    state = (random.normal(size=(3, 4)), random.normal(size=(3, 4)))
    network.loss_and_gradients(inputs, targets, state)
    distance = 1e-5
    for index, gradient in enumerate(network.flat_gradients.copy()):
        weight = network.flat[index]
        losses = []
        for moved in (weight + distance, weight - distance):
            network.flat[index] = moved
            losses.append(network.loss(inputs, targets, state)[0])
        network.flat[index] = weight
        assert (losses[0] - losses[1]) / (2 * distance) == pytest.approx(gradient, rel=1e-5, abs=1e-9)


def test_state_carries_over_from_batch_to_batch() -> None:
    network = char_rnn.CharacterNetwork(n_characters=5, n_hidden=4, seed=0)
    inputs = np.random.default_rng(0).integers(0, 5, (6, 3))
    state, whole = network.forward(inputs, network.initial_state(3))
    first_state, _ = network.forward(inputs[:2], network.initial_state(3))
    last_state, rest = network.forward(inputs[2:], first_state)
    np.testing.assert_array_equal(rest.hidden, whole.hidden[2:])
    np.testing.assert_array_equal(last_state, state)


def test_batches_are_the_text_in_order() -> None:
    found = char_rnn.batches(np.arange(100), batch=3, sequence=8)
    assert [inputs.shape for inputs, _ in found] == [(8, 3)] * 4
    for inputs, targets in found:
        np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(np.concatenate([inputs for inputs, _ in found])[:, 1], np.arange(33, 65))


def test_held_out_paragraphs_are_not_in_the_training_part() -> None:
    training = "\n\n".join(f"paragraph {number}" for number in range(100))
    corpus = char_rnn.Corpus.from_text(training + "\n\nparagraph 7\n\nnew at the end")
    held_out = "".join(corpus.characters[number] for number in corpus.held_out)
    assert "paragraph 7\n" not in held_out
    assert held_out.endswith("\n\nnew at the end")


def test_training_reduces_the_loss_and_decays_the_rate() -> None:
    corpus = char_rnn.Corpus.from_text(TEXT)
    network = char_rnn.CharacterNetwork(len(corpus.characters), n_hidden=32, seed=0)
    optimizer = fastopt.RMSprop(network.flat, grads=network.flat_gradients, lr=1e-2, alpha=0.95, n_threads=1)
    training = char_rnn.Training(epochs=3, sequence=16, decay_rate=0.5)
    steps = list(char_rnn.train(network, optimizer, corpus, training))
    ends = [step for step in steps if step.held_out_loss is not None]
    assert [step.learning_rate for step in ends] == [1e-2, 5e-3, 2.5e-3]
    assert [step.epoch for step in ends] == [0, 1, 2]
    held_out = [step.held_out_loss for step in ends]
    assert held_out == sorted(held_out, reverse=True)
    assert held_out[-1] < 0.85 * corpus.unigram_loss()


# --- the comparison ---------------------------------------------------------------------------------------------------


def test_every_optimizer_has_a_textbook_update() -> None:
    assert textbook.TEXTBOOK.keys() == SPECS.keys()


@pytest.mark.parametrize("settings", [{}, char_rnn.SETTINGS], ids=["defaults", "settings"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SPECS)
def test_textbook_updates_are_fastopts(name: str, dtype: type, settings: dict[str, dict[str, object]]) -> None:
    random = np.random.default_rng(0)
    start = random.normal(size=1000).astype(dtype)
    gradients = [random.normal(size=1000).astype(dtype) for _ in range(10)]
    ours, theirs = start.copy(), start.copy()
    hyperparameters = settings.get(name, {})
    ours_optimizer = getattr(fastopt, name)(ours, **hyperparameters)
    theirs_optimizer = textbook.TEXTBOOK[name](theirs, **hyperparameters)
    for gradient in gradients:
        ours_optimizer.step(gradient)
        theirs_optimizer.step(gradient)
    assert not np.array_equal(ours, start)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 if dtype is np.float32 else 1e-13)
    expected = textbook.find_expected(name, start, gradients, hyperparameters)
    assert textbook.is_equal(ours, expected)
    assert textbook.is_equal(theirs, expected)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("wrong", ["fastopt", "NumPy", "PyTorch"])
def test_a_wrong_update_is_wrong_and_not_fast(name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    if (name, wrong) == ("Lion", "PyTorch"):
        pytest.skip("PyTorch has no Lion")
    right = comparison.IMPLEMENTATIONS[wrong]

    def slightly_wrong(name: str, params: np.ndarray, grads: np.ndarray, n_threads: int) -> comparison.Step:
        step = right(name, params, grads, n_threads)

        def wrong_step() -> None:
            before = params[7]
            step()
            params[7] += 1e-2 * (params[7] - before)  # one element goes one percent too far

        return wrong_step

    monkeypatch.setitem(comparison.IMPLEMENTATIONS, wrong, slightly_wrong)
    random = np.random.default_rng(0)
    start, *gradients = random.normal(size=(5, 64)).astype(np.float32)
    found = comparison.compare(name, start, gradients, 1, TIMING)
    assert found.wrong == {wrong}
    assert wrong not in found.seconds
    assert found.verdict == comparison.WRONG
    assert [each for each in comparison.IMPLEMENTATIONS if found.cell(each) == comparison.WRONG] == [wrong]


def test_nan_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_a_number(name: str, params: np.ndarray, grads: np.ndarray, n_threads: int) -> comparison.Step:
        return lambda: params.fill(np.nan)

    monkeypatch.setitem(comparison.IMPLEMENTATIONS, "fastopt", not_a_number)
    found = comparison.compare("SGD", np.ones(8, np.float32), [np.ones(8, np.float32)], 1, TIMING)
    assert found.wrong == {"fastopt"}


def test_an_optimizer_without_a_textbook_is_shown_as_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(textbook.TEXTBOOK, "SGD")
    found = comparison.compare("SGD", np.ones(8, np.float32), [np.ones(8, np.float32)], 1, TIMING)
    assert "unchecked" in found.verdict
    assert found.cell("NumPy") == "-"


# --- the command ------------------------------------------------------------------------------------------------------


def test_demo_end_to_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--quick"]) == 0
    output = capsys.readouterr().out
    assert (folder / "fastopt-demo.png").read_bytes().startswith(b"\x89PNG")
    assert "WRONG" not in output
    assert "What the network writes after RMSprop" in output
    found = rows(output)
    for name in SPECS:
        _, *times = found[name]
        assert len(times) == len({1, fastopt.get_num_threads()})
        assert all(line.split()[-1] == "equal" for line in times)
    baseline = float(found["To"][0].split()[2])
    held_out = [float(found[epoch][0].split()[-1]) for epoch in ("1", "2")]
    assert held_out[1] < held_out[0]
    assert held_out[1] < 0.85 * baseline


def test_demo_reads_another_text_and_is_deterministic(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tiny.txt").write_text(TEXT[:8000].replace("a", "\N{SNOWMAN}"), encoding="utf-8")
    command = ["demo", "--quick", "--text", "tiny.txt", "--plot", "out.png", "--epochs", "1", "--seed"]
    outputs = []
    for seed in ("3", "3", "4"):
        assert cli.main([*command, seed]) == 0
        outputs.append(capsys.readouterr().out.partition("Microseconds")[0])
    assert "tiny.txt: 7,200 characters to train on" in outputs[0]
    assert "\N{SNOWMAN}" in outputs[0]
    assert outputs[0] == outputs[1] != outputs[2]
    assert (folder / "out.png").exists()
    assert not (folder / "fastopt-demo.png").exists()


def test_demo_without_torch_and_with_a_wrong_result(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(name: str, params: np.ndarray, grads: np.ndarray, n_threads: int) -> comparison.Step:
        return lambda: None

    (folder / "tiny.txt").write_text(TEXT[:8000], encoding="utf-8")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(comparison.IMPLEMENTATIONS, "NumPy", nothing)
    assert cli.main(["demo", "--quick", "--text", "tiny.txt", "--epochs", "1"]) == 1
    output = capsys.readouterr().out
    assert "PyTorch is not installed: `pip install 'fastopt[torch]'`" in " ".join(output.split())
    for name in SPECS:
        for line in rows(output)[name][1:]:
            _, _, *others = (word for word in line.split() if word != "?")  # other programs interfered
            assert others == ["WRONG", "-", "-", "WRONG"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "missing.txt"], "cannot read missing.txt: No such file or directory"),
        (["--text", "."], "cannot read .: Is a directory"),
        (["--text", "binary.txt"], "binary.txt is not text in UTF-8: invalid start byte at byte 3"),
        (["--text", "short.txt"], "the text is too short: 90 characters are too few"),
        (["--text", "empty.txt"], "the text is too short: 0 characters are too few"),
        (["--epochs", "0"], "expected a whole number of at least 1, got '0'"),
        (["--epochs", "two"], "expected a whole number of at least 1, got 'two'"),
        (["--comparison-epochs", "-1"], "--comparison-epochs: expected a whole number of at least 1, got '-1'"),
        (["--seed", "-1"], "expected a whole number of at least 0, got '-1'"),
        (["--plot", "missing/plot.png"], "cannot write missing/plot.png: No such file or directory"),
        (["--plot", "folder.png"], "cannot write folder.png: Is a directory"),
        (["--plot", "plot.jpg"], "cannot write plot.jpg: expected a name that ends in .png"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_bad_arguments(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    (folder / "binary.txt").write_bytes(b"abc\xff")
    (folder / "short.txt").write_text("ten chars " * 10)
    (folder / "empty.txt").write_text("")
    (folder / "folder.png").mkdir()
    before = sorted(folder.iterdir())
    assert cli.main(["demo", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fastopt: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(folder.iterdir()) == before


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("package", ["rich", "matplotlib", "threadpoolctl"])
def test_missing_extra(folder: Path, package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; from fastopt.command import main; sys.exit(main.main(['demo']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == f"fastopt: error: {package} is not installed: `pip install 'fastopt[cli]'` brings it\n"


def test_interruption(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", interrupt)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "fastopt: error: interrupted\n"


def test_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 0
    output = capsys.readouterr().out
    fastopt.show_config()
    assert output == capsys.readouterr().out


def test_version_and_python_m(folder: Path) -> None:
    result = subprocess.run([sys.executable, "-m", "fastopt", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"fastopt {fastopt.__version__}\n"


def test_the_command_is_light_without_the_demo(folder: Path) -> None:
    check = f"import sys, fastopt.command.main; sys.exit(any(name in sys.modules for name in {tuple(cli.EXTRA)!r}))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0

"""The command line, the demo, and the network that it trains."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from rich.console import Console
from threadpoolctl import threadpool_limits

import fastopt
from fastopt.command import demo
from fastopt.command import main as cli
from fastopt.definitions.specs import SPECS
from fastopt.examples import char_rnn

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


def without_times(output: str) -> list[str]:
    """The lines of the demo's output, without the times of steps and of the whole."""
    *lines, _ = output.splitlines()
    timed = [line.split()[:1] and line.split()[0] in SPECS for line in lines]
    return [" ".join(line.split()[:-1]) if has_time else line for line, has_time in zip(lines, timed, strict=True)]


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


@pytest.mark.blas
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


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.blas
def test_demo_end_to_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--quick"]) == 0
    output = capsys.readouterr().out
    assert (folder / "fastopt-demo.png").read_bytes().startswith(b"\x89PNG")
    assert "What the network writes after RMSprop" in output
    found = rows(output)
    for name in SPECS:
        (row,) = (line for line in found[name] if name == line.split()[0])
        *losses, milliseconds = map(float, row.split()[1:])
        assert len(losses) == 5
        assert milliseconds > 0
    baseline = float(found["To"][0].split()[2])
    held_out = [float(found[epoch][0].split()[-1]) for epoch in ("1", "2")]
    assert held_out[1] < held_out[0]
    assert held_out[1] < 0.85 * baseline


def test_narrow_terminals_break_no_name_of_an_optimizer(folder: Path) -> None:
    for width, is_whole in ((60, True), (40, False)):
        console = Console(width=width, file=io.StringIO())
        table = demo.new_table(console, "All", "optimizer", "rate", *demo.LOSS_COLUMNS, demo.STEP_COLUMN)
        for name in SPECS:
            table.add_row(name, "0.0123", "2.345", "3.456", "2.345", "3.456", "12.34")
        console.print(table)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert max(map(len, lines)) <= width
        assert set(SPECS) <= {line.split()[0] for line in lines if line.split()}
        assert (sum(line.split()[2:4] == ["2.345", "3.456"] for line in lines) == len(SPECS)) == is_whole


def losses_of(name: str, epochs: int, start: float = 4.0) -> demo.Run:
    """A run that was not trained: 40 steps an epoch, and losses that fall a little in each."""
    run = demo.Run(name, None, None)  # type: ignore[arg-type]
    run.losses = [start - 0.001 * step for step in range(40 * epochs)]
    run.held_out_losses = [start - 0.04 * (epoch + 1) for epoch in range(epochs)]
    return run


@pytest.mark.parametrize(("main_epochs", "epochs"), [(6, 1), (1, 1), (1, 3)])
def test_curves_fill_their_panels_and_look_different(main_epochs: int, epochs: int) -> None:
    names = [demo.MAIN, *(name for name in SPECS if name != demo.MAIN)]
    runs = {name: losses_of(name, main_epochs if name == demo.MAIN else epochs) for name in names}
    whole, all_of_them = demo.figure_of_losses(runs, 4.0, "a $text$").axes
    for axes, end, count in ((whole, 40 * main_epochs, 1), (all_of_them, 40 * epochs, len(SPECS))):
        assert axes.get_xlim()[0] == 0
        assert axes.get_xlim()[1] == pytest.approx(end, rel=0.04)
        baseline, *curves = [line for line in axes.lines if line.get_linestyle() != "None"]
        assert len(curves) == count
        assert max(curve.get_xdata()[-1] for curve in curves) > 0.9 * end
        looks = [(to_rgb(line.get_color()), line.get_linestyle()) for line in (baseline, *curves)]
        assert len(set(looks)) == 1 + count
        assert all(len(set(color)) > 1 for color, _ in looks[1:])  # no grey, the baseline's colour
        dots = [line for line in axes.lines if line.get_linestyle() == "None"]
        assert sum(len(line.get_xdata()) for line in dots) == (
            main_epochs if count == 1 else (count - 1) * epochs + min(main_epochs, epochs)
        )


def test_a_diverged_optimizer_does_not_spoil_the_plot() -> None:
    runs = {
        "RMSprop": losses_of("RMSprop", 2),
        "SGD": losses_of("SGD", 1, np.nan),
        "Adam": losses_of("Adam", 1, np.inf),
    }
    low, high = demo.figure_of_losses(runs, 4.0, "a text").axes[0].get_ylim()
    assert low == pytest.approx(char_rnn.bits(4.0 - 0.08) - 0.2, abs=0.01)
    assert high == char_rnn.bits(4.0) + 1


@pytest.mark.slow
def test_demo_reads_another_text_and_is_deterministic(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tiny.txt").write_text(TEXT[:8000].replace("a", "\N{SNOWMAN}"), encoding="utf-8")
    command = ["demo", "--quick", "--text", "tiny.txt", "--plot", "out.png", "--epochs", "1", "--seed"]
    outputs = []
    for seed in ("3", "3", "4"):
        assert cli.main([*command, seed]) == 0
        outputs.append(without_times(capsys.readouterr().out))
    assert any("tiny.txt: 7,200 characters to train on" in line for line in outputs[0])
    assert any("\N{SNOWMAN}" in line for line in outputs[0])
    assert outputs[0] == outputs[1] != outputs[2]
    assert (folder / "out.png").exists()
    assert not (folder / "fastopt-demo.png").exists()


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
    assert result.stderr == f"fastopt: error: {package} is not installed: `pip install 'fastopt[cli]'` installs it\n"


def test_help_needs_no_extra(folder: Path) -> None:
    program = f"""
import sys
for name in {tuple(cli.EXTRA)!r}:
    sys.modules[name] = None
from fastopt.command import main
for words in (["--help"], *([name, "--help"] for name in main.COMMANDS)):
    try:
        sys.exit(main.main(words) or "no help")
    except SystemExit as end:
        assert end.code == 0, (words, end.code)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("usage: ") == 1 + len(cli.COMMANDS)


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

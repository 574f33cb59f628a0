"""The examples: each runs as a script without a warning, and what it answers is so."""

from __future__ import annotations

import math
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import fastopt
from fastopt.examples import (
    batch_size,
    char_rnn,
    custom_rules,
    data,
    keras_decay,
    models,
    plateau_adam,
    projected_and_proximal,
    report,
    rnn_epoch_decay,
    rprop_full_batch,
    streaming_regression,
    unscaled_inputs,
)

FOLDER = Path(__file__).resolve().parents[2] / "examples"
README = (FOLDER.parent / "README.md").read_text()

NUMBER = r"[\d.,]+(e[-+]\d+)?%?"

ANSWERS = {
    "batch_size": f"After 6 epochs, .* at 256 the accuracy is {NUMBER} and {NUMBER}",
    "keras_decay": "It counts steps: as epoch 10 begins, decay=0.1 has divided the rate by 1 \\+ 0.1 \\* 306",
    "njit_training": f"After 1,076 updates of 610 parameters both loops have the same bits, .* reads {NUMBER} of",
    "custom_rules": f"All 4 learn: test accuracies of {NUMBER} to {NUMBER}",
    "plateau_adam": r"at 0.001 \(0.0 reductions\) accuracy is the same and test loss the same; at 0.1 ",
    "projected_and_proximal": f"The largest difference from scikit-learn's coefficients is {NUMBER}, and in 5 of 5",
    "rnn_epoch_decay": f"Per epoch: in the 4 epochs after the decay began, .* fell by {NUMBER} with 0.97 per epoch",
    "rprop_full_batch": f"In 20 epochs full-batch Rprop goes from a loss of 2.3 to {NUMBER} .* and mini-batch Rprop to",
    "streaming_regression": f"After one pass over 100,000 rows, .* differ by {NUMBER} from the best .* rows a second",
    "unscaled_inputs": r"the weights end as NaN; .* nonfinite \(step \d+, in \w+\), .* explosion .* it is none,",
}
"""What the last line of each script has, run with --quick."""


@pytest.fixture(autouse=True)
def _one_thread_for_matrices() -> Iterator[None]:
    with threadpool_limits(1, "blas"):
        yield


def start(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, cwd=cwd, capture_output=True, text=True, check=False
    )


# --- as scripts -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
def test_scripts(name: str, tmp_path: Path) -> None:
    result = start(str(FOLDER / f"{name}.py"), "--quick", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    *table, answer = [line for line in result.stdout.splitlines() if line.strip()]
    assert re.search(ANSWERS[name], answer)
    assert "nan" not in answer
    assert len(table) >= 4
    assert "\N{HORIZONTAL ELLIPSIS}" not in result.stdout  # no column is cut off
    assert not any(tmp_path.iterdir())


SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if '\nif __name__ == "__main__":' in path.read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_help_and_quick_and_refuses_other_arguments(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for argument, code in (("--help", 0), ("--no-such-argument", 2), ("word", 2)):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", argument])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        captured = capsys.readouterr()
        assert caught.value.code == code
        assert ("--quick" in captured.out) == (code == 0)
        assert (argument in captured.err) == (code == 2)


def test_char_rnn_is_quick(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = char_rnn.python_documentation()
    sizes = []
    for arguments, characters in (["--quick"], 9_000), ([], 30_000):
        monkeypatch.setattr(char_rnn, "python_documentation", lambda end=characters: text[:end])
        monkeypatch.setattr(char_rnn, "train", lambda network, *_: sizes.append(network.flat.size) or [])
        monkeypatch.setattr(char_rnn.CharacterNetwork, "generate", lambda *_, **__: [0])
        char_rnn.main(arguments)
        capsys.readouterr()
    assert sizes[0] < sizes[1] / 2
    monkeypatch.undo()
    monkeypatch.setattr(char_rnn, "python_documentation", lambda: text[:9_000])
    char_rnn.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["epoch 1", "epoch 2"]
    assert len("\n".join(lines[2:])) >= 490


def test_every_example_is_tested_and_in_the_readme() -> None:
    scripts = set(SCRIPTS)
    assert scripts - {"char_rnn", "torch_digits"} == set(ANSWERS)  # which have tests of their own
    assert scripts == set(re.findall(r"\]\(examples/(\w+)\.py\) \|", README))


def test_as_a_module(tmp_path: Path) -> None:
    result = start("-m", "fastopt.examples.projected_and_proximal", "--quick", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(ANSWERS["projected_and_proximal"], result.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", ["sklearn", "rich", "threadpoolctl"])
def test_what_is_missing_is_named(package: str, tmp_path: Path) -> None:
    (tmp_path / f"{package}.py").write_text('raise ModuleNotFoundError("not installed")')
    script = str(FOLDER / "projected_and_proximal.py")
    result = start(script, "--quick", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "pip install 'fastopt[cli]'" in result.stderr


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        report.main(batch_size.__doc__, batch_size.run, batch_size.report, ["--fast"])
    assert caught.value.code == 2
    assert "--fast" in capsys.readouterr().err


# --- what they share --------------------------------------------------------------------------------------------------


def test_gradients_of_the_perceptron_are_finite_differences() -> None:
    random = np.random.default_rng(0)
    model = models.MLP([3, 5, 4, 3], seed=0, dtype=np.float64)
    model.flat += random.normal(scale=0.1, size=model.flat.size)  # no bias is zero
    inputs, labels = random.normal(size=(6, 3)), random.integers(0, 3, 6)
    assert model.loss_and_gradients(inputs, labels) == model.loss(inputs, labels)
    distance = 1e-6
    for index, gradient in enumerate(model.flat_gradients.copy()):
        weight = model.flat[index]
        losses = []
        for moved in (weight + distance, weight - distance):
            model.flat[index] = moved
            losses.append(model.loss(inputs, labels))
        model.flat[index] = weight
        assert (losses[0] - losses[1]) / (2 * distance) == pytest.approx(gradient, rel=1e-5, abs=1e-8)


def test_a_perceptron_without_hidden_layers_is_logistic_regression() -> None:
    model = models.MLP([2, 2], seed=0, dtype=np.float64)
    model.weights["W1"][:] = [[1.0, -1.0], [0.5, 0.0]]
    model.weights["b1"][:] = [0.25, 0.0]
    difference = 2 * 3.0 + 0.5 * 2.0 + 0.25
    assert model.loss(np.array([[3.0, 2.0]]), np.array([1])) == pytest.approx(math.log1p(math.exp(difference)))
    assert model.accuracy(np.array([[3.0, 2.0]]), np.array([0])) == 1


def test_batches_have_every_row_once() -> None:
    batches = list(models.shuffled_batches(10, 4, np.random.default_rng(0)))
    assert [len(rows) for rows in batches] == [4, 4, 2]
    assert sorted(np.concatenate(batches)) == list(range(10))
    assert list(np.concatenate(batches)) != list(range(10))


def test_an_epoch_steps_once_for_each_batch() -> None:
    part = data.digits().training
    model = models.MLP([64, 10], seed=0)
    optimizer = fastopt.Adam(model.flat, grads=model.flat_gradients)
    before = model.loss(part.inputs, part.labels)
    loss = models.train_epoch(model, optimizer, part, 500, np.random.default_rng(0))
    assert optimizer.state[0]["step"] == 3
    assert model.loss(part.inputs, part.labels) < loss < before


@pytest.mark.parametrize(
    ("load", "shapes"),
    [
        (data.digits, [(1078, 64), (359, 64), (360, 64)]),
        (data.breast_cancer, [(341, 30), (114, 30), (114, 30)]),
    ],
    ids=["digits", "breast_cancer"],
)
def test_parts_are_cut_from_all_rows(load: Any, shapes: list[tuple[int, int]]) -> None:
    found, again, other = load(0), load.__wrapped__(0), load(1)  # again is not the one that is kept
    parts = (found.training, found.validation, found.test)
    assert [part.inputs.shape for part in parts] == shapes
    assert all(part.inputs.dtype == np.float32 and len(part.labels) == len(part.inputs) for part in parts)
    np.testing.assert_array_equal(found.training.inputs, again.training.inputs)
    rows = {row.tobytes() for part in parts for row in part.inputs}
    assert rows == {row.tobytes() for part in (other.training, other.validation, other.test) for row in part.inputs}
    assert not np.array_equal(found.training.inputs, other.training.inputs)


def test_standardised_inputs() -> None:
    raw = data.breast_cancer()
    scaled = data.standardise(raw)
    np.testing.assert_allclose(scaled.training.inputs.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.training.inputs.std(axis=0), 1, rtol=1e-4)
    mean, deviation = raw.training.inputs.mean(axis=0), raw.training.inputs.std(axis=0)
    np.testing.assert_allclose(scaled.test.inputs * deviation + mean, raw.test.inputs, rtol=1e-3, atol=1e-3)


# --- what they say ----------------------------------------------------------------------------------------------------


@pytest.mark.blas
def test_large_batches_need_a_larger_rate() -> None:
    results = batch_size.run(quick=True)
    largest = results.rows[-1]
    assert largest.batch == 256
    assert largest.fixed < largest.scaled - 0.2
    assert results.reference.fixed == results.reference.scaled > 0.9
    assert results.largest_good("fixed") < results.largest_good("scaled")


def test_the_largest_good_batch_ends_at_the_first_bad_one() -> None:
    rows = [batch_size.Row(batch, 1, fixed, 0.9) for batch, fixed in [(8, 0.1), (16, 0.9), (32, 0.7), (64, 0.9)]]
    results = batch_size.Results(tuple(rows), epochs=1, seeds=1)
    assert results.largest_good("fixed") == 16
    assert results.largest_good("scaled") == 64


@pytest.mark.blas
def test_rprop_is_for_full_batches() -> None:
    results = rprop_full_batch.run(quick=True)
    full, mini = results.trainings["Rprop", True], results.trainings["Rprop", False]
    assert full.loss < 0.5 < mini.loss  # full batches learn, mini-batches do not
    assert full.loss < results.trainings["RMSprop", True].loss
    assert results.trainings["RMSprop", False].loss < 0.1
    assert mini.steps == 34 * full.steps
    assert mini.changed > full.changed + 0.1
    assert mini.step_size < 1e-5 < full.step_size


@pytest.mark.blas
def test_keras_decay_is_per_step() -> None:
    results = keras_decay.run(quick=True)
    constant, believed, legacy = (results.epochs[name] for name in keras_decay.NAMES)
    assert results.steps_per_epoch == 34
    for epoch in range(10):
        assert constant[epoch].rate == 0.1
        assert believed[epoch].rate == pytest.approx(0.1 / (1 + 0.1 * epoch), rel=1e-12)
        assert legacy[epoch].rate == pytest.approx(0.1 / (1 + 0.1 * epoch * 34), rel=1e-12)
    assert results.counted == 9 * 34
    assert constant[0].accuracy == believed[0].accuracy  # the first epoch is the same
    assert believed[-1].accuracy > 0.9 > legacy[-1].accuracy + 0.05


@pytest.mark.blas
def test_a_plateau_reduces_high_rates_of_adam() -> None:
    low, high = plateau_adam.run(quick=True)
    assert low.with_plateau == low.without  # it is still getting better: nothing is reduced
    assert all(each.reductions == 0 for each in high.without)
    assert all(each.reductions > 0 for each in high.with_plateau)
    loss = high.difference(lambda training: training.loss)
    assert loss.mean < 0
    assert loss.verdict == "lower"


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.21, "higher"), (0.2, "the same"), (-0.2, "the same"), (-0.21, "lower")]
)
def test_a_difference_counts_beyond_two_standard_errors(mean: float, verdict: str) -> None:
    assert plateau_adam.Difference(mean, 0.1).verdict == verdict


def test_differences_are_of_pairs() -> None:
    without, reduced = ((plateau_adam.Training(0, loss, 0) for loss in losses) for losses in [(1, 5, 9), (3, 6, 9)])
    difference = plateau_adam.Pairs(0.1, tuple(without), tuple(reduced)).difference(lambda training: training.loss)
    assert difference.mean == 1
    assert difference.error == pytest.approx(1 / math.sqrt(3))


@pytest.mark.blas
def test_decay_per_step_stops_learning() -> None:
    results = rnn_epoch_decay.run(quick=True)
    settings, steps = results.settings, results.steps_per_epoch
    constant, per_epoch, per_step = results.runs.values()
    begin = settings.decay_after
    for each in (constant, per_epoch, per_step):
        assert len(each.rates) == settings.epochs * steps
        assert each.held_out[:begin] == constant.held_out[:begin]  # the same until the decay begins
    assert set(constant.rates) == {settings.lr}
    for epoch in range(begin, settings.epochs):
        (rate,) = set(per_epoch.rates[epoch * steps : (epoch + 1) * steps])
        assert rate == pytest.approx(settings.lr * 0.97 ** (epoch - begin), rel=1e-12)
    assert per_step.rates[-1] == pytest.approx(settings.lr * 0.97 ** ((settings.epochs - begin) * steps - 1), rel=1e-9)
    assert per_step.worth - begin * steps < 1 / (1 - 0.97)
    learned = {name: each.held_out[begin - 1] - each.held_out[-1] for name, each in results.runs.items()}
    assert learned["0.97 per step"] < 0.5 * learned["0.97 per epoch"]
    last = {name: each.held_out[-2] - each.held_out[-1] for name, each in results.runs.items()}
    assert last["0.97 per step"] < 0.1 * last["0.97 per epoch"]  # it stands still


@pytest.mark.blas
def test_unscaled_inputs_become_nan_and_the_guard_says_where() -> None:
    unguarded, at_nan, at_explosion, standardised = unscaled_inputs.run(quick=True)
    assert unguarded.finding is None
    assert not unguarded.finite
    names = [f"{kind}{layer}" for layer in range(1, 7) for kind in "Wb"]
    for training, kind in [(at_nan, "nonfinite"), (at_explosion, "explosion")]:
        assert training.finding is not None
        assert training.finding.kind == kind
        assert training.finding.step == training.steps
        assert training.finding.parameter in names
        assert training.finite  # the bad step was not done
        assert any("scale the inputs" in advice for advice in training.finding.advice)
    assert at_explosion.steps < at_nan.steps < 20
    assert standardised.finding is None
    assert standardised.steps == unguarded.steps
    assert standardised.accuracy > 0.85 > unguarded.accuracy
    assert standardised.gradient_norm < 100 < unguarded.gradient_norm


@pytest.mark.blas
def test_projected_and_proximal_solutions_are_scikit_learns() -> None:
    rows = {row.name: row for row in projected_and_proximal.run()}
    for row in rows.values():
        assert row.difference < 1e-6
        assert row.same_zeros
        assert np.abs(row.mine).max() > 10
    zeros = {name: int((row.mine == 0).sum()) for name, row in rows.items()}
    assert zeros["least squares"] == 0
    assert min(zeros[name] for name in rows if name != "least squares") > 0
    assert all(rows[name].mine.min() == 0 for name in rows if "non-negative" in name)


@pytest.mark.blas
def test_a_pass_over_a_stream_comes_near_the_normal_equations() -> None:
    results = streaming_regression.run(quick=True)
    *descents, exact = results.rows
    assert exact.error < 0.02 * results.start
    for row in descents:
        assert exact.error < row.average_error < row.error < 0.1 * results.start
    assert results.chunk_bytes < 2_000_000


@pytest.mark.blas
def test_a_stream_is_the_same_each_time_and_like_the_data() -> None:
    stream = streaming_regression.Stream(50_000)
    chunks = list(stream)
    assert [len(target) for _, target in chunks] == [20_000, 20_000, 10_000]
    for (features, target), (same_features, same_target) in zip(chunks, stream, strict=True):
        np.testing.assert_array_equal(features, same_features)
        np.testing.assert_array_equal(target, same_target)
    features = np.concatenate([each for each, _ in chunks])
    np.testing.assert_allclose(features.T @ features / len(features), stream.covariance, atol=0.03)
    residuals = np.concatenate([target - each @ stream.true for each, target in chunks])
    assert residuals.std() == pytest.approx(stream.noise, rel=0.02)
    assert stream.error(stream.true) == 0


@pytest.mark.blas
def test_custom_rules() -> None:
    results = custom_rules.run(quick=True)
    assert results.keys() == custom_rules.OPTIMIZERS.keys()
    assert all(each.accuracy > 0.9 and each.loss < 0.5 for each in results.values())

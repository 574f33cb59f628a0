"""What loss curves say: real runs with known rates, synthetic curves, and what training functions return."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tuning_cases
from threadpoolctl import threadpool_limits

import fastopt
from fastopt.tuning import BUNDLED, READINGS, History, diagnose, load_source, read_history
from fastopt.tuning.histories import read_epochs
from fastopt.tuning.readings import RULES

pytestmark = pytest.mark.blas


@pytest.fixture(autouse=True)
def _one_thread_for_matrices() -> Iterator[None]:
    with threadpool_limits(1, "blas"):
        yield


MOMENTUM = {"momentum": 0.9}

# Readings that do not depend on the processor: random changes of every gradient's last bit move what the rules look at
# by less than 1 % of the distance to the nearest threshold. No reading of a chaotic run is so certain: Adam at 0.1 on
# `digits-mlp` was oscillating in 18 of 50 runs with such changes, too high in 28, and good in 4.
REAL = [
    ("digits", "SGD", {}, 1e-4, "too low"),
    ("digits", "SGD", {}, 1e-2, "too low"),
    ("digits", "SGD", {}, 1.0, "good"),
    ("digits", "SGD", {}, 8.0, "oscillating"),
    ("digits", "SGD", MOMENTUM, 1e-3, "too low"),
    ("digits", "SGD", MOMENTUM, 0.1, "good"),
    ("digits", "RMSprop", {}, 0.12, "oscillating"),
    ("digits-mlp", "SGD", {}, 1e-5, "too low"),
    ("digits-mlp", "SGD", {}, 0.3, "good"),
    ("digits-mlp", "SGD", {}, 3.0, "too high"),
    ("digits-mlp", "SGD", {}, 10.0, "too high"),
    ("digits-mlp", "Adam", {}, 1e-6, "too low"),
    ("digits-mlp", "Adam", {}, 1e-4, "too low"),
    ("digits-mlp", "Adam", {}, 1e-2, "good"),
    ("digits-mlp", "Adam", {}, 1.0, "too high"),
    ("digits-mlp", "RMSprop", {}, 1e-2, "good"),
    ("digits-mlp", "Adagrad", {}, 1e-3, "too low"),
    ("digits-mlp", "Adagrad", {}, 0.1, "good"),
    ("digits-mlp", "Adagrad", {}, 1.0, "too high"),
    ("digits-mlp", "SGD", {"nonfinite": "raise"}, 1e20, "diverged"),
    ("diabetes", "SGD", {}, 1e-5, "too low"),
    ("diabetes", "SGD", {}, 1e-3, "premature"),
    ("diabetes", "SGD", {}, 1e-2, "good"),
    ("diabetes", "SGD", {}, 0.2, "oscillating"),
    ("diabetes", "SGD", MOMENTUM, 0.05, "oscillating"),
    ("diabetes", "SGD", {}, 0.3, "diverged"),
    ("diabetes", "SGD", {}, 1.0, "diverged"),
    ("diabetes", "Adam", {}, 1e-2, "good"),
    ("diabetes", "Adam", {}, 0.3, "oscillating"),
    ("diabetes", "Adam", {}, 1.0, "too high"),
    ("diabetes", "RMSprop", {}, 0.1, "oscillating"),
]


@pytest.mark.parametrize(
    ("problem", "optimizer", "hyperparameters", "lr", "reading"), REAL, ids=lambda value: str(value).replace("/", "")
)
def test_readings_of_real_runs(
    problem: str, optimizer: str, hyperparameters: dict[str, Any], lr: float, reading: str
) -> None:
    found = diagnose(problem, optimizer=optimizer, hyperparameters=hyperparameters, lr=lr)
    assert found.reading == reading, (found.reason, found.evidence)


def test_a_run_that_stops_early_is_premature() -> None:
    epochs = {6: "too low", 11: "premature", 25: "good"}
    found = {n: diagnose("digits-mlp", optimizer="Adam", lr=1e-3, epochs=n).reading for n in epochs}
    assert found == epochs


def test_schedules_and_a_rate_that_decayed_too_early_on_real_data() -> None:
    """45 steps an epoch."""
    drop = {45: "premature", 45 * 12: "good"}
    found = {}
    for last in drop:
        diagnosis = diagnose("digits", optimizer="SGD", lr=lambda step, last=last: 0.3 if step < last else 1e-4)
        found[last] = diagnosis.reading
        assert diagnosis.history.curve("lr") == [0.3 if 45 * epoch <= last else 1e-4 for epoch in range(1, 16)]
    assert found == drop


def geometric(ratio: float, epochs: int, floor: float = 0.0) -> list[float]:
    return [floor + (1 - floor) * ratio**epoch for epoch in range(epochs)]


def decayed(epochs: int, last_full: int) -> list[dict[str, float]]:
    """The loss falls by a tenth in each epoch until the rate decays, and hardly from then on."""
    rates = [1.0 if epoch <= last_full else 0.01 for epoch in range(epochs)]
    losses, loss = [], 1.0
    for rate in rates:
        loss *= 1 - 0.1 * rate
        losses.append({"loss": loss, "lr": rate})
    return losses


SYNTHETIC = [
    ("a straight line", [1 - 0.05 * epoch for epoch in range(10)], "too low"),
    ("nothing happens", [1.0] * 10, "too low"),
    ("it levels off", geometric(0.5, 12, 0.1), "good"),
    ("it is still falling", geometric(0.75, 12), "premature"),
    ("up and down", [1 - 0.5 * (epoch % 2) for epoch in range(12)], "oscillating"),
    ("up and down around its end", [1, 0.5, *(0.2 + 0.1 * (epoch % 2) for epoch in range(12))], "oscillating"),
    ("a little up and down", [1, 0.5, *(0.2 + 1e-3 * (epoch % 2) for epoch in range(12))], "good"),
    ("down and up", [1, 0.6, 0.4, 0.3, 0.35, 0.45, 0.6, 0.8, 0.9], "too high"),
    ("up", [1, 1.5, 2, 3, 4], "too high"),
    ("far up", [1, 2, 5, 11], "diverged"),
    ("NaN in the middle", [1, math.nan, 0.5, 0.2], "diverged"),
    ("infinite at once", [math.inf], "diverged"),
]


@pytest.mark.parametrize(("losses", "reading"), [case[1:] for case in SYNTHETIC], ids=[case[0] for case in SYNTHETIC])
def test_readings_of_curves(losses: list[float], reading: str) -> None:
    assert read_history(History([{"loss": loss} for loss in losses]))[0].name == reading


@pytest.mark.parametrize(("last_full", "reading"), [(4, "premature"), (9, "premature"), (40, "good"), (58, "good")])
def test_a_rate_that_decayed_too_early(last_full: int, reading: str) -> None:
    found, evidence = read_history(History(decayed(60, last_full)))
    assert found.name == reading
    assert evidence.decayed_for == pytest.approx((59 - last_full) / 60)


def test_every_reading_is_tested() -> None:
    assert {case[-1] for case in REAL} == set(READINGS) == {rule.name for rule in RULES}


def test_a_loss_that_overshoots_is_too_high() -> None:
    history = History([{"loss": loss} for loss in (8, 2, 0.5, 0.2, 0.11, 0.1, 0.1, 0.1)], initial={"loss": 2.0})
    assert read_history(history)[0].name == "too high"
    assert read_history(History(history.epochs))[0].name == "good"  # nobody knows where it began


def test_flat_but_moved_is_too_high() -> None:
    epochs = [{"loss": 2.3} for _ in range(6)]
    for change, reading in ((4.0, "too high"), (0.01, "too low"), (None, "too low")):
        assert read_history(History(epochs, {"loss": 2.31}, change))[0].name == reading


def test_overfitting_is_a_note_and_no_early_stop() -> None:
    def overfits(lr: float) -> Iterator[dict[str, float]]:
        for epoch in range(12):
            yield {"loss": 0.75**epoch, "val_loss": 0.5 + 0.02 * abs(epoch - 4)}

    found = diagnose(overfits, lr=0.1)
    assert found.reading == "good"
    assert found.note.startswith("the held-out loss has been rising since epoch 5, from 0.5 to 0.64")


@pytest.mark.parametrize("epochs", [[{"loss": 1.0}, {"loss": 0.5}], [{"accuracy": 1.0}] * 5, []])
def test_what_has_no_reading(epochs: list[dict[str, float]]) -> None:
    with pytest.raises(ValueError, match="a reading needs"):
        read_history(History(epochs))


# --- what a diagnosis holds -------------------------------------------------------------------------------------------


def test_a_diagnosis_is_the_plain_loop() -> None:
    found = diagnose(tuning_cases.Quadratic, optimizer="SGD", hyperparameters=MOMENTUM, lr=0.1, seed=3)
    problem = tuning_cases.Quadratic(3)
    optimizer = fastopt.SGD(problem.params, lr=0.1, momentum=0.9)
    assert found.history.initial["loss"] == pytest.approx(problem.loss_and_gradients(0)[0], rel=1e-12)
    for epoch in found.history.epochs:
        losses = []
        for batch in problem.batches(0):
            loss, gradients = problem.loss_and_gradients(batch)
            losses.append(loss)
            optimizer.step(gradients)
        assert epoch == {"loss": sum(losses) / 3, "lr": 0.1}


def test_a_diagnosis_is_deterministic_and_seeds_differ() -> None:
    first, again, other = (diagnose("digits-mlp", lr=1e-2, epochs=3, seed=seed).history for seed in (1, 1, 2))
    assert first == again != other
    assert first.metrics == ("loss", "accuracy", "val_loss", "val_accuracy")


@pytest.mark.parametrize(("decay_rate", "scale"), [(0.97, "log"), (0.9999, "linear")])
def test_the_rate_is_a_panel_where_it_changes(decay_rate: float, scale: str) -> None:
    plots = importlib.import_module("fastopt.tuning.plots")
    lr = fastopt.schedules.ExponentialDecay(1.0, 1, decay_rate)
    axes = plots.plot_history(diagnose("diabetes", optimizer="SGD", lr=lr * 0.01, epochs=20).history, "").axes
    assert (axes[-1].get_ylabel(), axes[-1].get_yscale()) == ("lr", scale)
    axes = plots.plot_history(diagnose("diabetes", optimizer="SGD", lr=0.01, epochs=20).history, "").axes
    assert "lr" not in [each.get_ylabel() for each in axes]


def test_to_json_and_plot(tmp_path: Path) -> None:
    for lr, name in ((0.1, "a.png"), (1.0, "b.svg")):
        found = diagnose("diabetes", optimizer="SGD", lr=lr)
        values = json.loads(found.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
        assert values["reading"] == found.reading
        assert len(values["history"]["epochs"]) == len(found.history.epochs)
        content = found.plot(tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG") if name == "a.png" else b"<svg" in content
    assert values["history"]["epochs"][-1]["loss"] is None
    with pytest.raises(ValueError, match=r"cannot plot to 'c.jpg': expected a name that ends in \.png, \.svg, \.pdf"):
        found.plot("c.jpg")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_gradients_are_finite_differences(name: str) -> None:
    problem = load_source(name).make(0)  # type: ignore[attr-defined]
    batch = next(iter(problem.batches(0)))
    params = problem.params if isinstance(problem.params, dict) else {"flat": problem.params}
    _, gradients = problem.loss_and_gradients(batch)
    gradients = gradients if isinstance(gradients, dict) else {"flat": gradients}
    expected = math.sqrt(sum(float(np.square(gradient, dtype=float).sum()) for gradient in gradients.values()))
    direction = {key: gradient / expected for key, gradient in gradients.items()}  # where a derivative is largest
    saved, losses = {key: array.copy() for key, array in params.items()}, []
    for sign in (1, -1):
        problem.batches(0)
        for key, array in params.items():
            array[...] = saved[key] + sign * 1e-2 * direction[key]
        loss = problem.loss_and_gradients(batch)[0]
        losses.append(loss["loss"] if isinstance(loss, dict) else loss)
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(expected, rel=0.02)


def test_a_flat_curve_without_a_known_start_says_so() -> None:
    found = diagnose(tuning_cases.parabola, lr=0.5)  # which is there in one step
    assert found.reading == "too low"
    assert found.note.startswith("the loss before training is not known")
    assert diagnose("digits", optimizer="SGD", lr=1e-5).note == ""


@pytest.mark.parametrize("error", [FloatingPointError, OverflowError])
def test_an_overflow_in_a_training_function_is_divergence(error: type[Exception]) -> None:
    def overflows(lr: float) -> Iterator[dict[str, float]]:
        yield {"loss": 1.0}
        raise error("math range error")

    found = diagnose(overflows, lr=0.1)
    assert found.reading == "diverged"
    assert [len(epoch) for epoch in found.history.epochs] == [1, 1]


def test_training_ends_where_the_loss_is_nan() -> None:
    def becomes_nan(lr: float) -> Iterator[dict[str, float]]:
        yield {"loss": math.nan}
        raise AssertionError("nobody needs this epoch")

    assert diagnose(becomes_nan, lr=0.1).reading == "diverged"


# --- what training functions return -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "epochs"),
    [
        (0.5, [{"loss": 0.5}]),
        (np.float32(0.5), [{"loss": 0.5}]),
        (np.array(0.5), [{"loss": 0.5}]),
        ({"loss": 1, "acc": np.float64(0.5)}, [{"loss": 1.0, "acc": 0.5}]),
        ({"loss": [2, 1], "acc": (0, 1)}, [{"loss": 2.0, "acc": 0.0}, {"loss": 1.0, "acc": 1.0}]),
        ([{"loss": 2}, {"loss": 1}], [{"loss": 2.0}, {"loss": 1.0}]),
        (iter([{"loss": math.inf}]), [{"loss": math.inf}]),
    ],
)
def test_what_can_be_returned(returned: Any, epochs: list[dict[str, float]]) -> None:
    assert list(read_epochs("train", returned)) == epochs


def test_a_tensor_can_be_returned() -> None:
    torch = pytest.importorskip("torch")
    assert list(read_epochs("train", {"loss": torch.tensor(0.5)})) == [{"loss": 0.5}]


@pytest.mark.parametrize(
    ("returned", "error", "match"),
    [
        (None, TypeError, "what train returned: expected a number, a dict of metrics or an iterable of dicts.*None"),
        ("0.5", TypeError, "got '0.5' of type str"),
        (True, TypeError, "the loss must be a number, got True"),
        ({}, ValueError, "got an empty one"),
        ([], ValueError, "expected metrics of at least one epoch, got none"),
        ([0.5], TypeError, "epoch 1: expected a dict of metrics by name, got 0.5"),
        ({"loss": "low"}, TypeError, "'loss' must be a number, got 'low' of type str"),
        ({1: 0.5}, TypeError, "names of metrics must be strings, got 1"),
        ({"loss": [1], "acc": [1, 2]}, ValueError, r"lists of one length.*\{'loss': 1, 'acc': 2\}"),
        (np.ones(3), TypeError, "the loss must be a number"),
    ],
)
def test_what_cannot_be_returned(returned: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        list(read_epochs("train", returned))


# --- bad input --------------------------------------------------------------------------------------------------------


def no_argument() -> int:
    return 3


def needs_more(lr: float, data: str) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("target", "keywords", "error", "match"),
    [
        ("digit", {}, ValueError, "unknown problem: 'digit' .expected module:function, or one of digits, digits-mlp"),
        ("nowhere:train", {}, ImportError, "cannot import nowhere: ModuleNotFoundError"),
        ("tuning_cases:missing", {}, ValueError, "module tuning_cases has no missing .it has .*parabola"),
        ("tuning_cases:NOT_CALLABLE", {}, TypeError, "tuning_cases:NOT_CALLABLE must be a function, got 3"),
        (3, {}, TypeError, "expected a problem, a function or a name, got 3"),
        (needs_more, {}, TypeError, "has an argument 'data' without a default"),
        (no_argument, {}, TypeError, "must return a problem with params, batches and loss_and_gradients"),
        (tuning_cases.WrongProblem, {}, TypeError, r"what loss_and_gradients returned: expected a pair"),
        ("digits", {"lr": 0}, ValueError, "lr must be finite and > 0, got 0"),
        ("digits", {"lr": "high"}, TypeError, "lr must be a real number, got 'high'"),
        ("digits", {"epochs": 0}, ValueError, "epochs must be at least 1"),
        ("digits", {"epochs": 2}, ValueError, "a reading needs at least 3 epochs, got 2"),
        ("digits", {"seed": -1}, ValueError, "seed must be at least 0"),
        ("digits", {"optimizer": "Adamm"}, ValueError, "unknown optimizer: 'Adamm' .expected one of SGD, Adam, AdamW"),
        ("digits", {"optimizer": 3}, TypeError, "optimizer must be a string, got 3"),
        ("digits", {"optimizer": lambda params, lr: lr}, TypeError, "must make one of fastopt's optimizers"),
        ("digits", {"hyperparameters": {"momentum": 0.9}}, TypeError, "unexpected keyword argument 'momentum'"),
        ("digits", {"hyperparameters": {"betas": (2, 0)}}, ValueError, "Invalid beta parameter at index 0"),
        ("digits", {"hyperparameters": {"lr": 1}}, ValueError, "lr is given by itself"),
        ("tuning_cases:always_raises", {"optimizer": "SGD"}, ValueError, "optimizer has no effect"),
        ("tuning_cases:always_raises", {"epochs": 5}, ValueError, "epochs has no effect"),
        ("tuning_cases:always_raises", {}, RuntimeError, "no data"),
    ],
)
def test_bad_diagnoses(target: Any, keywords: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        diagnose(target, **{"lr": 0.1, **keywords})

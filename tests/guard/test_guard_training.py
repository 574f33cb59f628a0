"""The divergence guard beside real trainings: it keeps still beside sound ones, and names what is wrong with others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from guard_training import batches, digits, initial_params, loss_and_gradients
from threadpoolctl import threadpool_limits

import fastopt
from fastopt.guard import Finding

pytestmark = pytest.mark.blas

MLP = (64, 32, 10)
DEEP = (64, *[32] * 9, 10)


@pytest.fixture(autouse=True)
def _one_thread_for_matrices() -> Iterator[None]:
    """Threads that wait for each other make small products slow where other programs run."""
    with threadpool_limits(1, "blas"):
        yield


class Healthy(NamedTuple):
    name: str
    optimizer: str
    options: dict[str, Any]
    sizes: tuple[int, ...] = MLP
    batch: int = 32
    steps: int = 700
    dtype: Any = np.float32
    sigmoid: bool = False
    decay: float = 1.0


HEALTHY = [
    Healthy("logistic regression, Adam", "Adam", {"lr": 1e-3}, sizes=(64, 10)),
    Healthy("logistic regression, SGD, float64", "SGD", {"lr": 0.5}, sizes=(64, 10), dtype=np.float64),
    Healthy("logistic regression, half of the data", "SGD", {"lr": 0.5}, sizes=(64, 10), batch=898, steps=300),
    Healthy("all of the data", "RMSprop", {"lr": 1e-3}, batch=1797, steps=200),
    Healthy("single images", "Adam", {"lr": 1e-3}, batch=1, steps=4000),
    Healthy("four images", "SGD", {"lr": 0.05, "momentum": 0.9}, batch=4, steps=2500),
    Healthy("Adam", "Adam", {"lr": 1e-3}),
    Healthy("Adam, quick", "Adam", {"lr": 1e-2}),
    Healthy("Adam, float64", "Adam", {"lr": 1e-3}, dtype=np.float64),
    Healthy("AdamW, clipped", "AdamW", {"lr": 1e-2, "max_grad_norm": 1.0}),
    Healthy("AdamW, clipped and skipping", "AdamW", {"lr": 1e-2, "max_grad_norm": 1.0, "nonfinite": "skip"}),
    Healthy("SGD", "SGD", {"lr": 0.1}),
    Healthy("SGD, decaying", "SGD", {"lr": 0.5}, decay=0.99),
    Healthy("SGD, Nesterov", "SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    Healthy("RMSprop", "RMSprop", {"lr": 1e-3}),
    Healthy("RMSprop, decaying", "RMSprop", {"lr": 1e-2}, decay=0.99),
    Healthy("Adagrad", "Adagrad", {"lr": 1e-2}),
    Healthy("four layers", "Adam", {"lr": 1e-3}, sizes=(64, 32, 32, 32, 10)),
    Healthy("five layers, half of the data", "SGD", {"lr": 0.1}, (64, 32, 32, 32, 10), 898, 300),
    Healthy("sigmoid", "Adam", {"lr": 1e-2}, sigmoid=True),
]


@pytest.mark.parametrize("case", HEALTHY, ids=lambda case: case.name)
def test_sound_trainings_are_left_alone(case: Healthy) -> None:
    params = initial_params(case.sizes, case.dtype)
    optimizer = getattr(fastopt, case.optimizer)(params, **case.options)
    guard = fastopt.DivergenceGuard(optimizer)
    losses = []
    for images, labels in batches(case.batch, case.steps, case.dtype):
        loss, grads = loss_and_gradients(params, images, labels, case.sigmoid)
        assert guard.step(loss, grads)
        optimizer.param_groups[0]["lr"] *= case.decay
        losses.append(loss)
    assert guard.findings == []
    assert np.mean(losses[-50:]) < 0.5 * losses[0]  # it is a training


class Sick(NamedTuple):
    """What is wrong, and what has to be said about it."""

    name: str
    kind: str
    parameter: Any
    steps: range  # when it has to be found
    advice: str
    optimizer: str = "SGD"
    lr: float = 0.1
    sizes: tuple[int, ...] = MLP
    scale: float | None = None
    input_scale: float = 1.0
    bias: float = 0.0
    sigmoid: bool = False
    dtype: Any = np.float32


SICK = [
    Sick("inputs to the fourth power", "nonfinite", ..., range(3), "scale the inputs", input_scale=1e30),
    Sick("unscaled inputs", "explosion", ..., range(1, 20), "scale the inputs", lr=0.5, input_scale=16.0),
    Sick("rate too high", "explosion", ..., range(1, 10), "lower the rate from 50 to 5", lr=50.0),
    Sick("rate too high, float64", "explosion", ..., range(1, 10), "max_grad_norm", lr=50.0, dtype=np.float64),
    Sick("rate too high, Adam", "explosion", ..., range(1, 10), "lower the rate", "Adam", lr=10.0),
    Sick("ten layers of sigmoids", "vanishing", "W1", range(99, 100), "ReLU", sizes=DEEP, sigmoid=True),
    Sick("small weights, too", "vanishing", "W1", range(99, 100), "Xavier", sizes=DEEP, sigmoid=True, scale=0.1),
    Sick("rate of zero", "stagnation", None, range(499, 500), "the rate is 0", lr=0.0),
    Sick("rate too low", "stagnation", None, range(499, 500), "raise the rate from 1e-07 to 1e-06", lr=1e-7),
    Sick("units that the first steps kill", "stagnation", "W1", range(499, 600), "dead ReLU", "Adam", lr=0.5),
    Sick("dead units", "stagnation", "W1", range(499, 500), "dead ReLU", bias=-100.0),
]


def train(case: Sick, **arguments: Any) -> Finding | None:
    params = initial_params(case.sizes, case.dtype, scale=case.scale, bias=case.bias)
    optimizer = getattr(fastopt, case.optimizer)(params, lr=case.lr)
    guard = fastopt.DivergenceGuard(optimizer, "stop", on_stall="stop", **arguments)
    with np.errstate(all="ignore"):
        for images, labels in batches(32, 600, case.dtype):
            images *= images.dtype.type(case.input_scale)
            before = {name: param.copy() for name, param in params.items()}
            if not guard.step(*loss_and_gradients(params, images, labels, case.sigmoid)):
                assert all(np.array_equal(before[name], params[name]) for name in params)
                break
    assert guard.should_stop == (guard.finding is not None)
    return guard.finding


@pytest.mark.parametrize("case", SICK, ids=lambda case: case.name)
def test_sick_trainings_are_diagnosed(case: Sick) -> None:
    finding = train(case)
    assert finding is not None
    assert finding.kind == case.kind
    assert finding.step in case.steps
    assert any(case.advice in text for text in finding.advice)
    if case.parameter is not ...:
        assert finding.parameter == case.parameter
    else:
        assert finding.parameter in initial_params(case.sizes, case.dtype)


def test_what_may_be_turned_off() -> None:
    assert train(SICK[-1], patience=None) is None
    exploding = train(SICK[2], explosion_factor=np.inf)
    assert exploding is None or exploding.kind != "explosion"


@pytest.mark.parametrize("n", [1, 50])
@pytest.mark.parametrize(
    ("rate", "kind"), [(0.1, None), (1.0, None), (1.9, None), (1.999, "oscillation"), (2.0, "oscillation")]
)
def test_a_quadratic_near_the_largest_rate(rate: float, kind: str | None, n: int) -> None:
    """f = sum h w^2 / 2 with largest h = 1: gradient descent converges for rates below 2."""
    curvature = np.linspace(0.01, 1, n) if n > 1 else np.ones(1)
    w = np.ones(n)
    guard = fastopt.DivergenceGuard(fastopt.SGD({"w": w}, lr=rate), "stop", on_stall="stop")
    for _ in range(300):
        guard.step(0.5 * float(curvature @ w**2), {"w": curvature * w})
    found = guard.finding
    assert (found and found.kind) == kind
    if found is not None:
        assert found.parameter == "w"
        assert found.step < 100
        assert f"to {rate / 2:.3g}" in found.advice[0]


def test_a_quadratic_beyond_the_largest_rate() -> None:
    w = np.ones(3)
    guard = fastopt.DivergenceGuard(fastopt.SGD(w, lr=2.2), "stop")
    while not guard.should_stop:
        guard.step(0.5 * float(w @ w), w.copy())
    assert guard.finding is not None
    assert guard.finding.kind == "explosion"
    assert guard.finding.step < 20  # w grows by 1.2 in each


@pytest.mark.parametrize(("optimizer", "lr"), [("SGD", 50.0), ("Adam", 5.0)])
def test_restoring_rescues_a_training(optimizer: str, lr: float) -> None:
    """It explodes, goes back, and goes on with a rate that can be trained with."""
    params = initial_params(MLP, np.float64)
    opt = getattr(fastopt, optimizer)(params, lr=lr)
    guard = fastopt.DivergenceGuard(opt, "restore", lr_factor=0.01, on_stall="stop", snapshot_every=50)
    for images, labels in batches(32, 400, np.float64):
        guard.step(*loss_and_gradients(params, images, labels))
    images, labels = digits()
    assert guard.restores == 1
    assert opt.param_groups[0]["lr"] == pytest.approx(lr / 100)
    assert loss_and_gradients(params, images, labels)[0] < 0.5

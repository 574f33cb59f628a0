"""ReduceOnPlateau: as torch's, as Keras', live and recorded; on schedules; raising rates; saving; bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from fastopt.schedules import Constant, ExponentialDecay, Lambda, Scaled, Warmup
from fastopt.schedules.plateau import ReduceOnPlateau


def sgd(*lrs: Any) -> fastopt.SGD:
    return fastopt.SGD([{"params": np.zeros(2), "lr": lr} for lr in lrs])


def lrs(optimizer: Any) -> list[Any]:
    return [group["lr"] for group in optimizer.param_groups]


def flat(plateau: ReduceOnPlateau, steps: int, metric: float = 1.0) -> list[bool]:
    """Steps in which nothing improves."""
    return [plateau.step(metric) for _ in range(steps)]


# --- as the frameworks ----------------------------------------------------------------------------------------------

RECORDS = [
    case
    for case in json.loads((Path(__file__).parents[1] / "golden" / "keras3.json").read_text())["cases"]
    if case["optimizer"] == "ReduceLROnPlateau"
]


@pytest.mark.parametrize("case", RECORDS, ids=lambda case: str(sorted(case["config"])))
def test_recorded_rates_of_keras(case: dict[str, Any]) -> None:
    config = dict(case["config"])
    optimizer, losses = sgd(config.pop("lr")), config.pop("losses")
    plateau = ReduceOnPlateau(optimizer, convention="keras", **config)
    found = []
    for loss in losses:
        plateau.step(loss)
        found.append(lrs(optimizer))
    assert found == case["trajectory"]


def test_all_records_are_compared() -> None:
    assert len(RECORDS) == 3


numbers = st.integers(-256, 256).map(lambda each: each / 64)  # float32, in which Keras compares, holds them
metrics = st.lists(numbers | st.sampled_from([1.0, 1.0, math.nan, math.inf, -math.inf]), max_size=60)
common = {
    "mode": st.sampled_from(["min", "max"]),
    "factor": st.sampled_from([0.5, 0.25, 0.1]),
    "patience": st.integers(0, 4),
    "cooldown": st.integers(0, 3),
}


@settings(deadline=None, max_examples=200)
@given(
    metrics,
    st.fixed_dictionaries(
        common,
        optional={
            "threshold": st.sampled_from([0.0, 1 / 64, 0.1]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "eps": st.sampled_from([0.0, 1e-3]),
            "min_lr": st.sampled_from([0.01, [0.0, 0.2]]),
        },
    ),
)
def test_torch(metrics: list[float], arguments: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (1.0, 0.3)]
    theirs = torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **arguments)
    optimizer = sgd(1.0, 0.3)
    plateau = ReduceOnPlateau(optimizer, **arguments)
    for metric in metrics:
        before = lrs(optimizer)
        reduced = plateau.step(metric)
        scheduler.step(metric)
        assert lrs(optimizer) == lrs(theirs)
        assert reduced == (lrs(optimizer) != before)
        assert (plateau.num_bad_epochs, plateau.cooldown_counter) == (
            scheduler.num_bad_epochs,
            scheduler.cooldown_counter,
        )


@pytest.mark.peers
@settings(deadline=None, max_examples=200)
@given(
    numbers,
    metrics,
    st.fixed_dictionaries(
        common, optional={"min_delta": st.sampled_from([0.0, 1 / 64, 0.25]), "min_lr": st.sampled_from([0.0, 1 / 128])}
    ),
)
def test_keras(first: float, metrics: list[float], arguments: dict[str, Any]) -> None:
    """From a first metric that is a number on. The rate is a plain number, not Keras' float32 variable."""
    import keras

    callback = keras.callbacks.ReduceLROnPlateau("loss", **arguments)
    model = SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.5))
    callback.set_model(model)
    callback.on_train_begin()
    optimizer = sgd(0.5)
    plateau = ReduceOnPlateau(optimizer, convention="keras", **arguments)
    for epoch, metric in enumerate([first, *metrics]):
        plateau.step(metric)
        callback.on_epoch_end(epoch, {"loss": metric})
        assert lrs(optimizer) == [model.optimizer.learning_rate]
        assert (plateau.num_bad_epochs, plateau.cooldown_counter) == (callback.wait, callback.cooldown_counter)


def test_the_first_metric_is_nan() -> None:
    """It is no improvement: Keras would take it as the best one, and improve on it never again."""
    optimizer = sgd(1.0)
    plateau = ReduceOnPlateau(optimizer, patience=2, factor=0.5, convention="keras")
    assert [plateau.step(metric) for metric in (math.nan, 5.0, 4.0, 3.0, math.nan)] == [False] * 5
    assert plateau.best == 3.0
    assert plateau.step(math.nan)


@pytest.mark.parametrize("convention", ["torch", "keras"])
def test_defaults_of_the_conventions(convention: str) -> None:
    optimizer = sgd(1.0)
    plateau = ReduceOnPlateau(optimizer, convention=convention)  # type: ignore[arg-type]
    wait = 11 if convention == "torch" else 10
    assert flat(plateau, 1 + wait) == [False] * wait + [True]
    assert lrs(optimizer) == [0.1]
    small = ReduceOnPlateau(sgd(1.0), convention=convention)  # type: ignore[arg-type]
    small.step(1e-6)
    small.step(0.9e-6)  # a tenth better, by 1e-7
    assert small.num_bad_epochs == (0 if convention == "torch" else 1)


# --- optimizers of torch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "tensor"), [("torch.optim", False), ("torch.optim", True), ("fastopt.torch", False)], ids=str
)
def test_optimizers_of_torch(make: str, tensor: bool) -> None:
    torch = pytest.importorskip("torch")
    module = torch.optim if make == "torch.optim" else fastopt.torch
    lr = torch.tensor(0.5, dtype=torch.float64) if tensor else 0.5
    optimizer = module.SGD([torch.zeros(2, requires_grad=True)], lr=lr)
    plateau = ReduceOnPlateau(optimizer, patience=0, factor=0.5)
    assert [plateau.step(torch.tensor(1.0)), plateau.step(np.float32(1.0))] == [False, True]
    assert float(optimizer.param_groups[0]["lr"]) == 0.25
    assert (optimizer.param_groups[0]["lr"] is lr) == tensor


# --- schedules ------------------------------------------------------------------------------------------------------

DECAY = ExponentialDecay(1.0, 10, 0.5)


def with_schedules(*lrs: Any) -> Any:
    """What ReduceOnPlateau sees of an optimizer."""
    return SimpleNamespace(param_groups=[{"lr": lr} for lr in lrs], iterations=0)


def test_schedules_are_multiplied() -> None:
    optimizer = with_schedules(DECAY, 0.8, lambda step: 2.0)
    plateau = ReduceOnPlateau(optimizer, patience=0, factor=0.5)
    assert flat(plateau, 3) == [False, True, True]
    schedule, number, function = lrs(optimizer)
    assert schedule == DECAY * 0.25
    assert number == 0.2
    assert isinstance(function, Scaled)
    assert isinstance(function.schedule, Lambda)
    assert function(3) == 0.5


@given(st.floats(1e-6, 1), st.floats(1e-3, 1), st.floats(0, 0.99), st.integers(0, 100))
def test_a_schedule_is_not_reduced_below_min_lr(start: float, part: float, factor: float, step: int) -> None:
    schedule = ExponentialDecay(start, 7, 0.9)
    min_lr = schedule(step) * part
    optimizer = with_schedules(schedule)
    optimizer.iterations = step
    plateau = ReduceOnPlateau(optimizer, patience=0, factor=factor, min_lr=min_lr, eps=0.0)
    for _ in range(4):
        plateau.step(1.0)
        (lr,) = lrs(optimizer)
        assert min_lr <= lr(step) <= schedule(step)
    assert lr(step) == pytest.approx(max(schedule(step) * factor**3, min_lr))


def test_saving_with_schedules() -> None:
    def make(first: Any = DECAY) -> tuple[Any, ReduceOnPlateau]:
        optimizer = with_schedules(first, Warmup(DECAY, 5), 0.5)
        return optimizer, ReduceOnPlateau(optimizer, patience=1, factor=0.3, cooldown=1, min_lr=0.05)

    losses = [1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.4, 0.5, 0.6, 0.7]
    optimizer, plateau = make()
    optimizer.iterations = 20
    for loss in losses:
        plateau.step(loss)
    saved = json.loads(json.dumps(plateau.state_dict()))
    for start in (DECAY, lrs(optimizer)[0]):  # as constructed, or as the optimizer's own state dict brings it back
        again, resumed = make(start)
        again.iterations = 20
        resumed.load_state_dict(saved)
        assert lrs(again)[:2] == lrs(optimizer)[:2]
        assert resumed.state_dict() == plateau.state_dict()
    again.param_groups[2]["lr"] = optimizer.param_groups[2]["lr"]  # a number is in the optimizer's state dict
    for loss in losses:
        assert plateau.step(loss) == resumed.step(loss)
    assert lrs(again) == lrs(optimizer)


def test_saving_beside_an_optimizer() -> None:
    """State dicts of both bring back the same rates, and the run goes on to the bit."""

    def make() -> tuple[np.ndarray, fastopt.Optimizer, ReduceOnPlateau]:
        param = np.ones(4)
        groups = [{"params": param[:2], "lr": Warmup(DECAY, 5)}, {"params": param[2:], "lr": 0.5}]
        optimizer = fastopt.Adam(groups)
        return param, optimizer, ReduceOnPlateau(optimizer, patience=1, factor=0.3)

    def train(param: np.ndarray, optimizer: fastopt.Optimizer, plateau: ReduceOnPlateau, losses: list[float]) -> None:
        for loss in losses:
            optimizer.step([param[:2] * loss, param[2:] * loss])
            plateau.step(loss)

    losses = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    param, optimizer, plateau = make()
    train(param, optimizer, plateau, losses)
    assert lrs(optimizer) == [Warmup(DECAY, 5) * (0.3 * 0.3), 0.5 * 0.3 * 0.3]
    again, resumed, plateau_again = make()
    again[:] = param
    resumed.load_state_dict(optimizer.state_dict())
    plateau_again.load_state_dict(plateau.state_dict())
    assert resumed.current_lr == optimizer.current_lr
    train(param, optimizer, plateau, losses)
    train(again, resumed, plateau_again, losses)
    assert resumed.current_lr == optimizer.current_lr
    assert again.tobytes() == param.tobytes()


def test_an_empty_state_takes_the_factor_off() -> None:
    optimizer = with_schedules(DECAY)
    plateau = ReduceOnPlateau(optimizer, patience=0)
    begin = plateau.state_dict()
    flat(plateau, 3)
    plateau.load_state_dict(begin)
    assert lrs(optimizer)[0](5) == DECAY(5)
    assert plateau.best is None


# --- raising --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", ["torch", "keras"])
def test_raising(convention: str) -> None:
    optimizer = sgd(0.5)
    plateau = ReduceOnPlateau(
        optimizer,
        patience={"torch": 0, "keras": 1}[convention],
        factor=0.5,
        convention=convention,  # type: ignore[arg-type]
        raise_factor=8.0,
        raise_patience=2,
        max_lr=0.75,
    )
    found = []
    for _ in range(8):
        reduced = plateau.step(1.0)
        found.append((lrs(optimizer)[0], plateau.last_change))
        assert reduced == (plateau.last_change == "reduced")
    assert found == [
        (0.5, None),
        (0.25, "reduced"),
        (0.125, "reduced"),
        (0.75, "raised"),
        (0.375, "reduced"),
        (0.1875, "reduced"),
        (0.75, "raised"),
        (0.375, "reduced"),
    ]
    plateau.step(0.5)
    assert plateau.num_reductions == 0


@pytest.mark.parametrize("convention", ["torch", "keras"])
def test_reductions_at_min_lr_count_for_raising(convention: str) -> None:
    optimizer = sgd(0.5)
    plateau = ReduceOnPlateau(
        optimizer,
        patience=0,
        factor=0.5,
        min_lr=0.5,
        convention=convention,  # type: ignore[arg-type]
        raise_factor=4.0,
        raise_patience=3,
        max_lr=10,
    )
    assert flat(plateau, 5) == [False] * 5
    assert lrs(optimizer) == [2.0]


@given(st.floats(1e-6, 1), st.floats(1, 100), st.floats(1.01, 100), st.integers(0, 50))
def test_a_schedule_is_not_raised_above_max_lr(start: float, times: float, factor: float, step: int) -> None:
    optimizer = with_schedules(ExponentialDecay(start, 7, 0.9))
    optimizer.iterations = step
    before = lrs(optimizer)[0](step)
    plateau = ReduceOnPlateau(
        optimizer, patience=0, factor=0.999, eps=0, raise_factor=factor, raise_patience=1, max_lr=before * times
    )
    flat(plateau, 3)
    assert plateau.last_change in ("raised", None)
    assert lrs(optimizer)[0](step) <= max(before * times, before)


# --- bad input ------------------------------------------------------------------------------------------------------


class Bad(NamedTuple):
    arguments: dict[str, Any]
    error: type[Exception]
    match: str


RAISING = {"raise_factor": 2.0, "raise_patience": 2, "max_lr": 1.0}
BAD = [
    Bad({"mode": "best"}, ValueError, "mode must be one of 'min', 'max', got 'best'"),
    Bad({"factor": 1.0}, ValueError, "factor must be at least 0 and less than 1, got 1.0"),
    Bad({"factor": -0.1}, ValueError, "factor must be at least 0 and less than 1, got -0.1"),
    Bad({"factor": math.nan}, ValueError, "factor must be at least 0 and less than 1, got nan"),
    Bad({"factor": "0.1"}, TypeError, "factor must be a real number, got '0.1'"),
    Bad({"patience": -1}, ValueError, "patience must be at least 0.*got -1"),
    Bad({"patience": 1.5}, TypeError, "patience must be an integer, got 1.5"),
    Bad({"cooldown": -1}, ValueError, "cooldown must be at least 0.*got -1"),
    Bad({"convention": "jax"}, ValueError, "convention must be one of 'torch', 'keras', got 'jax'"),
    Bad({"min_delta": 0.1}, ValueError, "min_delta is not an argument of convention='torch', got 0.1"),
    *(
        Bad({"convention": "keras", name: value}, ValueError, f"{name} is not an argument of convention='keras'")
        for name, value in (("threshold", 0.1), ("threshold_mode", "rel"), ("eps", 0.1))
    ),
    Bad({"convention": "keras", "min_delta": -1}, ValueError, "min_delta must be finite and >= 0, got -1"),
    Bad({"threshold": math.nan}, ValueError, "threshold must be finite and >= 0, got nan"),
    Bad({"threshold_mode": "relative"}, ValueError, "threshold_mode must be one of 'rel', 'abs', got 'relative'"),
    Bad({"eps": -1e-8}, ValueError, "eps must be finite and >= 0"),
    Bad({"min_lr": -1}, ValueError, "min_lr must be finite and >= 0, got -1"),
    Bad({"min_lr": [0.1]}, ValueError, "min_lr must be a number or one for each group, got 1 for 2 groups"),
    Bad({"min_lr": [0.1, "b"]}, TypeError, r"min_lr\[1\] must be a real number, got 'b'"),
    Bad({"raise_factor": 2.0}, ValueError, "go together, got no raise_patience and no max_lr"),
    Bad({**RAISING, "raise_factor": 1.0}, ValueError, "raise_factor must be finite and more than 1, got 1.0"),
    Bad({**RAISING, "raise_patience": 0}, ValueError, "raise_patience must be at least 1.*got 0"),
    Bad({**RAISING, "max_lr": [1.0]}, ValueError, "max_lr must be a number or one for each group, got 1 for 2"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: str(bad.arguments))
def test_bad_arguments(bad: Bad) -> None:
    with pytest.raises(bad.error, match=bad.match):
        ReduceOnPlateau(sgd(0.1, 0.2), **bad.arguments)


def test_bad_optimizer() -> None:
    with pytest.raises(TypeError, match=r"optimizer must have param_groups, got \[1\] of type list"):
        ReduceOnPlateau([1])


@pytest.mark.parametrize("metric", ["1", None, True, 1j, np.ones(1), [1.0]], ids=repr)
def test_bad_metric(metric: Any) -> None:
    optimizer = sgd(0.1)
    plateau = ReduceOnPlateau(optimizer, patience=0)
    plateau.step(1.0)
    before = plateau.state_dict()
    with pytest.raises(TypeError, match="metric must be a real number, got"):
        plateau.step(metric)
    assert plateau.state_dict() == before
    assert lrs(optimizer) == [0.1]


def test_a_group_that_was_added_needs_a_min_lr() -> None:
    optimizer = sgd(0.1)
    listed, number = ReduceOnPlateau(optimizer, patience=0, min_lr=[0.0]), ReduceOnPlateau(optimizer, patience=0)
    optimizer.add_param_group({"params": np.zeros(2), "lr": 0.4})
    listed.step(1.0)
    number.step(1.0)
    before = listed.state_dict()
    with pytest.raises(ValueError, match="min_lr must be a number or one for each group, got 1 for 2"):
        listed.step(1.0)
    assert listed.state_dict() == {**before, "factors": [None, None]}
    assert lrs(optimizer) == [0.1, 0.4]
    assert number.step(1.0)
    assert lrs(optimizer) == [pytest.approx(0.01), pytest.approx(0.04)]


STATES: list[tuple[Callable[[dict[str, Any]], Any], type[Exception], str]] = [
    (lambda state: 5, TypeError, "state_dict must be a dict, got 5"),
    (lambda state: {}, ValueError, "state_dict must have the keys best, .*num_reductions"),
    (lambda state: {**state, "best": "low"}, TypeError, r"state_dict\['best'\] must be a real number, got 'low'"),
    (lambda state: {**state, "num_bad_epochs": -1}, ValueError, r"state_dict\['num_bad_epochs'\] .*got -1"),
    (lambda state: {**state, "last_change": 3}, ValueError, r"state_dict\['last_change'\] .*got 3"),
    (lambda state: {**state, "factors": [1.0]}, ValueError, r"state_dict\['factors'\] .*each of 2 groups, got \[1.0\]"),
    (lambda state: {**state, "factors": [None, None]}, ValueError, "lr of group 0 was a number .* a schedule now"),
    (lambda state: {**state, "factors": [0.1, 0.1]}, ValueError, "lr of group 1 was a schedule .* a number now"),
    (lambda state: {**state, "factors": [-0.1, None]}, ValueError, r"state_dict\['factors'\]\[0\] must be finite"),
]


@pytest.mark.parametrize(("change", "error", "match"), STATES, ids=lambda value: getattr(value, "__name__", value))
def test_bad_state_dicts(change: Callable[[dict[str, Any]], Any], error: type[Exception], match: str) -> None:
    optimizer = with_schedules(Constant(0.5), 0.5)
    plateau = ReduceOnPlateau(optimizer, patience=0)
    flat(plateau, 3)
    before, rates = plateau.state_dict(), lrs(optimizer)
    with pytest.raises(error, match=match):
        plateau.load_state_dict(change(before))
    assert plateau.state_dict() == before
    assert lrs(optimizer) == rates


def test_repr() -> None:
    plateau = ReduceOnPlateau(sgd(0.1), "max", convention="keras")
    assert repr(plateau).startswith("ReduceOnPlateau(mode='max', factor=0.1, patience=10, convention='keras'")
    assert fastopt.ReduceOnPlateau is ReduceOnPlateau

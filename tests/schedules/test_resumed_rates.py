"""Whatever changed a rate (a guard, a plateau, a schedule, the user) is saved with it: the next steps are the same."""

from __future__ import annotations

import importlib
import json
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import PLAIN, Case, equal_bits, own_rate

import fastopt
from fastopt.schedules import CosineDecay, ExponentialDecay, Lambda, Warmup


def halving(step: int) -> float:
    return 0.4 * 0.5 ** (step / 10)


CONSTRUCTED: dict[str, Any] = {
    "number": 0.3,
    "schedule": Warmup(CosineDecay(0.3, 200), 4),
    "scaled schedule": ExponentialDecay(1.0, 30, 0.5) * 0.3,
    "function": halving,
    "Lambda": Lambda(1.0, halving),
}
"""What an optimizer is constructed with."""


class Training(NamedTuple):
    """An optimizer with all that watches it, and its parameters."""

    params: dict[str, np.ndarray]
    optimizer: fastopt.Optimizer
    guard: fastopt.DivergenceGuard
    plateau: fastopt.ReduceOnPlateau

    def step(self, number: int) -> None:
        rng = np.random.default_rng(number)
        grads = [{name: rng.standard_normal(param.shape)} for name, param in self.params.items()]
        if number == 7:  # diverges once
            self.guard.step(1e12, grads)
        self.guard.step(2.0, grads)
        if number % 3 == 0:  # never improves
            self.plateau.step(2.0)


def make(case: Case, lr: Any, params: dict[str, np.ndarray] | None = None) -> Training:
    given = {"W": np.linspace(-1, 1, 6).reshape(2, 3), "b": np.ones(2)} if params is None else params
    groups = [{"params": {"W": given["W"]}}, {"params": {"b": given["b"]}, **own_rate(case.optimizer, 0.2)}]
    optimizer = case.make(groups, lr=lr)
    guard = fastopt.DivergenceGuard(optimizer, "restore", snapshot_every=2, window=4, patience=None)
    return Training(given, optimizer, guard, fastopt.ReduceOnPlateau(optimizer, factor=0.7, patience=1))


def nothing(training: Training) -> None:
    pass


def by_hand(lr: Any) -> Callable[[Training], None]:
    def assign(training: Training) -> None:
        training.optimizer.param_groups[0]["lr"] = lr

    return assign


def scale_by_hand(training: Training) -> None:
    group = training.optimizer.param_groups[0]
    group["lr"] = group["lr"] * 0.5 if hasattr(group["lr"], "__mul__") else Lambda(1.0, group["lr"]) * 0.5


HANDS: dict[str, Callable[[Training], None]] = {
    "nothing": nothing,
    "a number": by_hand(0.05),
    "a schedule": by_hand(ExponentialDecay(0.1, 20, 0.5)),
    "a scaled schedule": by_hand(ExponentialDecay(0.1, 20, 0.5) * 0.25),
    "scaled": scale_by_hand,
}
"""What the user assigns in the middle."""


def through_state_dicts(
    training: Training, case: Case, lr: Any, before_loading: Callable[[Training], None]
) -> Training:
    saved = [each.state_dict() for each in training[1:]]
    resumed = make(case, lr, {name: param.copy() for name, param in training.params.items()})
    before_loading(resumed)
    resumed.optimizer.load_state_dict(pickle.loads(pickle.dumps(saved[0])))
    resumed.guard.load_state_dict(json.loads(json.dumps(saved[1])))
    resumed.plateau.load_state_dict(json.loads(json.dumps(saved[2])))
    return resumed


@pytest.mark.parametrize("hand", HANDS)
@pytest.mark.parametrize("constructed", CONSTRUCTED)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_the_next_steps_have_the_same_bits(name: str, constructed: str, hand: str) -> None:
    case, lr = Case(name, {}), CONSTRUCTED[constructed]
    training = make(case, lr)
    for number in range(1, 14):
        if number == 5:
            HANDS[hand](training)
        training.step(number)
    assert training.guard.restores == 1
    assert training.plateau.num_reductions > 0
    # A schedule that was assigned cannot be read from a state dict: it is assigned again.
    before_loading = HANDS[hand] if "schedule" in hand else nothing
    resumed = through_state_dicts(training, case, lr, before_loading)
    assert resumed.optimizer.current_lr == training.optimizer.current_lr
    for number in range(14, 30):
        training.step(number)
        resumed.step(number)
        assert resumed.optimizer.current_lr == training.optimizer.current_lr
    assert all(
        equal_bits(mine, theirs) for mine, theirs in zip(resumed.params.values(), training.params.values(), strict=True)
    )
    # And again from there: what was loaded is saved.
    again = through_state_dicts(resumed, case, lr, before_loading)
    assert again.optimizer.current_lr == training.optimizer.current_lr


@pytest.mark.parametrize("case", [case for case in PLAIN if case.spec.uses_lr], ids=str)
def test_a_guard_s_rate_goes_on_in_every_optimizer(case: Case) -> None:
    lr = CONSTRUCTED["schedule"]
    training = make(case, lr)
    for number in range(1, 11):
        training.step(number)
    assert training.guard.restores == 1
    resumed = through_state_dicts(training, case, lr, nothing)
    for number in range(11, 21):
        training.step(number)
        resumed.step(number)
    assert all(equal_bits(a, b) for a, b in zip(resumed.params.values(), training.params.values(), strict=True))


def test_a_guard_restores_a_step_before_another_schedule_was_assigned() -> None:
    param, (first, second) = np.ones(3), (ExponentialDecay(rate, 20, 0.5) for rate in (0.1, 0.2))
    optimizer = fastopt.SGD(param, lr=0.5)
    optimizer.param_groups[0]["lr"] = first
    guard = fastopt.DivergenceGuard(optimizer, "restore")
    optimizer.param_groups[0]["lr"] = second
    assert not guard.step(np.inf, np.ones(3))
    assert optimizer.param_groups[0]["lr"] == second * 0.5


def test_loading_twice_is_loading_once() -> None:
    lr = CONSTRUCTED["schedule"]
    optimizer, resumed = (fastopt.SGD(np.ones(2), lr=lr) for _ in range(2))
    optimizer.param_groups[0]["lr"] = lr * 0.5
    for _ in range(2):
        resumed.load_state_dict(optimizer.state_dict())
        assert resumed.param_groups[0]["lr"] == lr * 0.5


def test_a_schedule_that_was_not_changed_belongs_to_construction() -> None:
    """The optimizer that loads may have another one, as when training is to last longer."""
    optimizer = fastopt.SGD(np.ones(2), lr=CosineDecay(0.5, 100) * 0.5)
    assert not {"lr_factor", "lr_schedule"} & set(optimizer.state_dict()["param_groups"][0])
    longer = CosineDecay(0.25, 200)
    resumed = fastopt.SGD(np.ones(2), lr=longer)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.param_groups[0]["lr"] is longer


@pytest.mark.parametrize("lr", [0.5, CosineDecay(0.5, 100), halving], ids=["number", "schedule", "function"])
def test_a_schedule_that_was_assigned_must_be_assigned_before_loading(lr: Any) -> None:
    optimizer = fastopt.SGD(np.ones(2), lr=lr)
    optimizer.param_groups[0]["lr"] = ExponentialDecay(0.1, 20, 0.5) * 0.5
    resumed = fastopt.SGD(np.ones(2), lr=lr)
    with pytest.raises(
        ValueError, match=r"param_groups\[0\]\['lr'\] was ExponentialDecay\(0.1, 20, 0.5\) when .*assign"
    ):
        resumed.load_state_dict(optimizer.state_dict())
    assert resumed.param_groups[0]["lr"] is lr
    resumed.param_groups[0]["lr"] = ExponentialDecay(0.1, 20, 0.5)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.param_groups[0]["lr"] == ExponentialDecay(0.1, 20, 0.5) * 0.5


@pytest.mark.parametrize("factor", ["x", -1.0, np.nan], ids=str)
def test_a_damaged_factor(factor: Any) -> None:
    optimizer = fastopt.SGD(np.ones(2), lr=CosineDecay(0.5, 100))
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr_factor"] = factor
    with pytest.raises((TypeError, ValueError), match=r"param_groups\[0\]\['lr_factor'\]"):
        optimizer.load_state_dict(saved)


def test_pickles_remember_what_an_optimizer_was_constructed_with() -> None:
    lr = CosineDecay(0.5, 100)
    optimizer = fastopt.SGD(np.ones(2), lr=lr)
    optimizer.param_groups[0]["lr"] = lr * 0.5
    saved = pickle.loads(pickle.dumps(optimizer)).state_dict()
    assert saved["param_groups"][0]["lr_factor"] == 0.5
    resumed = fastopt.SGD(np.ones(2), lr=lr)
    resumed.load_state_dict(saved)
    assert resumed.current_lr == optimizer.current_lr


# --- pickles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constructed", CONSTRUCTED)
def test_all_of_them_can_be_pickled_together(constructed: str) -> None:
    training = make(Case("Adam", {}), CONSTRUCTED[constructed])
    for number in range(1, 10):
        training.step(number)
    copied = pickle.loads(pickle.dumps(training))
    assert copied.plateau.optimizer is copied.optimizer
    for number in range(10, 20):
        training.step(number)
        copied.step(number)
    assert all(equal_bits(a, b) for a, b in zip(copied.params.values(), training.params.values(), strict=True))
    assert copied.plateau.state_dict() == training.plateau.state_dict()
    assert json.dumps(copied.guard.state_dict()) == json.dumps(training.guard.state_dict())  # NaN is not NaN
    assert copied.guard.findings == training.guard.findings


@pytest.mark.parametrize("convention", ["torch", "keras"])
def test_a_plateau_can_be_pickled(convention: Any) -> None:
    optimizer = fastopt.SGD(np.ones(2), lr=0.5)
    plateau = fastopt.ReduceOnPlateau(optimizer, patience=1, convention=convention)
    plateau.step(1.0)
    copied = pickle.loads(pickle.dumps(plateau))
    for _ in range(4):
        assert copied.step(1.0) == plateau.step(1.0)
    assert copied.optimizer.current_lr == optimizer.current_lr


@pytest.mark.parametrize("module", ["torch.optim", "fastopt.torch"])
def test_they_can_be_pickled_with_optimizers_of_torch(module: str) -> None:
    torch = pytest.importorskip("torch")
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = importlib.import_module(module).SGD([param], lr=0.5)
    watched = (
        param,
        optimizer,
        fastopt.DivergenceGuard(optimizer, "skip", window=4),
        fastopt.ReduceOnPlateau(optimizer, factor=0.5, patience=0),
    )
    copied = pickle.loads(pickle.dumps(watched))
    for param, _, guard, plateau in (watched, copied):
        for loss in (1.0, 1.0, np.nan, 1.0):
            param.grad = torch.ones(3)
            guard.step(loss)
        plateau.step(1.0)
        plateau.step(1.0)
    assert copied[0].tolist() == watched[0].tolist() == [-0.5] * 3
    assert copied[1].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.25
    assert [each.kind for each in copied[2].findings] == [each.kind for each in watched[2].findings] == ["nonfinite"]

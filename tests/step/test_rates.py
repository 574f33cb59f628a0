"""`lr` as a function of the step, `current_lr` and `iterations`: what a schedule says is what is applied."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, CASES, CONVENTION_CASES, PLAIN, Case
from hypothesis import given, settings
from hypothesis import strategies as st
from rate_problem import FALLING, N_STEPS, SCHEDULE, assert_equal, everything, gradients, start, train

import fastopt
from fastopt.schedules import Lambda

by_backend = pytest.mark.parametrize("backend", BACKENDS)
USING_LR = [case for case in [*CASES, *CONVENTION_CASES] if case.spec.uses_lr]


# --- a schedule is the rate assigned before every step ----------------------------------------------------------------


@by_backend
@pytest.mark.parametrize("case", USING_LR, ids=str)
def test_a_schedule_is_the_rate_assigned_by_hand(case: Case, backend: str) -> None:
    scheduled = case.make(start(), lr=SCHEDULE, backend=backend)
    by_hand = case.make(start(), lr=0.7, backend=backend)
    for number, gradient in enumerate(gradients()):
        by_hand.param_groups[0]["lr"] = SCHEDULE(number)
        assert scheduled.iterations == by_hand.iterations == number
        assert scheduled.current_lr == by_hand.current_lr
        for each in (scheduled, by_hand):
            each.step(gradient)
    assert_equal(scheduled, by_hand)
    assert scheduled.param_groups[0]["lr"] is SCHEDULE


@by_backend
def test_groups_with_schedules_of_their_own_and_numbers(backend: str) -> None:
    lrs: list[Any] = [SCHEDULE, 0.25, lambda step: 0.5 / (1 + step)]

    def make(*rates: Any) -> fastopt.Optimizer:
        groups = [{"params": np.ones(3), "lr": rate} for rate in rates]
        bound = [np.full(3, 0.5) for _ in groups]
        return fastopt.SGD(
            [*groups, {"params": np.ones(2)}], lr=FALLING, momentum=0.5, grads=[*bound, np.ones(2)], backend=backend
        )

    scheduled, by_hand = make(*lrs), make(0.1, 0.1, 0.1)
    for number in range(N_STEPS):
        rates = (SCHEDULE(number), 0.25, 0.5 / (1 + number), FALLING(number))
        assert scheduled.current_lr == rates
        for group, rate in zip(by_hand.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduled.step()
        by_hand.step()
    assert_equal(scheduled, by_hand)
    assert [group["lr"] for group in scheduled.param_groups] == [*lrs, FALLING]


@by_backend
def test_one_of_several_rates_is_assigned(backend: str) -> None:
    optimizer = fastopt.SGD([{"params": np.zeros(1)} for _ in range(3)], lr=1.0, backend=backend)
    optimizer.step([np.ones(1)] * 3)
    optimizer.param_groups[1]["lr"] = 0.25
    assert optimizer.current_lr == (1.0, 0.25, 1.0)
    optimizer.step([np.ones(1)] * 3)
    optimizer.param_groups[2]["lr"] = lambda step: 0.5**step
    optimizer.step([np.ones(1)] * 3)
    optimizer.param_groups[2]["lr"] = 2.0
    optimizer.step([np.ones(1)] * 3)
    assert [float(group["params"][0][0]) for group in optimizer.param_groups] == [-4.0, -1.75, -4.25]


@by_backend
def test_a_schedule_goes_on_after_other_assignments(backend: str) -> None:
    """Also those that are taken over with a rate: of another hyperparameter, for another rule, of an option."""
    p = np.zeros(1)
    optimizer = fastopt.SGD(p, lr=lambda step: 1 / (1 + step), momentum=0.5, backend=backend)
    changes: list[dict[str, Any]] = [{"weight_decay": 0.0}, {"momentum": 0.0}, {"dampening": 0.0}, {"clip_value": 4.0}]
    optimizer.param_groups[0]["momentum"] = 0.0
    for number in range(8):
        before = p[0]
        if number % 2 == 0:
            optimizer.param_groups[0].update(changes[number // 2])
        optimizer.step(np.ones(1))
        assert p[0] == before - 1 / (1 + number)


@by_backend
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["step", "assign", "schedule", "none", "skip"]),
            st.integers(0, 1),
            st.sampled_from([0.0, 0.5, 0.25, 1.0]),
        ),
        max_size=12,
    )
)
def test_any_sequence_of_assignments_and_steps(backend: str, actions: list[tuple[str, int, float]]) -> None:
    params = [np.zeros(1), np.zeros(1)]
    optimizer = fastopt.SGD([{"params": each} for each in params], lr=1.0, nonfinite="skip", backend=backend)
    expected, rates, updates = [0.0, 0.0], [lambda step: 1.0] * 2, 0
    for action, group, value in actions:
        if action == "assign":
            optimizer.param_groups[group]["lr"] = value
            rates[group] = lambda step, value=value: value  # type: ignore[misc]
        elif action == "schedule":
            optimizer.param_groups[group]["lr"] = rates[group] = (
                lambda step, value=value: value / (1 + step)  # type: ignore[misc]
            )
        else:
            assert optimizer.current_lr == tuple(rate(updates) for rate in rates)
            left_out = group if action == "none" else None
            optimizer.step(
                [None if index == left_out else np.full(1, np.nan if action == "skip" else 1.0) for index in range(2)]
            )
            if action != "skip":
                for index in range(2):
                    expected[index] -= rates[index](updates) * (index != left_out)
                updates += 1
        assert optimizer.iterations == updates
    assert [float(each[0]) for each in params] == expected


# --- current_lr and iterations ----------------------------------------------------------------------------------------


@by_backend
def test_current_lr_is_the_rate_of_the_next_step(backend: str) -> None:
    """For SGD and a gradient of 1 it is what the parameter loses; whatever comes between steps."""
    p, q = np.zeros(1), np.zeros(1)
    optimizer = fastopt.SGD(
        [p, q], lr=lambda step: 1 / (1 + step), nonfinite="skip", accumulate_steps=2, backend=backend
    )
    calls: list[tuple[Any, bool]] = [  # gradients of p, whether it makes an update
        (np.ones(1), False), (np.ones(1), True), (np.full(1, np.nan), False), (np.ones(1), False),
        (np.full(1, np.inf), False), (np.ones(1), True), (None, False), (None, True), (np.ones(1), False),
        (np.ones(1), True),
    ]  # fmt: skip
    updates = 0
    for gradient, is_update in calls:
        before, rate = p[0], optimizer.current_lr[0]
        assert rate == 1 / (1 + updates)
        optimizer.step([gradient, np.ones(1)])
        updates += is_update
        assert optimizer.iterations == updates
        if is_update and gradient is not None:
            assert p[0] == before - rate
        else:
            assert p[0] == before


@by_backend
def test_frozen_parameters_and_raising_steps_do_not_stop_or_move_the_schedule(backend: str) -> None:
    p, q = np.zeros(1), np.zeros(1)
    optimizer = fastopt.SGD({"p": p, "q": q}, lr=lambda step: 2.0**-step, nonfinite="raise", backend=backend)
    optimizer.set_segments("p", frozen=True)
    optimizer.step({"p": np.ones(1), "q": np.ones(1)})
    assert (optimizer.iterations, optimizer.current_lr) == (1, (0.5,))
    with pytest.raises(FloatingPointError):
        optimizer.step({"p": np.ones(1), "q": np.full(1, np.nan)})
    assert (optimizer.iterations, optimizer.current_lr) == (1, (0.5,))
    optimizer.set_segments("p", frozen=False, lr_scale=4.0)
    optimizer.step({"p": np.ones(1), "q": np.ones(1)})
    assert (p[0], q[0]) == (-2.0, -1.5)


def test_lr_decay_of_adagrad_is_in_current_lr() -> None:
    """It counts each parameter's own steps, and current_lr those of the one with the most."""
    p, q = np.zeros(1), np.zeros(1)
    optimizer = fastopt.Adagrad([p, q], lr=lambda step: 1 / (1 + step), lr_decay=0.5, eps=0.0)
    for number in range(4):
        rate = optimizer.current_lr[0]
        assert rate == 1 / (1 + number) / (1 + number * 0.5)
        before = p[0]
        optimizer.step([np.full(1, 2.0), None if number == 1 else np.ones(1)])
        assert p[0] == before - rate * 2.0 / math.sqrt(4.0 * (number + 1))


def test_weight_decay_uses_the_scheduled_rate() -> None:
    p = np.full(1, 8.0)
    optimizer = fastopt.SGD(p, lr=lambda step: 0.5**step, weight_decay=0.5, decoupled_weight_decay=True)
    optimizer.step(np.zeros(1))
    assert p[0] == 8.0 * (1 - 0.5)
    optimizer.step(np.zeros(1))
    assert p[0] == 8.0 * (1 - 0.5) * (1 - 0.25)


def test_prox_uses_the_scheduled_rate() -> None:
    p = np.full(1, 8.0)
    optimizer = fastopt.SGD(p, lr=lambda step: 0.5**step, prox=fastopt.constraints.L1(2.0))
    optimizer.step(np.zeros(1))
    optimizer.step(np.zeros(1))
    assert p[0] == 8.0 - 2.0 - 1.0


def test_reduce_on_plateau_scales_the_schedule() -> None:
    p = np.zeros(1)
    optimizer = fastopt.SGD(p, lr=FALLING)
    plateau = fastopt.ReduceOnPlateau(optimizer, factor=0.5, patience=0)
    expected = 0.0
    for number, loss in enumerate((1.0, 1.0, 1.0)):
        factor = 0.5**number
        assert optimizer.current_lr == (FALLING(number) * factor,)
        expected -= FALLING(number) * factor
        optimizer.step(np.ones(1))
        assert p[0] == expected
        if number:
            assert plateau.step(loss)
        else:
            plateau.step(loss)
            assert plateau.step(loss)


def test_the_lr_is_what_was_assigned() -> None:
    def function(step: int) -> float:
        assert type(step) is int
        return 0.5

    optimizer = fastopt.Adam(np.zeros(2), lr=function)
    assert optimizer.param_groups[0]["lr"] is function
    assert optimizer.defaults["lr"] is function
    optimizer.step(np.ones(2))
    optimizer.param_groups[0]["lr"] = SCHEDULE
    assert optimizer.param_groups[0]["lr"] is SCHEDULE
    assert "lr: Warmup(CosineDecay(0.05, 9, alpha=0.1), 2)" in repr(optimizer)
    optimizer.add_param_group({"params": np.zeros(1)})
    assert optimizer.param_groups[1]["lr"] is function
    assert optimizer.current_lr == (SCHEDULE(1), 0.5)


# --- saving -----------------------------------------------------------------------------------------------------------


def through_state_dict(case: Case, optimizer: fastopt.Optimizer) -> fastopt.Optimizer:
    params = [param.copy() for param in optimizer.param_groups[0]["params"]]
    resumed = case.make(params, lr=SCHEDULE)
    resumed.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    return resumed


WAYS: dict[str, Callable[[Case, fastopt.Optimizer], fastopt.Optimizer]] = {
    "state_dict": through_state_dict,
    "pickle": lambda case, optimizer: pickle.loads(pickle.dumps(optimizer)),
    "deepcopy": lambda case, optimizer: copy.deepcopy(optimizer),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", [case for case in PLAIN if case.spec.uses_lr], ids=str)
def test_resumed_in_the_middle(case: Case, way: str) -> None:
    steps = gradients(2 * N_STEPS)
    whole = train(case.make(start(), lr=SCHEDULE), steps)
    resumed = WAYS[way](case, train(case.make(start(), lr=SCHEDULE), steps[:N_STEPS]))
    assert resumed.iterations == N_STEPS
    assert resumed.param_groups[0]["lr"] == SCHEDULE
    train(resumed, steps[N_STEPS:])
    assert_equal(resumed, whole)
    assert resumed.iterations == whole.iterations


def test_a_schedule_is_saved_as_its_rate_and_a_number_is_loaded() -> None:
    scheduled = train(fastopt.SGD(start(), lr=SCHEDULE), gradients())
    saved = scheduled.state_dict()
    assert saved["param_groups"][0]["lr"] == SCHEDULE(N_STEPS)
    assert saved["iterations"] == N_STEPS
    constant = fastopt.SGD(start(), lr=0.5)
    constant.load_state_dict(saved)
    assert (constant.param_groups[0]["lr"], constant.iterations) == (SCHEDULE(N_STEPS), N_STEPS)
    back = fastopt.SGD(start(), lr=SCHEDULE)
    back.load_state_dict(constant.state_dict())
    assert back.param_groups[0]["lr"] is SCHEDULE
    assert back.current_lr == (SCHEDULE(N_STEPS),)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_torchs_state_dict_has_no_iterations(name: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(3, requires_grad=True)
    theirs = getattr(torch.optim, name)([tensor], lr=0.5)
    for _ in range(3):
        tensor.grad = torch.ones(3)
        theirs.step()
    optimizer = getattr(fastopt, name)(np.zeros(3, np.float32), lr=SCHEDULE)
    optimizer.load_state_dict(theirs.state_dict())
    assert optimizer.iterations == (3 if optimizer.spec.counts_steps else 0)
    saved = optimizer.state_dict()
    saved["iterations"] = 7
    optimizer.load_state_dict(saved)
    assert optimizer.current_lr == (SCHEDULE(7),)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        *((value, TypeError) for value in ("x", None, True)),
        *((value, ValueError) for value in (-1, 1.5, math.nan, 2**60)),
    ],
)
def test_iterations_that_are_no_count(value: Any, error: type[Exception]) -> None:
    optimizer = train(fastopt.Adam(start(), lr=SCHEDULE), gradients())
    saved, before = optimizer.state_dict(), everything(optimizer)
    saved["iterations"] = value
    with pytest.raises(error, match=r"state_dict\['iterations'\]"):
        optimizer.load_state_dict(saved)
    assert everything(optimizer) == before


# --- legacy Keras' decay ----------------------------------------------------------------------------------------------


@by_backend
def test_decay_of_legacy_keras(backend: str) -> None:
    """Per update of the optimizer, whichever parameters it has gradients for; the first is not decayed."""
    p, q = np.zeros(1), np.zeros(1)
    optimizer = fastopt.SGD(
        [p, q],
        lr=lambda step: 1.0 - step / 8,
        convention="tf_keras_legacy",
        decay=0.5,
        nonfinite="skip",
        backend=backend,
    )
    expected = 0.0
    for number in range(4):
        rate = (1 - number / 8) / (1 + number * 0.5)
        assert optimizer.current_lr == (rate,)
        optimizer.step([np.full(1, np.nan), np.ones(1)])
        assert optimizer.current_lr == (rate,)
        before = p[0], q[0]
        optimizer.step([np.ones(1), None if number == 1 else np.ones(1)])
        expected = before[0] - rate
        assert p[0] == expected
        assert q[0] == (before[1] if number == 1 else before[1] - rate)


def test_decay_of_legacy_keras_can_be_changed_and_is_saved() -> None:
    def make() -> fastopt.Optimizer:
        return fastopt.SGD(np.zeros(1), lr=1.0, convention="tf_keras_legacy", decay=0.5)

    optimizer = make()
    ones = [np.ones(1)]
    for _ in range(3):
        optimizer.step(*ones)
    assert optimizer.current_lr == (1 / 2.5,)
    assert optimizer.param_groups[0]["lr"] == 1.0
    resumed = make()
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.current_lr == (1 / 2.5,)
    assert resumed.state_dict()["param_groups"][0] == optimizer.state_dict()["param_groups"][0]
    for each in (optimizer, resumed):
        before = each.param_groups[0]["params"][0][0]
        each.step(*ones)
        assert each.param_groups[0]["params"][0][0] == before - 1 / 2.5
        each.param_groups[0]["decay"] = 0.0
        assert each.current_lr == (1.0,)
        each.step(*ones)
        each.param_groups[0]["decay"] = 0.25
        assert each.current_lr == (1 / 2.25,)
        each.step(*ones)
        np.testing.assert_allclose(each.param_groups[0]["params"][0][0], before - 1 / 2.5 - 1 - 1 / 2.25, rtol=1e-15)


def test_a_schedule_wrapped_in_lambda_agrees_with_itself() -> None:
    first, second = (fastopt.Adam(start(), lr=lr) for lr in (SCHEDULE, Lambda(1.0, SCHEDULE)))
    assert_equal(train(first, gradients()), train(second, gradients()))

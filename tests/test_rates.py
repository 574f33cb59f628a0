"""`lr` as a function of the step, `current_lr`, `iterations`: what a schedule says is what is applied, or nothing."""

from __future__ import annotations

import copy
import fractions
import inspect
import math
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, CASES, CONVENTION_CASES, PLAIN, Case, equal_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from test_all_or_nothing import snapshot

import fastopt
from fastopt.schedules import Constant, CosineDecay, ExponentialDecay, Lambda, Schedule, Warmup

SHAPES = ((3, 4), (5,))
N_STEPS = 6
SCHEDULE = Warmup(CosineDecay(0.05, 9, alpha=0.1), 2)
"""Starts with a rate of 0."""
FALLING = ExponentialDecay(0.04, 1, 0.75)
USING_LR = [case for case in [*CASES, *CONVENTION_CASES] if case.optimizer != "Rprop"]

by_backend = pytest.mark.parametrize("backend", BACKENDS)


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape) for shape in SHAPES]


def gradients(n: int = N_STEPS) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(4)
    return [[rng.standard_normal(shape) for shape in SHAPES] for _ in range(n)]


def assert_equal(first: fastopt.Optimizer, second: fastopt.Optimizer) -> None:
    """All parameters and states; not the lr of the groups."""
    for ours, theirs in zip(first.param_groups, second.param_groups, strict=True):
        for mine, other in zip(ours["params"], theirs["params"], strict=True):
            assert equal_bits(mine, other)
    for index in first.state:
        for name, value in first.state[index].items():
            if name == "step" and not first.spec.counts_steps:
                continue  # It is not in a state dict.
            assert np.array_equal(value, second.state[index][name], equal_nan=True), name


def everything(optimizer: fastopt.Optimizer) -> list[Any]:
    """Parameters, states and counts; schedules are not asked."""
    values: list[Any] = [param.tobytes() for group in optimizer.param_groups for param in group["params"]]
    for state in optimizer.state.values():
        values += [np.asarray(value).tobytes() for value in state.values()]
    return [*values, optimizer.iterations, optimizer.skipped_steps, repr(optimizer.grad_norm)]


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


def train(optimizer: fastopt.Optimizer, steps: list[list[np.ndarray]]) -> fastopt.Optimizer:
    for gradient in steps:
        optimizer.step(gradient)
    return optimizer


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
@pytest.mark.parametrize("case", [case for case in PLAIN if case.optimizer != "Rprop"], ids=str)
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
    # torch's SGD counts nothing.
    assert optimizer.iterations == (3 if name == "Adam" else 0)
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


# --- schedules that fail ----------------------------------------------------------------------------------------------


class Broken:
    """A rate of 0.5, and in the so-many-th step something else."""

    def __init__(self, at: int, result: Any) -> None:
        self.at = at
        self.result = result

    def __call__(self, step: int) -> Any:
        if step < self.at:
            return 0.5
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def __repr__(self) -> str:
        return "Broken"


class OwnError(Exception):
    """What a user's function can raise."""


FAILING: dict[str, tuple[Any, type[BaseException], str]] = {
    "NaN": (math.nan, ValueError, "what lr({}) returns must be a finite number >= 0, got nan from lr=Broken"),
    "negative": (-1.0, ValueError, "what lr({}) returns must be a finite number >= 0, got -1.0 from lr=Broken"),
    "inf": (math.inf, ValueError, "what lr({}) returns must be a finite number >= 0, got inf from lr=Broken"),
    "NaN of NumPy": (np.float32(np.nan), ValueError, "what lr({}) returns must be a finite number >= 0, got nan"),
    "huge": (10**400, ValueError, "what lr({}) returns must be a number that float64 can hold"),
    "text": ("x", TypeError, "what lr({}) returns must be a real number, got 'x' of type str"),
    "None": (None, TypeError, "what lr({}) returns must be a real number, got None of type NoneType"),
    "bool": (True, TypeError, "what lr({}) returns must be a real number, got True of type bool"),
    "array": (np.ones(1), TypeError, "what lr({}) returns must be a real number, got array([1.])"),
    "complex": (1j, TypeError, "what lr({}) returns must be a real number, got 1j of type complex"),
    "raises": (OwnError("mine"), OwnError, "mine"),
    "interrupted": (KeyboardInterrupt("now"), KeyboardInterrupt, "now"),
}

by_failure = pytest.mark.parametrize("failure", FAILING)


def raises(failure: str, step: int) -> Any:
    _, error, message = FAILING[failure]
    return pytest.raises(error, match="^" + "".join(f"\\{c}" if c in "()[].+" else c for c in message.format(step)))


@by_backend
@by_failure
def test_a_schedule_that_fails_in_the_middle_changes_nothing(failure: str, backend: str) -> None:
    """Not the gradients either, nor the group before, whose rate was good."""
    bound = [np.ones(3), np.ones(2)]
    groups = [{"params": np.zeros(3), "lr": lambda step: 1 / (1 + step)}, {"params": np.zeros(2)}]
    optimizer = fastopt.Adam(
        groups,
        lr=Broken(2, FAILING[failure][0]),
        grads=bound,
        zero_grads=True,
        max_grad_norm=1.0,
        nonfinite="skip",
        ema_decay=0.5,
        backend=backend,
    )
    for _ in range(2):
        optimizer.step()
        for each in bound:
            each.fill(1.0)
    before = everything(optimizer)
    for _ in range(2):
        with raises(failure, 2):
            optimizer.step()
        assert everything(optimizer) == before
        assert all((each == 1).all() for each in bound)
        with raises(failure, 2):
            optimizer.current_lr  # noqa: B018
    optimizer.param_groups[1]["lr"] = 0.25
    assert optimizer.current_lr == (1 / 3, 0.25)
    optimizer.step()
    assert optimizer.iterations == 3


@by_failure
def test_a_schedule_that_fails_at_construction(failure: str) -> None:
    params = np.ones(3)
    with raises(failure, 0):
        fastopt.SGD(params, lr=Broken(0, FAILING[failure][0]))
    assert params.tolist() == [1.0] * 3
    optimizer = fastopt.SGD(params, lr=1.0)
    with raises(failure, 0):
        optimizer.add_param_group({"params": np.ones(2), "lr": Broken(0, FAILING[failure][0])})
    assert len(optimizer.param_groups) == 1
    optimizer.step(np.ones(3))
    assert params.tolist() == [0.0] * 3


@by_backend
@by_failure
def test_a_schedule_that_fails_after_its_assignment(failure: str, backend: str) -> None:
    """Also where the engine is made anew, or other hyperparameters are taken over with it."""
    for more in ({}, {"weight_decay": 0.5}, {"momentum": 0.0}):
        optimizer = fastopt.SGD(
            [{"params": np.ones(3), "lr": 0.5}, {"params": np.ones(2)}], lr=1.0, momentum=0.5, backend=backend
        )
        ones = [np.ones(3), np.ones(2)]
        optimizer.step(ones)
        twin = copy.deepcopy(optimizer)
        before = everything(optimizer)
        optimizer.param_groups[1].update(lr=Broken(0, FAILING[failure][0]), **more)
        with raises(failure, 1):
            optimizer.step(ones)
        assert everything(optimizer) == before
        for each in (optimizer, twin):
            each.param_groups[1].update(lr=0.125, **more)
            each.step(ones)
        assert_equal(optimizer, twin)


@by_failure
def test_a_schedule_that_fails_where_a_state_dict_would_go_on(failure: str) -> None:
    later = train(fastopt.Adam(start(), lr=0.5), gradients()).state_dict()
    optimizer = train(fastopt.Adam(start(), lr=Broken(3, FAILING[failure][0])), gradients(2))
    before = everything(optimizer)
    with raises(failure, N_STEPS):
        optimizer.load_state_dict(later)
    assert everything(optimizer) == before
    optimizer.step(gradients(3)[2])
    assert optimizer.iterations == 3


@pytest.mark.parametrize("value", [Constant, Schedule, "0.1", None, -0.5, math.nan, True, [0.1], 1j], ids=repr)
def test_what_is_no_rate_is_refused_at_assignment(value: Any) -> None:
    optimizer = fastopt.SGD(np.ones(3), lr=0.5)
    with pytest.raises((TypeError, ValueError), match=r"lr|learning rate"):
        optimizer.param_groups[0]["lr"] = value
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises((TypeError, ValueError), match=r"lr|learning rate"):
        fastopt.SGD(np.ones(3), lr=value)


@pytest.mark.parametrize("value", [np.float32(0.25), np.array(0.25), fractions.Fraction(1, 4), np.int64(1), 1, 0])
def test_numbers_of_every_kind_can_be_returned(value: Any) -> None:
    p = np.zeros(1)
    optimizer = fastopt.SGD(p, lr=lambda step: value)
    optimizer.step(np.ones(1))
    assert p[0] == -float(value)
    assert type(optimizer.current_lr[0]) is float


# --- schedules that look at, or use, their optimizer ------------------------------------------------------------------


@by_backend
@pytest.mark.parametrize(
    "act",
    [
        lambda optimizer: optimizer.step(np.ones(1)),
        lambda optimizer: optimizer.state_dict(),
        lambda optimizer: optimizer.set_segments(0, frozen=True),
        lambda optimizer: optimizer.add_param_group({"params": np.ones(1)}),
    ],
    ids=["step", "state_dict", "set_segments", "add_param_group"],
)
def test_a_schedule_cannot_step(backend: str, act: Callable[[fastopt.Optimizer], Any]) -> None:
    p, entered = np.zeros(1), False

    def lr(step: int) -> float:
        nonlocal entered
        if step == 1 and not entered:
            entered = True
            act(optimizer)
        return 0.5

    optimizer = fastopt.SGD(p, lr=lr, backend=backend)
    optimizer.step(np.ones(1))
    with pytest.raises(RuntimeError, match=r"in the middle of a step.* around this call"):
        optimizer.step(np.ones(1))
    assert p[0] == -0.5
    optimizer.step(np.ones(1))
    assert (p[0], optimizer.iterations) == (-1.0, 2)


@by_backend
def test_a_schedule_can_look_at_its_optimizer(backend: str) -> None:
    seen = []

    def lr(step: int) -> float:
        if step:
            seen.append((optimizer.iterations, optimizer.state[0]["step"], other.current_lr))
        return 0.5

    other = fastopt.SGD(np.zeros(1), lr=0.125)
    optimizer = fastopt.SGD(np.zeros(1), lr=lr, backend=backend)
    train(optimizer, [np.ones(1)] * 2)  # type: ignore[list-item]
    assert seen == [(1, 1, (0.125,))]

    recursive = fastopt.SGD(np.zeros(1), lr=0.5, backend=backend)
    recursive.param_groups[0]["lr"] = lambda step: recursive.current_lr[0]
    with pytest.raises(RecursionError):
        recursive.step(np.ones(1))
    recursive.param_groups[0]["lr"] = 0.5
    recursive.step(np.ones(1))
    assert recursive.iterations == 1


@by_backend
@pytest.mark.parametrize(("first", "expected"), [("lr", -2.25), ("weight_decay", -1.5)])
def test_a_rate_that_another_thread_assigns_meanwhile_is_not_lost(backend: str, first: str, expected: float) -> None:
    """While the step reads rates, which another group's schedule lets happen at the worst moment.

    Where other hyperparameters were assigned too, rates are read once more after that, and it counts at once.
    """
    p, q, armed = np.zeros(1), np.zeros(1), False

    def lr(step: int) -> float:
        if armed:
            thread = threading.Thread(target=optimizer.param_groups[0].update, kwargs={"lr": 0.25})
            thread.start()
            thread.join()
            optimizer.param_groups[1]["lr"] = 1.0  # no schedule is left that would have rates read anyway
        return 1.0

    optimizer = fastopt.SGD([{"params": p}, {"params": q, "lr": lr}], lr=1.0, backend=backend)
    ones = [np.ones(1), np.ones(1)]
    optimizer.step(ones)
    armed = True
    optimizer.param_groups[0][first] = 1.0 if first == "lr" else 0.0
    optimizer.step(ones)
    armed = False
    optimizer.step(ones)
    assert (p[0], q[0]) == (expected, -3.0)


# --- Rprop, whose rate is only a beginning ----------------------------------------------------------------------------


def warned(action: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return caught


def here() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


class OwnRprop(fastopt.Rprop):
    """A user's subclass without a constructor."""


@pytest.mark.parametrize("kind", [fastopt.Rprop, OwnRprop])
def test_rprop_warns_once_for_each_assignment_at_the_users_line(kind: type[fastopt.Optimizer]) -> None:
    made: list[Any] = []
    lines: list[int] = []

    def construct() -> None:
        made.append(kind(np.zeros(2), lr=FALLING)), lines.append(here())

    def assign() -> None:
        made[0].param_groups[0]["lr"] = FALLING
        lines.append(here() - 1)

    def update() -> None:
        made[0].param_groups[0].update(lr=FALLING, maximize=False), lines.append(here())

    def set_default() -> None:
        group = made[0].param_groups[0]
        group |= {"lr": FALLING}
        lines.append(here() - 1)

    def add() -> None:
        made[0].add_param_group({"params": np.zeros(1)}), lines.append(here())

    for action in (construct, assign, update, set_default, add):
        (warning,) = warned(action)
        assert warning.category is UserWarning
        assert "lr=ExponentialDecay(0.04, 1, 0.75) has no effect on Rprop after its first update" in str(
            warning.message
        )
        assert (warning.filename, warning.lineno) == (__file__, lines[-1]), action
    optimizer = made[0]
    quiet: list[Callable[[], Any]] = [
        lambda: optimizer.step([np.ones(2), np.ones(1)]),
        lambda: optimizer.load_state_dict(optimizer.state_dict()),
        lambda: copy.deepcopy(optimizer),
        lambda: optimizer.param_groups[0].update(etas=(0.4, 1.3)),
        lambda: optimizer.param_groups[0].update(lr=0.5),
        lambda: optimizer.set_segments(0, frozen=True),
        lambda: kind(np.zeros(2), lr=0.5),
    ]
    assert [len(warned(action)) for action in quiet] == [0] * len(quiet)


def test_rprop_begins_with_the_first_rate() -> None:
    def make(lr: Any) -> fastopt.Optimizer:
        return fastopt.Rprop(start(), lr=lr)

    with pytest.warns(UserWarning, match="no effect on Rprop"):
        scheduled = make(FALLING)
    assert (scheduled.state[0]["step_size"] == FALLING(0)).all()
    assert_equal(train(scheduled, gradients()), train(make(FALLING(0)), gradients()))


def test_an_error_in_place_of_the_warning_changes_nothing() -> None:
    optimizer = fastopt.Rprop(np.zeros(2), lr=0.5)
    before = snapshot(optimizer)
    with pytest.raises(UserWarning, match="no effect"):
        optimizer.param_groups[0]["lr"] = FALLING
    with pytest.raises(UserWarning, match="no effect"):
        optimizer.add_param_group({"params": np.zeros(1), "lr": FALLING})
    assert snapshot(optimizer) == before
    assert len(optimizer.param_groups) == 1


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

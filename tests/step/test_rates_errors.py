"""Schedules that fail, step, or are assigned meanwhile; and Rprop, which they do nothing for."""

from __future__ import annotations

import copy
import fractions
import inspect
import math
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS
from comparing import snapshot
from rate_problem import FALLING, N_STEPS, assert_equal, everything, gradients, start, train

import fastopt
from fastopt.schedules import Constant, Schedule

by_backend = pytest.mark.parametrize("backend", BACKENDS)


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


@by_backend
@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.5}, {"momentum": 0.0}, {"momentum": 0.0, "weight_decay": 0.5}])
def test_what_was_assigned_counts_after_a_schedule_failed_once(more: dict[str, float], backend: str) -> None:
    failed = False

    def lr(step: int) -> float:
        nonlocal failed
        if not failed:
            failed = True
            raise OwnError("once")
        return 0.5

    def make() -> fastopt.Optimizer:
        groups = [{"params": np.ones(3), "lr": 0.5}, {"params": np.ones(2)}]
        return train(fastopt.SGD(groups, lr=1.0, momentum=0.5, backend=backend), [ones])

    ones = [np.ones(3), np.ones(2)]
    optimizer, twin = make(), make()
    for each, rate in ((optimizer, lr), (twin, 0.5)):
        each.param_groups[0].update(more)
        each.param_groups[1]["lr"] = rate
    with pytest.raises(OwnError, match="once"):
        optimizer.step(ones)
    assert_equal(train(optimizer, [ones, ones]), train(twin, [ones, ones]))


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

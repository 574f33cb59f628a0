"""Gradients that an accumulation leaves when it does not come to its end: applied as their mean, or dropped."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, DTYPES, PLAIN, VARIANTS, Case, dealt, equal_bits, extra_options
from comparing import assert_same, snapshot

import fastopt

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (7,), (), (0, 4), (2, 1300))
OPTIONS = {
    name: {key: value for key, value in options.items() if key != "accumulate_steps"}
    for name, options in extra_options().items()
    if "accumulate" not in name
} | {"nothing": {}}
by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def problem(rng: np.random.Generator, dtype: Any, calls: int) -> tuple[list[np.ndarray], list[list[np.ndarray | None]]]:
    params = [np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]
    gradients = [
        [
            None if (call + index) % 5 == 4 else np.asarray(rng.standard_normal(shape), dtype)
            for index, shape in enumerate(SHAPES)
        ]
        for call in range(calls)
    ]
    return params, gradients


def run(case: Case, params: list[Any], gradients: list[Any], every: int, **options: Any) -> tuple[Any, Any]:
    """Parameters and optimizer after steps, with `apply_accumulated` after each so many calls."""
    params = [param.copy() for param in params]
    optimizer = case.make(params, **options)
    for call, step in enumerate(gradients, 1):
        optimizer.step(copy.deepcopy(step))
        if call % every == 0:
            optimizer.apply_accumulated()
    return params, optimizer


@pytest.mark.parametrize(
    ("options", "dtype"),
    [*((options, np.float32) for options in OPTIONS.values()), ({}, np.float64)],
    ids=[*OPTIONS, "nothing, float64"],
)
def test_the_update_is_that_of_a_shorter_accumulation(
    options: dict[str, Any], dtype: Any, rng: np.random.Generator
) -> None:
    """To the bit: 2 of 8 calls are a power of two apart from 2 of 2.

    Each option with a third of the optimizers: what is accumulated is done before a rule has it.
    """
    params, gradients = problem(rng, dtype, calls=4)
    number = next(number for number, each in enumerate(OPTIONS.values()) if each is options) if options else 0
    for case in dealt(PLAIN, number, 3) if options else VARIANTS:
        if not case.can(options):
            continue
        expected, shorter = run(case, params, gradients, 2, accumulate_steps=2, backend="reference", **options)
        for backend in BACKENDS:
            actual, optimizer = run(case, params, gradients, 2, accumulate_steps=8, backend=backend, **options)
            assert_same(case, (expected, shorter.state), (actual, optimizer.state), backend)
            assert optimizer.iterations == shorter.iterations == 2
            assert optimizer.grad_norm == shorter.grad_norm or math.isnan(shorter.grad_norm)


@pytest.mark.parametrize("case", PLAIN, ids=str)
@by_dtype
def test_the_same_bits_from_every_backend(case: Case, dtype: Any, rng: np.random.Generator) -> None:
    """Also where the shares are no powers of two; and near the update by the mean itself."""
    params, gradients = problem(rng, dtype, calls=4)
    options: dict[str, Any] = {"max_grad_norm": 0.5, "grad_scale": 3.0}
    expected, reference = run(case, params, gradients, 2, accumulate_steps=7, backend="reference", **options)
    for backend, n_threads in (("cython", 1), ("cython", 3), ("numba", 2)):
        actual, optimizer = run(
            case, params, gradients, 2, accumulate_steps=7, backend=backend, n_threads=n_threads, **options
        )
        assert_same(case, (expected, reference.state), (actual, optimizer.state), backend)
        assert optimizer.grad_norm == reference.grad_norm
    _, shorter = run(case, params, gradients, 2, accumulate_steps=2, **options)
    assert reference.grad_norm == pytest.approx(shorter.grad_norm, rel=1e-6 if dtype == np.float32 else 1e-14)


@by_backend
def test_the_mean_of_what_is_there(backend: str) -> None:
    """The mean is over calls, as in a full accumulation; a parameter without any gradient is not updated."""
    w, b, c = np.zeros(1), np.zeros(1), np.zeros(1)
    optimizer = fastopt.SGD([w, b, c], lr=1.0, accumulate_steps=8, backend=backend)
    optimizer.step([np.array([3.0]), None, None])
    optimizer.step([np.array([1.0]), np.array([2.0]), None])
    assert optimizer.apply_accumulated() is True
    assert (w, b, c) == (-2, -1, 0)
    assert [optimizer.state[index]["step"] for index in range(3)] == [1, 1, 0]
    assert optimizer.iterations == 1
    assert not any(optimizer.state[index]["grad_accumulator"].any() for index in range(3))
    for gradient in (8.0,) * 8:  # the next accumulation is a full one, from zero
        assert (w, optimizer.iterations) == (-2, 1)
        optimizer.step([np.array([gradient]), None, None])
    assert (w, b, optimizer.iterations) == (-10, -1, 2)


@by_backend
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_nothing_to_apply_changes_nothing(case: Case, backend: str) -> None:
    for options in ({}, {"accumulate_steps": 1}, {"accumulate_steps": 2}):
        optimizer = case.make(np.ones(3), backend=backend, **options)
        for calls in (0, 2):
            for _ in range(calls):
                optimizer.step(np.ones(3))
            before = snapshot(optimizer)
            assert optimizer.apply_accumulated() is False
            optimizer.drop_accumulated()
            assert snapshot(optimizer) == before


@by_backend
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_dropped_gradients_leave_no_trace(case: Case, backend: str, rng: np.random.Generator) -> None:
    params, gradients = problem(rng, np.float32, calls=5)
    found = []
    for calls in (gradients, gradients[2:]):
        given = [param.copy() for param in params]
        optimizer = case.make(given, backend=backend, accumulate_steps=3)
        if calls is gradients:
            optimizer.step(gradients[0])
            optimizer.step(gradients[1])
            optimizer.drop_accumulated()
            assert optimizer.state_dict()["accumulated"] == {"calls": 0, "accumulate_steps": 3, "params": []}
        for step in gradients[2:]:
            optimizer.step(step)
        found.append((given, optimizer))
    assert_same(case, (found[1][0], found[1][1].state), (found[0][0], found[0][1].state), backend)
    assert snapshot(found[0][1]) == snapshot(found[1][1])


@by_backend
def test_bound_gradients_stay_bound_and_are_not_read(backend: str) -> None:
    w, gradient = np.zeros(1), np.ones(1)
    optimizer = fastopt.SGD(w, lr=1.0, grads=gradient, accumulate_steps=2, backend=backend)
    optimizer.step()
    gradient[:] = 100
    assert optimizer.apply_accumulated()
    assert w == -1
    gradient[:] = 3
    optimizer.step()
    optimizer.zero_grad()  # leaves what was accumulated
    optimizer.step()
    assert w == -2.5


@by_backend
def test_what_was_assigned_counts(backend: str) -> None:
    w = np.zeros(1)
    optimizer = fastopt.SGD(w, lr=1.0, accumulate_steps=4, backend=backend)
    optimizer.step(np.ones(1))
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.grad_scale = 2.0  # of later gradients
    optimizer.apply_accumulated()
    assert w == -0.5
    optimizer.param_groups[0].update(weight_decay=1.0)
    optimizer.step(np.full(1, 4.0))
    optimizer.apply_accumulated()
    assert w == -0.5 - 0.5 * (2 - 0.5)


@by_backend
def test_schedules_count_the_update(backend: str) -> None:
    w = np.zeros(1)
    optimizer = fastopt.SGD(w, lr=lambda step: 1.0 / 2**step, accumulate_steps=2, backend=backend)
    optimizer.step(np.ones(1))
    optimizer.apply_accumulated()
    optimizer.step(np.ones(1))
    optimizer.apply_accumulated()
    assert w == -1.5
    optimizer.step(np.ones(1))
    optimizer.step(np.ones(1))
    assert w == -1.75


@by_backend
def test_an_error_leaves_everything_as_it_was(backend: str) -> None:
    fails = [False]

    def rate(step: int) -> float:
        if fails[0]:
            raise ArithmeticError("no rate")
        return 0.5

    optimizer = fastopt.SGD(np.ones(3), lr=rate, accumulate_steps=4, ema_decay=0.5, backend=backend)
    optimizer.step(np.ones(3))
    before, fails[0] = snapshot(optimizer), True
    with pytest.raises(ArithmeticError, match="no rate"):
        optimizer.apply_accumulated()
    fails[0] = False
    assert snapshot(optimizer) == before
    optimizer.swap_averages()
    with pytest.raises(RuntimeError, match="averages are swapped in"):
        optimizer.apply_accumulated()
    optimizer.swap_averages()
    assert snapshot(optimizer) == before
    for _ in range(3):  # still an accumulation of four
        optimizer.step(np.ones(3))
    assert optimizer.iterations == 1
    assert equal_bits(optimizer.param_groups[0]["params"][0], np.full(3, 0.5))


@by_backend
@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_a_mean_that_overflows_stays_where_it_is(nonfinite: Any, backend: str) -> None:
    """What was accumulated is a share, so the mean can overflow where the share does not."""
    w = np.zeros(2, np.float32)
    optimizer = fastopt.Adam(w, accumulate_steps=8, nonfinite=nonfinite, backend=backend)
    optimizer.step(np.array([1e19, 1.0], np.float32))
    optimizer.state[0]["grad_accumulator"][0] = 1e19  # the mean is eight times that, whose square overflows
    before = snapshot(optimizer)
    if nonfinite == "skip":
        assert optimizer.apply_accumulated() is False
        assert (optimizer.skipped_steps, optimizer.nonfinite_counts) == (1, {"grads": 1})
    else:
        with pytest.raises(FloatingPointError, match="1 of 2 in grads"):
            optimizer.apply_accumulated()
    assert snapshot(optimizer) == before
    optimizer.drop_accumulated()
    optimizer.step(np.ones(2, np.float32))
    assert optimizer.apply_accumulated() is True


@by_backend
def test_not_from_within_a_step(backend: str) -> None:
    optimizer: fastopt.Optimizer

    def rate(step: int) -> float:
        for finish in (optimizer.apply_accumulated, optimizer.drop_accumulated):
            with pytest.raises(RuntimeError, match="in the middle of a step"):
                finish()
        return 1.0

    optimizer = fastopt.SGD(np.ones(3), accumulate_steps=2, backend=backend)
    optimizer.step(np.ones(3))
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step(np.ones(3))
    assert optimizer.iterations == 1


# --- the count of updates ---------------------------------------------------------------------------------------------


@by_backend
@pytest.mark.parametrize("case", [each for each in PLAIN if each.spec.uses_lr], ids=str)
def test_iterations_can_be_set(case: Case, backend: str) -> None:
    """Schedules go on from there; everything else goes on as it was."""
    rates = [0.5 / (1 + step) for step in range(10)]
    scheduled, by_hand = np.ones(3), np.ones(3)
    optimizers = case.make(scheduled, lr=rates.__getitem__, backend=backend), case.make(by_hand, lr=0.5)
    for step in (0, 1, 7, 8, 0, 1):
        if step in (7, 0):
            optimizers[0].iterations = np.int64(step) if step else step
        assert optimizers[0].iterations == step
        assert optimizers[0].current_lr == (rates[step],)
        optimizers[1].param_groups[0]["lr"] = rates[step]
        for optimizer in optimizers:
            optimizer.step(np.ones(3))
    assert equal_bits(scheduled, by_hand)
    assert optimizers[0].state[0]["step"] == 6
    assert optimizers[0].state_dict()["iterations"] == 2


@by_backend
def test_legacy_decay_follows_iterations(backend: str) -> None:
    optimizer = fastopt.SGD(np.ones(3), lr=1.0, convention="tf_keras_legacy", decay=0.5, backend=backend)
    optimizer.iterations = 2
    assert optimizer.current_lr == (0.5,)


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (-1, ValueError, r"iterations must be at least 0 and less than 2\*\*53, got -1"),
        (2**53, ValueError, r"less than 2\*\*53"),
        (1.0, TypeError, "iterations must be an integer, got 1.0"),
        (True, TypeError, "iterations must be an integer, got True"),
        ("3", TypeError, "iterations must be an integer, got '3'"),
        (None, TypeError, "iterations must be an integer, got None"),
        (np.ones(2, int), TypeError, "iterations must be an integer"),
    ],
)
def test_what_iterations_cannot_be(value: Any, error: type[Exception], match: str) -> None:
    optimizer = fastopt.SGD(np.ones(3))
    optimizer.step(np.ones(3))
    with pytest.raises(error, match=match):
        optimizer.iterations = value
    assert optimizer.iterations == 1

"""Gradients that cannot be used: nothing is changed, it is counted, and who is to blame is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, DTYPES, PLAIN, Case, each_pair, equal_bits, own_rate

import fastopt
from fastopt.definitions.specs import SPECS

by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_case = pytest.mark.parametrize("case", PLAIN, ids=str)
WITH = {
    "plain": {},
    "norm": {"max_grad_norm": 1.0},
    "norm of each": {"clip_norm": 1.0},
    "values": {"clip_value": 1.0},
    "accumulate": {"accumulate_steps": 2},
    "accumulate, norm": {"accumulate_steps": 2, "max_grad_norm": 1.0},
    "average": {"ema_decay": 0.9},
    "constraints": {"prox": fastopt.constraints.GroupLasso(0.1), "projection": fastopt.constraints.Box(-1, 1)},
}


def snapshot(optimizer: fastopt.Optimizer) -> list[bytes]:
    """The bits of all parameters and states, and what a state dict says."""
    bits = [param.tobytes() for group in optimizer.param_groups for param in group["params"]]
    for state in optimizer.state.values():
        bits += [np.asarray(value).tobytes() for value in state.values()]
    return [*bits, repr(optimizer.state_dict().get("accumulated")).encode()]


def gradients(dtype: Any = np.float32) -> list[list[np.ndarray]]:
    return [[np.full(5, 0.5, dtype)], [np.full((70, 70), 0.25, dtype)]]


def make(case: Case, dtype: Any = np.float32, **options: Any) -> fastopt.Optimizer:
    rate = own_rate(case.optimizer, 0.5)
    groups = [{"params": {"W": np.ones(5, dtype)}}, {"params": [np.ones((70, 70), dtype)], **rate}]
    return case.make(groups, **options)


def as_groups(values: list[list[np.ndarray]]) -> list[Any]:
    return [{"W": values[0][0]}, values[1]]


@each_pair(case=PLAIN, backend=BACKENDS, options=WITH, policy=["skip", "raise"])
def test_nothing_changes(case: Case, backend: str, options: dict[str, Any], policy: str) -> None:
    if not case.can(options):
        pytest.skip("it does not have these options")
    optimizer = make(case, backend=backend, nonfinite=policy, **options)
    for _ in range(3):
        optimizer.step(as_groups(gradients()))
    for value in (np.nan, np.inf, -np.inf):
        for group, position in ((0, 4), (1, 0), (1, 4899)):
            before = snapshot(optimizer)
            bad = gradients()
            bad[group][0].reshape(-1)[position] = value
            if policy == "skip":
                optimizer.step(as_groups(bad))
            else:
                name = ("grads[0]['W']", "grads[1][0]")[group]
                with pytest.raises(FloatingPointError) as caught:
                    optimizer.step(as_groups(bad))
                assert f"1 of {bad[group][0].size} in {name}; nothing was changed" in str(caught.value)
            assert snapshot(optimizer) == before
    assert optimizer.skipped_steps == (9 if policy == "skip" else 0)
    twin = make(case, backend=backend, **options)
    for _ in range(3):
        twin.step(as_groups(gradients()))
    for each in (optimizer, twin):
        each.step(as_groups(gradients()))
    assert snapshot(optimizer) == snapshot(twin), "it goes on as if nothing had happened"


@by_backend
def test_propagated_by_default(backend: str) -> None:
    optimizer = make(PLAIN[1], backend=backend)
    bad = gradients()
    bad[0][0][1] = np.nan
    optimizer.step(as_groups(bad))
    assert np.isnan(optimizer.param_groups[0]["params"][0]).tolist() == [False, True, False, False, False]
    assert optimizer.skipped_steps == 0


@by_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("grad_scale", [1.0, 2.0**10])
def test_squares_that_overflow_are_found_where_gradients_are_squared(
    backend: str, dtype: Any, name: str, grad_scale: float
) -> None:
    limit = float(np.sqrt(np.float64(np.finfo(dtype).max))) * grad_scale
    gradient = np.ones(100, dtype)
    optimizer = getattr(fastopt, name)(np.zeros(100, dtype), nonfinite="skip", grad_scale=grad_scale, backend=backend)
    gradient[7] = limit * 0.999
    optimizer.step(gradient)
    assert optimizer.skipped_steps == 0
    assert all(np.isfinite(value).all() for value in optimizer.state[0].values())
    gradient[[5, 9]] = -limit * 1.001
    optimizer.step(gradient)
    assert optimizer.nonfinite_counts == ({"grads": 2} if SPECS[name].squares else {})
    assert optimizer.skipped_steps == SPECS[name].squares


@by_backend
def test_squares_of_accumulated_gradients_that_overflow_are_found(backend: str) -> None:
    """What counts is what the update sees: the mean, divided by its scale."""
    optimizer = fastopt.Adam(np.zeros(2), accumulate_steps=2, grad_scale=1024.0, nonfinite="skip", backend=backend)
    limit = np.sqrt(np.finfo(float).max) * 1024 * 2
    for factor, skipped in ((0.999, 0), (1.001, 1), (-1.001, 1)):
        optimizer.step(np.array([limit * factor, 0]))
        assert optimizer.skipped_steps == skipped
    assert optimizer.state[0]["step"] == 1


@by_backend
def test_infinities_of_scaled_gradients_are_found(backend: str) -> None:
    for dtype in DTYPES:
        optimizer = fastopt.SGD(np.zeros(2, dtype), grad_scale=1024.0, nonfinite="raise", backend=backend)
        with pytest.raises(FloatingPointError, match="1 of 2 in grads"):
            optimizer.step(np.array([1, np.inf], dtype))


@by_backend
def test_the_limit_goes_with_the_scale(backend: str) -> None:
    optimizer = fastopt.Adam(np.zeros(2, np.float32), nonfinite="skip", backend=backend)
    gradient = np.full(2, 1e20, np.float32)
    optimizer.step(gradient)
    assert optimizer.skipped_steps == 1
    optimizer.grad_scale = 1e3
    optimizer.step(gradient)
    assert optimizer.skipped_steps == 1
    optimizer.grad_scale = 0.5
    optimizer.step(gradient)
    assert optimizer.skipped_steps == 2


@by_backend
def test_a_norm_that_overflows_is_found(backend: str) -> None:
    optimizer = fastopt.SGD(np.zeros(3), max_grad_norm=1.0, nonfinite="raise", backend=backend)
    with pytest.raises(FloatingPointError, match=r"norm of the gradients overflows.*nothing was changed"):
        optimizer.step(np.full(3, 1e200))


@by_backend
def test_a_skipped_update_leaves_the_norm_as_it_was(backend: str) -> None:
    for options in ({}, {"accumulate_steps": 2}):
        optimizer = fastopt.SGD(np.zeros(2), max_grad_norm=1.0, nonfinite="skip", backend=backend, **options)
        for _ in range(2):
            optimizer.step(np.array([3.0, 4.0]))
        optimizer.step(np.array([30.0, 40.0]))
        norm = optimizer.grad_norm
        optimizer.step(np.array([np.nan, 1.0]))
        assert norm == optimizer.grad_norm == (5 if options else 50)


@by_backend
def test_the_first_of_accumulated_calls_is_checked_too(backend: str) -> None:
    optimizer = fastopt.SGD(np.zeros(2), accumulate_steps=2, nonfinite="skip", backend=backend)
    optimizer.step(np.array([np.nan, 1.0]))
    assert optimizer.skipped_steps == 1


@by_backend
def test_infinities_that_cancel_are_found_without_a_warning(backend: str) -> None:
    optimizer = fastopt.SGD(np.zeros(2), accumulate_steps=2, max_grad_norm=1.0, backend=backend)
    optimizer.step(np.array([np.inf, 1]))
    optimizer.step(np.array([-np.inf, 1]))
    assert np.isnan(optimizer.grad_norm)


@by_backend
def test_the_norm_of_accumulated_denormals_is_flushed(backend: str) -> None:
    gradient = np.full(2, 1e-310)
    for flush in (True, False):
        optimizer = fastopt.SGD(
            np.zeros(2),
            accumulate_steps=2,
            max_grad_norm=1.0,
            grad_scale=2**-600,
            flush_denormals=flush,
            backend=backend,
        )
        optimizer.step(gradient)
        optimizer.step(gradient)
        assert (optimizer.grad_norm == 0) == flush


@by_backend
def test_counted_and_raised_when_there_are_too_many_in_a_row(backend: str) -> None:
    good, bad = np.ones(3), np.array([1, np.nan, np.inf])
    optimizer = fastopt.Adam(np.zeros(3), nonfinite="skip", max_consecutive_skips=2, backend=backend)
    for _ in range(3):
        optimizer.step(bad)
        optimizer.step(bad)
        assert (optimizer.consecutive_skips, optimizer.nonfinite_counts) == (2, {"grads": 2})
        optimizer.step(good)
        assert optimizer.consecutive_skips == 0
    assert optimizer.skipped_steps == 6
    optimizer.step(bad)
    optimizer.param_groups[0]["clip_value"] = 1.0  # makes a new engine
    optimizer.step(bad)
    with pytest.raises(
        FloatingPointError, match=r"3 steps in a row were skipped .max_consecutive_skips=2.*2 of 3 in grads"
    ):
        optimizer.step(bad)
    assert optimizer.skipped_steps == 9
    assert optimizer.state[0]["step"] == 3


@by_backend
def test_many_bad_arrays_are_listed_shortly(backend: str) -> None:
    optimizer = fastopt.SGD([np.zeros(2) for _ in range(8)], nonfinite="raise", backend=backend)
    with pytest.raises(FloatingPointError, match=r"grads\[4\] and 3 more arrays; nothing"):
        optimizer.step([np.full(2, np.nan) for _ in range(8)])
    assert len(optimizer.nonfinite_counts) == 8


@by_backend
def test_the_counts_are_of_the_last_skip_alone(backend: str) -> None:
    optimizer = fastopt.SGD([np.zeros(2), np.zeros(2)], nonfinite="skip", backend=backend)
    good, bad = np.ones(2), np.array([1, np.nan])
    for gradients, expected in (([bad, good], {"grads[0]": 1}), ([good, bad], {"grads[1]": 1})):
        optimizer.step(gradients)
        assert optimizer.nonfinite_counts == expected


@by_backend
def test_gradients_are_zeroed_when_a_step_is_skipped_and_not_when_it_raises(backend: str) -> None:
    for policy in ("skip", "raise"):
        gradient = np.array([1, np.nan])
        optimizer = fastopt.SGD(np.zeros(2), nonfinite=policy, zero_grads=True, grads=gradient, backend=backend)
        if policy == "skip":
            optimizer.step()
            assert gradient.tolist() == [0, 0]
        else:
            with pytest.raises(FloatingPointError):
                optimizer.step()
            assert np.isnan(gradient[1])


def test_frozen_parameters_are_not_looked_at() -> None:
    optimizer = fastopt.SGD({"a": np.zeros(2), "b": np.zeros(2)}, lr=1.0, nonfinite="raise", max_grad_norm=np.inf)
    optimizer.set_segments("a", frozen=True)
    optimizer.step({"a": np.full(2, np.nan), "b": np.array([3.0, 4.0])})
    assert optimizer.grad_norm == 5
    assert optimizer.param_groups[0]["params"][1].tolist() == [-3, -4]


def test_the_counts_survive_a_copy() -> None:
    import copy

    optimizer = fastopt.SGD(np.zeros(2), nonfinite="skip", max_consecutive_skips=2)
    optimizer.step(np.full(2, np.nan))
    twin = copy.deepcopy(optimizer)
    twin.step(np.full(2, np.nan))
    assert (optimizer.skipped_steps, twin.skipped_steps, twin.consecutive_skips) == (1, 2, 2)
    assert equal_bits(twin.param_groups[0]["params"][0], np.zeros(2))

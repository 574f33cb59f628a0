"""Prodigy: what its groups must have in common, and the numbers that all parameters share."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, equal_bits

import fastopt

COMMON = ("d", "d_max", "d_numerator", "k")
by_backend = pytest.mark.parametrize("backend", BACKENDS)


def start() -> dict[str, np.ndarray]:
    return {"W": np.linspace(-1, 1, 3000), "b": np.full(7, 2.0), "c": np.ones((2, 2))}


def step(optimizer: fastopt.Optimizer, params: dict[str, np.ndarray], number: int, missing: str = "") -> None:
    """By the gradients of the half of the squares, and some noise; parameters are one group or three."""
    rng = np.random.default_rng(number)
    gradients = [
        None if name == missing else param + 0.1 * rng.standard_normal(param.shape) for name, param in params.items()
    ]
    if len(optimizer.param_groups) == 1:
        optimizer.step(dict(zip(params, gradients, strict=True)))
    else:
        optimizer.step([[gradient] for gradient in gradients])


def in_groups(params: dict[str, np.ndarray], **second: Any) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [{"params": [param]} for param in params.values()]
    groups[1].update(second)
    return groups


def common(optimizer: fastopt.Optimizer) -> list[float]:
    groups = optimizer.state_dict()["param_groups"]
    assert all([group[name] for name in COMMON] == [groups[0][name] for name in COMMON] for group in groups)
    return [groups[0][name] for name in COMMON]


@by_backend
def test_groups_are_stepped_as_one(backend: str) -> None:
    """Also where parameters miss gradients: they step with what the others have found meanwhile."""
    one, several = start(), start()
    optimizer, other = fastopt.Prodigy(one, backend=backend), fastopt.Prodigy(in_groups(several), backend=backend)
    for number in range(30):
        for each, params in ((optimizer, one), (other, several)):
            step(each, params, number, missing="b" if number % 3 == 1 else "W" if number % 5 == 4 else "")
        assert optimizer.d == other.d
    assert optimizer.d > 0.1
    assert common(optimizer) == common(other)
    assert all(map(equal_bits, one.values(), several.values()))


@pytest.mark.parametrize("n_threads", [2, 3])
@by_backend
def test_the_same_bits_from_every_backend_and_number_of_threads(backend: str, n_threads: int) -> None:
    runs = []
    for each, threads in (("cython", 1), (backend, n_threads)):
        params = {"W": np.linspace(-1, 1, 200_000).astype(np.float32), "b": np.full(7, 2.0, np.float32)}
        optimizer = fastopt.Prodigy(params, backend=each, n_threads=threads, d0=1e-3)
        for number in range(5):
            noise = np.random.default_rng(number).standard_normal(200_000).astype(np.float32)
            optimizer.step({name: param + noise[: param.size] for name, param in params.items()})
        runs.append((params, optimizer))
    (params, optimizer), (others, other) = runs
    assert common(optimizer) == common(other)
    assert optimizer.d != 1e-3
    assert all(map(equal_bits, params.values(), others.values()))


@by_backend
def test_a_group_with_a_rate_of_zero_stays_as_it_is_and_counts_in_no_sum(backend: str) -> None:
    """The authors' code decays its weights, with the rate of the other groups."""
    params, others = start(), start()
    optimizer = fastopt.Prodigy(in_groups(params, lr=0.0), weight_decay=0.1, backend=backend)
    without = fastopt.Prodigy([{"params": [others["W"]]}, {"params": [others["c"]]}], weight_decay=0.1, backend=backend)
    for number in range(20):
        step(optimizer, params, number)
        rng = np.random.default_rng(number)
        gradients = {name: others[name] + 0.1 * rng.standard_normal(others[name].shape) for name in others}
        without.step([[gradients["W"]], [gradients["c"]]])
    assert optimizer.d == without.d > 1e-3
    assert equal_bits(params["W"], others["W"])
    assert equal_bits(params["b"], start()["b"])
    states = optimizer.state[1]
    assert not any(states[name].any() for name in ("s", "exp_avg", "exp_avg_sq"))


@by_backend
@pytest.mark.parametrize("lr", [1.0, 0.0], ids=["no gradient but 0", "a rate of 0"])
def test_a_step_that_has_nothing_to_go_by_changes_nothing(backend: str, lr: float) -> None:
    """But it begins: p0 is the parameter."""
    params = start()
    optimizer = fastopt.Prodigy(params, weight_decay=0.5, backend=backend, lr=lr)
    for _ in range(3):
        optimizer.step({name: np.full_like(param, 0.0 if lr else 1.0) for name, param in params.items()})
    assert common(optimizer) == [1e-6, 1e-6, 0, 0]
    assert all(map(equal_bits, params.values(), start().values()))
    assert equal_bits(optimizer.state[0]["p0"], params["W"])


DIFFERENT: list[tuple[dict[str, Any], str]] = [
    ({"lr": 0.5}, "lr must be the same in all groups, or 0, got 1.0 in param_groups[0] and 0.5 in param_groups[1]"),
    ({"betas": (0.9, 0.99)}, "betas must be the same in all groups, got (0.9, 0.999) in param_groups[0]"),
    ({"beta3": 0.5}, "beta3 must be the same in all groups, got None in param_groups[0] and 0.5"),
    ({"d0": 1e-5}, "d0 must be the same in all groups, got 1e-06 in param_groups[0] and 1e-05"),
    ({"d_coef": 2.0}, "d_coef must be the same in all groups"),
    ({"growth_rate": 2.0}, "growth_rate must be the same in all groups"),
    ({"use_bias_correction": True}, "use_bias_correction must be the same in all groups"),
    ({"safeguard_warmup": True}, "safeguard_warmup must be the same in all groups"),
]


@pytest.mark.parametrize(("second", "message"), DIFFERENT, ids=lambda each: "".join(each) if each else "")
def test_groups_that_do_not_agree(second: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Prodigy estimates 'd'.*for all parameters together.*{re.escape(message)}"):
        fastopt.Prodigy(in_groups(start(), **second))
    params = start()
    optimizer = fastopt.Prodigy(in_groups(params))
    step(optimizer, params, 0)
    before = {name: param.copy() for name, param in params.items()}
    optimizer.param_groups[1].update(second)
    with pytest.raises(ValueError, match=re.escape(message)):
        step(optimizer, params, 1)
    assert all(map(equal_bits, params.values(), before.values()))
    (name,) = second
    optimizer.param_groups[1][name] = optimizer.param_groups[0][name]
    step(optimizer, params, 1)
    assert not equal_bits(params["W"], before["W"])


def test_schedules_that_part() -> None:
    params = start()
    optimizer = fastopt.Prodigy(in_groups(params, lr=lambda number: 1.0 if number < 2 else 0.5), lr=lambda number: 1.0)
    for number in range(2):
        step(optimizer, params, number)
    before = {name: param.copy() for name, param in params.items()}
    with pytest.raises(ValueError, match=r"lr must be the same in all groups, or 0, got 1\.0 .* and 0\.5"):
        step(optimizer, params, 2)
    assert all(map(equal_bits, params.values(), before.values()))


def test_groups_may_differ_in_the_rest() -> None:
    params = start()
    optimizer = fastopt.Prodigy(in_groups(params, weight_decay=0.1, eps=1e-6, decouple=False))
    step(optimizer, params, 0)
    with pytest.raises(ValueError, match=r"lr_scale must be 1, got 0\.5: Prodigy finds one rate for all parameters"):
        optimizer.set_segments(0, lr_scale=0.5)
    optimizer.set_segments(0, lr_scale=1.0, weight_decay=0.2)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"d0": 0.0}, ValueError, "Invalid d0 value: 0 (expected d0 > 0)"),
    ({"d0": float("inf")}, ValueError, "Invalid d0 value: inf"),
    ({"growth_rate": 0.5}, ValueError, "Invalid growth_rate value: 0.5 (expected growth_rate >= 1)"),
    ({"d_coef": -1.0}, ValueError, "Invalid d_coef value: -1"),
    ({"beta3": 1.0}, ValueError, "Invalid beta3 value: 1 (expected 0 <= beta3 < 1, or None)"),
    ({"beta3": -1.0}, ValueError, "Invalid beta3 value: -1"),
    ({"beta3": "x"}, TypeError, "beta3 must be a real number"),
    ({"decouple": 1}, TypeError, "decouple must be True or False"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=lambda each: str(each)[:30])
def test_arguments_are_checked(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        fastopt.Prodigy(np.ones(2), **options)


def through_state_dict(optimizer: Any, params: dict[str, np.ndarray]) -> tuple[Any, dict[str, np.ndarray]]:
    copies = {name: param.copy() for name, param in params.items()}
    twin = fastopt.Prodigy(copies)
    twin.load_state_dict(optimizer.state_dict())
    return twin, copies


COPIES: dict[str, Callable[..., Any]] = {
    "state dict": through_state_dict,
    "pickle": lambda *both: pickle.loads(pickle.dumps(both)),
    "deepcopy": lambda *both: copy.deepcopy(both),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_goes_on(copied: Callable[..., Any]) -> None:
    params = start()
    optimizer = fastopt.Prodigy(params, growth_rate=1.5)
    for number in range(12):
        step(optimizer, params, number)
    twin, copies = copied(optimizer, params)
    assert twin.d == optimizer.d > 1e-5
    for number in range(12, 24):
        step(optimizer, params, number)
        step(twin, copies, number)
    assert common(twin) == common(optimizer)
    assert all(map(equal_bits, params.values(), copies.values()))


WRONG_NUMBERS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"d": -1.0}, ValueError, "param_groups[0]['d'] must be at least 2.22507e-308"),
    ({"d": "x"}, TypeError, "param_groups[0]['d'] must be a real number"),
    ({"k": -1}, ValueError, "param_groups[0]['k'] must be at least 0"),
    ({"d_max": ...}, ValueError, "param_groups[0] has no 'd_max', but others of 'd', 'd_max', 'd_numerator', 'k'"),
    (dict.fromkeys(COMMON, ...), ValueError, "param_groups[0] has none of 'd', 'd_max', 'd_numerator', 'k', but"),
]


@pytest.mark.parametrize(("changes", "error", "message"), WRONG_NUMBERS, ids=lambda each: str(each)[:30])
def test_state_dicts_with_wrong_numbers(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    params = start()
    optimizer = fastopt.Prodigy(params)
    step(optimizer, params, 0)
    saved = copy.deepcopy(dict(optimizer.state_dict()))
    for name, value in changes.items():
        saved["param_groups"][0].pop(name)
        if value is not ...:
            saved["param_groups"][0][name] = value
    before = common(optimizer)
    with pytest.raises(error, match=re.escape(message)):
        optimizer.load_state_dict(saved)
    assert common(optimizer) == before


def test_the_estimate_starts_with_d0_as_it_is_at_the_first_step() -> None:
    params = start()
    optimizer = fastopt.Prodigy(params)
    assert optimizer.d == 1e-6
    optimizer.param_groups[0]["d0"] = 1e-3
    step(optimizer, params, 0)
    step(optimizer, params, 1)
    others = start()
    expected = fastopt.Prodigy(others, d0=1e-3)
    for number in range(2):
        step(expected, others, number)
    assert all(map(equal_bits, params.values(), others.values()))
    with pytest.raises(AttributeError):
        optimizer.d = 1.0  # type: ignore[misc]


def test_a_guard_brings_the_estimate_back() -> None:
    params = start()
    optimizer = fastopt.Prodigy(params)
    guard = fastopt.DivergenceGuard(optimizer, "restore", snapshot_every=1)
    seen = []
    for _ in range(8):
        seen.append(common(optimizer))
        assert guard.step(1.0, {name: param.copy() for name, param in params.items()})
    assert not guard.step(float("inf"), {name: param.copy() for name, param in params.items()})
    restored = common(optimizer)
    assert restored in seen
    guard.step(1.0, {name: param.copy() for name, param in params.items()})
    assert common(optimizer)[3] == restored[3] + 1

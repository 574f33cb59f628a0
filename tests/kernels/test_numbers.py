"""Numbers at their ends: large step counts, a rate or an eps of 0, variances below 0, more than 2**31 elements."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, CASES, DTYPES, Case, each_pair, equal_bits

import fastopt
from fastopt.definitions.specs import SPECS
from fastopt.examples.textbook import TEXTBOOK
from fastopt.kernels.formulas import registry

by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)

# --- step counts ----------------------------------------------------------------------------------------------------

COUNTS = (2**31 - 1, 2**31 + 1, 10**12)
STATE, GRADIENT, LR = 0.25, 3.0, 0.1


def after_steps(case: Case, count: int, dtype: Any, backend: str) -> tuple[np.ndarray, fastopt.Optimizer]:
    """A parameter of zeros after `count` steps, by its state dict, and one more; all states are set to `STATE`."""
    param, gradient = np.zeros(3, dtype), np.full(3, GRADIENT, dtype)
    optimizer = case.make(param, backend=backend)
    optimizer.step(gradient)
    saved = optimizer.state_dict()
    for name, value in saved["state"][0].items():
        saved["state"][0][name] = np.full(3, STATE, dtype) if isinstance(value, np.ndarray) else STATE
    saved["state"][0]["step"] = count  # torch's SGD writes none, but takes it
    optimizer.load_state_dict(saved)
    assert optimizer.state[0]["step"] == count
    param.fill(0)
    optimizer.step(gradient)
    return param, optimizer


@each_pair(case=CASES, count=COUNTS, dtype=DTYPES)
def test_counts_are_exact_and_backends_agree(case: Case, count: int, dtype: Any) -> None:
    results = [after_steps(case, count, dtype, backend) for backend in BACKENDS]
    for param, optimizer in results:
        assert optimizer.state[0]["step"] == count + 1
        if SPECS[case.optimizer].counts_steps:
            assert optimizer.state_dict()["state"][0]["step"] == count + 1
        assert np.isfinite(param).all()
        assert equal_bits(param, results[0][0])


def adam(t: int, g: Decimal, s: Decimal, lr: Decimal, options: dict[str, Any]) -> Decimal:
    beta1, beta2 = map(Decimal, options["betas"])
    exp_avg, exp_avg_sq = s + (g - s) * (1 - beta1), beta2 * s + (1 - beta2) * g * g
    return lr * (1 - beta2**t).sqrt() / (1 - beta1**t) * exp_avg / exp_avg_sq.sqrt()


def adagrad(t: int, g: Decimal, s: Decimal, lr: Decimal, options: dict[str, Any]) -> Decimal:
    return lr / (1 + (t - 1) * Decimal(options["lr_decay"])) * g / (s + g * g).sqrt()


def sgd(t: int, g: Decimal, s: Decimal, lr: Decimal, options: dict[str, Any]) -> Decimal:
    return lr * (Decimal(options["momentum"]) * s + (1 - Decimal(options["dampening"])) * g)


def averages(count: int) -> tuple[float, float]:
    """Betas whose powers are far from 0 and 1 after so many steps, and change with each of them."""
    return 1 - 1 / count, 1 - 1 / count


# What a step subtracts, with eps 0; only here do counts matter.
FORMULAS: dict[str, tuple[Callable[..., Decimal], Callable[[int], dict[str, Any]]]] = {
    "Adam": (adam, lambda count: {"betas": averages(count), "eps": 0.0}),
    "Adam amsgrad": (adam, lambda count: {"betas": averages(count), "eps": 0.0, "amsgrad": True}),
    "AdamW": (adam, lambda count: {"betas": averages(count), "eps": 0.0}),
    "Adagrad": (adagrad, lambda count: {"lr_decay": 0.1, "eps": 0.0}),
    "SGD": (sgd, lambda count: {"momentum": 0.9, "dampening": 0.3}),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("count", COUNTS)
@by_dtype
@by_backend
def test_coefficients_of_large_counts(name: str, count: int, dtype: Any, backend: str) -> None:
    """Against 50 decimals. A count in 32 bits or float32, or one too few or too many, would be seen in float64."""
    formula, options_for = FORMULAS[name]
    options = {"lr": LR, **options_for(count)}
    param, _ = after_steps(Case(name.split()[0], options), count, dtype, backend)
    with localcontext() as context:
        context.prec = 50
        expected = formula(count + 1, Decimal(GRADIENT), Decimal(STATE), Decimal(LR), options)
    np.testing.assert_allclose(-param, float(expected), rtol=1e-6 if dtype == np.float32 else 1e-13)


# --- a rate of 0 ----------------------------------------------------------------------------------------------------

WITH_RATE = [case for case in CASES if case.spec.uses_lr]


def still(case: Case, values: list[float], dtype: Any, backend: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """These parameters, each with a positive, a zero and a negative gradient, before and after steps with lr 0."""
    before = np.repeat(np.array(values, dtype), 3)
    param, gradient = before.copy(), np.tile(np.array([2, 0, -3], dtype), len(values))
    optimizer = case.make(param, backend=backend, **{"lr": 0.0, **options})
    for _ in range(3):
        optimizer.step(gradient)
    return before, param


@each_pair(case=WITH_RATE, dtype=DTYPES, backend=BACKENDS)
def test_a_rate_of_zero_changes_no_bit(case: Case, dtype: Any, backend: str) -> None:
    info = np.finfo(dtype)
    values = [0.0, 1.0, -1.0, 0.1, -1 / 3, info.tiny, -info.tiny, info.eps, info.max**0.25, -(info.max**0.25)]
    before, after = still(case, [float(value) for value in values], dtype, backend)
    assert equal_bits(before, after)
    denormal = [float(info.tiny) / 8, -float(info.tiny) / 8]
    before, after = still(case, denormal, dtype, backend, flush_denormals=False)
    assert equal_bits(before, after)


@each_pair(case=WITH_RATE, dtype=DTYPES, backend=BACKENDS)
def test_what_a_rate_of_zero_does_change(case: Case, dtype: Any, backend: str) -> None:
    """As docs/guarantees.md says."""
    _, zeros = still(case, [-0.0, float(np.finfo(dtype).tiny) / 8], dtype, backend)
    assert not zeros.any()
    before, nonfinite = still(case, [math.inf, -math.inf, math.nan], dtype, backend)
    coupled = not {**case.spec.defaults, **case.options}.get("decoupled_weight_decay", True)
    terms = registry.terms(case.spec.rule({**case.spec.defaults, **case.options}))
    in_sums = terms is not None and "param" in terms.coefficients  # and so in what all elements are multiplied by
    subtracted = bool(case.spec.starts_as_param)  # from its own copy
    assert equal_bits(nonfinite, np.full_like(before, np.nan) if coupled or in_sums or subtracted else before)


@by_dtype
@by_backend
def test_rprop_moves_by_its_least_step_size_whatever_its_rate(dtype: Any, backend: str) -> None:
    before, after = still(Case("Rprop", {"step_sizes": (0.0, 50.0)}), [1.0, -0.5, 1e-3], dtype, backend)
    assert equal_bits(before, after)
    before, after = still(Case("Rprop", {"step_sizes": (0.25, 0.25)}), [1.0], dtype, backend)
    assert after.tolist() == [0.25, 1.0, 1.75]


# --- a small eps, and large gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-6, 1e-12, 1e-18])
@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1.0, 1e6, 1e12, 1e18])
@by_dtype
@by_backend
def test_adadelta_neither_underflows_nor_overflows(eps: float, scale: float, dtype: Any, backend: str) -> None:
    """Where torch's two roots are numbers of float32, so is the root of their squares' quotient."""
    import torch

    gradients = [0.5 * scale, -0.25 * scale, scale]
    param, theirs = np.zeros(1, dtype), torch.zeros(1, dtype=torch.float64)
    optimizer = fastopt.Adadelta(param, eps=eps, backend=backend)
    other = torch.optim.Adadelta([theirs], eps=eps, foreach=False)
    for gradient in gradients:
        optimizer.step(np.full(1, gradient, dtype))
        theirs.grad = torch.full_like(theirs, gradient)
        other.step()
    assert param[0] != 0
    np.testing.assert_allclose(param, theirs.numpy(), rtol=5e-7 if dtype == np.float32 else 2e-15)


# --- an eps of 0, and variances -------------------------------------------------------------------------------------

NO_EPS = {"weight_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 0.0}
WITH_EPS = [
    Case(case.optimizer, {**case.options, **{key: value for key, value in NO_EPS.items() if key in case.options}})
    for case in CASES
    if "eps" in SPECS[case.optimizer].defaults and case.optimizer != "LARS"  # whose eps is added to norms
]


def in_torch(case: Case, gradients: list[float], dtype: Any = np.float64) -> np.ndarray:
    import torch

    param = torch.zeros(1, dtype=getattr(torch, np.dtype(dtype).name))
    optimizer = getattr(torch.optim, case.optimizer)([param], foreach=False, **case.options)
    for gradient in gradients:
        param.grad = torch.full_like(param, gradient)
        optimizer.step()
    return param.numpy()


def by_textbook(name: str, gradients: list[float]) -> np.ndarray:
    param = np.zeros(1)
    optimizer = TEXTBOOK[name](param, eps=0.0)
    with np.errstate(all="ignore"):
        for gradient in gradients:
            optimizer.step(np.full(1, gradient))
    return param


@each_pair(case=WITH_EPS, dtype=DTYPES, backend=BACKENDS)
def test_without_eps_nothing_over_nothing_is_nan_as_in_torch(case: Case, dtype: Any, backend: str) -> None:
    divides_at_once = bool(np.isnan(by_textbook(case.optimizer, [0.0])).all())
    divides = case.optimizer != "Prodigy"  # which does nothing until there is a gradient
    for gradients, is_nan in (([0.0], divides_at_once), ([0.0] * 7, divides), ([1.0, 0.0, 0.0], False)):
        param = np.zeros(1, dtype)
        optimizer = case.make(param, backend=backend)
        for gradient in gradients:
            optimizer.step(np.full(1, gradient, dtype))
        assert np.isnan(param).all() == is_nan
        assert np.isfinite(param).all() != is_nan
        if case.in_torch:
            assert np.isnan(in_torch(case, gradients)).all() == is_nan


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@by_dtype
@by_backend
def test_a_variance_is_never_negative(momentum: float, dtype: Any, backend: str) -> None:
    """Of a constant gradient it is 0, but for rounding: torch takes the root of what is below."""
    values = [1e3 * scale for scale in (1.3, 10, 29, 100, 170, 5100, 1.7e5)]
    case = Case("RMSprop", {"lr": 0.01, "alpha": 0.5, "centered": True, "momentum": momentum})
    param, gradient = np.zeros(len(values), dtype), np.array(values, dtype)
    optimizer = case.make(param, backend=backend)
    for _ in range(200):
        optimizer.step(gradient)
    assert np.isfinite(param).all()
    assert any(np.isnan(in_torch(case, [value] * 200, dtype)).all() for value in values)


# --- every element once, also beyond 2**31 --------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.usefixtures("threads_always")
def test_every_element_is_updated_once_however_work_is_split(backend: str) -> None:
    """With a decay of one half and no gradient, an element that is left out is 1, and one done twice a quarter."""
    for sizes in ([1], [5, 0, 0], [63, 64, 65], [1] * 300, [0, 1000, 1, 129, 0], [4096, 3, 4097]):
        for n_threads in (1, 2, 3, 5, 8, 31, 64):
            params = [np.ones(size, np.float32) for size in sizes]
            options = {"lr": 0.5, "weight_decay": 1.0, "decoupled_weight_decay": True}
            optimizer = fastopt.SGD(params, backend=backend, n_threads=n_threads, **options)
            optimizer.step([np.zeros(size, np.float32) for size in sizes])
            assert all((param == 0.5).all() for param in params), (sizes, n_threads)


HUGE = 2_200_000_001
MARKS = np.unique([0, 1, 2, *(each + k for each in (HUGE // 2, 2**31, HUGE - 70) for k in range(-66, 70))])


def available_memory() -> int:
    """Bytes; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)


@pytest.fixture(scope="module")
def huge() -> tuple[np.ndarray, np.ndarray]:
    """A parameter, and a gradient that is 0 but at the marks (where it was never written, it may take no memory)."""
    if os.environ.get("FASTOPT_TEST_HUGE") != "1" or available_memory() < 20 << 30:
        pytest.skip("needs FASTOPT_TEST_HUGE=1 and 20 GiB of memory")
    gradient = np.zeros(HUGE, np.float32)
    gradient[MARKS] = np.arange(1, MARKS.size + 1)
    return np.empty(HUGE, np.float32), gradient


@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("cuts", [[], [HUGE // 2]], ids=["one array", "two arrays"])
def test_more_than_two_to_the_31_elements(backend: str, n_threads: int, cuts: list[int], huge: Any) -> None:
    param, gradient = huge
    param.fill(1)
    params, gradients = np.split(param, cuts), np.split(gradient, cuts)
    options = {"lr": 0.5, "weight_decay": 1.0, "decoupled_weight_decay": True}
    fastopt.SGD(params, backend=backend, n_threads=n_threads, **options).step(gradients)
    assert param[MARKS].tolist() == [0.5 - 0.5 * value for value in range(1, MARKS.size + 1)]
    others = sum(int((param[start : start + 2**26] == 0.5).sum()) for start in range(0, HUGE, 2**26))
    assert others == HUGE - MARKS.size

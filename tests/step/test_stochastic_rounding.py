"""Stochastic rounding: right on average, reproducible, and the same after a resume."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from cases import equal_bits
from storages import HALVES

import fastopt

BFLOAT16 = HALVES["bfloat16"]
SIZE = 1 << 16

by_half = pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)


def rounded(values: np.ndarray, half: Any, **options: Any) -> np.ndarray:
    """Values as a step stores them, in float32."""
    param = np.zeros(values.shape, half)
    fastopt.SGD(param, lr=1.0, **options).step(-values)
    return param.astype(np.float32)


@by_half
def test_the_expected_value_is_the_number_itself(half: Any) -> None:
    """The mean of 65,536 roundings is within 5 standard errors; that of roundings to the nearest is not."""
    step = 2.0**-7 if half == BFLOAT16 else 2.0**-10
    for part in (0.25, 0.4, 0.9):
        values = np.full(SIZE, 1 + part * step, np.float32)
        found = rounded(values, half, stochastic_rounding=True)
        assert set(np.unique(found).tolist()) == {1.0, 1 + step}
        error = abs(found.mean(dtype=np.float64) - values[0]) / step
        bound = 5 * math.sqrt(part * (1 - part) / SIZE)
        assert error < bound
        assert abs(rounded(values, half).mean(dtype=np.float64) - values[0]) / step > bound


@pytest.mark.parametrize("state_dtype", ["bfloat16", "float8"])
def test_averages_follow_what_falls(state_dtype: str) -> None:
    """A second moment after its gradients fell tenfold: rounded to the nearest, it would stay far too large."""
    scales = np.exp(np.random.default_rng(1).uniform(-1.5, 1.5, 4096))
    found = {}
    for stochastic in (False, True):
        optimizers = [
            fastopt.Adam(np.zeros(4096, np.float32), lr=0.0, **options)
            for options in ({}, {"state_dtype": {"exp_avg_sq": state_dtype}, "stochastic_rounding": stochastic})
        ]
        draws = np.random.default_rng(2)
        for step in range(4000):
            gradient = (draws.standard_normal(4096) * scales * (1 if step < 1000 else 0.1)).astype(np.float32)
            for optimizer in optimizers:
                optimizer.step(gradient)
        exact, stored = (optimizer.state[0]["exp_avg_sq"] for optimizer in optimizers)
        found[stochastic] = np.sqrt(stored / exact)
        assert (stored > 0).all()
    assert 0.9 < np.median(found[True]) < 1.1
    assert np.quantile(found[True], 0.99) < (1.2 if state_dtype == "bfloat16" else 1.5)
    assert not 0.9 < np.median(found[False]) < 1.1


def make(**options: Any) -> tuple[fastopt.Optimizer, list[np.ndarray]]:
    rng = np.random.default_rng(3)
    params = [rng.standard_normal(size).astype(BFLOAT16) for size in (5000, 300)]
    chosen = {"stochastic_rounding": True, "state_dtype": "float8", **options}
    return fastopt.AdamW(params, lr=0.01, **chosen), params


def steps(optimizer: fastopt.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        rng = np.random.default_rng(step)
        optimizer.step([rng.standard_normal(size).astype(np.float32) for size in (5000, 300)])


def test_another_seed_gives_other_bits_and_the_same_seed_the_same() -> None:
    found = []
    for seed in (0, 0, 1, 2**63):
        optimizer, params = make(seed=seed)
        steps(optimizer, 0, 3)
        found.append(params)
    same = [[equal_bits(mine, theirs) for mine, theirs in zip(found[0], each, strict=True)] for each in found]
    assert same == [[True, True], [True, True], [False, False], [False, False]]


def test_parameters_and_steps_do_not_share_their_random_bits() -> None:
    value = np.full(1000, 1 + 2.0**-8, np.float32)
    params = [np.zeros(1000, BFLOAT16) for _ in range(2)]
    optimizer = fastopt.SGD(params, lr=1.0, stochastic_rounding=True)
    optimizer.step([-value, -value])
    first = params[0].copy()
    assert not equal_bits(params[0], params[1])
    params[0][:] = 0
    optimizer.step([-value, None])
    assert not equal_bits(params[0], first)


@pytest.mark.parametrize("way", ["state_dict", "encoded", "pickle", "deepcopy", "file"])
def test_a_resume_goes_on_with_the_same_bits(way: str, tmp_path: Any) -> None:
    optimizer, params = make(seed=11)
    steps(optimizer, 0, 3)
    if way in ("pickle", "deepcopy"):
        pair = (optimizer, params)
        other, copies = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
    else:
        other, copies = make()  # with another seed
        for mine, theirs in zip(copies, params, strict=True):
            mine[...] = theirs
        if way == "file":
            fastopt.save(tmp_path / "run", optimizer)
            fastopt.load(tmp_path / "run", other)
        else:
            other.load_state_dict(optimizer.state_dict(encoded=way == "encoded"))
    for each in (optimizer, other):
        steps(each, 3, 6)
    for mine, theirs in zip(copies, params, strict=True):
        assert equal_bits(mine, theirs)


def test_counts_of_steps_are_saved_where_torch_has_none() -> None:
    param = np.zeros(10, BFLOAT16)
    optimizer = fastopt.SGD(param, momentum=0.5, stochastic_rounding=True)
    for _ in range(3):
        optimizer.step(np.ones(10, BFLOAT16))
    saved = optimizer.state_dict()
    assert saved["state"][0]["step"] == 3
    assert saved["seed"] == 0


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, None], ids=str)
def test_damaged_seeds_are_refused(seed: Any) -> None:
    optimizer, _ = make(seed=11)
    steps(optimizer, 0, 1)
    saved = {**optimizer.state_dict(), "seed": seed}
    other, _ = make(seed=12)
    with pytest.raises((TypeError, ValueError), match=r"state_dict\['seed'\] must be"):
        other.load_state_dict(saved)
    assert other.state_dict()["seed"] == 12


def test_float32_is_not_rounded() -> None:
    params = [np.ones(10, np.float32), np.ones(10, np.float32)]
    fastopt.Adam(params[0], stochastic_rounding=True).step(np.full(10, 0.3, np.float32))
    fastopt.Adam(params[1]).step(np.full(10, 0.3, np.float32))
    assert equal_bits(*params)

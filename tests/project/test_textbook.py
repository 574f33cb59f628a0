"""The textbook's updates in NumPy, written independently of the kernels, agree with fastopt's in float64."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case

import fastopt
from fastopt.definitions.specs import SPECS
from fastopt.examples import char_rnn
from fastopt.examples.textbook import TEXTBOOK

TOLERANCE = 1e-4
"""Results count as equal within this share of the distance that an element moves, apart from rounding."""


def find_expected(
    name: str, start: np.ndarray, gradients: Sequence[np.ndarray], settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """The result of steps with these gradients, computed in float64, and the limit within which results count as equal.

    The limit of each element is the sum of three parts: `TOLERANCE` of the distance that the element moves, back and
    forth included; one rounding to the dtype of `start` for each step; and the effect of gradients that are off by a
    few roundings. The last part matters if the sign of a sum decides, as in Lion: for a sum near zero, rounding can
    change the sign.
    """
    floats = np.finfo(start.dtype)
    params, way = _follow(name, start, gradients, settings, 0)
    limit = TOLERANCE * way + len(gradients) * (floats.eps * (np.abs(start) + way) + floats.tiny / floats.eps)
    for share in (8 * floats.eps, -8 * floats.eps):
        limit += np.abs(_follow(name, start, gradients, settings, share)[0] - params)
    return params, limit


def _follow(
    name: str, start: np.ndarray, gradients: Sequence[np.ndarray], settings: Mapping[str, Any], share: float
) -> tuple[np.ndarray, np.ndarray]:
    """The result of steps, and how far each element moved; gradients are alternately larger and smaller by `share`."""
    params = start.astype(np.float64)
    optimizer = TEXTBOOK[name](params, **settings)
    way = np.zeros_like(params)
    for number, gradient in enumerate(gradients):
        before = params.copy()
        optimizer.step(gradient.astype(np.float64) * (1 + (-1) ** number * share))
        way += np.abs(params - before)
    return params, way


def is_equal(result: np.ndarray, expected: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether a result is within the limit of `find_expected`. NaN never is."""
    goal, limit = expected
    return bool(np.all(np.abs(result - goal) <= limit))


def test_every_optimizer_has_a_textbook_update() -> None:
    assert TEXTBOOK.keys() == SPECS.keys()


@pytest.mark.parametrize("settings", [{}, char_rnn.SETTINGS], ids=["defaults", "settings"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SPECS)
def test_textbook_updates_are_fastopts(name: str, dtype: type, settings: dict[str, dict[str, object]]) -> None:
    random = np.random.default_rng(0)
    start = random.normal(size=1000).astype(dtype)
    gradients = [random.normal(size=1000).astype(dtype) for _ in range(10)]
    ours, theirs = start.copy(), start.copy()
    hyperparameters = settings.get(name, {})
    ours_optimizer = getattr(fastopt, name)(ours, **hyperparameters)
    theirs_optimizer = TEXTBOOK[name](theirs, **hyperparameters)
    for gradient in gradients:
        ours_optimizer.step(gradient)
        theirs_optimizer.step(gradient)
    assert not np.array_equal(ours, start)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 if dtype is np.float32 else 1e-13)
    expected = find_expected(name, start, gradients, hyperparameters)
    assert is_equal(ours, expected)
    assert is_equal(theirs, expected)


def textbook_arguments(case: Case) -> dict[str, Any]:
    """The hyperparameters of a case that the textbook takes; its weight decay is decoupled."""
    taken = inspect.signature(TEXTBOOK[case.optimizer]).parameters.keys()
    found = {name: value for name, value in case.options.items() if name in taken}
    if not {**case.spec.defaults, **case.options}.get("decoupled_weight_decay", True):
        found.pop("weight_decay", None)
    return found


FULL = list(
    {
        str(each): each
        for case in CASES
        for each in [Case(case.optimizer, textbook_arguments(case))]
        if case.spec.rule({**case.spec.defaults, **each.options})
        == case.spec.rule({**case.spec.defaults, **case.options})
    }.values()
)
"""Every optimizer with all hyperparameters that the textbook has."""


@pytest.mark.parametrize("case", FULL, ids=str)
def test_trajectories_with_all_hyperparameters(case: Case) -> None:
    """In float64, to 1e-12, after each of 40 steps with gradients of many sizes, some of them zero."""
    random = np.random.default_rng(1)
    start = random.normal(size=200)
    ours, theirs = start.copy(), start.copy()
    decoupled = {"decoupled_weight_decay": True} if "weight_decay" in case.options and not case.spec.fixed else {}
    decoupled = decoupled if "decoupled_weight_decay" in case.spec.defaults else {}
    optimizer, textbook = case.make(ours, **decoupled), TEXTBOOK[case.optimizer](theirs, **case.options)
    for _ in range(40):
        gradient = random.normal(size=200) * 10 ** random.uniform(-3, 1, 200) * (random.random(200) < 0.9)
        optimizer.step(gradient)
        textbook.step(gradient)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
        names = optimizer.spec.states(optimizer.param_groups[0])
        for name, state in zip(names, textbook.states, strict=True):
            np.testing.assert_allclose(optimizer.state[0][name], state, rtol=1e-11, atol=1e-13, err_msg=name)
    assert not np.array_equal(ours, start)


@pytest.mark.parametrize("name", SPECS)
def test_one_element_that_goes_one_percent_too_far_is_not_equal(name: str) -> None:
    random = np.random.default_rng(0)
    start, *gradients = random.normal(size=(5, 64)).astype(np.float32)
    params = start.copy()
    options = {"d0": 0.1} if "d0" in SPECS[name].defaults else {}  # with its default, steps are as small as rounding
    optimizer = getattr(fastopt, name)(params, **options)
    for gradient in gradients:
        before = params[7]
        optimizer.step(gradient)
        params[7] += 1e-2 * (params[7] - before)
    assert not is_equal(params, find_expected(name, start, gradients, options))


def test_nan_is_not_equal() -> None:
    ones = np.ones(8, np.float32)
    assert not is_equal(np.full(8, np.nan, np.float32), find_expected("SGD", ones, [ones], {}))

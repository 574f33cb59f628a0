"""Settings of single parameters: as if each were in a group of its own, in one native call."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, PLAIN, Case, equal_bits

import fastopt

NAMES = ("W", "b", "embedding")
by_backend = pytest.mark.parametrize("backend", BACKENDS)


def params() -> dict[str, np.ndarray]:
    return {name: np.linspace(-1, 1, 10 + index) for index, name in enumerate(NAMES)}


def gradients(step: int) -> dict[str, np.ndarray]:
    return {name: np.cos(np.arange(10 + index) + step) for index, name in enumerate(NAMES)}


@by_backend
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_as_if_each_were_in_a_group_of_its_own(case: Case, backend: str) -> None:
    mine, theirs = params(), params()
    optimizer = case.make(mine, backend=backend)
    groups: list[dict[str, Any]] = [{"params": [theirs[name]]} for name in NAMES]
    if case.spec.uses_lr:
        scale = {} if case.spec.common else {"lr_scale": 0.25}
        optimizer.set_segments("W", **scale, weight_decay=0.5)
        optimizer.set_segments(1, weight_decay=0)
        groups[0].update(lr=optimizer.param_groups[0]["lr"] * scale.get("lr_scale", 1), weight_decay=0.5)
        groups[1].update(weight_decay=0.0)
    optimizer.set_segments(["embedding"], frozen=True)
    apart = case.make(groups, backend=backend)
    for step in range(4):
        gradient = gradients(step)
        optimizer.step(gradient)
        apart.step([[gradient["W"]], [gradient["b"]], [None]])
    for name in NAMES:
        assert equal_bits(mine[name], theirs[name])
    assert equal_bits(mine["embedding"], params()["embedding"])
    optimizer.set_segments("embedding", frozen=False)
    for step in (5, 6):  # the first step of some moves nothing
        optimizer.step(gradients(step))
    assert not equal_bits(mine["embedding"], params()["embedding"])


@by_backend
def test_rates_that_differ_in_nothing_else(backend: str) -> None:
    mine = {name: np.zeros(3) for name in NAMES}
    optimizer = fastopt.SGD(mine, lr=1.0, backend=backend)
    optimizer.set_segments("b", lr_scale=0.5)
    optimizer.step({name: np.ones(3) for name in NAMES})
    assert [param[0] for param in mine.values()] == [-1, -0.5, -1]


@by_backend
def test_groups_that_differ_in_nothing_that_segments_have(backend: str) -> None:
    mine = [np.zeros(3), np.zeros(3)]
    groups = [{"params": mine[0]}, {"params": mine[1], "maximize": True}]
    fastopt.SGD(groups, lr=1.0, backend=backend).step([np.ones(3), np.ones(3)])
    assert [param[0] for param in mine] == [-1, 1]


SELECTIONS: list[tuple[Any, list[int]]] = [
    ("b", [1]),
    (2, [2]),
    (["W", "embedding"], [0, 2]),
    ([True, False, True], [0, 2]),
    (np.array([False, True, False]), [1]),
    (lambda name, param: "b" in name, [1, 2]),
    (lambda name, param: param.size > 11, [2]),
    ([], []),
]


@pytest.mark.parametrize(("which", "expected"), SELECTIONS)
def test_selections(which: Any, expected: list[int]) -> None:
    optimizer = fastopt.Adam(params())
    optimizer.set_segments(which, lr_scale=0.5, frozen=True)
    assert [index for index, each in enumerate(optimizer.segments) if each.frozen] == expected
    assert [index for index, each in enumerate(optimizer.segments) if each.lr_scale == 0.5] == expected


def test_selections_in_groups() -> None:
    groups = [{"params": {"W": np.ones(2), "b": np.ones(2)}}, {"params": {"W": np.ones(3)}}, {"params": [np.ones(1)]}]
    optimizer = fastopt.SGD(groups)
    assert [(each.name, each.group) for each in optimizer.segments] == [("W", 0), ("b", 0), ("W", 1), (3, 2)]
    optimizer.set_segments("b", frozen=True)
    optimizer.set_segments(3, lr_scale=2)
    with pytest.raises(ValueError, match=r"'W' is a parameter in groups \[0, 1\]"):
        optimizer.set_segments("W", frozen=True)
    assert [each.frozen for each in optimizer.segments] == [False, True, False, False]


def test_weight_decay_can_go_back_to_the_group_s() -> None:
    optimizer = fastopt.SGD({"w": np.ones(1)}, lr=1.0, weight_decay=0.5)
    optimizer.set_segments("w", weight_decay=0)
    assert optimizer.segments[0].weight_decay == 0
    optimizer.step({"w": np.zeros(1)})
    assert optimizer.param_groups[0]["params"][0] == 1
    optimizer.set_segments("w", weight_decay=None)
    assert optimizer.segments[0].weight_decay is None
    optimizer.step({"w": np.zeros(1)})
    assert optimizer.param_groups[0]["params"][0] == 0.5


def test_kept_by_copies_and_by_new_groups() -> None:
    optimizer = fastopt.Adam(params())
    optimizer.set_segments("W", lr_scale=0.5, weight_decay=0.1)
    optimizer.add_param_group({"params": {"new": np.ones(3)}})
    for each in (optimizer, copy.deepcopy(optimizer)):
        first = each.segments[0]
        assert (first.name, first.lr_scale, first.weight_decay) == ("W", 0.5, 0.1)
        assert each.segments[3].name == "new"
    twin = copy.deepcopy(optimizer)
    twin.set_segments("W", lr_scale=1)
    assert optimizer.segments[0].lr_scale == 0.5


def test_group_lasso_uses_the_scaled_rate() -> None:
    param = np.array([3.0, 4.0])
    optimizer = fastopt.SGD({"w": param}, lr=1.0, prox=fastopt.constraints.GroupLasso(1.0))
    optimizer.set_segments("w", lr_scale=2.5)
    optimizer.step({"w": np.zeros(2)})
    assert param == pytest.approx([1.5, 2.0])


WRONG: list[tuple[str, Any, dict[str, Any], type[Exception], str]] = [
    ("Adam", "nothing", {"frozen": True}, ValueError, "no parameter 'nothing'.*'W', 'b', 'embedding'"),
    ("Adam", [True, False], {"frozen": True}, ValueError, "one value for each of 3 parameters, got 2"),
    ("Adam", np.ones((2, 2), bool), {"frozen": True}, ValueError, "one dimension"),
    ("Adam", True, {"frozen": True}, TypeError, "by name or position.*got True"),
    ("Adam", "W", {}, TypeError, "nothing to set"),
    ("Adam", "W", {"frozen": 1}, TypeError, "frozen must be True or False, got 1"),
    ("Adam", "W", {"lr_scale": -1}, ValueError, "lr_scale must be finite and at least 0, got -1"),
    ("Adam", "W", {"lr_scale": float("nan")}, ValueError, "lr_scale must be finite.*nan"),
    ("Adam", "W", {"lr_scale": "1"}, TypeError, "lr_scale must be a real number, got '1'"),
    ("Adam", "W", {"lr_scale": None}, TypeError, "lr_scale must be a real number, got None"),
    ("Adam", "W", {"weight_decay": -0.5, "frozen": True}, ValueError, "weight_decay must be finite.*-0.5"),
    ("Rprop", "W", {"lr_scale": 0.5}, ValueError, "lr_scale has no effect.*Rprop"),
    ("Rprop", "W", {"weight_decay": 0.5}, ValueError, "Rprop has no weight_decay"),
]


@pytest.mark.parametrize(("name", "which", "values", "error", "match"), WRONG)
def test_wrong_settings_change_nothing(
    name: str, which: Any, values: dict[str, Any], error: type[Exception], match: str
) -> None:
    optimizer = getattr(fastopt, name)(params())
    before = optimizer.segments
    with pytest.raises(error, match=match):
        optimizer.set_segments(which, **values)
    assert optimizer.segments == before

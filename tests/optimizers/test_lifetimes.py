"""Arrays and optimizers are freed with the last reference to them: nothing that fastopt makes is a reference cycle."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, PLAIN, Case, extra_options
from lifetimes import Watched, without_garbage_collection

import fastopt
import fastopt.tuning

Situation = Callable[[list[np.ndarray], Any, Watched], None]


def gradients(params: list[np.ndarray]) -> list[np.ndarray]:
    return [np.full_like(param, 0.5) for param in params]


def steps(params: list[np.ndarray], optimizer: Any, watched: Watched) -> None:
    for _ in range(3):
        optimizer.step(gradients(params))


def changed_rates(params: list[np.ndarray], optimizer: Any, watched: Watched) -> None:
    steps(params, optimizer, watched)
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.set_segments([0], lr_scale=0.5)
    steps(params, optimizer, watched)


def a_new_group(params: list[np.ndarray], optimizer: Any, watched: Watched) -> None:
    steps(params, optimizer, watched)
    new = np.ones(2, np.float32)
    watched.add("parameter", new)
    optimizer.add_param_group({"params": [new]})
    optimizer.step([gradients(params), [np.ones(2, np.float32)]])


def state_dicts(params: list[np.ndarray], optimizer: Any, watched: Watched) -> None:
    steps(params, optimizer, watched)
    optimizer.load_state_dict(optimizer.state_dict())
    steps(params, optimizer, watched)


def copies(params: list[np.ndarray], optimizer: Any, watched: Watched) -> None:
    steps(params, optimizer, watched)
    for other_params, other in (
        copy.deepcopy((params, optimizer)),
        pickle.loads(pickle.dumps((params, optimizer))),
    ):
        steps(other_params, other, watched)
        watched.add("copy", other)
        watched.add_all("parameter of a copy", other_params)


def errors(params: list[np.ndarray], optimizer: Any, watched: Watched) -> None:
    for bad in ([np.ones(1, np.float32)] * 2, gradients(params)[:1], None):
        with pytest.raises((TypeError, ValueError)):
            optimizer.step(bad)
    steps(params, optimizer, watched)


def plateau(params: list[np.ndarray], optimizer: Any, watched: Watched) -> None:
    reduce = fastopt.ReduceOnPlateau(optimizer, patience=0)
    watched.add("plateau", reduce)
    for _ in range(3):
        steps(params, optimizer, watched)
        reduce.step(1.0)


def guard(params: list[np.ndarray], optimizer: Any, watched: Watched) -> None:
    made = fastopt.DivergenceGuard(optimizer, on_divergence="restore")
    watched.add("guard", made)
    for loss in (1.0, 1.0, float("nan"), 1.0):
        made.step(loss, gradients(params))


def tuning(params: list[np.ndarray], optimizer: Any, watched: Watched) -> None:
    def closure(step: int) -> Any:
        return float(sum((param**2).sum() for param in params)), [2 * param for param in params]

    watched.add("range test", fastopt.tuning.range_test(optimizer, closure, points=10))


SITUATIONS: tuple[Situation, ...] = (
    steps,
    changed_rates,
    a_new_group,
    state_dicts,
    copies,
    errors,
    plateau,
    guard,
    tuning,
)


def check(situation: Situation, make: Callable[[list[np.ndarray]], Any]) -> None:
    with without_garbage_collection() as watched:
        params = [np.ones((3, 2), np.float32), np.ones(4, np.float32)]
        optimizer = make(params)
        situation(params, optimizer, watched)
        watched.add("optimizer", optimizer)
        watched.add_all("parameter", params)
        watched.add_all(
            "state", (array for own in optimizer.state.values() for array in own.values() if np.ndim(array))
        )
        del params, optimizer


@pytest.mark.parametrize("backend", ["cython", "reference"])
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_each_class(case: Case, backend: str) -> None:
    check(steps, lambda params: case.make(params, backend=backend))


@pytest.mark.parametrize("options", extra_options().values(), ids=extra_options())
def test_each_option(options: dict[str, Any]) -> None:
    check(steps, lambda params: fastopt.SGD(params, lr=0.1, **options))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.__name__)
def test_each_situation(situation: Situation, backend: str) -> None:
    check(situation, lambda params: fastopt.Adam(params, backend=backend))


def test_bound_gradients_and_schedules() -> None:
    with without_garbage_collection() as watched:
        params = [np.ones(3, np.float32)]
        bound = gradients(params)
        schedule = fastopt.schedules.CosineDecay(0.1, 10)
        optimizer = fastopt.Adam(params, lr=schedule, grads=bound)
        optimizer.step()
        watched.add_all("array", [*params, *bound])
        watched.add("optimizer", optimizer)
        watched.add("schedule", schedule)
        del params, bound, schedule, optimizer


def leave_a_cycle() -> None:
    class Item:
        itself: Any

    with without_garbage_collection() as watched:
        item = Item()
        item.itself = item
        watched.add("item", item)
        del item


def test_a_cycle_would_be_found() -> None:
    with pytest.raises(AssertionError, match="item 0"):
        leave_a_cycle()

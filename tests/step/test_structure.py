"""A change of numbers keeps the engine, any other change builds one; both give the bits of a new optimizer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, equal_bits

import fastopt
from fastopt import constraints as c
from fastopt.kernels import backends
from fastopt.kernels.engine.plan import GroupPlan
from fastopt.kernels.python.compiled_engine import WithAddress
from fastopt.step.options import GROUP_OPTIONS, STEP_OPTIONS, read_step_options
from fastopt.step.planning import Planner
from fastopt.step.structure import structure_key

SHAPES = ((4, 5), (7,))

NUMBERS: dict[str, list[tuple[Any, Any]]] = {
    "clip_norm": [(0.5, 0.4)],
    "clip_value": [(0.5, 0.1)],
    "projection": [
        (c.Box(-1, 1), c.Box(-0.5, 0.25)),
        (c.Box(-1, 1), c.NonNegative()),
        (c.NonNegative(), c.Box(high=0.5)),
        (c.L2Ball(1.0), c.L2Ball(0.25)),
        (c.L1Ball(2.0, per="row"), c.L1Ball(0.5, per="row")),
        (c.Simplex(1.0), c.Simplex(2.0)),
    ],
    "prox": [
        (c.L1(0.1), c.L1(0.2)),
        (c.L1(0.1), c.L2(0.3)),
        (c.L2(0.1), c.ElasticNet(0.1, 0.2)),
        (c.ElasticNet(0.1, 0.2), c.L1(0.1)),
        (c.GroupLasso(0.5), c.GroupLasso(0.25)),
    ],
}
"""For each option of a group, values that differ in nothing but numbers."""

STRUCTURES: dict[str, list[tuple[Any, Any]]] = {
    "clip_norm": [(None, 0.5), (0.5, None)],
    "clip_value": [(None, 0.1), (0.1, None)],
    "projection": [
        (None, c.Box(-0.5, 0.25)),
        (c.NonNegative(), None),
        (c.Box(-0.5, 0.25), c.L2Ball(0.5)),
        (c.L2Ball(0.5), c.L1Ball(0.5)),
        (c.L2Ball(0.5), c.L2Ball(0.5, per="row")),
        (c.L1Ball(0.5), c.Simplex(0.5)),
        (c.Simplex(), c.NonNegative()),
    ],
    "prox": [
        (None, c.L1(0.1)),
        (c.L2(0.1), None),
        (c.ElasticNet(0.1, 0.2), c.GroupLasso(0.5)),
        (c.GroupLasso(0.5), c.GroupLasso(0.5, per="param")),
    ],
}
"""For each of them, values that are computed differently."""

FIXED: dict[str, list[tuple[Any, Any]]] = {
    "state_dtype": [
        (None, "float8"),
        ("bfloat16", {"exp_avg": "bfloat16"}),
        ({"exp_avg": "float8"}, {"exp_avg_sq": "float8"}),
    ],
}
"""Options of a group that are fixed at construction, and values that are computed differently."""

NUMBERS_OF_STEP: dict[str, tuple[Any, Any]] = {
    "grad_scale": (1.0, 4.0),
    "max_grad_norm": (0.5, 0.25),
    "ema_decay": (0.5, 0.75),
    "ema_warmup": (False, True),
    "ema_overwrite_frequency": (2, 3),
    "seed": (0, 2**64 - 1),
}
STRUCTURES_OF_STEP: dict[str, list[tuple[Any, Any]]] = {
    "backend": [("cython", "reference")],
    "n_threads": [(None, 1), (1, 2)],
    "convention": [("torch", "keras")],
    "flush_denormals": [(True, False)],
    "max_grad_norm": [(None, 0.5)],
    "nonfinite": [("propagate", "skip"), ("skip", "raise")],
    "max_consecutive_skips": [(None, 1), (1, 2)],
    "accumulate_steps": [(1, 2), (2, 3)],
    "ema_decay": [(None, 0.5)],
    "ema_overwrite_frequency": [(None, 2)],
    "zero_grads": [(False, True)],
    "stochastic_rounding": [(False, True)],
    "master_weights": [(False, True)],
}
"""The same for the options of a step, most of which are fixed at construction."""

NEEDS: dict[str, dict[str, Any]] = {
    "ema_overwrite_frequency": {"ema_decay": 0.5},
    "ema_warmup": {"ema_decay": 0.5},
    "max_consecutive_skips": {"nonfinite": "skip"},
    "seed": {"stochastic_rounding": True},
}

by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_numbers = pytest.mark.parametrize(
    ("name", "before", "after"), [(name, *pair) for name, pairs in NUMBERS.items() for pair in pairs], ids=str
)
by_structures = pytest.mark.parametrize(
    ("name", "before", "after"), [(name, *pair) for name, pairs in STRUCTURES.items() for pair in pairs], ids=str
)


def test_every_option_and_every_constraint_has_a_row() -> None:
    assert NUMBERS.keys() == STRUCTURES.keys() == GROUP_OPTIONS.keys() - FIXED.keys()
    assert FIXED.keys() <= GROUP_OPTIONS.keys()
    assert NUMBERS_OF_STEP.keys() | STRUCTURES_OF_STEP.keys() == STEP_OPTIONS.keys()
    for table in (NUMBERS, STRUCTURES):
        used = {type(value).__name__ for pairs in table.values() for pair in pairs for value in pair}
        assert set(c.__all__) <= used


def make(backend: str = "cython", optimizer: str = "Adam", **options: Any) -> fastopt.Optimizer:
    params = [np.linspace(-2, 3, int(np.prod(shape)), dtype=np.float32).reshape(shape) for shape in SHAPES]
    made: fastopt.Optimizer = getattr(fastopt, optimizer)(params, lr=0.1, backend=backend, **options)
    return made


def step(optimizer: fastopt.Optimizer) -> None:
    size = [int(np.prod(shape)) for shape in SHAPES]
    optimizer.step([np.cos(np.arange(n, dtype=np.float32)).reshape(s) for n, s in zip(size, SHAPES, strict=True)])


def moved(optimizer: fastopt.Optimizer, **options: Any) -> fastopt.Optimizer:
    """A new optimizer, constructed with these options, with the parameters and states of another."""
    other = make(optimizer.backend, type(optimizer).__name__, **options)
    pairs = zip(*(each.param_groups[0]["params"] for each in (other, optimizer)), strict=True)
    for mine, theirs in pairs:
        mine[...] = theirs
    saved = optimizer.state_dict()
    saved["param_groups"][0].pop("lr_schedule", None)  # it is assigned afterwards
    other.load_state_dict(saved)
    return other


def assert_same(optimizer: fastopt.Optimizer, other: fastopt.Optimizer) -> None:
    for index, state in other.state.items():
        params = [each.param_groups[0]["params"][index] for each in (optimizer, other)]
        assert equal_bits(*params)
        assert all(np.array_equal(optimizer.state[index][name], state[name]) for name in state)


def engine_of(optimizer: fastopt.Optimizer) -> Any:
    return optimizer._room.engine


@by_backend
@by_numbers
def test_other_numbers_keep_the_engine(name: str, before: Any, after: Any, backend: str) -> None:
    optimizer = make(backend, **{name: before})
    step(optimizer)
    engine = engine_of(optimizer)
    optimizer.param_groups[0][name] = after
    other = moved(optimizer, **{name: after})
    for each in (optimizer, other):
        step(each)
    assert engine_of(optimizer) is engine
    assert_same(optimizer, other)


@by_backend
@by_structures
def test_another_structure_builds_an_engine(name: str, before: Any, after: Any, backend: str) -> None:
    optimizer = make(backend, **{name: before})
    step(optimizer)
    engine = engine_of(optimizer)
    optimizer.param_groups[0][name] = after
    other = moved(optimizer, **{name: after})
    for each in (optimizer, other):
        step(each)
    assert engine_of(optimizer) is not engine
    assert_same(optimizer, other)


@by_backend
@pytest.mark.parametrize(
    ("name", "before", "after", "keeps"),
    [
        ("momentum", 0.5, 0.9, True),
        ("momentum", 0.5, 0.0, False),
        ("weight_decay", 0.0, 0.1, True),
        ("dampening", 0.0, 0.1, True),
        ("maximize", False, True, True),
        ("nesterov", False, True, False),
        ("lr", 0.1, 0.2, True),
        ("lr", 0.1, fastopt.schedules.InverseTimeDecay(0.75, 1, 0.5), True),
    ],
)
def test_hyperparameters_are_numbers_until_they_choose_another_rule(
    name: str, before: Any, after: Any, keeps: bool, backend: str
) -> None:
    optimizer = make(backend, "SGD", momentum=0.5)
    optimizer.param_groups[0][name] = before
    step(optimizer)
    engine = engine_of(optimizer)
    optimizer.param_groups[0][name] = after
    other = moved(optimizer, momentum=0.5)
    other.param_groups[0][name] = after
    for each in (optimizer, other):
        step(each)
    assert (engine_of(optimizer) is engine) == keeps
    assert_same(optimizer, other)


@by_backend
@pytest.mark.parametrize(
    "values", [{"lr_scale": 0.5}, {"weight_decay": 0.25}, {"frozen": True}, {"lr_scale": 0.5, "frozen": True}], ids=str
)
def test_settings_of_segments_keep_the_engine(values: dict[str, Any], backend: str) -> None:
    optimizer = make(backend, "SGD", momentum=0.9)
    step(optimizer)
    engine = engine_of(optimizer)
    settings: dict[str, Any] = {"lr_scale": 1, "weight_decay": None, "frozen": False}
    for each in (values, {name: settings[name] for name in values}):
        optimizer.set_segments(0, **each)
        twin = copy.deepcopy(optimizer)  # whose engine begins with these settings
        step(optimizer)
        step(twin)
        assert engine_of(optimizer) is engine
        assert_same(optimizer, twin)


@by_backend
@pytest.mark.parametrize("name", ["grad_scale", "max_grad_norm"])
def test_options_of_the_step_that_can_change_are_numbers(name: str, backend: str) -> None:
    before, after = NUMBERS_OF_STEP[name]
    optimizer = make(backend, **{name: before})
    step(optimizer)
    engine = engine_of(optimizer)
    setattr(optimizer, name, after)
    other = moved(optimizer, **{name: after})
    for each in (optimizer, other):
        step(each)
    assert engine_of(optimizer) is engine
    assert_same(optimizer, other)


@by_numbers
def test_apply_changes_accepts_numbers(name: str, before: Any, after: Any) -> None:
    optimizer = make(**{name: before})
    optimizer.param_groups[0][name] = after
    optimizer.set_segments(0, lr_scale=0.5, weight_decay=0.5, frozen=True)
    optimizer.apply_changes()


@by_structures
def test_apply_changes_refuses_another_structure(name: str, before: Any, after: Any) -> None:
    optimizer = make(**{name: before})
    optimizer.param_groups[0][name] = after
    with pytest.raises(RuntimeError, match="changes what a step does, not only its numbers"):
        optimizer.apply_changes()


@pytest.mark.parametrize(
    ("name", "before", "after"), [(name, *pair) for name, pairs in FIXED.items() for pair in pairs], ids=str
)
def test_what_is_fixed_can_be_assigned_its_own_value_only(name: str, before: Any, after: Any) -> None:
    optimizer = make(**{name: before})
    optimizer.param_groups[0][name] = before
    with pytest.raises(ValueError, match=f"{name} is fixed at construction"):
        optimizer.param_groups[0][name] = after
    assert optimizer.param_groups[0][name] == before


def without_numbers(plan: GroupPlan) -> list[Any]:
    """A plan without the values that an engine takes over."""

    def same(function: Any) -> Any:  # Without the compiled module, these are new objects each time.
        return function.compiled.args if isinstance(function, WithAddress) else getattr(function, "address", function)

    stages = [(same(each.function), len(each.arguments), each.positions, each.carried) for each in plan.stages]
    programs = [
        (name, [(same(each.loop), each.operands, each.pick) for each in operations])
        for name, operations in plan.programs.items()
    ]
    rows = [(same(each.sum), same(each.function), same(each.loop), each.start, each.iterates) for each in plan.rows]
    return [
        stages,
        programs,
        rows,
        plan.rows_after,
        len(plan.operands),
        same(plan.sum),
        same(plan.sum_of_squares),
        plan.accumulator,
    ]


def planned(name: str, value: Any) -> tuple[Any, list[Any]]:
    """The structure of Adam with this option, and its plan without numbers."""
    spec = fastopt.Adam.spec
    group = {**spec.defaults, **{each: option.default for each, option in GROUP_OPTIONS.items()}}
    options = read_step_options({**NEEDS.get(name, {}), **({name: value} if name in STEP_OPTIONS else {})})
    group.update({name: value} if name in GROUP_OPTIONS else {})
    planner = Planner(spec, backends.load("cython"), np.dtype(np.float32), options)
    return structure_key(spec, group, options), without_numbers(planner.group_plan(group, 0.1))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        *((name, *pair) for name, pairs in NUMBERS.items() for pair in pairs),
        *((name, *pair) for name, pair in NUMBERS_OF_STEP.items()),
    ],
    ids=str,
)
def test_plans_of_one_structure_differ_in_numbers_only(name: str, before: Any, after: Any) -> None:
    assert planned(name, before) == planned(name, after)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (name, *pair)
        for table in (STRUCTURES, FIXED, STRUCTURES_OF_STEP)
        for name, pairs in table.items()
        for pair in pairs
    ],
    ids=str,
)
def test_values_that_are_computed_differently_have_other_keys(name: str, before: Any, after: Any) -> None:
    assert planned(name, before)[0] != planned(name, after)[0]

"""Hypothesis's state machine: whatever users can do to an optimizer, in any order, done to one of each backend at once.

After every operation parameters, states, step counts and groups have the same bits in all backends. What raised has
changed nothing; what was copied or loaded is what it was when it was saved; a count is the number of steps taken.
"""

from __future__ import annotations

import copy
import inspect
import os
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import BACKENDS, CASES, DTYPES, TURNED_ON, Case, equal_bits, random_gradient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import fastopt
from fastopt.specs import HYPERPARAMETERS, SPECS

SHAPES = ((), (0,), (1,), (3,), (2, 0, 3), (7, 9), (64,), (65,), (3, 43), (200,), (1025,))
LAYOUTS = ("array", "list", "dict")

# Tried as the value of every hyperparameter; which of them are good is for the table of hyperparameters to say.
VALUES: tuple[Any, ...] = (
    *(0.0, 1e-8, 0.01, 0.1, 0.5, 0.9, 0.999, 1.0, 1.5, True, False, None),
    *((0.0, 0.0), (0.5, 0.99), (0.9, 0.999), (0.5, 1.2), (0.25, 4.0), (1e-6, 50.0), (0.01, 0.02)),
    *(-1, -0.5, float("nan"), "fast", 1j, (0.5,), (1.0, 0.5, 0.1), (-1.0, 2.0), (0.5, "b"), (2.0, 1.0)),
)


def is_valid(name: str, value: Any) -> bool:
    try:
        HYPERPARAMETERS[name].convert(value)
    except (TypeError, ValueError):
        return False
    return True


VALID = {name: [value for value in VALUES if is_valid(name, value)] for name in HYPERPARAMETERS}
INVALID = {name: [value for value in VALUES if not is_valid(name, value)] for name in HYPERPARAMETERS}


class Content(NamedTuple):
    """All that an optimizer holds, copied."""

    params: list[np.ndarray]
    states: list[dict[str, np.ndarray]]
    steps: list[int]
    groups: list[dict[str, Any]]


def content(optimizer: fastopt.Optimizer) -> Content:
    params = [param.copy() for group in optimizer.param_groups for param in group["params"]]
    states = [{name: np.copy(value) for name, value in optimizer.state[index].items()} for index in optimizer.state]
    steps = [int(state.pop("step")) for state in states]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return Content(params, states, steps, groups)


def assert_same_states(expected: Content, actual: Content, stepped_only: bool = False) -> None:
    assert len(expected.states) == len(actual.states)
    for index, (mine, theirs) in enumerate(zip(expected.states, actual.states, strict=True)):
        if expected.steps[index] or not stepped_only:
            assert mine.keys() == theirs.keys(), f"states of parameter {index}"
            for name, state in mine.items():
                assert equal_bits(state, theirs[name]), f"{name} of parameter {index}"


def assert_same(expected: Content, actual: Content, stepped_only: bool = False) -> None:
    for index, (mine, theirs) in enumerate(zip(expected.params, actual.params, strict=True)):
        assert equal_bits(mine, theirs), f"parameter {index}"
    assert_same_states(expected, actual, stepped_only)
    assert expected.steps == actual.steps
    assert expected.groups == actual.groups


class Saved(NamedTuple):
    state_dict: dict[str, Any]
    content: Content
    sizes: list[int]


def spoil_state(change: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], bool]:
    """Change the first array of the last parameter's state; False where there is none."""

    def spoil(state_dict: dict[str, Any]) -> bool:
        for state in reversed(list(state_dict["state"].values())):
            for name, value in state.items():
                if isinstance(value, np.ndarray):
                    state[name] = change(value)
                    return True
        return False

    return spoil


def spoil_group(key: str, value: Any) -> Callable[[dict[str, Any]], bool]:
    def spoil(state_dict: dict[str, Any]) -> bool:
        state_dict["param_groups"][-1][key] = value
        return True

    return spoil


def spoil_step(value: Any) -> Callable[[dict[str, Any]], bool]:
    def spoil(state_dict: dict[str, Any]) -> bool:
        for state in state_dict["state"].values():
            state["step"] = value
        return any(any(name != "step" for name in state) for state in state_dict["state"].values())

    return spoil


def add_group(state_dict: dict[str, Any]) -> bool:
    state_dict["param_groups"].append(state_dict["param_groups"][0])
    return True


SPOILED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "shape": spoil_state(lambda array: np.zeros((*array.shape, 2), array.dtype)),
    "dtype": spoil_state(lambda array: np.zeros(array.shape, np.float16)),
    "kind": spoil_state(lambda array: "zeros"),
    "negative step": spoil_step(-1),
    "half a step": spoil_step(1.5),
    "endless": spoil_step(float("inf")),
    "too many steps": spoil_step(2**63),
    "unknown key": spoil_group("rho", 1.0),
    "bad lr": spoil_group("lr", -1.0),
    "too many parameters": spoil_group("params", list(range(99))),
    "group too many": add_group,
}


class Operations(RuleBasedStateMachine):
    """One optimizer of each backend; `layouts` and `shapes` say, for each group, how its parameters were given."""

    saved = Bundle("saved")

    @initialize(
        name=st.sampled_from(sorted(SPECS)),
        dtype=st.sampled_from(DTYPES),
        groups=st.lists(
            st.tuples(st.sampled_from(LAYOUTS), st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3)),
            min_size=1,
            max_size=3,
        ),
        grouped=st.booleans(),
        data=st.data(),
    )
    def create(self, name: str, dtype: Any, groups: list[Any], grouped: bool, data: st.DataObject) -> None:
        self.spec, self.dtype, self.random = SPECS[name], dtype, np.random.default_rng(1)
        self.cls = getattr(fastopt, name)
        self.groups = groups if grouped else groups[:1]
        self.grouped = grouped
        self.steps = [0 for _, shapes in self.groups for _ in self.used(_, shapes)]
        known = inspect.signature(self.cls).parameters
        options = {key: value for key, value in self.draw_options(data).items() if key in known}
        given = [self.new_params(*group) for group in self.groups]
        own = [self.draw_options(data) if grouped else {} for _ in given]
        try:
            self.twins = [self.make(backend, given, own, options) for backend in BACKENDS]
        except ValueError:  # good one by one, but not together
            self.twins = [self.make(backend, given, [{} for _ in own], {}) for backend in BACKENDS]

    def make(self, backend: str, given: list[Any], own: list[Any], options: dict[str, Any]) -> fastopt.Optimizer:
        groups = [{"params": copy.deepcopy(params), **values} for params, values in zip(given, own, strict=True)]
        made: fastopt.Optimizer = self.cls(groups if self.grouped else groups[0]["params"], backend=backend, **options)
        return made

    def draw_options(self, data: st.DataObject) -> dict[str, Any]:
        choices = {name: st.sampled_from(VALID[name]) for name in self.spec.defaults}
        return data.draw(st.fixed_dictionaries({}, optional=choices), label="hyperparameters")

    @staticmethod
    def used(layout: str, shapes: list[Any]) -> list[Any]:
        return shapes[:1] if layout == "array" else shapes

    def arrange(self, layout: str, arrays: list[Any]) -> Any:
        """Arrays in the layout of a group."""
        if layout == "array":
            return arrays[0]
        return dict(zip("abc", arrays, strict=False)) if layout == "dict" else arrays

    @property
    def sizes(self) -> list[int]:
        return [len(self.used(*group)) for group in self.groups]

    def new_params(self, layout: str, shapes: list[Any]) -> Any:
        used = self.used(layout, shapes)
        return self.arrange(layout, [np.array(self.random.standard_normal(shape), self.dtype) for shape in used])

    def everywhere(self, action: Callable[[fastopt.Optimizer], Any]) -> bool:
        """Do this to all; they agree on whether it works and, where it does not, why, and then nothing has changed."""
        before = [content(twin) for twin in self.twins]
        messages = set()
        for twin in self.twins:
            try:
                action(twin)
                messages.add("")
            except (TypeError, ValueError) as error:
                messages.add(f"{type(error).__name__}: {error}")
        assert len(messages) == 1, messages
        if messages == {""}:
            return True
        for old, twin in zip(before, self.twins, strict=True):
            assert_same(old, content(twin), stepped_only=True)  # others start with what their group says by then
        return False

    def gradients(self, seed: int, skipped: set[int], spoil: Callable[[np.ndarray], Any] | None = None) -> Any:
        random, arranged, index = np.random.default_rng(seed), [], 0
        for layout, shapes in self.groups:
            arrays: list[Any] = []
            for shape in self.used(layout, shapes):
                gradient = np.array(random_gradient(random, shape, self.dtype))
                arrays.append(None if index in skipped else gradient)
                index += 1
            arranged.append(self.arrange(layout, arrays))
            if spoil is not None:
                arranged[-1] = self.arrange(layout, [spoil(gradient)] * len(arrays))
        return arranged if self.grouped else arranged[0]

    @rule(seed=st.integers(0, 2**32 - 1), skipped=st.sets(st.integers(0, 8), max_size=3))
    def step(self, seed: int, skipped: set[int]) -> None:
        if not self.grouped and self.groups[0][0] == "array":
            skipped = set()  # None alone is no gradient, but none given
        gradients = self.gradients(seed, skipped)
        assert self.everywhere(lambda twin: twin.step(gradients))
        self.steps = [step + (index not in skipped) for index, step in enumerate(self.steps)]

    @rule(
        seed=st.integers(0, 2**32 - 1),
        spoil=st.sampled_from(
            (
                lambda gradient: np.zeros(gradient.shape, int),
                lambda gradient: gradient[None],
                lambda gradient: "no array",
            )
        ),
    )
    def step_with_bad_gradients(self, seed: int, spoil: Callable[[np.ndarray], Any]) -> None:
        gradients = self.gradients(seed, set(), spoil)
        assert not self.everywhere(lambda twin: twin.step(gradients))

    @rule(group=st.integers(0, 8), data=st.data())
    def change_a_hyperparameter(self, group: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([*self.spec.initial.values()] * 5 + sorted(self.spec.defaults)))
        value = data.draw(st.sampled_from(VALID[name]))

        self.assign(group, name, value)

    @precondition(lambda self: self.spec.variants)
    @rule(group=st.integers(0, 8), on=st.booleans(), data=st.data())
    def switch_a_variant(self, group: int, on: bool, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.spec.variants))
        self.assign(group, name, TURNED_ON[name] if on else self.spec.defaults[name])

    def assign(self, group: int, name: str, value: Any) -> None:
        def assign(twin: fastopt.Optimizer) -> None:
            twin.param_groups[group % len(self.groups)][name] = value

        self.everywhere(assign)  # not all can be: some need states that are not there, or do not go with others

    @rule(group=st.integers(0, 8), data=st.data())
    def change_to_an_invalid_value(self, group: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.spec.defaults)))
        value = data.draw(st.sampled_from(INVALID[name]))
        assert not self.everywhere(
            lambda twin: twin.param_groups[group % len(self.groups)].update({"lr": 0.25, name: value})
        )

    @rule(target=saved)
    def save(self) -> Saved:
        return Saved(self.twins[0].state_dict(), content(self.twins[0]), self.sizes)

    @rule(one=saved)
    def load(self, one: Saved) -> None:
        fits = one.sizes == self.sizes
        assert self.everywhere(lambda twin: twin.load_state_dict(one.state_dict)) == fits
        if fits:
            now = content(self.twins[0])
            assert_same_states(one.content, now, stepped_only=True)
            assert one.content.groups == now.groups
            self.steps = list(one.content.steps)
            if not self.spec.counts_steps:  # as in torch, only whether there was a first step, where there is a state
                self.steps = [min(step, len(state), 1) for step, state in zip(self.steps, now.states, strict=True)]

    @rule(one=saved, name=st.sampled_from(sorted(SPOILED)))
    def load_a_spoiled_one(self, one: Saved, name: str) -> None:
        spoiled = copy.deepcopy(one.state_dict)
        if one.sizes == self.sizes and SPOILED[name](spoiled):
            assert not self.everywhere(lambda twin: twin.load_state_dict(spoiled))

    @precondition(lambda self: len(self.groups) < 4)
    @rule(layout=st.sampled_from(LAYOUTS), shapes=st.lists(st.sampled_from(SHAPES), max_size=2), data=st.data())
    def add_a_group(self, layout: str, shapes: list[Any], data: st.DataObject) -> None:
        shapes = shapes or [(5,)]
        params, options = self.new_params(layout, shapes), self.draw_options(data)
        if self.everywhere(lambda twin: twin.add_param_group({"params": copy.deepcopy(params), **options})):
            self.groups = [*self.groups, (layout, shapes)]
            self.grouped = True
            self.steps += [0] * len(self.used(layout, shapes))

    @rule(duplicate=st.sampled_from((copy.deepcopy, lambda twin: pickle.loads(pickle.dumps(twin)))))
    def go_on_with_copies(self, duplicate: Callable[[fastopt.Optimizer], fastopt.Optimizer]) -> None:
        originals, self.twins = self.twins, [duplicate(twin) for twin in self.twins]
        for original, twin in zip(originals, self.twins, strict=True):
            old, new = content(original), content(twin)
            assert_same_states(old, new, stepped_only=True)
            assert old.groups == new.groups
            assert old.steps == new.steps
            assert all(equal_bits(mine, theirs) for mine, theirs in zip(old.params, new.params, strict=True))
            assert not any(np.shares_memory(mine, theirs) for mine, theirs in zip(old.params, new.params, strict=True))

    @rule(n_threads=st.sampled_from((None, 1, 2, 3, 4)))
    def set_threads(self, n_threads: int | None) -> None:
        fastopt.set_num_threads(n_threads)

    @invariant()
    def all_backends_hold_the_same(self) -> None:
        first, *others = [content(twin) for twin in self.twins]
        assert first.steps == self.steps
        for other in others:
            assert_same(first, other)


@pytest.mark.usefixtures("threads_always")
def test_any_operations_in_any_order() -> None:
    run_state_machine_as_test(
        Operations,
        settings=settings(
            max_examples=150,
            stateful_step_count=30,
            deadline=None,
            derandomize="CI" in os.environ,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


VARIANTS = [case for case in CASES if any(case.options.get(name) for name in SPECS[case.optimizer].variants)]


@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_a_variant_can_be_switched_off_saved_and_switched_on_again(case: Case) -> None:
    """What the machine above finds only now and then."""
    spec = SPECS[case.optimizer]
    off = {name: spec.defaults[name] for name in spec.variants}
    params = [np.ones(3), np.ones(2)]
    original = case.make(params, grads=[np.ones(3), None])
    original.step()
    before = content(original)
    original.param_groups[0].update(off)
    original.load_state_dict(original.state_dict())
    twin = pickle.loads(pickle.dumps(original))
    for optimizer in (original, twin):
        optimizer.param_groups[0].update({name: case.options.get(name, value) for name, value in off.items()})
        assert_same_states(before, content(optimizer))
        optimizer.step()

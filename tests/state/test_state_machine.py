"""Hypothesis's state machine: whatever users can do to an optimizer, in any order, done to one of each backend at once.

After every operation parameters, states, step counts and groups have the same bits in all backends. What raised has
changed nothing; what was copied or loaded is what it was when it was saved; a count is the number of steps taken. What
is done around the update (see `fastopt.Optimizer`) is drawn too: a small model says which calls update what.
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
from cases import BACKENDS, CASES, DTYPES, TURNED_ON, Case, equal_bits, extra_options, random_gradient
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
from fastopt.definitions.specs import SPECS, Spec
from fastopt.step.options import GROUP_OPTIONS

SHAPES = ((), (0,), (1,), (3,), (2, 0, 3), (7, 9), (64,), (65,), (3, 43), (200,), (1025,))
LAYOUTS = ("array", "list", "dict")

# Tried as the value of every hyperparameter; which of them are good is for the table of hyperparameters to say.
VALUES: tuple[Any, ...] = (
    *(0.0, 1e-8, 0.01, 0.1, 0.5, 0.9, 0.999, 1.0, 1.5, True, False, None),
    *((0.0, 0.0), (0.5, 0.99), (0.9, 0.999), (0.5, 1.2), (0.25, 4.0), (1e-6, 50.0), (0.01, 0.02), (0.5, 0.9, 0.99)),
    *(-1, -0.5, float("nan"), "fast", 1j, (0.5,), (1.0, 0.5, 0.1), (-1.0, 2.0), (0.5, "b"), (2.0, 1.0)),
)


def is_valid(spec: Spec, name: str, value: Any) -> bool:
    try:
        spec.hyperparameters[name].convert(value)
    except (TypeError, ValueError):
        return False
    return True


def valid(spec: Spec, name: str) -> list[Any]:
    return [value for value in VALUES if is_valid(spec, name, value)]


def invalid(spec: Spec, name: str) -> list[Any]:
    return [value for value in VALUES if not is_valid(spec, name, value)]


CONSTRAINTS: dict[str, list[Any]] = {
    name: [None, *(options[name] for options in extra_options().values() if name in options)]
    for name in ("projection", "prox")
}
GROUP_VALUES: dict[str, list[Any]] = {"clip_norm": [None, 0.25, 1e9], "clip_value": [None, 0.1, 1e9], **CONSTRAINTS}
CLIPPING = [{}, *({name: value} for name in ("max_grad_norm", "clip_norm", "clip_value") for value in (0.3, 1e9))]
AROUND = st.fixed_dictionaries(
    {},
    optional={
        "grad_scale": st.sampled_from([0.5, 8.0, 1000.0]),
        "accumulate_steps": st.sampled_from([2, 3]),
        "nonfinite": st.sampled_from(["propagate", "skip", "raise"]),
        "max_consecutive_skips": st.sampled_from([1, 2]),
        "ema_decay": st.sampled_from([0.0, 0.5, 0.9]),
        "ema_warmup": st.just(True),
        "ema_overwrite_frequency": st.sampled_from([1, 2, 3]),
        "zero_grads": st.just(True),
        **{name: st.sampled_from(values[1:]) for name, values in CONSTRAINTS.items()},
    },
)


def draw_around(data: st.DataObject) -> dict[str, Any]:
    """Options of an optimizer that go together; often none."""
    if not data.draw(st.sampled_from([False, True, True, True]), label="anything around the update"):
        return {}
    options = {**data.draw(AROUND, label="options"), **data.draw(st.sampled_from(CLIPPING), label="clipping")}
    if len({each.per for each in (options.get("prox"), options.get("projection")) if hasattr(each, "per")}) > 1:
        del options["prox"]
    if options.get("ema_decay") is None:
        options.pop("ema_overwrite_frequency", None)
        options.pop("ema_warmup", None)
    if options.get("nonfinite") != "skip":
        options.pop("max_consecutive_skips", None)
    return options


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
    calls: int
    pending: list[bool]
    skipped_calls: int
    consecutive: int


def hyperparameters(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key not in GROUP_OPTIONS} for group in groups]


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


def spoil_accumulated(**changes: Any) -> Callable[[dict[str, Any]], bool]:
    def spoil(state_dict: dict[str, Any]) -> bool:
        if "accumulated" not in state_dict:
            return False
        state_dict["accumulated"].update(changes)
        return True

    return spoil


SPOILED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "shape": spoil_state(lambda array: np.zeros((*array.shape, 2), array.dtype)),
    "dtype": spoil_state(lambda array: np.zeros(array.shape, np.float16)),
    "kind": spoil_state(lambda array: "zeros"),
    "negative step": spoil_step(-1),
    "half a step": spoil_step(1.5),
    "endless": spoil_step(float("inf")),
    "too many steps": spoil_step(2**63),
    "unknown key": spoil_group("of_no_optimizer", 1.0),
    "bad lr": spoil_group("lr", -1.0),
    "too many parameters": spoil_group("params", list(range(99))),
    "group too many": add_group,
    "too many calls": spoil_accumulated(calls=99),
    "gradients of others": spoil_accumulated(params=[99]),
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
        self.shapes = [shape for group in self.groups for shape in self.used(*group)]
        self.steps = [0] * len(self.shapes)
        self.pending, self.frozen = [False] * len(self.shapes), [False] * len(self.shapes)
        self.calls = self.skipped_calls = self.consecutive = 0
        self.swapped = False
        known = inspect.signature(self.cls).parameters
        options = {key: value for key, value in self.draw_options(data).items() if key in known}
        self.around = Case(name, {}).possible(draw_around(data))
        given = [self.new_params(*group) for group in self.groups]
        own = [self.draw_options(data) if grouped else {} for _ in given]
        try:
            self.twins = [self.make(backend, given, own, {**options, **self.around}) for backend in BACKENDS]
        except ValueError:  # good one by one, but not together
            self.twins = [self.make(backend, given, [{} for _ in own], self.around) for backend in BACKENDS]

    def make(self, backend: str, given: list[Any], own: list[Any], options: dict[str, Any]) -> fastopt.Optimizer:
        groups = [{"params": copy.deepcopy(params), **values} for params, values in zip(given, own, strict=True)]
        made: fastopt.Optimizer = self.cls(groups if self.grouped else groups[0]["params"], backend=backend, **options)
        return made

    def draw_options(self, data: st.DataObject) -> dict[str, Any]:
        choices = {name: st.sampled_from(valid(self.spec, name)) for name in self.spec.defaults}
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
            except (TypeError, ValueError, RuntimeError, FloatingPointError) as error:
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

    def leaves(self, arranged: Any) -> list[Any]:
        """The gradients of all parameters, of an arrangement of them."""
        parts = arranged if self.grouped else [arranged]
        return [
            each
            for part in parts
            for each in (part.values() if isinstance(part, dict) else part if isinstance(part, list) else [part])
        ]

    def expect(self, skipped: set[int]) -> None:
        """What a call that goes well does to the counts."""
        final = self.calls + 1 >= self.around.get("accumulate_steps", 1)
        for index, pending in enumerate(self.pending):
            if not self.frozen[index] and (index not in skipped or (final and pending)):
                self.steps[index] += final
                self.pending[index] = not final
        self.calls = 0 if final else self.calls + 1
        self.consecutive = 0

    def step_all(self, gradients: Any, skipped: set[int], usable: bool = True) -> None:
        """A step of all, each with gradients of its own: what becomes of them is as the model says."""
        policy, most = self.around.get("nonfinite", "propagate"), self.around.get("max_consecutive_skips", 10**9)
        good = usable or policy == "propagate"
        raises = self.swapped or (not good and (policy == "raise" or self.consecutive >= most))
        before = [content(twin) for twin in self.twins]
        copies = [copy.deepcopy(gradients) for _ in self.twins]
        given = iter(copies)
        assert self.everywhere(lambda twin: twin.step(next(given))) == (not raises)
        if not self.swapped:
            if good:
                self.expect(skipped)
            elif policy == "skip":
                self.skipped_calls += 1
                self.consecutive += 1
                for old, twin in zip(before, self.twins, strict=True):
                    assert_same(old, content(twin), stepped_only=True)
        for each in copies:
            for index, (old, new) in enumerate(zip(self.leaves(gradients), self.leaves(each), strict=True)):
                if old is not None:
                    zeroed = self.around.get("zero_grads") and not raises and not self.frozen[index]
                    assert equal_bits(np.zeros_like(old) if zeroed else old, new), f"gradient {index}"

    @rule(seed=st.integers(0, 2**32 - 1), skipped=st.sets(st.integers(0, 8), max_size=3))
    def step(self, seed: int, skipped: set[int]) -> None:
        if not self.grouped and self.groups[0][0] == "array":
            skipped = set()  # None alone is no gradient, but none given
        self.step_all(self.gradients(seed, skipped), skipped)

    @rule(
        seed=st.integers(0, 2**32 - 1),
        where=st.integers(0, 2**20),
        value=st.sampled_from((np.nan, np.inf, -np.inf)),
        times=st.integers(1, 3),
    )
    def step_with_nonfinite_gradients(self, seed: int, where: int, value: float, times: int) -> None:
        gradients = self.gradients(seed, set())
        leaves = self.leaves(gradients)
        index = where % len(leaves)
        usable = leaves[index].size == 0 or self.frozen[index]
        if leaves[index].size:
            leaves[index].reshape(-1)[where % leaves[index].size] = value
        for _ in range(times):
            self.step_all(gradients, set(), usable)

    @precondition(lambda self: "ema_decay" in self.around)
    @rule()
    def swap_averages(self) -> None:
        before = content(self.twins[0])
        assert self.everywhere(lambda twin: twin.swap_averages())
        self.swapped = not self.swapped
        after = content(self.twins[0])
        for index, (param, state) in enumerate(zip(before.params, before.states, strict=True)):
            assert equal_bits(param, after.states[index]["param_average"])
            assert equal_bits(state["param_average"], after.params[index])

    @precondition(lambda self: self.swapped)
    @rule()
    def nothing_goes_on_between_swaps(self) -> None:
        for call in (
            lambda twin: twin.step(self.gradients(0, set())),
            lambda twin: twin.state_dict(),
            lambda twin: twin.load_state_dict({}),
            lambda twin: twin.add_param_group({"params": np.zeros(1, self.dtype)}),
            copy.deepcopy,
        ):
            assert not self.everywhere(call)

    @rule(scale=st.sampled_from((0.25, 1.0, 4.0, 1000.0, 0, np.inf, "2")))
    def change_grad_scale(self, scale: Any) -> None:
        assert self.everywhere(lambda twin: setattr(twin, "grad_scale", scale)) == (scale in (0.25, 1, 4, 1000))

    @rule(norm=st.sampled_from((0.01, 2.0, np.inf, 0, None, "2")))
    def change_max_grad_norm(self, norm: Any) -> None:
        possible = norm in (0.01, 2, np.inf) if "max_grad_norm" in self.around else norm is None
        assert self.everywhere(lambda twin: setattr(twin, "max_grad_norm", norm)) == possible

    @rule(group=st.integers(0, 8), data=st.data())
    def change_a_group_option(self, group: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(GROUP_VALUES)))
        self.assign(group, name, data.draw(st.sampled_from([*GROUP_VALUES[name], "wrong"])))

    @rule(
        which=st.sets(st.integers(0, 8), min_size=1, max_size=3),
        values=st.fixed_dictionaries(
            {},
            optional={
                "lr_scale": st.sampled_from([0, 0.5, 2.0, -1]),
                "weight_decay": st.sampled_from([None, 0, 0.25, "0"]),
                "frozen": st.booleans(),
            },
        ),
    )
    def set_segments(self, which: set[int], values: dict[str, Any]) -> None:
        mask = [index in which for index in range(len(self.shapes))]
        if self.everywhere(lambda twin: twin.set_segments(mask, **values)) and "frozen" in values:
            self.frozen = [values["frozen"] if chosen else old for chosen, old in zip(mask, self.frozen, strict=True)]

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
        value = data.draw(st.sampled_from(valid(self.spec, name)))

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
        value = data.draw(st.sampled_from(invalid(self.spec, name)))
        assert not self.everywhere(
            lambda twin: twin.param_groups[group % len(self.groups)].update({"lr": 0.25, name: value})
        )

    @precondition(lambda self: not self.swapped)
    @rule(target=saved)
    def save(self) -> Saved:
        first = self.twins[0]
        counts = self.calls, list(self.pending), self.skipped_calls, self.consecutive
        return Saved(first.state_dict(), content(first), self.sizes, *counts)

    @rule(one=saved)
    def load(self, one: Saved) -> None:
        fits = one.sizes == self.sizes and not self.swapped
        assert self.everywhere(lambda twin: twin.load_state_dict(one.state_dict)) == fits
        if fits:
            now = content(self.twins[0])
            assert_same_states(one.content, now, stepped_only=True)
            assert hyperparameters(one.content.groups) == hyperparameters(now.groups)
            self.steps = list(one.content.steps)
            self.calls, self.pending = one.calls, list(one.pending)
            self.skipped_calls, self.consecutive = one.skipped_calls, one.consecutive
            if not self.spec.counts_steps:  # as in torch, only whether there was a first step, where there is a state
                self.steps = [
                    step if "param_average" in state else min(step, len(state), 1)
                    for step, state in zip(self.steps, now.states, strict=True)
                ]

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
        choices = {name: st.sampled_from(values) for name, values in GROUP_VALUES.items()}
        options.update(data.draw(st.fixed_dictionaries({}, optional=choices), label="options of the group"))
        if self.everywhere(lambda twin: twin.add_param_group({"params": copy.deepcopy(params), **options})):
            self.groups = [*self.groups, (layout, shapes)]
            self.grouped = True
            new = self.used(layout, shapes)
            self.shapes += new
            self.steps += [0] * len(new)
            self.pending += [False] * len(new)
            self.frozen += [False] * len(new)

    @precondition(lambda self: not self.swapped)
    @rule(duplicate=st.sampled_from((copy.deepcopy, lambda twin: pickle.loads(pickle.dumps(twin)))))
    def go_on_with_copies(self, duplicate: Callable[[fastopt.Optimizer], fastopt.Optimizer]) -> None:
        originals, self.twins = self.twins, [duplicate(twin) for twin in self.twins]
        for original, twin in zip(originals, self.twins, strict=True):
            old, new = content(original), content(twin)
            assert_same_states(old, new, stepped_only=True)
            assert old.groups == new.groups
            assert old.steps == new.steps
            assert original.segments == twin.segments
            assert repr(original.grad_norm) == repr(twin.grad_norm)
            assert original.nonfinite_counts == twin.nonfinite_counts
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
        seen = [(twin.segments, repr(twin.grad_norm), twin.nonfinite_counts) for twin in self.twins]
        assert all(each == seen[0] for each in seen)
        for twin in self.twins:
            assert (twin.skipped_steps, twin.consecutive_skips) == (self.skipped_calls, self.consecutive)
            assert [each.frozen for each in twin.segments] == self.frozen


@pytest.mark.usefixtures("threads_always")
def test_any_operations_in_any_order() -> None:
    run_state_machine_as_test(
        Operations,
        settings=settings(
            max_examples=120,
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

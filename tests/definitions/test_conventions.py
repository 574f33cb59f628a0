"""Conventions as options: the same bits everywhere, saving and copying, which arguments there are, defaults."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from arrays import at_offset
from cases import BACKENDS, CONVENTION_CASES, DTYPES, Case, equal_bits, random_gradient
from comparing import assert_same, run

import fastopt
from fastopt.definitions.conventions import DIFFERENCES, FRAMEWORKS, WHY_NOT, conventions_of, spec_of
from fastopt.definitions.defaults import default, is_default, without_defaults
from fastopt.definitions.specs import SPECS

LENGTHS = (0, 1, 17, 63)
N_STEPS = 6
ROWS = [(convention, name) for convention, optimizers in DIFFERENCES.items() for name in optimizers]

by_case = pytest.mark.parametrize("case", CONVENTION_CASES, ids=str)
by_row = pytest.mark.parametrize(("convention", "name"), ROWS)


def make(name: str, params: Any, **options: Any) -> fastopt.Optimizer:
    optimizer: fastopt.Optimizer = getattr(fastopt, name)(params, **options)
    return optimizer


# --- the same bits ----------------------------------------------------------------------------------------------------


IN_TURN = [
    pytest.param(case, dtype, marks=pytest.mark.slow if (number + index) % 2 else pytest.mark.exhaustive)
    for number, case in enumerate(CONVENTION_CASES)
    for index, dtype in enumerate(DTYPES)
]


@pytest.mark.parametrize(("case", "dtype"), IN_TURN, ids=lambda each: getattr(each, "__name__", str(each)))
@pytest.mark.usefixtures("threads_always")
def test_the_same_bits(case: Case, dtype: Any, rng: np.random.Generator) -> None:
    sizes = [length for length in LENGTHS for _ in range(2)]
    starts = [rng.standard_normal(size).astype(dtype) for size in sizes]
    gradients = [
        [at_offset(random_gradient(rng, size, dtype), (5 * index + step) % 16) for index, size in enumerate(sizes)]
        for step in range(N_STEPS)
    ]
    options = {"max_grad_norm": 3.0}  # with the convention's own clipping
    expected = run(case, starts, gradients, backend="reference", **options)
    assert not any(equal_bits(end, begin) for end, begin in zip(expected[0], starts, strict=True) if end.size)
    for backend, n_threads in (("cython", 1), ("cython", 3), ("numba", 2)):
        actual = run(case, starts, gradients, backend=backend, n_threads=n_threads, **options)
        assert_same(case, expected, actual, f"{backend}, {n_threads} threads")


# --- saving and copying -----------------------------------------------------------------------------------------------


def loaded(case: Case, optimizer: fastopt.Optimizer) -> fastopt.Optimizer:
    resumed = case.make([param.copy() for param in optimizer.param_groups[0]["params"]])
    resumed.load_state_dict(optimizer.state_dict())
    return resumed


WAYS: dict[str, Callable[[Case, fastopt.Optimizer], fastopt.Optimizer]] = {
    "state_dict": loaded,
    "pickle": lambda case, optimizer: pickle.loads(pickle.dumps(optimizer)),
    "deepcopy": lambda case, optimizer: copy.deepcopy(optimizer),
}


@by_case
def test_saved_in_the_middle_and_continued(case: Case, rng: np.random.Generator) -> None:
    start = [rng.standard_normal(9), rng.standard_normal((2, 3))]
    gradients = [[rng.standard_normal(each.shape) for each in start] for _ in range(N_STEPS)]
    whole = case.make([each.copy() for each in start])
    for step in gradients[:3]:
        whole.step(step)
    resumed = {name: way(case, whole) for name, way in WAYS.items()}
    for name, optimizer in resumed.items():
        assert optimizer.spec == whole.spec, name
        assert repr(optimizer) == repr(whole), name
    for step in gradients[3:]:
        for optimizer in (whole, *resumed.values()):
            optimizer.step(step)
    expected = whole.param_groups[0]["params"]
    for name, optimizer in resumed.items():
        for index, param in enumerate(optimizer.param_groups[0]["params"]):
            assert equal_bits(param, expected[index]), name
            for state, value in whole.state[index].items():
                if state != "step" or whole.spec.counts_steps:
                    assert np.array_equal(optimizer.state[index][state], value), (name, state)


@by_row
def test_groups_are_optimizers_of_their_own(convention: str, name: str, rng: np.random.Generator) -> None:
    start = [rng.standard_normal(5), rng.standard_normal(3)]
    together = make(name, [{"params": start[0].copy(), "lr": 0.5}, {"params": start[1].copy()}], convention=convention)
    apart = [
        make(name, start[0].copy(), lr=0.5, convention=convention),
        make(name, start[1].copy(), convention=convention),
    ]
    added = make(name, start[0].copy(), convention=convention)
    added.param_groups[0]["lr"] = 0.5
    added.add_param_group({"params": start[1].copy()})
    for _ in range(3):
        gradients = [rng.standard_normal(each.shape) for each in start]
        for optimizer in (together, added):
            optimizer.step(gradients)
        for each, gradient in zip(apart, gradients, strict=True):
            each.step(gradient)
    for optimizer in (together, added):
        for index in range(2):
            assert equal_bits(optimizer.param_groups[index]["params"][0], apart[index].param_groups[0]["params"][0])


# --- which there are --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_other_conventions_are_refused_with_those_that_there_are(name: str) -> None:
    known = conventions_of(name)
    assert known[0] == "torch"
    for convention in [*FRAMEWORKS, "tensorflow", "Keras", ""]:
        if convention in known:
            assert make(name, np.ones(2), convention=convention).spec.convention == convention
            continue
        with pytest.raises(ValueError, match=f"unknown convention for {name}: {convention!r}") as error:
            make(name, np.ones(2), convention=convention)
        assert str(error.value).endswith(f"(expected one of {', '.join(map(repr, known))})")
        if convention in FRAMEWORKS:
            reason = WHY_NOT.get((name, convention), f"{FRAMEWORKS[convention]} has no {name}")
            assert f": {reason} (" in str(error.value)
    with pytest.raises(TypeError, match="convention must be a string, got None"):
        make(name, np.ones(2), convention=None)


# optimizer, convention, argument, its value, the conventions that have it
REFUSED: list[tuple[str, str, str, Any, str]] = [
    ("SGD", "torch", "decay", 0.1, "'tf_keras_legacy'"),
    ("SGD", "keras", "decay", 0.1, "'tf_keras_legacy'"),
    ("SGD", "keras", "dampening", 0.0, "'torch'"),
    ("SGD", "optax", "dampening", 0.5, "'torch'"),
    ("Adam", "tf1", "amsgrad", False, "'torch', 'keras', 'tf_keras_legacy', 'optax'"),
    ("Adam", "torch", "eps_root", 0.0, "'optax'"),
    ("Adam", "keras", "nesterov", True, "'optax'"),
    ("Adagrad", "tf1", "eps", 1e-10, "'torch', 'keras', 'tf_keras_legacy', 'optax'"),
    ("Adagrad", "keras", "lr_decay", 0.0, "'torch'"),
    ("RMSprop", "torch", "bias_correction", False, "'optax'"),
    ("RMSprop", "tf1", "initial_scale", 1.0, "'optax'"),
    ("RAdam", "torch", "threshold", 5.0, "'optax'"),
    ("NAdam", "optax", "momentum_decay", 4e-3, "'torch', 'keras', 'tf_keras_legacy'"),
]


@pytest.mark.parametrize(("name", "convention", "argument", "value", "having"), REFUSED)
def test_arguments_of_other_conventions(name: str, convention: str, argument: str, value: Any, having: str) -> None:
    """Also where the value is the default of the signature: it was given."""
    with pytest.raises(TypeError) as error:
        make(name, np.ones(2), convention=convention, **{argument: value})
    assert str(error.value) == (
        f"{name} has no argument {argument!r} with convention={convention!r} (it has with {having})"
    )
    param = np.ones(2)
    message = f"unknown key '{argument}' (a hyperparameter with convention={having}) in a parameter group of {name}"
    with pytest.raises(ValueError, match=re.escape(message)):
        make(name, [{"params": param, argument: value}], convention=convention)
    optimizer = make(name, param, convention=convention)
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.param_groups[0][argument] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.add_param_group({"params": np.ones(1), argument: value})
    assert argument not in optimizer.param_groups[0]
    assert len(optimizer.param_groups) == 1


@by_row
def test_every_other_argument_is_refused(convention: str, name: str) -> None:
    has = spec_of(name, convention).defaults
    for other in conventions_of(name):
        for argument, value in spec_of(name, other).defaults.items():
            if argument not in has:
                with pytest.raises(
                    TypeError, match=f"{name} has no argument '{argument}' with convention='{convention}'"
                ):
                    make(name, np.ones(2), convention=convention, **{argument: value})


def test_what_is_an_argument_of_no_convention_is_unexpected() -> None:
    with pytest.raises(TypeError, match=r"NAdam\(\) got an unexpected keyword argument 'decay'"):
        make("NAdam", np.ones(2), convention="tf_keras_legacy", decay=0.1)
    with pytest.raises(TypeError, match=r"Adam\(\) got an unexpected keyword argument 'threshold'"):
        make("Adam", np.ones(2), convention="optax", threshold=5.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Adagrad", {"convention": "optax", "eps": 0.0}, "expected eps > 0 with convention='optax'"),
        ("Adam", {"convention": "optax", "amsgrad": True, "nesterov": True}, "amsgrad or nesterov, not both"),
        ("RMSprop", {"convention": "optax", "alpha": 1.0, "bias_correction": True}, "expected alpha < 1 with"),
        ("SGD", {"convention": "keras", "nesterov": True}, "Nesterov momentum requires a momentum"),
        ("SGD", {"convention": "tf_keras_legacy", "decay": -0.1}, "Invalid decay: -0.1 (expected decay >= 0)"),
        ("Adam", {"convention": "optax", "eps_root": -1.0}, "Invalid eps_root value: -1 (expected eps_root >= 0)"),
    ],
)
def test_values_that_do_not_go_with_a_convention(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(name, np.ones(2), **options)
    good = make(name, np.ones(2), convention=options["convention"])
    before = dict(good.param_groups[0])
    changes = {key: value for key, value in options.items() if key != "convention"}
    with pytest.raises(ValueError, match=re.escape(message)):
        good.param_groups[0].update(changes)
    assert dict(good.param_groups[0]) == before


def test_state_dicts_of_other_conventions_hyperparameters() -> None:
    legacy = make("SGD", np.ones(2), convention="tf_keras_legacy", decay=0.5)
    with pytest.raises(ValueError, match=r"param_groups\[0\] has 'decay', which SGD does not know"):
        make("SGD", np.ones(2)).load_state_dict(legacy.state_dict())


# --- defaults ---------------------------------------------------------------------------------------------------------


@by_row
def test_defaults_of_a_convention(convention: str, name: str) -> None:
    """Where nothing is given; they are plain values that reach groups, `defaults`, the repr, and added groups."""
    expected = dict(spec_of(name, convention).defaults)
    optimizer = make(name, np.ones(2), convention=convention)
    optimizer.add_param_group({"params": np.ones(1)})
    for values in (optimizer.defaults, *optimizer.param_groups):
        assert {key: values[key] for key in expected} == expected
        assert not any(is_default(value) for value in values.values())
        assert set(SPECS[name].defaults) - set(expected) == set(SPECS[name].defaults) - set(values)
    for key, value in expected.items():
        assert f"    {key}: {value}\n" in repr(optimizer)


@by_row
def test_what_is_given_is_not_a_default(convention: str, name: str) -> None:
    """Every value of PyTorch's defaults, given one by one, stays what it is."""
    expected = spec_of(name, convention).defaults
    differing = {key: value for key, value in SPECS[name].defaults.items() if expected.get(key, value) != value}
    for key, value in differing.items():
        optimizer = make(name, np.ones(2), convention=convention, **{key: value})
        assert optimizer.param_groups[0][key] == optimizer.defaults[key] == value
        in_group = make(name, [{"params": np.ones(2), key: value}, {"params": np.ones(1)}], convention=convention)
        assert [group[key] for group in in_group.param_groups] == [value, expected[key]]


@by_row
def test_what_is_given_by_position_is_given(convention: str, name: str) -> None:
    names = [
        key
        for key, each in inspect.signature(getattr(fastopt, name)).parameters.items()
        if each.kind is each.POSITIONAL_OR_KEYWORD and key != "params"
    ]
    taken = names[: next((i for i, key in enumerate(names) if key not in spec_of(name, convention).defaults), None)]
    values = [SPECS[name].defaults[key] for key in taken]
    optimizer = getattr(fastopt, name)(np.ones(2), *values, convention=convention)
    assert [optimizer.defaults[key] for key in taken] == values


@pytest.mark.parametrize("name", SPECS)
def test_signatures_show_pytorchs_defaults(name: str) -> None:
    parameters = inspect.signature(getattr(fastopt, name)).parameters
    shown = {key: each.default for key, each in parameters.items() if key in SPECS[name].defaults}
    own = {key: value for key, value in SPECS[name].defaults.items() if key in shown}
    assert shown == own
    assert all((is_default(value) or value is None) and repr(value) == repr(own[key]) for key, value in shown.items())
    assert SPECS[name].defaults.keys() - own == set(SPECS[name].fixed)


@pytest.mark.parametrize("value", [1e-3, 0.0, (0.9, 0.999), True, False])
def test_a_default_is_its_value(value: Any) -> None:
    marked = default(value)
    assert marked == value
    assert hash(marked) == hash(value)
    assert repr(marked) == repr(value)
    assert bool(marked) == bool(value)
    assert is_default(marked)
    assert not is_default(value)
    for copied in (copy.deepcopy(marked), pickle.loads(pickle.dumps(marked))):
        assert (copied, is_default(copied)) == (value, True)
    assert without_defaults({"a": marked, "b": value}) == {"b": value}


class Tuned(fastopt.Adam):
    """A user's class with a rate of its own, which hands on everything else."""

    def __init__(self, params: Any, lr: float = 0.25, **options: Any) -> None:
        super().__init__(params, lr=lr, **options)


MARKED = inspect.signature(fastopt.SGD).parameters["lr"].default


class HandsOn(fastopt.SGD):
    """A user's class that hands on the marked default of its base."""

    def __init__(self, params: Any, lr: Any = MARKED, **more: Any):
        super().__init__(params, lr, **more)


def test_subclasses() -> None:
    tuned = Tuned(np.ones(2), convention="keras")
    assert (tuned.defaults["lr"], tuned.defaults["eps"]) == (0.25, 1e-7)
    assert Tuned(np.ones(2), 1e-3, convention="optax").defaults["lr"] == 1e-3
    assert HandsOn(np.ones(2), convention="keras").defaults["lr"] == 1e-2
    assert HandsOn(np.ones(2), 1e-3, convention="keras").defaults["lr"] == 1e-3
    assert HandsOn(np.ones(2)).defaults["lr"] == 1e-3
    with pytest.raises(TypeError, match="has no argument 'eps_root' with convention='torch'"):
        Tuned(np.ones(2), eps_root=0.1)
    resumed = pickle.loads(pickle.dumps(tuned))
    assert type(resumed) is Tuned
    assert resumed.spec == tuned.spec


@pytest.mark.parametrize("backend", BACKENDS)
def test_clipping_of_a_convention(backend: str) -> None:
    """Elsewhere to the norm exactly; PyTorch adds 1e-6 to the norm that it divides by."""
    for convention in conventions_of("SGD"):
        param = np.zeros(2)
        optimizer = make("SGD", param, lr=1.0, max_grad_norm=1.0, convention=convention, backend=backend)
        optimizer.step(np.array([3.0, 4.0]))
        divisor = 5 + 1e-6 if convention == "torch" else 5.0
        np.testing.assert_allclose(param, [-3 / divisor, -4 / divisor], rtol=1e-15)
        each = make("SGD", param, lr=1.0, clip_norm=2.0, convention=convention, backend=backend)
        param[:] = 0
        each.step(np.array([3.0, 4.0]))
        np.testing.assert_allclose(param, [-6 / divisor, -8 / divisor], rtol=1e-15)

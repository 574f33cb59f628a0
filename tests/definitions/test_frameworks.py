"""The conventions of Keras 3 and optax, live: the same call, the same parameters after every step.

TensorFlow 1 and legacy Keras: tests/test_golden.py has their trajectories, the table here their defaults.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import CONVENTION_CASES, Case
from framework_pairs import FIXED, NOT_HERE, PIPELINE, STEPS, names_of, our_step, their_defaults, trajectory

import fastopt
from fastopt.definitions import conventions
from fastopt.definitions.conventions import DIFFERENCES, spec_of
from fastopt.schedules import CosineDecay, Warmup

pytestmark = [
    pytest.mark.peers,
    # Keras' own code on PyTorch, with NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

LIVE = ("keras", "optax")
ROWS = [(convention, optimizer) for convention in LIVE for optimizer in DIFFERENCES[convention]]
SHAPES = ((30, 8), (7,))
N_STEPS = 16

EXACT = {"rtol": 1e-12, "atol": 1e-14}
TOLERANCES = {("keras", "NAdam"): {"rtol": 1e-6, "atol": 1e-7}}
"""Keras' NAdam has its 0.96 rounded to float32 on TensorFlow, as was recorded and as it is here, and not on others."""


@pytest.fixture(scope="module")
def keras() -> Iterator[Any]:
    """With float64 rates and constants."""
    import keras

    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield keras
    keras.config.set_floatx(before)


@pytest.fixture(scope="module")
def optax() -> Iterator[Any]:
    """With float64."""
    import jax
    import optax

    with jax.enable_x64(True):
        yield optax


@pytest.fixture
def framework(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def problem(dtype: Any = np.float64, scale: float = 1.0) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Parameters, and gradients of both signs and several magnitudes, with zeros; some elements never have another."""
    rng = np.random.default_rng(7)
    start = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    dead = [rng.random(shape) < 0.05 for shape in SHAPES]
    gradients = []
    for _ in range(N_STEPS):
        step = []
        for shape, never in zip(SHAPES, dead, strict=True):
            values = scale * rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 1, shape)
            step.append(np.where(never | (rng.random(shape) < 0.2), 0.0, values).astype(dtype))
        gradients.append(step)
    return start, gradients


def assert_same(framework: Any, case: Case, dtype: Any = np.float64, scale: float = 1.0, **tolerance: float) -> None:
    start, gradients = problem(dtype, scale)
    theirs = trajectory(STEPS[case.options["convention"]](framework, case, start), gradients)
    ours = trajectory(our_step(case, start), gradients)
    assert np.isfinite(ours).all()
    assert (np.abs(ours[-1] - ours[0]).max()) > 1e-4, "the parameters move"
    expected = TOLERANCES.get((case.options["convention"], case.optimizer), EXACT)
    np.testing.assert_allclose(ours, theirs, **(tolerance or expected))


def live(case: Case, **more: Any) -> Case:
    """With averages that forget within the test, and without what the framework has fixed."""
    convention, defaults = case.options["convention"], spec_of(case.optimizer, case.options["convention"]).defaults
    shorter = {name: value for name, value in {"betas": (0.8, 0.93, 0.97), "alpha": 0.85}.items() if name in defaults}
    shorter = {name: value[: len(defaults[name])] if name == "betas" else value for name, value in shorter.items()}
    fixed = FIXED.get((convention, case.optimizer), ())
    kept = {name: value for name, value in case.options.items() if name not in fixed}
    return Case(case.optimizer, {**kept, **shorter, **more})


def by_case(cases: list[Case]) -> Any:
    rows = [(case.options["convention"], case) for case in cases]
    return pytest.mark.parametrize(
        ("framework", "case"), rows, indirect=["framework"], ids=[str(each) for each in cases]
    )


def by_row(rows: list[tuple[str, str]] = ROWS) -> Any:
    """Also the framework itself, as a fixture."""
    values = [(convention, convention, optimizer) for convention, optimizer in rows]
    names = [f"{convention}-{optimizer}" for convention, optimizer in rows]
    return pytest.mark.parametrize(("framework", "convention", "optimizer"), values, indirect=["framework"], ids=names)


# --- trajectories -----------------------------------------------------------------------------------------------------

VARIANTS = [live(case) for case in CONVENTION_CASES if case.options["convention"] in LIVE]

MORE = [
    Case("SGD", {"convention": "keras", "weight_decay": 0.02}),
    *(
        Case(name, {"convention": "optax", "weight_decay": 0.02, "lr": 0.02, "decoupled_weight_decay": True})
        for name in ("Adamax", "NAdam")
    ),
    *(
        Case("RMSprop", {"convention": "optax", "lr": 0.01, "eps": 1e-6, "alpha": 0.85, **options})
        for options in (
            {"eps_in_sqrt": True, "bias_correction": True},
            # In the first step the corrected averages cancel, which leaves rounding errors and eps.
            {"eps_in_sqrt": True, "bias_correction": True, "centered": True, "eps": 1.0, "momentum": 0.9},
            {
                "eps_in_sqrt": True,
                "bias_correction": True,
                "centered": True,
                "eps": 1.0,
                "momentum": 0.9,
                "nesterov": True,
            },
            {"eps_in_sqrt": True, "initial_scale": 0.25},
            {"eps_in_sqrt": True, "initial_scale": 0.25, "centered": True, "momentum": 0.5},
            {"eps_in_sqrt": False},
            {"eps_in_sqrt": False, "initial_scale": 1.0, "momentum": 0.5},
        )
    ),
    *(
        Case("RAdam", {"convention": "optax", "lr": 0.01, "betas": (0.8, 0.95), "threshold": threshold})
        for threshold in (4.5, 5.0, 6.0, 1e3)
    ),
    *(
        Case(name, {"convention": "optax", "lr": 0.01, "eps_root": 1e-3})
        for name in ("Adam", "AdamW", "NAdam", "RAdam")
    ),
    Case("Adam", {"convention": "optax", "lr": 0.01, "nesterov": True}),
    Case("ADOPT", {"convention": "optax", "lr": 0.01, "use_clipping": False}),
    Case("AdamW", {"convention": "optax", "lr": 0.01, "nesterov": True, "weight_decay": 0.1}),
    Case("Adam", {"convention": "optax", "lr": 0.01, "amsgrad": True, "eps_root": 1e-3}),
]
"""Arguments that the cases of all variants have no second value for."""


@by_case(VARIANTS + MORE)
def test_every_variant(framework: Any, case: Case) -> None:
    assert_same(framework, case)


@by_case([case for case in VARIANTS if (case.options["convention"], case.optimizer) in TOLERANCES])
def test_nadam_but_for_its_rounding(framework: Any, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = spec_of("NAdam", "keras")
    exact = replace(rounded, constants=dict.fromkeys(rounded.constants, 0.96))
    monkeypatch.setattr(conventions, "spec_of", lambda name, convention: exact)
    assert_same(framework, case, **EXACT)


def test_every_row_and_hyperparameter_is_compared() -> None:
    """A new row of the table, or a new argument of one, must be compared with what it claims to be."""
    compared: dict[tuple[str, str], set[str]] = {}
    for case in VARIANTS + MORE:
        compared.setdefault((case.options["convention"], case.optimizer), set()).update(case.options)
    assert compared.keys() == set(ROWS)
    for (convention, optimizer), names in compared.items():
        spec = spec_of(optimizer, convention)
        # `maximize` is ours; `decoupled_weight_decay` is which of two of their functions is called.
        own = spec.defaults.keys() - {"maximize", "decoupled_weight_decay"}
        assert own - names == set(FIXED.get((convention, optimizer), ())), (convention, optimizer)
        for name in spec.variants:
            switched = {
                bool(case.options.get(name))
                for case in VARIANTS
                if (case.optimizer, case.options["convention"]) == (optimizer, convention)
            }
            assert switched == {False, True}, (convention, optimizer, name)


SMALL = 1e-4
RATES = dict.fromkeys(("SGD", "Adagrad", "Adadelta"), 10.0)  # whose steps are small with them
CLIPPED = [
    live(Case(optimizer, {"convention": convention, "lr": RATES.get(optimizer, 0.01), **options}))
    for convention, optimizer in ROWS
    for options in (
        {"max_grad_norm": 5.0 * SMALL},
        *([{"clip_norm": 3.0 * SMALL}, {"clip_value": 0.5 * SMALL}] if convention == "keras" else []),
    )
]


@by_case(CLIPPED)
def test_clipped(framework: Any, case: Case) -> None:
    """Of gradients so small that an epsilon in the divisor would show."""
    _, gradients = problem(scale=SMALL)
    norms = [np.sqrt(sum((each**2).sum() for each in step)) for step in gradients]
    assert min(norms) > 5.0 * SMALL
    # On PyTorch, Keras takes the larger of two norms in float32.
    rounded = {"rtol": 1e-6, "atol": 1e-7} if case.options["convention"] == "keras" else {}
    assert_same(framework, case, scale=SMALL, **({} if "clip_value" in case.options else rounded))


@pytest.mark.parametrize("framework", LIVE, indirect=True)
def test_norms_that_are_not_clipped(framework: Any, request: pytest.FixtureRequest) -> None:
    convention = request.node.callspec.params["framework"]
    assert_same(framework, Case("SGD", {"convention": convention, "lr": 0.01, "max_grad_norm": 1e3}))


SCHEDULE = Warmup(CosineDecay(0.03, 12, alpha=0.1), 3)
SCHEDULED = [
    live(Case(optimizer, {"convention": convention, "lr": SCHEDULE, **options}))
    for convention, optimizer in ROWS
    for options in ({}, {"weight_decay": 0.05}, {"momentum": 0.9, "nesterov": True})
    if options.keys() <= spec_of(optimizer, convention).defaults.keys()
]


@by_case(SCHEDULED)
def test_scheduled(framework: Any, case: Case) -> None:
    """Steps are counted as they count them, and the rate goes where theirs goes: also into weight decay and buffers."""
    assert_same(framework, case)


@by_row()
def test_float32(framework: Any, convention: str, optimizer: str) -> None:
    """A few roundings in each of the steps, here or there, of parameters and of constants."""
    if convention == "keras":
        framework.config.set_floatx("float32")
    try:
        case = live(Case(optimizer, {"convention": convention, "lr": 0.01}))
        # Adamax and Lion: only these compare values, which roundings can make or not make equal.
        assert_same(framework, case, np.float32, rtol=2e-5, atol=2e-5)
    finally:
        if convention == "keras":
            framework.config.set_floatx("float64")


# --- defaults ---------------------------------------------------------------------------------------------------------


def function_of(framework: Any, convention: str, name: str) -> Any:
    return operator.attrgetter(name)(framework.optimizers if convention == "keras" else framework)


@by_row()
def test_defaults_are_those_of_their_signature(framework: Any, convention: str, optimizer: str) -> None:
    function = function_of(framework, convention, names_of(convention, optimizer)[0])
    ours = spec_of(optimizer, convention).defaults
    theirs, left = their_defaults(convention, optimizer, function, [*ours, *PIPELINE])
    assert all(theirs.pop(name, None) is None for name in PIPELINE)
    if convention == "optax":  # It has no default rate, or none at all.
        assert theirs.pop("lr") in (None, inspect.Parameter.empty)
    none = {name: 0.0 for name, value in theirs.items() if value is None}
    assert none.keys() <= {"weight_decay", "momentum"}
    assert {name: ours[name] for name in theirs} == {**theirs, **none}
    signature = inspect.signature(function).parameters
    assert {name: signature[name].default for name in left} == NOT_HERE.get((convention, optimizer), {})
    # What they do not have is off, but for what cannot be chosen there, and the kind of weight decay.
    made_up = {name for name in ours.keys() - theirs.keys() if ours[name]}
    assert made_up - {"decoupled_weight_decay"} - set(FIXED.get((convention, optimizer), ())) == (
        {"lr"} if convention == "optax" else set()
    )


@by_row()
def test_nothing_given_gives_the_same(framework: Any, convention: str, optimizer: str) -> None:
    start, gradients = problem()
    options: dict[str, Any] = {"convention": convention}
    ours = getattr(fastopt, optimizer)([each.copy() for each in start], **options)
    if convention == "optax":
        options["lr"] = ours.defaults["lr"]
    theirs = STEPS[convention](framework, Case(optimizer, options), start)
    params = ours.param_groups[0]["params"]
    for step in gradients:
        ours.step(step)
        for mine, other in zip(params, theirs(step), strict=True):
            np.testing.assert_allclose(mine, other, **TOLERANCES.get((convention, optimizer), EXACT))


_LEGACY_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-7}

RECORDED_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    # tf.compat.v1.train; `lr` where the class has a default, and MomentumOptimizer without momentum is the other class.
    ("tf1", "SGD"): {"momentum": 0.0, "nesterov": False},
    ("tf1", "Adam"): {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    ("tf1", "RMSprop"): {"alpha": 0.9, "momentum": 0.0, "eps": 1e-10, "centered": False},
    ("tf1", "Adagrad"): {"initial_accumulator_value": 0.1},
    ("tf1", "Adadelta"): {"lr": 1e-3, "rho": 0.95, "eps": 1e-8},
    # tf.keras.optimizers.legacy; each takes `decay`, which is 0, but Nadam, whose `decay` is its momentum's.
    ("tf_keras_legacy", "SGD"): {"lr": 1e-2, "momentum": 0.0, "nesterov": False, "decay": 0.0},
    ("tf_keras_legacy", "Adam"): {**_LEGACY_ADAM, "amsgrad": False, "decay": 0.0},
    ("tf_keras_legacy", "RMSprop"): {
        "lr": 1e-3,
        "alpha": 0.9,
        "momentum": 0.0,
        "eps": 1e-7,
        "centered": False,
        "decay": 0.0,
    },
    ("tf_keras_legacy", "Adagrad"): {"lr": 1e-3, "initial_accumulator_value": 0.1, "eps": 1e-7, "decay": 0.0},
    ("tf_keras_legacy", "Adadelta"): {"lr": 1e-3, "rho": 0.95, "eps": 1e-7, "decay": 0.0},
    ("tf_keras_legacy", "Adamax"): {**_LEGACY_ADAM, "decay": 0.0},
    ("tf_keras_legacy", "NAdam"): {**_LEGACY_ADAM, "momentum_decay": 4e-3},
}
"""The whole signatures of what cannot be installed beside Keras 3, from TensorFlow's sources."""

OURS_ALONE = {"weight_decay", "decoupled_weight_decay", "maximize"}
"""What they do not have at all; 0 and False."""


@pytest.mark.parametrize("convention", ["tf1", "tf_keras_legacy"])
def test_defaults_of_tensorflow(convention: str) -> None:
    assert {name for each, name in RECORDED_DEFAULTS if each == convention} == DIFFERENCES[convention].keys()
    for optimizer in DIFFERENCES[convention]:
        expected, ours = RECORDED_DEFAULTS[convention, optimizer], dict(spec_of(optimizer, convention).defaults)
        assert not any(ours.pop(name) for name in OURS_ALONE)
        if "lr" not in expected:
            assert convention == "tf1"
            del ours["lr"]
        assert ours == expected, optimizer

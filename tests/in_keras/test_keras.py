"""`fastopt.keras` beside Keras' own optimizers: results, variables, files, and what is refused."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import equal_bits

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of Keras' variables
    pytest.mark.filterwarnings("ignore:Gradients do not exist"),  # Keras warns of each
]

keras = pytest.importorskip("keras.optimizers") and pytest.importorskip("keras")
ours = pytest.importorskip("fastopt.keras")

SHAPES = ((7, 5), (5,), (3, 4, 2), (300,), ())

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {}),
    "SGD momentum": ("SGD", {"momentum": 0.9}),
    "SGD nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "Adam": ("Adam", {"beta_1": 0.8}),
    "Adam amsgrad": ("Adam", {"amsgrad": True, "epsilon": 1e-3}),
    "AdamW": ("AdamW", {}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop momentum": ("RMSprop", {"momentum": 0.9}),
    "RMSprop centered": ("RMSprop", {"centered": True, "rho": 0.8}),
    "RMSprop all": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "Adagrad": ("Adagrad", {"initial_accumulator_value": 0.5}),
    "Adadelta": ("Adadelta", {"rho": 0.9}),
    "Adamax": ("Adamax", {}),
    "Nadam": ("Nadam", {}),
    "Lion": ("Lion", {}),
}
"""Every class, with each of its rules."""

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipnorm": {"clipnorm": 0.5},
    "global_clipnorm": {"global_clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.1},
    "weight_decay": {"weight_decay": 0.1},
    "average": {"use_ema": True, "ema_momentum": 0.9},
    "average of 1": {"use_ema": True, "ema_momentum": 1.0},
    "overwritten": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
    "accumulated": {"gradient_accumulation_steps": 3},
    "accumulated, all": {
        "gradient_accumulation_steps": 3,
        "use_ema": True,
        "ema_overwrite_frequency": 2,
        "clipnorm": 0.3,
        "weight_decay": 0.1,
        "loss_scale_factor": 4.0,
    },
    "scaled": {"loss_scale_factor": 16.0, "clipnorm": 0.5},
    "scheduled": {"learning_rate": ("ExponentialDecay", 0.02, 2, 0.9)},
}

by_variant = pytest.mark.parametrize("variant", VARIANTS)


def make(package: Any, variant: str, **options: Any) -> Any:
    name, own = VARIANTS[variant]
    values = {"learning_rate": 0.01, **own, **options}
    if isinstance(values["learning_rate"], tuple):
        schedule, *arguments = values["learning_rate"]
        values["learning_rate"] = getattr(keras.optimizers.schedules, schedule)(*arguments)
    return getattr(package, name)(**values)


def new_variables(dtype: str = "float32") -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.standard_normal(shape).astype(dtype), name=f"v{index}", dtype=dtype)
        for index, shape in enumerate(SHAPES)
    ]


def gradients(step: int, missing: bool = False, dtype: str = "float32") -> list[torch.Tensor | None]:
    rng = np.random.default_rng(step + 1)
    found = [
        torch.from_numpy(np.asarray(rng.choice([0.01, 1, 10]) * rng.standard_normal(shape)).astype(dtype))
        for shape in SHAPES
    ]
    return [None if missing and (index + step) % 3 == 0 else each for index, each in enumerate(found)]


def train(optimizer: Any, variables: list[Any], steps: range, missing: bool = False, dtype: str = "float32") -> None:
    for step in steps:
        optimizer.apply(gradients(step, missing, dtype), variables)


def arrays(variables: list[Any]) -> list[np.ndarray]:
    return [each.numpy() for each in variables]


def names(variables: list[Any]) -> list[str]:
    """Those that Keras makes up count on."""
    return [re.sub(r"^variable_\d+$", "variable", each.name) for each in variables]


def check(actual: list[Any], expected: list[Any], rtol: float = 2e-6, atol: float = 5e-6) -> None:
    """Parameters of up to 3 differed by 3e-6 at most, after 20 steps."""
    assert len(actual) == len(expected)
    for mine, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=rtol, atol=atol)


def test_every_class_is_there() -> None:
    assert {name for name, _ in VARIANTS.values()} == set(ours.__all__) - {"NativeOptimizer"}
    rows = importlib.import_module("fastopt.keras.rows").ROWS
    in_table = importlib.import_module("fastopt.definitions.conventions").DIFFERENCES["keras"]
    assert sorted(row.spec.name for row in rows.values()) == sorted(in_table)


@pytest.mark.parametrize("options", OPTIONS)
@by_variant
def test_results_and_variables_are_those_of_keras(variant: str, options: str) -> None:
    """In some steps, some variables have no gradient."""
    results = []
    for package in (ours, keras.optimizers):
        optimizer, variables = make(package, variant, **OPTIONS[options]), new_variables()
        train(optimizer, variables, range(4))
        train(optimizer, variables, range(4, 7), missing=True)
        results.append((variables, optimizer.variables))
    (mine, own), (theirs, expected) = results
    check(mine, theirs)
    check(own, expected)
    assert names(own) == names(expected)


@by_variant
def test_float64(variant: str) -> None:
    mine, theirs = new_variables("float64"), new_variables("float64")
    train(make(ours, variant), mine, range(5), dtype="float64")
    train(make(keras.optimizers, variant), theirs, range(5), dtype="float64")
    check(mine, theirs, rtol=1e-6, atol=1e-8)  # some of Keras' numbers are float32


@by_variant
def test_states_go_from_one_to_the_other(variant: str) -> None:
    """Within an accumulation, too."""
    options = {"gradient_accumulation_steps": 2, "use_ema": True}
    for first, second in ((ours, keras.optimizers), (keras.optimizers, ours)):
        whole, variables = make(first, variant, **options), new_variables()
        train(whole, variables, range(5))
        other, same = make(second, variant, **options), new_variables()
        other.build(same)
        store: dict[str, np.ndarray] = {}
        whole.save_own_variables(store)
        other.load_own_variables(store)
        for target, source in zip(same, variables, strict=True):
            target.assign(source)
        train(whole, variables, range(5, 9))
        train(other, same, range(5, 9))
        check(same, variables)
        check(other.variables, whole.variables)


def test_both_ways_through_apply_have_the_same_bits() -> None:
    """With a list of plain gradients nothing is sorted out; other gradients go through Keras' own `apply`."""
    results = []
    for convert in (lambda each: each, lambda each: each.numpy(), lambda each: each.double()):
        optimizer, variables = ours.Adam(0.01, clipnorm=0.5), new_variables()
        for step in range(4):
            optimizer.apply([convert(each) for each in gradients(step)], variables if step < 2 else None)
        results.append(arrays(variables))
    for other in results[1:]:
        assert all(map(equal_bits, other, results[0]))
    optimizer, variables = ours.Adam(0.01, clipnorm=0.5), new_variables()
    for step in range(4):
        optimizer.apply_gradients(zip(reversed(gradients(step)), reversed(variables), strict=True))
    assert all(map(equal_bits, arrays(variables), results[0]))


def test_gradients_of_other_layouts() -> None:
    mine, theirs = new_variables(), new_variables()
    for step in range(3):
        transposed = [
            each.t().contiguous().t() if each is not None and each.ndim == 2 else each for each in gradients(step)
        ]
        if step == 0:
            optimizer, reference = ours.Adam(0.01), ours.Adam(0.01)
        optimizer.apply(transposed, mine)
        reference.apply(gradients(step), theirs)
    assert all(map(equal_bits, arrays(mine), arrays(theirs)))


def test_variables_stay_where_they_are_and_autograd_notices() -> None:
    optimizer, variables = ours.Adam(0.01), new_variables()
    addresses, versions = (
        [call(each.value) for each in variables] for call in (torch.Tensor.data_ptr, lambda t: t._version)
    )
    train(optimizer, variables, range(2))
    assert [each.value.data_ptr() for each in variables] == addresses
    assert all(each.value._version > version for each, version in zip(variables, versions, strict=True))


def test_hyperparameters_can_change_between_updates() -> None:
    mine, theirs = new_variables(), new_variables()
    optimizer, reference = ours.Adam(0.01), keras.optimizers.Adam(0.01)
    for step, (name, value) in enumerate(
        {"beta_1": 0.5, "epsilon": 0.1, "learning_rate": 0.1, "weight_decay": 0.1, "clipnorm": 0.3}.items()
    ):
        for each, variables in ((optimizer, mine), (reference, theirs)):
            setattr(each, name, value)
            train(each, variables, range(step, step + 2))
        check(mine, theirs)


def test_memory_that_is_replaced() -> None:
    mine, theirs = new_variables(), new_variables()
    optimizer, reference = ours.Adam(0.01), ours.Adam(0.01)
    optimizer.build(mine)
    for step in range(4):
        for each in (mine[0], optimizer._momentums[1]):
            each._value.data = each._value.data.clone()
        train(optimizer, mine, range(step, step + 1))
        train(reference, theirs, range(step, step + 1))
    assert all(map(equal_bits, arrays(mine), arrays(theirs)))


def test_exclusions_and_constraints() -> None:
    results = []
    for package in (ours, keras.optimizers):
        variables = new_variables()
        variables[3].constraint = keras.constraints.NonNeg()
        optimizer = package.AdamW(0.01, weight_decay=0.3)
        optimizer.exclude_from_weight_decay(var_list=[variables[0]], var_names=["v3"])
        train(optimizer, variables, range(4))
        assert variables[3].numpy().min() == 0
        results.append(variables)
    check(*results)


@by_variant
@pytest.mark.parametrize("options", ["plain", "accumulated, all", "scheduled"])
def test_configurations(variant: str, options: str) -> None:
    optimizer = make(ours, variant, **OPTIONS[options])
    config = keras.optimizers.serialize(optimizer)
    assert config["registered_name"] == f"fastopt>{type(optimizer).__name__}"
    again = keras.optimizers.deserialize(config)
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    reference = make(keras.optimizers, variant, **OPTIONS[options]).get_config()
    assert {**reference, "name": ""} == {**optimizer.get_config(), "name": ""}
    assert isinstance(optimizer, getattr(keras.optimizers, VARIANTS[variant][0]))


def make_model(optimizer: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss)
    return model


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((64, 4)).astype(np.float32), rng.integers(0, 3, 64)


def fit(model: Any, data: tuple[np.ndarray, np.ndarray], epochs: int = 2) -> None:
    model.fit(*data, batch_size=16, epochs=epochs, verbose=0, shuffle=False)


def test_models_train_and_are_saved(data: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    model, reference = make_model(ours.Nadam(0.01)), make_model(keras.optimizers.Nadam(0.01))
    fit(model, data)
    fit(reference, data)
    check(model.weights, reference.weights)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is type(model.optimizer)
    fit(model, data)
    fit(loaded, data)
    assert all(map(equal_bits, arrays(model.weights), arrays(loaded.weights)))
    assert all(map(equal_bits, arrays(model.optimizer.variables), arrays(loaded.optimizer.variables)))


def test_callbacks_that_change_the_rate(data: tuple[np.ndarray, np.ndarray]) -> None:
    results = []
    for package in (ours, keras.optimizers):
        model = make_model(package.Adam(0.01))
        callback = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
        model.fit(*data, batch_size=16, epochs=3, verbose=0, shuffle=False, callbacks=[callback])
        results.append(model)
    check(results[0].weights, results[1].weights)
    assert float(results[0].optimizer.learning_rate) == pytest.approx(0.01 / 8)


BAD_GRADIENTS: dict[str, tuple[type[Exception], str, Callable[[torch.Tensor], Any]]] = {
    "shape": (ValueError, r"gradient of .*v0.* must have the shape \(7, 5\), got \(5, 7\)", lambda g: g.reshape(5, 7)),
    "sparse": (TypeError, "dense gradients in main memory, that of .*v0.* is torch.sparse", lambda g: g.to_sparse()),
}


@pytest.mark.parametrize("bad", BAD_GRADIENTS)
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=["plain", "accumulated"])
@pytest.mark.parametrize("stepped", [0, 1, 2])
def test_gradients_that_cannot_be_used(bad: str, options: dict[str, Any], stepped: int) -> None:
    error, message, change = BAD_GRADIENTS[bad]
    optimizer, variables = ours.Adam(0.01, **options), new_variables()
    optimizer.build(variables)
    train(optimizer, variables, range(stepped))
    before = arrays([*variables, *optimizer.variables])
    first, *others = gradients(9)
    assert first is not None
    with pytest.raises(
        (error, NotImplementedError) if bad == "meta" else error, match=message if bad != "meta" else ""
    ):
        optimizer.apply([change(first), *others], variables)
    assert all(map(equal_bits, arrays([*variables, *optimizer.variables]), before))


def test_a_gradient_in_the_memory_of_a_variable() -> None:
    optimizer, variables = ours.SGD(0.01), new_variables()
    with pytest.raises(ValueError, match=r"gradient of .*v0.* shares memory"):
        optimizer.apply([variables[0].value.detach(), *gradients(0)[1:]], variables)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_variables_that_cannot_be_updated(dtype: str) -> None:
    variable = keras.Variable(np.ones(3, np.float32), dtype=dtype, name="narrow")
    with pytest.raises(TypeError, match=f"fastopt.keras.Adam updates .*float32.*narrow.* torch.{dtype}"):
        ours.Adam().apply([torch.ones(3)], [variable])
    wide = keras.Variable(np.ones(3), dtype="float64", name="wide")
    with pytest.raises(TypeError, match=r"all float32 or all float64, .*wide"):
        ours.Adam().apply([torch.ones(3)] * 2, [keras.Variable(np.ones(3, np.float32)), wide])


def test_stateless_updates_are_refused() -> None:
    optimizer, variables = ours.Adam(), new_variables()
    optimizer.build(variables)
    values = [[each.value for each in some] for some in (optimizer.variables, variables)]
    before = arrays(variables)
    with pytest.raises(RuntimeError, match=r"stateless_apply\(\) returns new ones: use Keras' own"):
        optimizer.stateless_apply(values[0], gradients(0), values[1])
    assert all(map(equal_bits, arrays(variables), before))


def test_torch_compile_leaves_updates_as_they_are() -> None:
    """As for `jit_compile=True`, where all of a training step is compiled; 2 seconds."""
    mine, theirs = new_variables(), new_variables()
    optimizer, reference = ours.Adam(0.01), ours.Adam(0.01)

    def update(factor: torch.Tensor) -> torch.Tensor:
        optimizer.apply([each * factor for each in gradients(0)], mine)
        return factor * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch.compile meets on its way
        compiled = torch.compile(update, backend="eager")
        for _ in range(3):
            compiled(torch.ones(()))
            reference.apply(gradients(0), theirs)
    assert all(map(equal_bits, arrays(mine), arrays(theirs)))


def test_other_backends_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.delitem(sys.modules, "fastopt.keras")
    with pytest.raises(ImportError, match=r"needs Keras' torch backend.*the backend is 'jax': set .*KERAS_BACKEND"):
        importlib.import_module("fastopt.keras")


PAGE = (Path(__file__).parents[2] / "docs" / "keras.md").read_text(encoding="utf-8")


def test_the_code_in_the_page_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "keras.md", "exec"), {})
    assert capsys.readouterr().out == "True\n"


@pytest.mark.parametrize("name", ["optimizers", "rows", "steps"])
def test_doctests(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"fastopt.keras.{name}"))
    assert results.failed == 0
    assert results.attempted >= (name == "optimizers")


def test_every_public_name_has_a_docstring() -> None:
    assert [name for name in ours.__all__ if not vars(getattr(ours, name)).get("__doc__")] == []

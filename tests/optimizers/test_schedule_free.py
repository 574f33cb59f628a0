"""Schedule-Free optimizers: the average that `eval` shows, the way back, and what is saved in either mode."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import BACKENDS, DTYPES, equal_bits
from comparing import snapshot

import fastopt
from fastopt.definitions.specs import SPECS
from fastopt.kernels.engine import host_memory
from fastopt.step import evaluation
from fastopt.step.storage import REST

NAMES = [name for name, spec in SPECS.items() if spec.average is not None]
by_name = pytest.mark.parametrize("name", NAMES)
by_backend = pytest.mark.parametrize("backend", BACKENDS)
SHAPES = ((65, 63), (7,), (), (3, 0), (5,))
"""The last one is frozen at first."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
STORED: dict[str, tuple[Any, dict[str, Any]]] = {
    **{np.dtype(dtype).name: (dtype, {}) for dtype in DTYPES},
    "bfloat16": (BFLOAT16, {}),
    "bfloat16, stochastic": (BFLOAT16, {"stochastic_rounding": True}),
    "float16": (np.float16, {}),
    "master weights": (BFLOAT16, {"master_weights": True}),
    "float8 states": (np.float32, {"state_dtype": "float8"}),
}
by_storage = pytest.mark.parametrize(("dtype", "options"), STORED.values(), ids=STORED)
HYPERPARAMETERS: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.01, "warmup_steps": 3, "r": 0.5}


def arrays(rng: np.random.Generator, dtype: Any = np.float64) -> list[np.ndarray]:
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]


def make(name: str, params: Any, **options: Any) -> Any:
    return getattr(fastopt, name)(params, **{**HYPERPARAMETERS, **options})


def trained(name: str, rng: np.random.Generator, dtype: Any = np.float64, **options: Any) -> tuple[Any, Any]:
    """An optimizer after some steps, of which the last parameter has missed some or all, and its parameters."""
    params = arrays(rng, dtype)
    optimizer = make(name, params, **options)
    for step in range(4):
        gradients: list[Any] = arrays(rng, dtype)
        if step < 2:
            gradients[-1] = None
        optimizer.step(gradients)
    return optimizer, params


def bits(params: list[np.ndarray], optimizer: Any) -> list[bytes]:
    """Of parameters, with all that master weights keep of them."""
    rests = [optimizer.state[index].get(REST, np.zeros(0)) for index in range(len(params))]
    return [each.tobytes() for each in (*params, *rests)]


# --- the average ------------------------------------------------------------------------------------------------------


class Averaged:
    """x, y and z as the paper has them, in float64."""

    def __init__(self, start: np.ndarray, momentum: float) -> None:
        self.x, self.y, self.z, self.momentum = start.copy(), start.copy(), start.copy(), momentum
        self.v, self.weights, self.step_count, self.largest = np.zeros_like(start), 0.0, 0, 0.0

    def step(self, gradient: np.ndarray, adapts: bool) -> None:
        self.step_count += 1
        rate = HYPERPARAMETERS["lr"] * min(1.0, self.step_count / HYPERPARAMETERS["warmup_steps"])
        self.largest = max(self.largest, rate)
        if adapts:
            self.v = 0.999 * self.v + 0.001 * gradient**2
            gradient = gradient / (np.sqrt(self.v / (1 - 0.999**self.step_count)) + 1e-8)
        self.z = self.z - rate * (gradient + HYPERPARAMETERS["weight_decay"] * self.y)
        weight = self.step_count ** HYPERPARAMETERS["r"] * self.largest**2
        self.weights += weight
        self.x = self.x + weight / self.weights * (self.z - self.x)
        self.y = self.z + self.momentum * (self.x - self.z)


@by_name
@by_backend
def test_eval_shows_the_average_and_train_what_gradients_are_taken_of(
    name: str, backend: str, rng: np.random.Generator
) -> None:
    params = arrays(rng)
    optimizer = make(name, params, backend=backend)
    expected = [Averaged(param, 0.9) for param in params]
    for step in range(30):
        gradients: list[Any] = arrays(rng)
        if step < 5:
            gradients[-1] = None
        optimizer.step(gradients)
        for each, gradient in zip(expected, gradients, strict=True):
            if gradient is not None:
                each.step(gradient, "AdamW" in name)
        for param, each in zip(params, expected, strict=True):
            np.testing.assert_allclose(param, each.y, rtol=0, atol=1e-13)  # measured: 6e-15
        if step % 3 == 0:
            with optimizer.averaged_params():
                for param, each in zip(params, expected, strict=True):
                    np.testing.assert_allclose(param, each.x, rtol=0, atol=1e-13)


@by_name
def test_before_the_first_step_parameters_are_their_own_average(name: str, rng: np.random.Generator) -> None:
    params = arrays(rng)
    optimizer = make(name, params)
    for param in params:
        param *= 2  # since the state `z` was made
    before = bits(params, optimizer)
    with optimizer.averaged_params():
        assert bits(params, optimizer) == before
    assert bits(params, optimizer) == before


@by_name
@by_storage
def test_every_backend_shows_the_same_bits(name: str, dtype: Any, options: dict[str, Any]) -> None:
    found = []
    for backend, n_threads in (("cython", 1), ("cython", 3), ("numba", 2), ("reference", 1)):
        rng = np.random.default_rng(3)
        optimizer, params = trained(name, rng, dtype, backend=backend, n_threads=n_threads, **options)
        optimizer.eval()
        found.append(bits(params, optimizer))
    assert all(each == found[0] for each in found)


@by_name
@by_storage
@by_backend
def test_train_restores_every_bit(
    name: str, dtype: Any, options: dict[str, Any], backend: str, rng: np.random.Generator
) -> None:
    optimizer, params = trained(name, rng, dtype, backend=backend, **options)
    before, states = bits(params, optimizer), snapshot(optimizer)
    for _ in range(2):
        optimizer.eval()
        shown = bits(params, optimizer)
        assert shown != before
        optimizer.eval()
        assert bits(params, optimizer) == shown
        optimizer.train()
        assert bits(params, optimizer) == before
        optimizer.train()
    assert snapshot(optimizer) == states
    assert not optimizer._room.contents.kept_averages, "the memory is free again"


@by_name
@by_storage
def test_evaluating_does_not_change_training(
    name: str, dtype: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    ways: list[Callable[[Any], None]] = [
        lambda optimizer: None,
        lambda optimizer: (optimizer.eval(), optimizer.train()),
        lambda optimizer: (optimizer.swap_averages(), optimizer.swap_averages()),
    ]
    starts, gradients = arrays(rng, dtype), [arrays(rng, dtype) for _ in range(5)]
    found = []
    for evaluate in ways:
        params = [start.copy() for start in starts]
        optimizer = make(name, params, **options)
        for each in gradients:
            evaluate(optimizer)
            optimizer.step(each)
        found.append(bits(params, optimizer))
    assert all(each == found[0] for each in found)


@by_name
@by_storage
def test_what_was_changed_meanwhile_counts_as_the_average(
    name: str, dtype: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    optimizer, (param, *_) = trained(name, rng, dtype, **options)
    before = param.copy()
    optimizer.eval()
    param[0] = 3
    changed = np.zeros(param.shape, bool)
    changed[0] = True
    optimizer.train()
    assert np.array_equal(param[~changed], before[~changed])
    expected = 0.1 * optimizer.state[0]["z"][0].astype(np.float64) + 0.9 * 3
    info = ml_dtypes.finfo(param.dtype)
    np.testing.assert_allclose(param[0].astype(np.float64), expected, rtol=2 * float(info.eps))


@by_name
def test_a_parameter_counts_and_averages_by_itself(name: str, rng: np.random.Generator) -> None:
    """In the authors' package, a group does."""
    together, alone = [np.ones(5), np.ones(5)], [np.ones(5), np.ones(5)]
    optimizer, others = make(name, together[:1]), [make(name, [each]) for each in alone]
    for step in range(8):
        gradient = rng.standard_normal(5)
        if step == 3:
            optimizer.add_param_group({"params": together[1:]})
        optimizer.step([gradient] if step < 3 else [[gradient], [gradient]])
        for other in others if step >= 3 else others[:1]:
            other.step([gradient])
    assert all(map(equal_bits, together, alone))
    assert optimizer.state[1]["weight_sum"] < optimizer.state[0]["weight_sum"]


@by_name
def test_a_rate_of_zero_has_no_weight(name: str) -> None:
    param = np.ones(3)
    optimizer = make(name, param, warmup_steps=0)
    optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(2):
        optimizer.step(np.ones(3))
    assert (optimizer.state[0]["weight_sum"], param.tolist()) == (0, [1, 1, 1])
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step(np.ones(3))
    assert optimizer.state[0]["lr_max"] == 0.5
    assert math.isclose(optimizer.state[0]["weight_sum"], 3**0.5 * 0.5**2)


# --- while the average is shown ---------------------------------------------------------------------------------------

REFUSED: dict[str, Callable[[Any], Any]] = {
    "step": lambda optimizer: optimizer.step(arrays(np.random.default_rng(0))),
    "apply_accumulated": lambda optimizer: optimizer.apply_accumulated(),
    "add_param_group": lambda optimizer: optimizer.add_param_group({"params": np.ones(2)}),
    "set_segments": lambda optimizer: optimizer.set_segments(0, frozen=True),
}


@by_name
@by_backend
@pytest.mark.parametrize("what", REFUSED)
def test_nothing_is_stepped_meanwhile(name: str, backend: str, what: str, rng: np.random.Generator) -> None:
    options = {"accumulate_steps": 2} if what == "apply_accumulated" else {}
    optimizer, params = trained(name, rng, backend=backend, **options)
    if options:
        optimizer.step(arrays(rng))
    optimizer.eval()
    before = bits(params, optimizer)
    with pytest.raises(RuntimeError, match=r"the averages are swapped in, .* \(or train\(\), after eval\(\)\)"):
        REFUSED[what](optimizer)
    assert bits(params, optimizer) == before
    optimizer.train()
    REFUSED[what](optimizer)


@by_name
def test_blocks_can_be_nested_and_stand_in_either_mode(name: str, rng: np.random.Generator) -> None:
    optimizer, _ = trained(name, rng)
    with optimizer.averaged_params(), optimizer.averaged_params():
        assert optimizer.averages_swapped_in
    assert not optimizer.averages_swapped_in
    optimizer.eval()
    with optimizer.averaged_params():
        pass
    assert optimizer.averages_swapped_in
    with pytest.raises(ZeroDivisionError), optimizer.averaged_params():
        raise ZeroDivisionError
    assert optimizer.averages_swapped_in


@by_name
@by_backend
@pytest.mark.parametrize("shown", [False, True])
def test_all_or_nothing(
    name: str, backend: str, shown: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, params = trained(name, rng, backend=backend)
    if shown:
        optimizer.eval()
    before = bits(params, optimizer)
    to_other = optimizer.train if shown else optimizer.eval

    def without_memory(*arguments: Any) -> None:
        raise MemoryError

    for module, function in ((host_memory, "zeros"), (evaluation, "_plan"))[shown:]:
        with monkeypatch.context() as patch:
            patch.setattr(module, function, without_memory)
            with pytest.raises(MemoryError):
                to_other()
    assert optimizer.averages_swapped_in == shown
    assert bits(params, optimizer) == before
    to_other()
    assert optimizer.averages_swapped_in != shown


@by_name
def test_options_that_change_parameters_without_the_average_are_refused(name: str) -> None:
    for options, why in (
        ({"ema_decay": 0.9}, "ema_decay is not possible with .*: it has an average of its own"),
        (
            {"projection": fastopt.constraints.NonNegative()},
            "projection is not possible with .*: its average would not",
        ),
        *(
            ({"prox": prox}, "prox is not possible with .*: its average would not follow")
            for prox in (fastopt.constraints.GroupLasso(0.1), fastopt.constraints.L1(0.1))
        ),
        ({"state_dtype": {"z": "bfloat16"}}, r"state_dtype\['z'\] must be 'float32'"),
    ):
        with pytest.raises(ValueError, match=why):
            make(name, np.ones((3, 3), np.float32), **options)
    optimizer = make(name, np.ones((3, 3)))
    with pytest.raises(ValueError, match="projection is not possible"):
        optimizer.param_groups[0]["projection"] = fastopt.constraints.NonNegative()
    optimizer.step(np.ones((3, 3)))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_the_average_needs_a_momentum_between_zero_and_one(value: float) -> None:
    with pytest.raises(ValueError, match=r"Invalid momentum value: .* \(expected 0 < momentum < 1\)|>= 0"):
        fastopt.ScheduleFreeSGD(np.ones(3), momentum=value)
    with pytest.raises(ValueError, match=r"betas\[0\]"):
        fastopt.ScheduleFreeAdamW(np.ones(3), betas=(value, 0.9))


def test_others_have_no_average_of_their_own() -> None:
    assert not hasattr(fastopt.Adam(np.ones(3)), "eval")


# --- what is saved ----------------------------------------------------------------------------------------------------


def through_state_dict(optimizer: Any, params: list[np.ndarray], path: Path) -> tuple[Any, list[np.ndarray]]:
    others = [param.copy() for param in params]
    other = make(optimizer.spec.name, others, lr=7.0, **same_options(optimizer))
    other.load_state_dict(optimizer.state_dict(encoded=True))
    return other, others


def into_another_mode(optimizer: Any, params: list[np.ndarray], path: Path) -> tuple[Any, list[np.ndarray]]:
    """A state dict decides, whatever the mode is that it comes into."""
    rng = np.random.default_rng(5)
    other, others = trained(optimizer.spec.name, rng, params[0].dtype, **same_options(optimizer))
    if not optimizer.averages_swapped_in:
        other.eval()
    other.load_state_dict(optimizer.state_dict(encoded=True))
    for mine, theirs in zip(others, params, strict=True):
        mine[...] = theirs
    return other, others


def deep_copied(optimizer: Any, params: list[np.ndarray], path: Path) -> tuple[Any, list[np.ndarray]]:
    made: tuple[Any, list[np.ndarray]] = copy.deepcopy((optimizer, params))
    return made


def pickled(optimizer: Any, params: list[np.ndarray], path: Path) -> tuple[Any, list[np.ndarray]]:
    made: tuple[Any, list[np.ndarray]] = pickle.loads(pickle.dumps((optimizer, params)))
    return made


def through_a_file(optimizer: Any, params: list[np.ndarray], path: Path) -> tuple[Any, list[np.ndarray]]:
    others = [np.zeros_like(param) for param in params]
    other = make(optimizer.spec.name, others, **same_options(optimizer))
    fastopt.save(path / "file", optimizer=optimizer)
    fastopt.load(path / "file", optimizer=other)
    return other, others


def same_options(optimizer: Any) -> dict[str, Any]:
    options = optimizer._room.contents.options
    kept = {name: options[name] for name in ("master_weights", "stochastic_rounding", "backend")}
    return {**kept, "state_dtype": optimizer.param_groups[0]["state_dtype"]}


@by_name
@by_storage
@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("way", [through_state_dict, into_another_mode, deep_copied, pickled, through_a_file])
def test_training_goes_on_with_the_same_bits_from_either_mode(
    name: str, dtype: Any, options: dict[str, Any], shown: bool, way: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    optimizer, params = trained(name, rng, dtype, **options)
    if shown:
        optimizer.eval()
    other, others = way(optimizer, params, tmp_path)
    assert optimizer.averages_swapped_in == other.averages_swapped_in == shown
    assert bits(others, other) == bits(params, optimizer)
    for each in (optimizer, other):
        each.train()
    assert bits(others, other) == bits(params, optimizer)
    gradients = arrays(rng, dtype)
    for each in (optimizer, other):
        each.step(gradients)
    assert bits(others, other) == bits(params, optimizer)


@by_name
def test_a_state_dict_has_the_authors_names(name: str, rng: np.random.Generator) -> None:
    optimizer, _ = trained(name, rng)
    train = optimizer.state_dict()
    optimizer.eval()
    shown = optimizer.state_dict()
    states = [*SPECS[name].carried, *SPECS[name].states(SPECS[name].defaults)]
    assert [set(each["state"][0]) for each in (train, shown)] == [{"step", *states}, {"step", *states, "y"}]
    assert [each["param_groups"][0]["train_mode"] for each in (train, shown)] == [True, False]


@by_name
def test_without_what_was_before_the_average_it_is_computed(name: str, rng: np.random.Generator) -> None:
    """As the authors' package does."""
    optimizer, params = trained(name, rng)
    before = [param.copy() for param in params]
    optimizer.eval()
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        del state["y"]
    others = [param.copy() for param in params]
    other = make(name, others)
    other.load_state_dict(saved)
    other.train()
    for mine, theirs in zip(others, before, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-14)  # measured: 4e-16


@by_name
def test_a_damaged_state_dict_changes_nothing(name: str, rng: np.random.Generator) -> None:
    optimizer, params = trained(name, rng)
    optimizer.eval()
    saved = optimizer.state_dict()
    saved["state"][1]["y"] = np.ones(3)
    before = bits(params, optimizer)
    with pytest.raises(ValueError, match=r"state\[1\]\['y'\] must be of its parameter's shape"):
        optimizer.load_state_dict(saved)
    assert bits(params, optimizer) == before
    optimizer.train()

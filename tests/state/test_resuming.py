"""What was saved is what goes on: state dicts through files, by name, in the middle of a step, and with new states."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, CASES, PLAIN, VARIANTS, Case, equal_bits
from comparing import snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt

SHAPES = ((5,), (2, 3))


def start(dtype: Any = np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def gradients(n_steps: int, dtype: Any = np.float64) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(4)
    return [[rng.standard_normal(shape).astype(dtype) for shape in SHAPES] for _ in range(n_steps)]


def trained(case: Case, n_steps: int = 3, **options: Any) -> tuple[fastopt.Optimizer, list[np.ndarray]]:
    params = start()
    optimizer = case.make(params, **options)
    for step in gradients(n_steps):
        optimizer.step(step)
    return optimizer, params


# --- keys that a file format changed ----------------------------------------------------------------------------------


def through_json(saved: Mapping[str, Any]) -> Any:
    def default(value: Any) -> Any:
        return {"dtype": str(value.dtype), "values": value.tolist()} if isinstance(value, np.ndarray) else value.item()

    def hook(found: dict[str, Any]) -> Any:
        return np.array(found["values"], found["dtype"]) if found.keys() == {"dtype", "values"} else found

    return json.loads(json.dumps(saved, default=default), object_hook=hook)


def through_npz(saved: Mapping[str, Any]) -> Any:
    """As many write it: one array for each number, its keys in its name."""
    file, arrays = io.BytesIO(), {}
    for key, state in saved["state"].items():
        arrays |= {f"state/{key}/{name}": value for name, value in state.items()}
    for index, group in enumerate(saved["param_groups"]):
        arrays |= {f"groups/{index}/{name}": value for name, value in group.items()}
    np.savez(file, iterations=saved["iterations"], **arrays)
    file.seek(0)
    found = np.load(file)
    state: dict[str, Any] = {}
    groups: list[dict[str, Any]] = [{} for _ in saved["param_groups"]]
    for name in found:
        kind, _, rest = name.partition("/")
        first, _, last = rest.partition("/")
        if kind == "state":
            state.setdefault(first, {})[last] = found[name]
        elif kind == "groups":
            groups[int(first)][last] = found[name]
    return {"state": state, "param_groups": groups, "iterations": found["iterations"]}


def with_ids(change: Callable[[int], Any]) -> Callable[[Mapping[str, Any]], Any]:
    def changed(saved: Mapping[str, Any]) -> Any:
        groups = [{**group, "params": list(map(change, group["params"]))} for group in saved["param_groups"]]
        return {**saved, "state": {change(key): state for key, state in saved["state"].items()}, "param_groups": groups}

    return changed


FILES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "json": through_json,
    "npz": through_npz,
    "strings": with_ids(str),
    "numpy's integers": with_ids(np.int64),
    "names": with_ids("layer.{}".format),
    "others": with_ids(lambda key: 100 - key),
}


@pytest.mark.parametrize("case", VARIANTS, ids=str)
@pytest.mark.parametrize("through", FILES)
def test_keys_are_the_numbers_that_they_were(through: str, case: Case) -> None:
    optimizer, params = trained(case)
    resumed = case.make([param.copy() for param in params])
    resumed.load_state_dict(FILES[through](optimizer.state_dict()))
    assert snapshot(resumed) == snapshot(optimizer)
    assert resumed.iterations == optimizer.iterations


def renamed(saved: dict[str, Any], key: Any) -> dict[str, Any]:
    return {**saved, "state": {0: saved["state"][0], key: saved["state"][1]}}


UNUSED: list[tuple[str, Callable[[dict[str, Any]], Any], type[Exception], str]] = [
    (
        "another number",
        lambda saved: renamed(saved, 7),
        ValueError,
        r"\['state'\] has 7, which no parameter uses.* 0, 1",
    ),
    ("a name", lambda saved: renamed(saved, "W"), ValueError, r"has 'W', which no parameter uses"),
    ("no id", lambda saved: renamed(saved, "01x"), ValueError, r"has '01x', which no parameter uses"),
    ("one more", lambda saved: {**saved, "state": {**saved["state"], 2: {"step": 1}}}, ValueError, "has 2, which no"),
    ("twice", lambda saved: {**saved, "state": {**saved["state"], "0": {}}}, ValueError, "has '0' twice"),
    ("string of params", lambda saved: in_group(saved, params="01"), TypeError, "with a list of 'params'"),
    ("the same params", lambda saved: in_group(saved, params=[0, "0"]), ValueError, "has 0, which was there before"),
    ("params that are lists", lambda saved: in_group(saved, params=[[0], [1]]), TypeError, "a number or a name, got"),
    ("other params", lambda saved: in_group(saved, params=[0, 2]), ValueError, "has 1, which no parameter uses"),
    ("only a step", lambda saved: {**saved, "state": {0: {"step": 3}}}, ValueError, r"state\[0\] has no 'exp_avg'"),
    ("only a typo", lambda saved: {**saved, "state": {0: {"typo": 3}}}, ValueError, r"state\[0\] has 'typo'"),
]


def in_group(saved: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**saved, "param_groups": [{**saved["param_groups"][0], **values}]}


@pytest.mark.parametrize(("name", "change", "error", "match"), UNUSED, ids=[row[0] for row in UNUSED])
def test_a_state_that_nobody_takes_is_an_error(
    name: str, change: Callable[[dict[str, Any]], Any], error: type[Exception], match: str
) -> None:
    optimizer, params = trained(Case("Adam", {}))
    resumed = fastopt.Adam([param.copy() for param in params])
    before = snapshot(resumed)
    with pytest.raises(error, match=match):
        resumed.load_state_dict(change(optimizer.state_dict()))
    assert snapshot(resumed) == before


def test_an_entry_with_nothing_in_it_is_none() -> None:
    optimizer, params = trained(Case("Adam", {}))
    saved = optimizer.state_dict()
    resumed = fastopt.Adam([param.copy() for param in params])
    resumed.load_state_dict({**saved, "state": {**saved["state"], 5: {}, "x": None}})
    assert snapshot(resumed) == snapshot(optimizer)
    resumed.load_state_dict({**saved, "state": {0: {"step": 0}, 1: {"step": np.float32(0), "exp_avg": None}}})
    assert resumed.state_dict()["state"] == {}


# --- names ------------------------------------------------------------------------------------------------------------


def named(*names: Any) -> dict[Any, np.ndarray]:
    """Parameters of the same shape, so that only their names tell them apart."""
    return {name: np.full(3, float(index)) for index, name in enumerate(names)}


def gradient_of(name: Any) -> np.ndarray:
    return np.full(3, sum((index + 1) * ord(letter) for index, letter in enumerate(repr(name))) / 100)


def step(optimizer: fastopt.Optimizer, *groups: Any) -> None:
    mirrored = [{name: gradient_of(name) for name in group} for group in groups]
    optimizer.step(mirrored[0] if len(groups) == 1 else mirrored)


def states_by_name(optimizer: fastopt.Optimizer) -> dict[Any, bytes]:
    names = [name for group in optimizer.state_dict()["param_groups"] for name in group["param_names"]]
    return {name: optimizer.state[index]["exp_avg"].tobytes() for index, name in enumerate(names)}


@pytest.mark.parametrize("through", ["json", "strings", "numpy's integers"])
@pytest.mark.parametrize("names", [("W", "b", "scale"), (0, 1, 2), (("a", 0), ("a", 1), ("b", 0))], ids=str)
def test_parameters_in_another_order_keep_their_states(names: tuple[Any, ...], through: str) -> None:
    optimizer = fastopt.Adam(named(*names))
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == list(names)
    step(optimizer, names)
    backwards = names[::-1]
    resumed = fastopt.Adam(named(*backwards))
    resumed.load_state_dict(FILES[through](optimizer.state_dict()))
    assert states_by_name(resumed) == states_by_name(optimizer)
    assert len(set(states_by_name(resumed).values())) == len(names)
    assert resumed.state_dict()["param_groups"][0]["param_names"] == list(backwards)


def test_groups_in_another_order_keep_their_hyperparameters() -> None:
    first, second = ("W", "V"), ("b",)
    optimizer = fastopt.Adam([{"params": named(*first), "lr": 0.5}, {"params": named(*second), "lr": 0.25}])
    step(optimizer, first, second)
    resumed = fastopt.Adam([{"params": named(*second)}, {"params": named(*first[::-1])}])
    resumed.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in resumed.param_groups] == [0.25, 0.5]
    assert states_by_name(resumed) == states_by_name(optimizer)


def test_groups_with_the_same_names_are_matched_by_position() -> None:
    optimizer = fastopt.Adam([{"params": named("W"), "lr": 0.5}, {"params": named("W"), "lr": 0.25}])
    resumed = fastopt.Adam([{"params": named("W")}, {"params": named("W")}])
    resumed.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in resumed.param_groups] == [0.5, 0.25]


def test_accumulated_gradients_go_to_the_parameter_of_the_same_name() -> None:
    optimizer = fastopt.SGD(named("W", "b"), lr=1.0, accumulate_steps=2)
    optimizer.step({"W": gradient_of("W"), "b": None})
    params = named("b", "W")
    resumed = fastopt.SGD(params, lr=1.0, accumulate_steps=2)
    resumed.load_state_dict(optimizer.state_dict())
    before = params["b"].copy()
    resumed.step({"W": None, "b": None})
    assert equal_bits(params["b"], before)
    assert equal_bits(params["W"], np.full(3, 1.0) - gradient_of("W") / 2)


@settings(deadline=None)
@given(order=st.permutations("abcdefg"), cuts=st.sets(st.integers(1, 6)), data=st.data())
def test_any_order_of_groups_and_parameters(order: list[str], cuts: set[int], data: st.DataObject) -> None:
    bounds = [0, *sorted(cuts), 7]
    groups = [order[first:last] for first, last in itertools.pairwise(bounds)]
    others = [data.draw(st.permutations(group)) for group in data.draw(st.permutations(groups))]
    rates = {frozenset(group): 0.5**index for index, group in enumerate(groups)}
    optimizer = fastopt.Adam([{"params": named(*group), "lr": rates[frozenset(group)]} for group in groups])
    optimizer.step([{name: gradient_of(name) for name in group} for group in groups])
    resumed = fastopt.Adam([{"params": named(*group)} for group in others])
    resumed.load_state_dict(optimizer.state_dict())
    assert states_by_name(resumed) == states_by_name(optimizer)
    assert [group["lr"] for group in resumed.param_groups] == [rates[frozenset(group)] for group in others]


def test_nested_parameters_are_matched_by_their_paths() -> None:
    def params(keys: str) -> dict[str, Any]:
        return {"layers": [named(*keys), named(*keys)], "head": {"b": np.zeros(3)}}

    optimizer, resumed = fastopt.Adam(params("Wb")), fastopt.Adam(dict(reversed(params("bW").items())))
    grads = [{name: gradient_of((layer, name)) for name in "Wb"} for layer in (0, 1)]
    optimizer.step({"layers": grads, "head": {"b": gradient_of("head")}})
    names = ["layers.0.W", "layers.0.b", "layers.1.W", "layers.1.b", "head.b"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names
    resumed.load_state_dict(through_json(optimizer.state_dict()))
    assert states_by_name(resumed) == states_by_name(optimizer)
    assert len(set(states_by_name(resumed).values())) == 5
    # Without a dict there are only positions, and paths that read alike stay apart.
    assert "param_names" not in fastopt.Adam([[np.ones(1)], [np.ones(1)]]).state_dict()["param_groups"][0]
    alike = fastopt.Adam({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}).state_dict()
    assert alike["param_groups"][0]["param_names"] == [("a", "b"), ("a.b",)]


MISMATCHES: list[tuple[str, Any, str]] = [
    ("renamed", named("W", "c"), r"'W', 'b', group 0 .* 'W', 'c'; only the first has 'b', only the second 'c'"),
    ("missing", named("W"), r"only the first has 'b', only the second nothing"),
    ("added", named("W", "b", "c"), r"only the first has nothing, only the second 'c'"),
    ("groups", [{"params": named("W")}, {"params": named("b")}], "different number of parameter groups"),
]


@pytest.mark.parametrize(("name", "params", "match"), MISMATCHES, ids=[row[0] for row in MISMATCHES])
def test_other_names_are_an_error_that_lists_both_sides(name: str, params: Any, match: str) -> None:
    optimizer = fastopt.Adam(named("W", "b"))
    step(optimizer, ("W", "b"))
    other = fastopt.Adam(params)
    before = snapshot(other)
    with pytest.raises(ValueError, match=match):
        other.load_state_dict(optimizer.state_dict())
    assert snapshot(other) == before


@pytest.mark.parametrize("names", [["W"], ["W", "W"], "Wb", 3], ids=str)
def test_damaged_names(names: Any) -> None:
    saved = fastopt.Adam(named("W", "b")).state_dict()
    saved["param_groups"][0]["param_names"] = names
    with pytest.raises(ValueError, match=r"param_groups\[0\]\['param_names'\]"):
        fastopt.Adam(named("W", "b")).load_state_dict(saved)


@pytest.mark.parametrize("sides", [("list", "dict"), ("dict", "list")])
def test_names_on_one_side_are_not_needed(sides: tuple[str, str]) -> None:
    """Matched by position then, as torch does, and as state dicts of earlier versions were."""

    def make(kind: str) -> fastopt.Optimizer:
        params = named("W", "b")
        return fastopt.Adam(params if kind == "dict" else list(params.values()), grads=None)

    optimizer, resumed = map(make, sides)
    given = [gradient_of("W"), gradient_of("b")]
    optimizer.step(given if sides[0] == "list" else dict(zip(("W", "b"), given, strict=True)))
    resumed.load_state_dict(optimizer.state_dict())
    assert [resumed.state[index]["exp_avg"].tobytes() for index in (0, 1)] == [
        optimizer.state[index]["exp_avg"].tobytes() for index in (0, 1)
    ]


def test_torchs_names_are_matched() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.ParameterDict({name: torch.from_numpy(value) for name, value in named("W", "b").items()})
    theirs = torch.optim.Adam(model.named_parameters())
    for name, param in model.items():
        param.grad = torch.from_numpy(gradient_of(name))
    theirs.step()
    ours = fastopt.Adam(named("b", "W"))
    ours.load_state_dict(theirs.state_dict())
    expected = {name: theirs.state[param]["exp_avg"].numpy().tobytes() for name, param in model.items()}
    assert states_by_name(ours) == expected
    with pytest.raises(ValueError, match="only the first has 'W', only the second 'V'"):
        fastopt.Adam(named("b", "V")).load_state_dict(theirs.state_dict())


# --- between accumulated steps ----------------------------------------------------------------------------------------


def accumulating(n_calls: int, k: int, scale: float = 1.0) -> tuple[fastopt.Optimizer, np.ndarray]:
    param = np.zeros(2)
    optimizer = fastopt.SGD(param, lr=1.0, accumulate_steps=k)
    for call in range(n_calls):
        optimizer.step(np.full(2, scale * (call + 1)))
    return optimizer, param


@pytest.mark.parametrize("other", [1, 2, 3, 8])
def test_another_number_of_accumulated_steps_is_refused_in_the_middle(other: int) -> None:
    optimizer, _ = accumulating(2, 4)
    saved = optimizer.state_dict()
    assert saved["accumulated"] == {"calls": 2, "accumulate_steps": 4, "params": [0]}
    resumed, _ = accumulating(0, other)
    with pytest.raises(ValueError, match=rf"after 2 calls of accumulate_steps=4; .* accumulate_steps={other}"):
        resumed.load_state_dict(saved)
    assert snapshot(resumed) == snapshot(accumulating(0, other)[0])


@pytest.mark.parametrize("other", [1, 4, 8])
def test_any_number_of_accumulated_steps_goes_on_after_an_update(other: int) -> None:
    optimizer, param = accumulating(4, 4)
    resumed = fastopt.SGD(param, lr=1.0, accumulate_steps=other)
    resumed.load_state_dict(through_json(optimizer.state_dict()))
    for _ in range(other):
        resumed.step(np.ones(2))
    assert param.tolist() == [-3.5, -3.5]


def test_the_middle_of_an_accumulation_goes_on() -> None:
    _, expected = accumulating(4, 4)
    optimizer, _ = accumulating(2, 4)
    resumed, param = accumulating(0, 4)
    resumed.load_state_dict(through_json(optimizer.state_dict()))
    for scale in (3, 4):
        resumed.step(np.full(2, float(scale)))
    assert equal_bits(param, expected)


def test_a_state_dict_of_an_earlier_version_has_no_number_of_accumulated_steps() -> None:
    optimizer, _ = accumulating(2, 4)
    saved = optimizer.state_dict()
    del saved["accumulated"]["accumulate_steps"]
    accumulating(0, 4)[0].load_state_dict(saved)
    # After an update it had an accumulator of zeros.
    optimizer, _ = accumulating(4, 4)
    saved = optimizer.state_dict()
    saved["state"][0]["grad_accumulator"] = np.zeros(2)
    for k in (1, 4, 8):
        accumulating(0, k)[0].load_state_dict(saved)


@pytest.mark.parametrize("k", [1, 4])
def test_an_accumulator_that_nothing_counts_is_refused(k: int) -> None:
    optimizer, _ = accumulating(2, 4)
    saved = optimizer.state_dict()
    del saved["accumulated"]
    with pytest.raises(ValueError, match=r"state\[0\] has gradients in 'grad_accumulator', which 'accumulated' does"):
        accumulating(0, k)[0].load_state_dict(saved)


# --- skipped steps ----------------------------------------------------------------------------------------------------


def skipping(*gradients: float, backend: str = "auto") -> fastopt.Optimizer:
    """An optimizer that may skip three steps in a row, after these."""
    options = {"nonfinite": "skip", "max_consecutive_skips": 3, "backend": backend}
    optimizer = fastopt.SGD(np.zeros(2), lr=1.0, momentum=0.5, **options)
    for gradient in gradients:
        optimizer.step(np.full(2, gradient))
    return optimizer


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("other", BACKENDS)
def test_the_counts_of_skipped_steps_go_on(backend: str, other: str) -> None:
    nan = float("nan")
    saved = through_json(skipping(nan, 1.0, nan, nan, backend=backend).state_dict())
    assert saved["skipped"] == {"steps": 3, "consecutive": 2}
    resumed = skipping(nan, backend=other)
    resumed.load_state_dict(saved)
    assert (resumed.skipped_steps, resumed.consecutive_skips, resumed.nonfinite_counts) == (3, 2, {})
    resumed.step(np.full(2, nan))
    with pytest.raises(FloatingPointError, match="4 steps in a row were skipped"):
        resumed.step(np.full(2, nan))
    resumed.load_state_dict(saved)
    resumed.step(np.ones(2))
    assert (resumed.skipped_steps, resumed.consecutive_skips) == (3, 0)
    assert resumed.state_dict()["skipped"] == {"steps": 3, "consecutive": 0}


def test_a_state_dict_without_skipped_steps_sets_their_counts_to_zero() -> None:
    saved = skipping(1.0).state_dict()
    assert "skipped" not in saved
    resumed = skipping(float("nan"))
    resumed.load_state_dict(saved)
    assert (resumed.skipped_steps, resumed.consecutive_skips) == (0, 0)


# --- states that were not saved ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("every", [None, 3])
def test_an_average_that_was_not_saved_starts_at_the_first_update_after_loading(
    backend: str, every: int | None
) -> None:
    """The parameters, as they are when the state dict is loaded, have no part in it: they may be loaded later."""
    case = Case("Adam", {"lr": 0.1})
    optimizer, params = trained(case)
    resumed_params = [np.full_like(param, np.nan) for param in params]
    resumed = case.make(resumed_params, ema_decay=0.75, ema_overwrite_frequency=every, backend=backend)
    resumed.load_state_dict(optimizer.state_dict())
    for mine, theirs in zip(resumed_params, params, strict=True):
        mine[...] = theirs
    with resumed.averaged_params():  # there are none yet
        assert all(equal_bits(a, b) for a, b in zip(resumed_params, params, strict=True))
    averages: list[np.ndarray | None] = [None, None]
    for number, (first, second) in enumerate(gradients(4)):
        given = [first, None if number == 0 else second]
        optimizer.step(given)
        resumed.step(given)
        for index, param in enumerate(params):
            if given[index] is None:
                continue
            average = averages[index]
            averages[index] = param.copy() if average is None else 0.75 * average + (1 - 0.75) * param
            assert equal_bits(resumed.state[index]["param_average"], averages[index])
            if every and optimizer.state[index]["step"] % every == 0:
                param[...] = averages[index]
    assert all(equal_bits(a, b) for a, b in zip(resumed_params, params, strict=True))


def test_an_average_is_saved_when_there_is_one() -> None:
    case = Case("Adam", {})
    optimizer, params = trained(case)
    averaging = case.make(params, ema_decay=0.5)
    averaging.load_state_dict(optimizer.state_dict())
    assert "param_average" not in averaging.state_dict()["state"][0]
    averaging.step([np.ones(5), None])
    saved = averaging.state_dict()["state"]
    assert equal_bits(saved[0]["param_average"], params[0])
    assert "param_average" not in saved[1]
    resumed = case.make([param.copy() for param in params], ema_decay=0.5)
    resumed.load_state_dict(averaging.state_dict())
    for _ in range(2):
        resumed.step([np.ones(5), np.ones((2, 3))])
        averaging.step([np.ones(5), np.ones((2, 3))])
    assert snapshot(resumed) == snapshot(averaging)


def test_parameters_that_were_loaded_after_construction_are_their_own_averages() -> None:
    param = np.zeros(3)
    optimizer = fastopt.SGD(param, lr=1.0, ema_decay=0.5)
    param[...] = 7
    with optimizer.averaged_params():
        assert param.tolist() == [7, 7, 7]
    assert param.tolist() == [7, 7, 7]


def switched(case: Case) -> dict[str, Any]:
    """The hyperparameters that bring states beyond those of the plain rule."""
    return {name: case.options[name] for name in case.spec.variants if case.options.get(name)}


@pytest.mark.parametrize("case", [case for case in CASES if switched(case)], ids=str)
def test_a_variant_that_is_turned_on_after_loading_starts_as_in_a_new_optimizer(case: Case) -> None:
    off = {name: type(value)(0) for name, value in switched(case).items()}
    plain = Case(case.optimizer, {**case.options, **off})
    optimizer, params = trained(plain)
    resumed_params = [param.copy() for param in params]
    resumed = case.make(resumed_params)  # which makes the states that the variant needs
    resumed.load_state_dict(optimizer.state_dict())
    assert not any(resumed.param_groups[0][name] for name in switched(case))
    resumed.param_groups[0].update(switched(case))
    # The same in the state dict itself.
    saved = optimizer.state_dict()
    saved["param_groups"][0].update(switched(case))
    edited_params = [param.copy() for param in params]
    edited = plain.make(edited_params)
    edited.load_state_dict(saved)
    names = set(case.spec.states({**case.spec.defaults, **case.options}))
    for step in gradients(3):
        resumed.step(step)
        edited.step(step)
    assert names <= set(resumed.state[0])
    assert all(equal_bits(a, b) for a, b in zip(resumed_params, edited_params, strict=True))
    assert sorted(snapshot(resumed)) == sorted(snapshot(edited))


@pytest.mark.parametrize("saved", [{}, {"momentum_buffer": None}], ids=str)
def test_momentum_that_is_turned_on_after_loading_starts_with_the_first_gradient(saved: dict[str, Any]) -> None:
    """Undampened, as in a new optimizer; the second state dict is torch's."""
    optimizer = fastopt.SGD(np.ones(3), momentum=0.9, dampening=0.5)
    group = {"lr": 0.1, "momentum": 0.0, "params": [0]}
    optimizer.load_state_dict({"state": {0: saved}, "param_groups": [group], "iterations": 7})
    optimizer.param_groups[0]["momentum"] = 0.9
    optimizer.step(np.full(3, 3.0))
    assert optimizer.state[0]["momentum_buffer"].tolist() == [3, 3, 3]
    assert optimizer.iterations == 8


def test_a_state_that_another_parameter_of_the_group_has_is_missing() -> None:
    optimizer, params = trained(Case("Adam", {"amsgrad": True}))
    saved = optimizer.state_dict()
    del saved["state"][1]["max_exp_avg_sq"]
    with pytest.raises(ValueError, match=r"state\[1\] has no 'max_exp_avg_sq'"):
        fastopt.Adam(params).load_state_dict(saved)


@pytest.mark.parametrize("case", [case for case in PLAIN if not case.spec.has_sums_over_all], ids=str)
def test_a_parameter_that_was_not_saved_starts_as_in_a_new_optimizer(case: Case) -> None:
    optimizer, params = trained(case)
    saved = optimizer.state_dict()
    del saved["state"][1]
    resumed_params = [np.full(shape, np.nan) for shape in SHAPES]
    resumed = case.make(resumed_params, **case.possible({"ema_decay": 0.5}))
    resumed.load_state_dict(saved)
    fresh_params = start()
    fresh = case.make(fresh_params, **case.possible({"ema_decay": 0.5}))
    resumed_params[0][...], resumed_params[1][...] = params[0], fresh_params[1]
    for step in gradients(3):
        resumed.step(step)
        fresh.step(step)
    assert equal_bits(resumed_params[1], fresh_params[1])
    for name, value in fresh.state[1].items():
        other = resumed.state[1][name]
        assert value == other if isinstance(value, (int, float)) else equal_bits(value, other)

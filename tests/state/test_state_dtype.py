"""`state_dtype`: states in fewer bits, what a user sees of them, and what is kept in float32."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
from cases import CONVENTION_CASES, PLAIN, VARIANTS, Case, equal_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from storages import HALVES

import fastopt
from fastopt.definitions.specs import SPECS
from fastopt.guard.array_target import ArrayTarget
from fastopt.state import coded

BFLOAT16 = HALVES["bfloat16"]
LARGE, SMALL = 4096, 4095
FORMATS = ("bfloat16", "float8")
BITS = {"bfloat16": 8, "float8": 4, "unsigned_float8": 5}
"""Of the fraction of a number, its first one included."""

by_format = pytest.mark.parametrize("name", FORMATS)
by_case = pytest.mark.parametrize("case", VARIANTS, ids=str)


def formats_of(optimizer: fastopt.Optimizer, index: int = 0) -> dict[str, str]:
    """The formats of the states that an optimizer has, as its state dict names them."""
    for each in optimizer.param_groups:
        optimizer.step([np.ones_like(param) for param in each["params"]])
    saved = optimizer.state_dict(encoded=True)["state"].get(index, {})
    return {name: state["codec"] for name, state in saved.items() if coded.is_saved(state)}


def unsigned_states(case: Case, rng: np.random.Generator) -> set[str]:
    """The states that steps never make negative, found by stepping."""
    param = rng.standard_normal(500)
    optimizer = case.make(param)
    found = set(optimizer._contents.states[0])
    for _ in range(40):
        optimizer.step(rng.standard_normal(500))
        found -= {name for name, state in optimizer._contents.states[0].items() if (state < 0).any()}
    return found


@by_case
def test_states_have_a_sign_as_they_need_it(case: Case, rng: np.random.Generator) -> None:
    """The column of the table of specs says what stepping finds."""
    kept = set(case.spec.states({**case.spec.defaults, **case.options}))
    exact = set(case.spec.exact_states({**case.spec.defaults, **case.options}))
    assert (set(case.spec.unsigned) & kept) - exact == unsigned_states(case, rng) - exact


@by_case
@by_format
def test_which_states_are_stored(case: Case, name: str) -> None:
    values = {**case.spec.defaults, **case.options}
    states, exact = case.spec.states(values), case.spec.exact_states(values)
    optimizer = case.make([np.ones(LARGE, np.float32)], state_dtype=name)
    unsigned = {"float8": "unsigned_float8"}.get(name, name)
    expected = {each: unsigned if each in case.spec.unsigned else name for each in states if each not in exact}
    assert formats_of(optimizer) == expected
    assert formats_of(case.make([np.ones(SMALL, np.float32)], state_dtype=name)) == {}
    for state in expected:
        chosen = formats_of(case.make([np.ones(7, np.float32)], state_dtype={state: name}))
        assert chosen == {state: expected[state]}


def test_centered_averages_stay_exact() -> None:
    """Also where `centered` is turned off later, and where a state dict turns it on."""
    param = np.ones(LARGE, np.float32)
    optimizer = fastopt.RMSprop([param], centered=True, state_dtype="float8", momentum=0.5)
    assert formats_of(optimizer) == {"momentum_buffer": "float8"}
    optimizer.param_groups[0]["centered"] = False
    for each in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert formats_of(each) == {"momentum_buffer": "float8"}
    optimizer.param_groups[0]["centered"] = True
    other = fastopt.RMSprop([param.copy()], state_dtype="float8", momentum=0.5)
    assert formats_of(other)["square_avg"] == "unsigned_float8"
    other.load_state_dict(optimizer.state_dict())
    assert formats_of(other) == {"momentum_buffer": "float8"}


@by_format
def test_a_file_can_turn_centered_on(name: str, tmp_path: Any) -> None:
    param, gradient = np.ones(LARGE, np.float32), np.linspace(-1, 1, LARGE, dtype=np.float32)
    optimizer = fastopt.RMSprop(param, centered=True, state_dtype=name)
    optimizer.step(gradient)
    fastopt.save(tmp_path / "run", optimizer)
    mine = np.ones(LARGE, np.float32)
    other = fastopt.RMSprop(mine, state_dtype=name)
    other.step(gradient)
    fastopt.load(tmp_path / "run", other)
    for each in (optimizer, other):
        each.step(gradient)
    assert equal_bits(mine, param)
    assert equal_bits(other.state[0]["square_avg"], optimizer.state[0]["square_avg"])


@by_case
@by_format
def test_a_step_rounds_what_float32_computes(case: Case, name: str, rng: np.random.Generator) -> None:
    """Each step: from what is stored, one step in float32, then the nearest codes; exactly."""
    param = rng.standard_normal(LARGE + 100).astype(np.float32)
    expected = param.copy()
    optimizer, other = case.make(param, state_dtype=name), case.make(expected)
    formats = optimizer._contents.storages[0].formats
    for step in range(4):
        gradient = (rng.standard_normal(param.size) * np.exp(rng.standard_normal(param.size))).astype(np.float32)
        optimizer.step(gradient)
        other.step(gradient)
        assert equal_bits(param, expected), f"step {step}"
        mine, theirs = optimizer.state[0], other.state[0]
        for state, values in theirs.items():
            if state in formats:
                codes = coded.encoded(formats[state], values)
                values[...] = coded.decoded(formats[state], codes, values.shape)
            assert np.array_equal(mine[state], values), f"{state}, step {step}"


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, st.integers(0, 600), elements=st.floats(0, 2.0**66, width=32)), st.sampled_from(sorted(BITS)))
def test_decoded_and_encoded_once_more_nothing_changes(values: np.ndarray, name: str) -> None:
    first = coded.decoded(name, coded.encoded(name, values), values.shape)
    assert equal_bits(coded.decoded(name, coded.encoded(name, first), values.shape), first)


@pytest.mark.parametrize("name", sorted(BITS))
def test_numbers_are_rounded_to_the_bits_of_the_format(name: str, rng: np.random.Generator) -> None:
    """Large arrays too, which are encoded piece by piece."""
    values = np.exp(rng.uniform(-2.5, 2.5, 200_000)).astype(np.float32)
    found = coded.decoded(name, coded.encoded(name, values), values.shape)
    error = np.abs(found - values) / values
    assert error.max() <= 2.0 ** -BITS[name]
    assert error.max() > 2.0 ** -BITS[name] * 0.9


def test_nothing_but_0_becomes_0_in_what_is_divided_by() -> None:
    values = np.full(512, 1e-30, np.float32)
    values[::7] = 0
    values[100] = 1.0
    found = coded.decoded("unsigned_float8", coded.encoded("unsigned_float8", values), values.shape)
    assert np.array_equal(found == 0, values == 0)


@by_format
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16], ids=str)
def test_what_a_user_sees_is_float32(name: str, dtype: Any, rng: np.random.Generator) -> None:
    param = rng.standard_normal((64, 80)).astype(dtype)
    optimizer = fastopt.Adam(param, state_dtype={"exp_avg": name})
    optimizer.step(param.copy())
    shown, saved = optimizer.state[0], optimizer.state_dict()["state"][0]
    for state in ("exp_avg", "exp_avg_sq"):
        assert shown[state].shape == saved[state].shape == (64, 80)
        assert shown[state].dtype == saved[state].dtype == np.float32
        assert equal_bits(shown[state], saved[state])
    assert shown["exp_avg_sq"].flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        shown["exp_avg"][0, 0] = 1


@pytest.mark.parametrize("before", [None, *FORMATS])
@pytest.mark.parametrize("after", [None, *FORMATS])
@pytest.mark.parametrize("encoded", [False, True])
def test_state_dicts_load_into_any_format(before: Any, after: Any, encoded: bool, rng: np.random.Generator) -> None:
    param = rng.standard_normal((LARGE + 2,)).astype(np.float32)
    optimizer = fastopt.AdamW({"w": param}, state_dtype=before)
    for _ in range(3):
        optimizer.step({"w": rng.standard_normal(param.shape).astype(np.float32)})
    other = fastopt.AdamW({"w": param.copy()}, state_dtype=after)
    other.load_state_dict(optimizer.state_dict(encoded=encoded))
    assert other.state[0]["step"] == 3
    for name, sign in (("exp_avg", ""), ("exp_avg_sq", "unsigned_")):
        expected = optimizer.state[0][name]
        if after is not None:
            codec = sign + after if after == "float8" else after
            expected = coded.decoded(codec, coded.encoded(codec, expected), expected.shape)
        assert equal_bits(other.state[0][name], expected)


def test_torch_loads_the_numbers_of_codes(rng: np.random.Generator) -> None:
    pytest.importorskip("torch.optim")  # without PyTorch, `torch` is a folder of tests
    import torch

    param = rng.standard_normal(LARGE).astype(np.float32)
    optimizer = fastopt.Adam(param, state_dtype="float8")
    optimizer.step(param.copy())
    other = torch.optim.Adam([torch.nn.Parameter(torch.from_numpy(param.copy()))])
    other.load_state_dict(optimizer.state_dict(encoded=True))
    (state,) = other.state.values()
    assert equal_bits(state["exp_avg"].numpy(), optimizer.state[0]["exp_avg"])


@pytest.mark.parametrize("case", [case for case in [*PLAIN, *CONVENTION_CASES] if case.spec.initial], ids=str)
@by_format
def test_initial_values_are_rounded(case: Case, name: str) -> None:
    optimizer = case.make([np.ones(LARGE, np.float32)], state_dtype=name)
    plain = case.make([np.ones(LARGE, np.float32)])
    for state in case.spec.initial:
        if state in plain.state[0]:
            np.testing.assert_allclose(optimizer.state[0][state], plain.state[0][state], rtol=2.0**-5)


@by_format
def test_initial_values_that_change_before_the_first_step(name: str) -> None:
    optimizer = fastopt.Adagrad(np.ones(LARGE, np.float32), initial_accumulator_value=0.5, state_dtype=name)
    optimizer.param_groups[0]["initial_accumulator_value"] = 2.0
    optimizer.step(np.zeros(LARGE, np.float32))
    assert (optimizer.state[0]["sum"] == 2.0).all()


def test_bytes_of_states() -> None:
    size = 256 * 100
    optimizer = fastopt.Adam(np.ones(size, BFLOAT16), state_dtype="float8")
    assert sum(state.nbytes for state in optimizer._contents.states[0].values()) == 2 * (size + size // 256)


def test_describe_says_bytes_and_rounding(capsys: pytest.CaptureFixture[str]) -> None:
    fastopt.Adam(
        [{"params": np.ones(LARGE, BFLOAT16)}, {"params": np.ones(LARGE, np.float32), "state_dtype": "bfloat16"}],
        state_dtype="float8",
        stochastic_rounding=True,
        seed=5,
    ).describe()
    printed = capsys.readouterr().out
    assert "Stored, and rounded at random (seed 5) once a step:\n    1 parameter, 4.008 bytes an element: " in printed
    assert "param bfloat16, exp_avg float8, exp_avg_sq unsigned float8\n" in printed
    assert "8 bytes an element: param float32, exp_avg bfloat16, exp_avg_sq bfloat16\n" in printed


def test_a_custom_rule_says_which_states_have_no_sign() -> None:
    @fastopt.rule(state=("first", "second"), hyper={"lr": 0.1}, unsigned=("second",))
    def Mine(param, grad, first, second, lr):  # type: ignore[no-untyped-def]
        first = first + grad
        second = second + grad * grad
        param = param - lr * first
        return param, first, second

    optimizer = Mine([np.ones(LARGE, np.float32)], state_dtype="float8")
    assert formats_of(optimizer) == {"first": "float8", "second": "unsigned_float8"}
    with pytest.raises(ValueError, match=r"unsigned has 'third', which is no name in state"):
        fastopt.rule(state=("first",), hyper={"lr": 0.1}, unsigned=("third",))


def test_the_guard_looks_at_numbers_not_at_codes() -> None:
    optimizer = fastopt.SGD({"w": np.ones(LARGE, np.float32)}, momentum=0.5, state_dtype="float8")
    optimizer.step({"w": np.ones(LARGE, np.float32)})
    target = ArrayTarget(optimizer)
    assert target.nonfinite_values() is None
    saved = optimizer.state_dict()
    saved["state"][0]["momentum_buffer"][7] = np.nan
    optimizer.load_state_dict(saved)
    assert target.nonfinite_values() == 0


BAD: dict[str, tuple[dict[str, Any], Any, type[Exception], str]] = {
    "float64": ({"state_dtype": "float8"}, np.float64, TypeError, "params is float64, and its states are too"),
    "no state": (
        {"state_dtype": {"exp_avg_squared": "float8"}},
        np.float32,
        ValueError,
        "'exp_avg_squared', which is no state of Adam (it has 'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq')",
    ),
    "of an option": (
        {"state_dtype": {"param_average": "bfloat16"}, "ema_decay": 0.5},
        np.float32,
        ValueError,
        "'param_average', which is no state of Adam",
    ),
}


@pytest.mark.parametrize(("options", "dtype", "error", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(options: Any, dtype: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        fastopt.Adam(np.ones(3, dtype), **options)


@pytest.mark.parametrize("spec", [spec for spec in SPECS.values() if spec.exact], ids=lambda spec: spec.name)
def test_states_that_stay_float32_cannot_be_named(spec: Any) -> None:
    for rule, states in spec.exact.items():
        values = [key for key, each in spec.rules.items() if each == rule]
        if not values:
            continue
        options = {
            name: 0.5 if name == "momentum" else True for name, on in zip(spec.variants, values[0], strict=True) if on
        }
        for state in states:
            with pytest.raises(ValueError, match=rf"state_dtype\['{state}'\] must be 'float32' with {spec.name}"):
                getattr(fastopt, spec.name)(np.ones(3, np.float32), state_dtype={state: "bfloat16"}, **options)
            getattr(fastopt, spec.name)(np.ones(3, np.float32), state_dtype={state: "float32"}, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": "float7"}, "by the codec 'float7', which this version does not know"),
        ({"shape": [2, LARGE // 2]}, f"must be of its parameter's shape ({LARGE},), got (2, {LARGE // 2})"),
        ({"codes": np.zeros(LARGE, np.uint16)}, "must have codes of dtype uint8"),
        ({"codes": np.zeros(3, np.uint8)}, f"must have codes of dtype uint8 and shape ({LARGE + LARGE // 256},)"),
    ],
    ids=str,
)
def test_damaged_codes_are_refused(change: dict[str, Any], message: str) -> None:
    optimizer = fastopt.SGD(np.ones(LARGE, np.float32), momentum=0.5, state_dtype="float8")
    optimizer.step(np.ones(LARGE, np.float32))
    saved = optimizer.state_dict(encoded=True)
    saved["state"][0]["momentum_buffer"] |= change
    before = optimizer.state[0]["momentum_buffer"]
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.load_state_dict(saved)
    assert equal_bits(optimizer.state[0]["momentum_buffer"], before)

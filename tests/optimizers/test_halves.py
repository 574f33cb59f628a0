"""bfloat16 and float16 parameters: a step is the one of float32, and rounds its result once."""

from __future__ import annotations

import copy
import math
import pickle
import re
import sys
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, PLAIN, VARIANTS, Case, dealt, equal_bits, extra_options
from comparing import assert_same, stepped
from processes import in_a_fresh_process
from storages import FLOAT32, HALVES, STORAGES, bits, problem

import fastopt
from fastopt.kernels import backends

BFLOAT16 = HALVES["bfloat16"]
OPTIONS = extra_options()
ELEMENTWISE = {
    name: options
    for name, options in OPTIONS.items()
    if all(options.get(each) is None or options[each].row is None for each in ("prox", "projection"))
}
"""Those that round a parameter once: each constraint on whole rows does so again."""

by_half = pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
by_storage = pytest.mark.parametrize(("dtypes", "options"), STORAGES.values(), ids=STORAGES)


def check_steps(case: Case, half: np.dtype[Any], rng: np.random.Generator, steps: int = 5, **options: Any) -> None:
    """Steps of a parameter are those of a float32 one that NumPy, or ml_dtypes, rounds after each."""
    param = rng.standard_normal(300).astype(half)
    expected = param.astype(FLOAT32)
    optimizer, other = case.make(param, **options), case.make(expected, **options)
    for step in range(steps):
        given = rng.standard_normal(300).astype(half if step % 2 else FLOAT32)
        wide = given.astype(FLOAT32)
        optimizer.step(given)
        other.step(wide)
        expected[...] = expected.astype(half)
        assert equal_bits(param.astype(FLOAT32), expected), f"{case}, step {step}"
        assert np.array_equal(given.astype(FLOAT32), wide), f"{case}, step {step}: the gradients after the step"
    for name, state in other.state[0].items():
        mine = optimizer.state[0][name]
        same = mine == state if isinstance(state, (int, float)) else equal_bits(mine, state)
        assert same, f"{case}: {name} differs"
    assert param.dtype == half
    assert optimizer.iterations == other.iterations
    assert equal_bits(np.array(optimizer.grad_norm), np.array(other.grad_norm))


@by_half
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_a_step_is_float32s_rounded_to_the_nearest(case: Case, half: Any, rng: np.random.Generator) -> None:
    check_steps(case, half, rng)


@by_half
@pytest.mark.parametrize("options", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_so_is_what_is_done_around_it(options: dict[str, Any], half: Any, rng: np.random.Generator) -> None:
    for case in (PLAIN[0], PLAIN[1]):
        check_steps(case, half, rng, steps=7, **options)


@by_half
def test_so_is_a_step_of_a_custom_rule(half: Any, rng: np.random.Generator) -> None:
    @fastopt.rule(state=("speed",), hyper={"lr": 0.1, "beta": 0.9})
    def Heavy(param, grad, speed, lr, beta):  # type: ignore[no-untyped-def]
        speed = beta * speed + grad
        param = param - lr * speed
        return param, speed

    param, expected = np.ones(300, half), np.ones(300, np.float32)
    optimizer, other = Heavy(param), Heavy(expected)
    for _ in range(3):
        gradient = rng.standard_normal(300).astype(half)
        optimizer.step(gradient)
        other.step(gradient.astype(np.float32))
        expected[...] = expected.astype(half)
    assert equal_bits(param.astype(np.float32), expected)
    assert equal_bits(optimizer.state[0]["speed"], other.state[0]["speed"])


@by_half
def test_rounding_of_special_values(half: Any) -> None:
    """Ties, the largest and the smallest numbers, infinity and NaN: as ml_dtypes and NumPy round."""
    tiny, huge = float(np.array([1], "u2").view(half)[0]), 65504.0 if half == np.float16 else 3.3895314e38
    wanted = [0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, tiny * 0.5, tiny * 1.5, tiny * 2.5, huge, huge * 1.0005]
    wanted = np.array([*wanted, -huge, math.inf, -math.inf, math.nan], np.float32)
    param = np.zeros(len(wanted), half)
    with np.errstate(all="ignore"):
        fastopt.SGD(param, lr=1.0, flush_denormals=False).step(-wanted)
        expected = (np.zeros_like(wanted) + wanted).astype(half)
    assert equal_bits(param, expected)


@by_storage
@pytest.mark.usefixtures("threads_always")
def test_the_same_bits_from_every_backend_and_number_of_threads(
    dtypes: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    """Each variant in one storage, and each option around the update in two."""
    params, gradients = problem(rng, dtypes)
    number = list(STORAGES.values()).index((dtypes, options))
    rows = [(case, {}) for case in dealt(VARIANTS, number, len(STORAGES))]
    rows += [(PLAIN[1], around) for around in list(OPTIONS.values())[number % 4 :: 4]]
    for case, around in rows:
        expected = stepped(case, params, gradients, backend="reference", **options, **around)
        for backend, n_threads in (("cython", 1), ("cython", 3), ("numba", 2)):
            actual = stepped(case, params, gradients, backend=backend, n_threads=n_threads, **options, **around)
            assert_same(case, expected, actual, f"{backend}, {n_threads} threads, {around}")


@by_storage
def test_the_same_bits_without_the_compiled_module(
    dtypes: Any, options: dict[str, Any], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, gradients = problem(rng, dtypes)
    expected = stepped(PLAIN[1], params, gradients, backend="reference", **options)
    with monkeypatch.context() as patch:
        patch.setattr(backends, "compiled_module_error", lambda: "not built")
        backend = backends.BACKENDS["numba"]()
        patch.setattr(backends, "load", lambda name, custom=False: backend)
        actual = stepped(PLAIN[1], params, gradients, n_threads=3, **options)
    assert_same(PLAIN[1], expected, actual, "numba without the compiled module")


@pytest.mark.parametrize("backend", BACKENDS)
def test_bound_gradients_of_both_dtypes(backend: str, rng: np.random.Generator) -> None:
    params = [rng.standard_normal(500).astype(BFLOAT16) for _ in range(3)]
    other = copy.deepcopy(params)
    grads = [np.zeros(500, BFLOAT16), np.zeros(500, np.float32), None]
    bound = fastopt.AdamW(params, grads=grads, zero_grads=True, backend=backend)
    given = fastopt.AdamW(other, backend=backend)
    for _ in range(3):
        grads[0][:], grads[1][:] = rng.standard_normal((2, 500))
        given.step([grads[0].copy(), grads[1].copy(), None])
        bound.step()
        assert not grads[0].any()
        assert not grads[1].any()
    for mine, theirs in zip(params, other, strict=True):
        assert equal_bits(mine, theirs)
    grads[0][:] = 1
    bound.zero_grad()
    assert not grads[0].any()


@by_half
def test_numpys_scalars_are_gradients(half: Any) -> None:
    param = np.array(2.0, half)
    optimizer = fastopt.SGD(param, lr=0.5)
    optimizer.step(np.array([1.0], half)[0])
    optimizer.step(np.float32(1.0))
    assert param == 1.0


def test_packed_arrays_and_their_norm() -> None:
    flat, views = fastopt.pack([np.ones((2, 3), BFLOAT16), np.full(4, 2.0, BFLOAT16)])
    assert flat.dtype == BFLOAT16
    assert fastopt.global_norm(views) == math.sqrt(6 + 16)
    fastopt.SGD(flat, lr=1.0).step(np.ones(10, BFLOAT16))
    assert not views[0].any()
    assert (views[1] == 1).all()


@by_half
@pytest.mark.parametrize("options", [{}, {"state_dtype": "float8", "stochastic_rounding": True}], ids=str)
def test_copies_and_pickles_go_on_with_the_same_bits(half: Any, options: Any, rng: np.random.Generator) -> None:
    param = rng.standard_normal(5000).astype(half)
    gradients = rng.standard_normal((6, 5000)).astype(half)
    optimizer = fastopt.Adam({"w": param}, ema_decay=0.9, **options)
    for gradient in gradients[:3]:
        optimizer.step({"w": gradient})
    others = [copy.deepcopy((optimizer, param)), pickle.loads(pickle.dumps((optimizer, param)))]
    for each, array in [(optimizer, param), *others]:
        for gradient in gradients[3:]:
            each.step({"w": gradient})
        assert array.dtype == half
        assert equal_bits(array, param) == (array is param) or each is not optimizer
    for each, array in others:
        assert equal_bits(array, param)
        for name, state in each._contents.states[0].items():
            assert equal_bits(state, optimizer._contents.states[0][name])


@by_half
@pytest.mark.parametrize("options", [{}, {"state_dtype": "float8", "stochastic_rounding": True}], ids=str)
def test_files_go_on_with_the_same_bits(half: Any, options: Any, rng: np.random.Generator, tmp_path: Any) -> None:
    param = rng.standard_normal(5000).astype(half)
    gradients = rng.standard_normal((4, 5000)).astype(half)
    optimizer = fastopt.Adam({"w": param}, **options)
    for gradient in gradients[:2]:
        optimizer.step({"w": gradient})
    fastopt.save(tmp_path / "run", optimizer)
    other = np.zeros(5000, half)
    loaded = fastopt.Adam({"w": other}, **options)
    fastopt.load(tmp_path / "run", loaded)
    for gradient in gradients[2:]:
        optimizer.step({"w": gradient})
        loaded.step({"w": gradient})
    assert equal_bits(other, param)


def test_a_file_holds_dicts_of_bfloat16(tmp_path: Any) -> None:
    arrays = {"w": np.arange(5).astype(BFLOAT16), "more": [np.ones(2, BFLOAT16)]}
    optimizer = fastopt.SGD(np.ones(2))
    fastopt.save(tmp_path / "arrays", optimizer, arrays=arrays)
    other = {"w": np.zeros(5, BFLOAT16), "more": [np.zeros(2, BFLOAT16)]}
    fastopt.load(tmp_path / "arrays", optimizer, arrays=other)
    assert equal_bits(other["w"], arrays["w"])  # type: ignore[arg-type]
    assert equal_bits(other["more"][0], arrays["more"][0])


@by_half
def test_state_dicts_have_float32_and_load_nothing_else(half: Any, rng: np.random.Generator) -> None:
    param = rng.standard_normal(10).astype(half)
    optimizer = fastopt.Adam(param)
    optimizer.step(param.copy())
    saved = optimizer.state_dict()
    assert {saved["state"][0][name].dtype for name in ("exp_avg", "exp_avg_sq")} == {FLOAT32}
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].astype(half)
    with pytest.raises(TypeError, match=rf"state\[0\]\['exp_avg'\] must be of dtype float32, got {half}"):
        optimizer.load_state_dict(saved)


@by_half
def test_gradients_that_are_not_finite_are_found(half: Any) -> None:
    param, gradient = np.ones(4, half), np.ones(4, half)
    gradient[2] = math.inf
    optimizer = fastopt.Adam({"w": param}, nonfinite="skip")
    optimizer.step({"w": gradient})
    assert optimizer.nonfinite_counts == {"grads['w']": 1}
    assert (param == 1).all()


@by_half
def test_the_guard_finds_nan_and_goes_back(half: Any) -> None:
    param = np.ones(8, half)
    optimizer = fastopt.Adam({"w": param}, lr=0.1)
    guard = fastopt.DivergenceGuard(optimizer, on_divergence="restore", snapshot_every=1)
    for _ in range(3):
        guard.step(1.0, {"w": np.ones(8, half)})
    before = param.copy()
    guard.step(math.nan, {"w": np.full(8, math.nan, half)})
    assert np.isfinite(param).all()
    assert not equal_bits(before, np.ones(8, half))


@pytest.mark.parametrize("backend", BACKENDS)
def test_averages_are_the_same_after_two_swaps(backend: str, rng: np.random.Generator) -> None:
    """A parameter holds the nearest that it can meanwhile; one with master weights holds all of its average."""
    params = [rng.standard_normal(500).astype(dtype) for dtype in (BFLOAT16, np.float16, np.float32)]
    for masters in (False, True):
        chosen = [param for param in params if param.dtype != np.float16 or not masters]
        optimizer = fastopt.SGD(chosen, lr=0.1, ema_decay=0.9, master_weights=masters, backend=backend)
        for _ in range(5):
            optimizer.step([rng.standard_normal(500).astype(np.float32) for _ in chosen])
        before = [param.copy() for param in chosen]
        averages = [optimizer.state[index]["param_average"].copy() for index in optimizer.state]
        for _ in range(2):
            with optimizer.averaged_params():
                assert optimizer.averages_swapped_in
                for param, average in zip(chosen, averages, strict=True):
                    assert np.abs(param.astype(np.float32) - average).max() <= np.abs(average).max() * 2.0**-8
                with pytest.raises(RuntimeError, match="averages are swapped in"):
                    optimizer.step([np.zeros(500, np.float32) for _ in chosen])
            for index, param in enumerate(chosen):
                assert equal_bits(param, before[index])
                assert equal_bits(optimizer.state[index]["param_average"], averages[index])


def test_settings_of_single_parameters(rng: np.random.Generator) -> None:
    params = {"a": np.ones(9, BFLOAT16), "b": np.ones(9, np.float16), "c": np.ones(9, np.float32)}
    optimizer = fastopt.SGD(params, lr=0.25)
    optimizer.set_segments("a", frozen=True)
    optimizer.set_segments("b", lr_scale=2.0)
    optimizer.step({name: np.ones_like(param) for name, param in params.items()})
    assert [float(param[0]) for param in params.values()] == [1.0, 0.5, 0.75]


def test_groups_can_be_added(rng: np.random.Generator) -> None:
    optimizer = fastopt.SGD([np.ones(3, np.float32)], lr=1.0)
    more = np.ones(3, BFLOAT16)
    optimizer.add_param_group({"params": [more]})
    optimizer.step([[np.ones(3, np.float32)], [np.ones(3, BFLOAT16)]])
    assert not more.any()
    with pytest.raises(TypeError, match="of one dtype, or of float32, bfloat16 and float16"):
        optimizer.add_param_group({"params": [np.ones(3)]})


BAD: dict[str, tuple[Any, str]] = {
    "float64 beside": (
        lambda: fastopt.SGD([np.ones(2, BFLOAT16), np.ones(2)]),
        "of one dtype, or of float32, bfloat16",
    ),
    "other gradient": (
        lambda: fastopt.SGD(np.ones(2, BFLOAT16)).step(np.ones(2, np.float16)),
        "grads must be of its parameter's dtype bfloat16 or float32, got float16",
    ),
    "float64 gradient": (
        lambda: fastopt.SGD(np.ones(2, np.float16)).step(np.ones(2)),
        "grads must be of its parameter's dtype float16 or float32, got float64",
    ),
    "half gradient": (
        lambda: fastopt.SGD(np.ones(2, np.float32)).step(np.ones(2, np.float16)),
        "grads must be of its parameter's dtype float32, got float16",
    ),
    "byte order": (lambda: fastopt.SGD(np.ones(2, ">f2")), "machine's byte order"),
    "eight bits": (
        lambda: fastopt.SGD(np.ones(2, np.int8)),
        "must be of dtype float32, float64, bfloat16 or float16, got int8",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


def test_describe_says_how_parameters_are_stored(capsys: pytest.CaptureFixture[str]) -> None:
    fastopt.Adam([np.ones(10, BFLOAT16), np.ones(5, np.float32), np.ones(20, BFLOAT16)]).describe()
    printed = capsys.readouterr().out
    assert printed.endswith(
        "Stored, and rounded to the nearest once a step:\n"
        "    2 parameters, 10 bytes an element: param bfloat16, exp_avg float32, exp_avg_sq float32\n"
        "    1 parameter, 12 bytes an element: param float32, exp_avg float32, exp_avg_sq float32\n"
    )
    fastopt.Adam(np.ones(5)).describe()
    assert "Stored" not in capsys.readouterr().out


def test_ml_dtypes_is_not_loaded_without_need() -> None:
    assert "ml_dtypes" in sys.modules
    code = (
        "import sys, numpy, fastopt; fastopt.Adam(numpy.ones(3)).step(numpy.ones(3)); print('ml_dtypes' in sys.modules)"
    )
    assert in_a_fresh_process(code).strip() == "False"


def test_the_bits_of_an_array_are_compared() -> None:
    assert not np.array_equal(bits(np.array([0.0], BFLOAT16)), bits(np.array([-0.0], BFLOAT16)))

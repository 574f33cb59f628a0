"""The loops that decode and encode bfloat16 by themselves: the same bits as the reference, which decodes first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from arrays import at_offset
from cases import VARIANTS, Case, random_gradient
from comparing import assert_same, run
from storages import HALVES

import fastopt
from fastopt.kernels import backends
from fastopt.kernels.formulas import registry
from fastopt.kernels.render.cython_source import SPARING

loops = pytest.importorskip(
    "fastopt.kernels.native.loops", reason="only the compiled module has them", exc_type=ImportError
)

BFLOAT16 = HALVES["bfloat16"]
LENGTHS = (1, 2, 3, 15, 16, 31, 32, 33, 63, 64, 65, 1000, 4097)
ROUNDINGS: dict[str, dict[str, Any]] = {"nearest": {}, "stochastic": {"stochastic_rounding": True, "seed": 3}}

by_case = pytest.mark.parametrize("case", VARIANTS, ids=str)
by_rounding = pytest.mark.parametrize("options", ROUNDINGS.values(), ids=ROUNDINGS)


def states_of(case: Case) -> dict[str, str]:
    """A format for each state that can have one, in parameters of any size."""
    values = {**case.spec.defaults, **case.options}
    exact = case.spec.exact_states(values)
    return {name: "bfloat16" for name in case.spec.states(values) if name not in exact}


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(BFLOAT16)


def test_which_rules_have_them() -> None:
    found = {name for name in registry.rules() if loops.over_bfloat16(name)}
    assert found == (set() if loops.LEVEL == "x86-64" else set(registry.rules()).difference(SPARING))
    assert backends.load("reference").over_bfloat16("adam") is None


@pytest.mark.skipif(loops.LEVEL == "x86-64", reason="this instruction set has none")
@pytest.mark.parametrize("dtype", [BFLOAT16, np.dtype(np.float32)], ids=str)
def test_steps_take_them(dtype: Any, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """With the loop of another rule in its place, Adam's step is another one; unless the gradient is of float32."""
    start, gradient = half(rng.standard_normal(100)), half(rng.standard_normal(100)).astype(dtype)
    options: dict[str, Any] = {"state_dtype": dict.fromkeys(("exp_avg", "exp_avg_sq"), "bfloat16"), "backend": "cython"}
    found = []
    for name in ("adam", "adabelief"):
        monkeypatch.setitem(loops._module.OVER_BFLOAT16, ("adam", False), loops._module.OVER_BFLOAT16[name, False])
        param = start.copy()
        fastopt.Adam(param, lr=0.5, **options).step(gradient)
        found.append(param)
    assert (found[0] == found[1]).all() == (dtype == np.float32)


@by_case
@by_rounding
@pytest.mark.usefixtures("threads_always")
def test_every_length_at_every_offset(case: Case, options: dict[str, Any], rng: np.random.Generator) -> None:
    sizes = [length for length in LENGTHS for _ in range(4)]
    starts = [half(rng.standard_normal(size)) for size in sizes]
    gradients = [
        [at_offset(half(random_gradient(rng, size, np.float32)), index % 5) for index, size in enumerate(sizes)]
        for _ in range(5)
    ]
    options = {**options, "state_dtype": states_of(case)}
    expected = run(case, starts, gradients, backend="reference", **options)
    for n_threads in (1, 2, 7):
        actual = run(case, starts, gradients, backend="cython", n_threads=n_threads, **options)
        assert_same(case, expected, actual, f"{n_threads} threads")


@by_rounding
@pytest.mark.parametrize("flush", [True, False])
def test_special_values(options: dict[str, Any], flush: bool, rng: np.random.Generator) -> None:
    """Any codes at all, NaN of all kinds among them."""
    codes = rng.integers(0, 1 << 16, (6, 1001), dtype=np.uint16).view(BFLOAT16)
    options = {**options, "flush_denormals": flush}
    for case in VARIANTS:
        with np.errstate(all="ignore"):
            expected, actual = (
                run(
                    case,
                    [codes[0]],
                    [[each] for each in codes[1:]],
                    backend=backend,
                    state_dtype=states_of(case),
                    **options,
                )
                for backend in ("reference", "cython")
            )
        assert_same(case, expected, actual, str(options))


@by_rounding
def test_a_float32_gradient_is_decoded_first(options: dict[str, Any], rng: np.random.Generator) -> None:
    """Steps of both kinds in turn: the random bits are those of the step and the element, not of a kind of loop."""
    start = half(rng.standard_normal(5000))
    gradients = [rng.standard_normal(5000).astype(np.float32) for _ in range(4)]
    mixed = [[half(each) if step % 2 else half(each).astype(np.float32)] for step, each in enumerate(gradients)]
    case = next(case for case in VARIANTS if case.spec.name == "AdamW")
    options = {**options, "state_dtype": "bfloat16", "backend": "cython"}
    expected = run(case, [start], [[half(each)] for each in gradients], **options)
    assert_same(case, expected, run(case, [start], mixed, **options), "gradients of both dtypes")


def test_more_than_fits_into_caches(rng: np.random.Generator) -> None:
    """A step over so much memory asks for codes ahead, and changes no bits."""
    size = 64 * 1024 * 1024 // 9 + 12345
    start = np.resize(rng.standard_normal(10_007).astype(np.float32), size)
    options = {"lr": 0.1, "state_dtype": {"exp_avg": "float8", "exp_avg_sq": "bfloat16"}, "n_threads": 2}
    params = [half(start) for _ in range(2)]
    whole = fastopt.Adam([params[0]], **options)
    parts = fastopt.Adam(np.array_split(params[1], [1 << 20, 1 << 22]), **options)
    gradient = start.copy()
    for _ in range(2):
        whole.step([gradient])
        parts.step(np.array_split(gradient, [1 << 20, 1 << 22]))
    assert np.array_equal(params[0].view(np.uint16), params[1].view(np.uint16))

"""Master weights: a bfloat16 parameter and the state `param_rest` are a float32 parameter together."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, PLAIN, Case, equal_bits, extra_options
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from storages import HALVES

import fastopt

BFLOAT16 = HALVES["bfloat16"]
OPTIONS = extra_options()


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_updates_are_those_of_float32(case: Case, rng: np.random.Generator) -> None:
    """1,000 steps on the same gradients, to the bit: the parameter, its rest, and all states."""
    param = rng.standard_normal(600).astype(BFLOAT16)
    expected = param.astype(np.float32)
    decay = {"weight_decay": 0.01} if "weight_decay" in case.spec.defaults else {}
    optimizer = case.make(param, master_weights=True, **decay)
    other = case.make(expected, **decay)
    gradients = rng.standard_normal((20, 600)).astype(BFLOAT16)
    for step in range(1000):
        optimizer.step(gradients[step % 20])
        other.step(gradients[step % 20].astype(np.float32))
    assert equal_bits(optimizer.master_params(), expected)
    assert equal_bits(param, nearest(expected))
    for name, state in other.state[0].items():
        mine = optimizer.state[0][name]
        assert mine == state if isinstance(state, (int, float)) else equal_bits(mine, state), name


def nearest(values: np.ndarray) -> np.ndarray:
    """The nearest bfloat16, where there are two the one that is further from 0: the rest can be added to it."""
    with np.errstate(all="ignore"):
        even = values.astype(BFLOAT16)
        error = np.abs(values) - np.abs(even.astype(np.float32))
        codes = even.view(np.uint16)
        half = (values.view(np.uint32) & 0xFFFF) == 0x8000
        return np.where(half & (error > 0), codes + np.uint16(1), codes).astype(np.uint16).view(BFLOAT16)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_so_they_are_with_every_option(options: dict[str, Any], rng: np.random.Generator) -> None:
    param = rng.standard_normal((20, 30)).astype(BFLOAT16)
    expected = param.astype(np.float32)
    optimizer = fastopt.Adam(param, lr=0.01, master_weights=True, **options)
    other = fastopt.Adam(expected, lr=0.01, **options)
    for step in range(12):
        gradient = rng.standard_normal((20, 30)).astype(np.float32 if step % 2 else BFLOAT16)
        wide = gradient.astype(np.float32)
        optimizer.step(gradient)
        other.step(wide)
    assert equal_bits(optimizer.master_params(), expected)
    if "ema_decay" in options:
        assert equal_bits(optimizer.state[0]["param_average"], other.state[0]["param_average"])
        for each in (optimizer, other):
            each.swap_averages()
        assert equal_bits(param, nearest(expected))
        for each in (optimizer, other):
            each.swap_averages()
        assert equal_bits(optimizer.master_params(), expected)


@settings(deadline=None, max_examples=50)
@given(arrays(np.uint32, 40), st.sampled_from(BACKENDS))
def test_every_float32_is_kept(words: np.ndarray, backend: str) -> None:
    """But what is infinite as bfloat16 becomes infinite."""
    values = words.view(np.float32)
    param = np.zeros(values.size, BFLOAT16)
    optimizer = fastopt.SGD(param, lr=1.0, master_weights=True, backend=backend, flush_denormals=False)
    optimizer.step(-values)
    with np.errstate(all="ignore"):
        infinite = np.isinf(nearest(values).astype(np.float32))
        assert equal_bits(optimizer.master_params(), 0 + np.where(infinite, np.inf * np.sign(values), values))


def test_saving_keeps_every_bit(rng: np.random.Generator, tmp_path: Any) -> None:
    param = {"w": rng.standard_normal(50).astype(BFLOAT16), "b": rng.standard_normal(3).astype(np.float32)}
    gradients = [{name: rng.standard_normal(each.shape).astype(np.float32) for name, each in param.items()}] * 4
    optimizer = fastopt.AdamW(param, master_weights=True)
    for gradient in gradients:
        optimizer.step(gradient)
    saved = optimizer.state_dict()
    assert saved["state"][0]["param_rest"].dtype == np.uint16
    assert "param_rest" not in saved["state"][1]
    fastopt.save(tmp_path / "run", optimizer)
    loaded = fastopt.AdamW({name: np.zeros_like(each) for name, each in param.items()}, master_weights=True)
    fastopt.load(tmp_path / "run", loaded)
    fresh = fastopt.AdamW({name: each.copy() for name, each in param.items()}, master_weights=True)
    fresh.load_state_dict(saved)
    for other in (loaded, fresh, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        for name, each in optimizer.master_params().items():
            assert equal_bits(other.master_params()[name], each)


def test_torchs_optimizers_get_a_state_dict_without_it() -> None:
    pytest.importorskip("torch.optim")  # without PyTorch, `torch` is a folder of tests
    import torch

    param = np.ones(5, BFLOAT16)
    optimizer = fastopt.Adam(param, master_weights=True)
    optimizer.step(np.ones(5, np.float32))
    other = torch.optim.Adam([torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16))])
    other.load_state_dict(optimizer.state_dict())
    (state,) = other.state.values()
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_somebody_else_writes_is_what_the_next_step_starts_from(backend: str) -> None:
    """The rest stays: at most half a unit in the last place of the new value, and never a NaN."""
    param = np.ones(6, BFLOAT16)
    optimizer = fastopt.SGD(param, lr=1.0, master_weights=True, backend=backend)
    optimizer.step(np.array([1e-3, -1e-3, 1e-3, -1e-3, 1e-3, -1e-3], np.float32))
    written = np.array([0.0, 0.0, -0.0, -0.0, 64.0, -3.0], BFLOAT16)
    param[:] = written
    optimizer.step(np.zeros(6, BFLOAT16))
    wide = written.astype(np.float32)
    half_a_unit = np.abs(wide) * 2.0**-8
    assert (np.abs(optimizer.master_params() - wide) <= half_a_unit).all()
    assert np.array_equal(param.astype(np.float32), wide)
    assert np.abs(optimizer.master_params()[4:] - wide[4:]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("written", [math.inf, -math.inf, math.nan], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_an_infinity_or_a_nan_that_somebody_else_writes_is_the_weight(name: str, written: float, backend: str) -> None:
    """Whatever the rest is: in the float32 weights at once, and in the next step."""
    param = np.ones(6, BFLOAT16)
    optimizer = getattr(fastopt, name)(param, lr=1.0, master_weights=True, backend=backend)
    optimizer.step(np.array([1e-3, -1e-3, 2e-3, -2e-3, 3e-3, 0.1234], np.float32))
    before = optimizer.master_params()
    param[::2] = written
    for _ in range(3):
        masters = optimizer.master_params()
        assert np.array_equal(masters[::2], np.full(3, written), equal_nan=True)
        assert np.array_equal(param[::2].astype(np.float32), np.full(3, written), equal_nan=True)
        assert np.isfinite(masters[1::2]).all()
        optimizer.step(np.full(6, 1e-3, np.float32))
    param[::2] = 1
    restarted = optimizer.master_params()
    assert (restarted[::2] == 1).all(), "an infinity leaves no rest"
    assert (before != 1).any()


def test_it_needs_bfloat16() -> None:
    with pytest.raises(TypeError, match=r"params\['w'\] is float16, which has 3 bits of exponent less than float32"):
        fastopt.SGD({"w": np.ones(3, np.float16)}, master_weights=True)
    optimizer = fastopt.SGD(np.ones(3, BFLOAT16))
    with pytest.raises(RuntimeError, match="no master weights; construct the optimizer with master_weights=True"):
        optimizer.master_params()
    other = fastopt.SGD(np.ones(3, BFLOAT16), master_weights=True)
    other.step(np.ones(3, BFLOAT16))
    with pytest.raises(ValueError, match="'param_rest'; its parameter has no master weights here"):
        optimizer.load_state_dict(other.state_dict())


def test_other_parameters_are_copied() -> None:
    params = [np.ones(3), np.zeros(2)]
    copies = fastopt.SGD(params, master_weights=True).master_params()
    assert [each.tolist() for each in copies] == [[1, 1, 1], [0, 0]]
    copies[0][:] = math.nan
    assert (params[0] == 1).all()


def test_describe_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    fastopt.SGD(np.ones(10, BFLOAT16), master_weights=True, momentum=0.9).describe()
    assert (
        "    1 parameter, 8 bytes an element: param bfloat16, momentum_buffer float32, "
        "param_rest the other 16 bits of float32\n"
    ) in capsys.readouterr().out

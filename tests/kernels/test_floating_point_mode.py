"""A step has a floating-point mode of its own: denormals are flushed in it, and nothing of the caller's mode counts."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, PLAIN, VARIANTS, Case, equal_bits
from processes import in_a_fresh_process
from rounding import ROUNDING, c_library, needs_rounding, rounding

import fastopt
from fastopt.kernels import backends, floating_point
from fastopt.kernels.floating_point import with_denormals

TINY = np.finfo(np.float32).tiny


def has_denormals() -> bool:
    """Whether this thread's arithmetic has denormals."""
    return bool((np.array([TINY], np.float32) * np.float32(0.5))[0] != 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [10, 2_000_000])
def test_the_callers_mode_is_restored(backend: str, size: int) -> None:
    optimizer = fastopt.Adam(np.ones(size, np.float32), grads=np.ones(size, np.float32), backend=backend)
    assert has_denormals()
    optimizer.step()
    assert has_denormals()

    def step_with_flushed_denormals() -> None:
        assert not has_denormals()
        optimizer.step()
        assert not has_denormals()

    with_denormals(True, step_with_flushed_denormals)
    assert has_denormals()


@pytest.mark.skipif(floating_point._by_c_library() is None, reason="the C library's environment is not known")
def test_functions_of_llvm_set_the_mode_that_the_c_library_sets() -> None:
    """Where the C library's is not known, on Windows for one, LLVM's are used."""
    library, compiled = floating_point._by_c_library(), floating_point._by_llvm()
    assert library is not None
    assert compiled is not None
    before = library.get()
    for flush in (True, False):
        found = []
        for access in (library, compiled):
            try:
                access.set(access.changed(access.get(), flush))
                found.append((compiled.get(), has_denormals()))
            finally:
                library.set(before)
        assert found[0] == found[1]
        assert found[0][1] != flush


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("module", ["numpy", "torch"])
def test_where_denormals_cannot_be_flushed_only_asking_for_it_is_an_error(
    backend: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = backends.load(backend)
    known = dataclasses.replace(loaded, can_flush_denormals=lambda: False)
    monkeypatch.setattr(backends, "load", lambda name, custom=False: known)
    make: Any = fastopt.Adam
    param: Any = np.ones(3, np.float32)
    if module == "torch":
        torch = pytest.importorskip("torch")
        make, param = importlib.import_module("fastopt.torch").Adam, [torch.nn.Parameter(torch.ones(3))]
    with pytest.raises(NotImplementedError, match=r"flush_denormals=True with backend='.*': not known how on"):
        make(param, flush_denormals=True)
    for options in ({}, {"flush_denormals": False}):
        optimizer = make(param, **options)
        if module == "numpy":
            optimizer.step(param.copy())
            assert not optimizer._room._planner.step_plan().flush_denormals


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_denormals_inside_a_step(backend: str, flush: bool, n_threads: int) -> None:
    """A buffer that decays: zero once it is denormal, or not."""
    size = 100_000
    optimizer = fastopt.SGD(
        np.zeros(size, np.float32),
        momentum=0.5,
        grads=np.zeros(size, np.float32),
        backend=backend,
        flush_denormals=flush,
        n_threads=n_threads,
    )
    optimizer.step()
    optimizer.state[0]["momentum_buffer"][:] = TINY * 2
    for _ in range(3):
        optimizer.step()
    buffer = optimizer.state[0]["momentum_buffer"]
    assert set(np.unique(buffer)) == ({0.0} if flush else {TINY / 4})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("flush", [True, False])
def test_a_product_that_rounds_up_to_the_smallest_normal_number(backend: str, dtype: Any, flush: bool) -> None:
    """arm64 flushes it before it rounds, x86-64 after: the only difference between their bits."""
    info = np.finfo(dtype)
    little = 2.0 ** -(info.nmant // 2 + 2)  # (1 - little) * (1 + little) is nearer to 1 than to any number below it.
    param, grad = np.zeros(20, dtype), np.full(20, (1 + little) * float(info.tiny), dtype)
    fastopt.SGD(param, lr=1 - little, backend=backend, flush_denormals=flush).step(grad)
    arm = platform.machine() in ("aarch64", "arm64")
    assert set(param) == {0.0 if arm and flush else -info.tiny}


@pytest.mark.parametrize("case", PLAIN, ids=str)
@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_dead_parameters_leave_no_denormals(case: Case, backend: str) -> None:
    """Half of the gradients become zero: after 3,000 steps no state may be denormal, or every step would be slow."""
    size = 1000
    gradient = np.ones(size, np.float32)
    optimizer = case.make(np.ones(size, np.float32), grads=gradient, backend=backend)
    optimizer.step()
    gradient[::2] = 0
    for _ in range(3000):
        optimizer.step()
    for name, state in optimizer.state[0].items():
        if name not in ("step", *case.spec.carried):
            assert not ((state != 0) & (np.abs(state) < TINY)).any(), name


@pytest.mark.compiled
def test_importing_and_stepping_leave_the_process_as_it_was() -> None:
    code = """
import numpy as np
tiny = np.array([np.finfo(np.float32).tiny], np.float32)
import fastopt, threading
assert (tiny * np.float32(0.5))[0] != 0
w = np.ones(1_000_000, np.float32)
for backend in ("cython", "numba", "reference"):
    fastopt.Adam(w, backend=backend).step(w.copy())
    assert (tiny * np.float32(0.5))[0] != 0
results = []
thread = threading.Thread(target=lambda: results.append((tiny * np.float32(0.5))[0] != 0))
thread.start(); thread.join()
assert results == [True]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def results(case: Case, options: dict[str, Any], mode: str | None) -> list[np.ndarray]:
    """Parameters, states and carried numbers after steps in a rounding mode."""
    rng = np.random.default_rng(5)
    param = rng.standard_normal(1000).astype(np.float32)
    optimizer = case.make({"w": param}, **options)
    for _ in range(3):
        grads = {"w": rng.standard_normal(1000).astype(np.float32)}
        with rounding(mode) if mode else contextlib.nullcontext():
            optimizer.step(grads)
    return [param, *(np.atleast_1d(value) for value in optimizer.state[0].values())]


@needs_rounding
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.exhaustive if case.options else pytest.mark.slow) for case in VARIANTS],
    ids=str,
)
@pytest.mark.usefixtures("threads_always")
def test_rounding_is_to_nearest_whatever_the_callers_mode_is(case: Case) -> None:
    around = case.possible({"max_grad_norm": 1.0, "accumulate_steps": 2, "ema_decay": 0.5})
    for options in ({}, around):
        expected = results(case, {**options, "backend": "cython", "n_threads": 1}, None)
        for mode in ROUNDING:
            for backend, n_threads in (("cython", 1), ("cython", 2), ("numba", 2), ("reference", 1)):
                found = results(case, {**options, "backend": backend, "n_threads": n_threads}, mode)
                assert all(map(equal_bits, found, expected)), (mode, backend, n_threads, options)


def trapping_steps(backend: str, n_threads: int) -> None:
    """Steps that overflow, divide by zero and compute NaN, with traps for these."""
    options: dict[str, Any] = {"backend": backend, "n_threads": n_threads}
    for more in ({}, {"nonfinite": "skip"}, {"max_grad_norm": 1.0, "nonfinite": "skip"}, {"clip_norm": 1.0}):
        for value in (1e200, np.inf, np.nan, 0.0):
            param, grad = np.ones(100_000), np.full(100_000, value)
            optimizer = fastopt.AdamW(param, grads=grad, eps=0.0, **options, **more)
            library = c_library()
            library.feenableexcept(0x1D if platform.machine() == "x86_64" else 0x1F00)  # all but "inexact"
            optimizer.step()
            library.fedisableexcept(0x3F)


@needs_rounding
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("backend", [pytest.param("cython", marks=pytest.mark.compiled), *BACKENDS[1:]])
def test_traps_of_the_caller_do_not_end_the_process(backend: str, n_threads: int) -> None:
    code = f"import test_floating_point_mode\ntest_floating_point_mode.trapping_steps({backend!r}, {n_threads})"
    in_a_fresh_process(code)


@pytest.mark.parametrize("flush", [True, False])
def test_numbers_that_are_carried_are_flushed_like_all_others(flush: bool) -> None:
    """NAdam's product of momenta, shortly before it is denormal."""
    found = []
    for backend in BACKENDS:
        for n_threads in (1, 2):
            param, grad = np.ones(1000), np.linspace(-1, 1, 1000)
            optimizer = fastopt.NAdam(param, grads=grad, backend=backend, n_threads=n_threads, flush_denormals=flush)
            optimizer.step()
            state = optimizer.state_dict()
            state["state"][0]["mu_product"] = 2.3e-308
            optimizer.load_state_dict(state)
            products = []
            for _ in range(3):
                optimizer.step()
                products.append(optimizer.state[0]["mu_product"])
            found.append((products, param.tobytes()))
    assert all(each == found[0] for each in found)
    assert (found[0][0][0] == 0) == flush


def jit_results(n_steps: int, mode: str | None, product: float) -> tuple[bytes, float]:
    from fastopt import jit

    param, grad = np.ones(1000), np.linspace(-1, 1, 1000)
    state = jit.nadam_state(param)
    jit.nadam(param, grad, state)
    state.mu_product[0] = product
    for _ in range(n_steps):
        with rounding(mode) if mode else contextlib.nullcontext():
            jit.nadam(param, grad, state)
    return param.tobytes(), float(state.mu_product[0])


@needs_rounding
@pytest.mark.parametrize("product", [0.37, 2.3e-308])
def test_fastopt_jit_computes_in_a_mode_of_its_own(product: float) -> None:
    """With the bits of the optimizer, coefficients and the carried product included."""
    param, grad = np.ones(1000), np.linspace(-1, 1, 1000)
    optimizer = fastopt.NAdam(param, grads=grad, backend="reference")
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["mu_product"] = product
    optimizer.load_state_dict(saved)
    for _ in range(3):
        optimizer.step()
    expected = param.tobytes(), optimizer.state[0]["mu_product"]
    for mode in (None, *ROUNDING):
        assert jit_results(3, mode, product) == expected, mode

"""The engine of the Numba backend where the compiled module was not built: bits, checks, threads, what it covers."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, PLAIN, Case, equal_bits, extra_options, random_gradient
from comparing import assert_same

import fastopt
from fastopt.kernels import backends
from fastopt.kernels.python import compiled_engine
from fastopt.schedules import CosineDecay

COVERED = {
    "grad_scale",
    "max_grad_norm",
    "max_grad_norm, scaled",
    "clip_norm",
    "nonfinite",
    "nonfinite, clipped",
    "clip_value",
    "clip_value, scaled",
    "average",
    "average, overwritten",
    "average, warmup",
    "zero_grads",
    "box",
    "non-negative",
    "L1",
    "L2",
    "elastic net",
}
"""The options with which a whole step is compiled; docs/performance.md says so."""

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (7,), (), (0, 4), (2, 1300), (40, 3, 2))


@pytest.fixture(autouse=True)
def numba_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    load = backends.load
    monkeypatch.setattr(compiled_engine, "PATIENCE", 0)

    @functools.cache
    def alone() -> backends.Backend:
        with monkeypatch.context() as patch:
            patch.setattr(backends, "compiled_module_error", lambda: "not built")
            return backends.BACKENDS["numba"]()

    monkeypatch.setattr(backends, "load", lambda name, custom=False: alone() if name == "numba" else load(name, custom))


def is_compiled(optimizer: fastopt.Optimizer) -> bool:
    engine = optimizer._room.engine
    assert isinstance(engine, compiled_engine.CompiledEngine)
    return engine.table is not None


def problem(rng: np.random.Generator, dtype: Any, steps: int = 5) -> tuple[list[np.ndarray], list[list[Any]]]:
    params = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    gradients = [
        [None if (step + index) % 5 == 4 else random_gradient(rng, shape, dtype) for index, shape in enumerate(SHAPES)]
        for step in range(steps)
    ]
    return params, gradients


def run(
    case: Case,
    backend: str,
    params: list[np.ndarray],
    gradients: list[list[Any]],
    change: Callable[[fastopt.Optimizer, int], None] = lambda optimizer, step: None,
    **options: Any,
) -> tuple[list[np.ndarray], Any]:
    params = [param.copy() for param in params]
    optimizer = case.make(params, backend=backend, **options)
    if backend == "numba":
        assert is_compiled(optimizer) == (not case.has_sums)
    for step, given in enumerate(gradients):
        change(optimizer, step)
        optimizer.step([None if each is None else each.copy() for each in given])
    return params, optimizer.state


@pytest.mark.parametrize("case", PLAIN, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_every_optimizer_has_the_bits_of_the_reference(case: Case, dtype: Any, rng: np.random.Generator) -> None:
    params, gradients = problem(rng, dtype)
    assert_same(case, run(case, "reference", params, gradients), run(case, "numba", params, gradients), "numba alone")


@pytest.mark.parametrize("name", extra_options())
@pytest.mark.parametrize("n_threads", [1, 4])
def test_options(name: str, n_threads: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are covered and those that are not; with threads, too, which have a block of their own each."""
    monkeypatch.setattr(compiled_engine, "NANOSECONDS_TO_RELEASE", 0.0)
    monkeypatch.setattr(compiled_engine, "NANOSECONDS_PER_THREAD", 1.0)
    options, case = extra_options()[name], PLAIN[1]
    params = [rng.standard_normal(shape).astype(np.float32) for shape in ((301, 700), (9,))]
    gradients = [[rng.standard_normal(param.shape).astype(np.float32) for param in params] for _ in range(4)]
    results = []
    for backend in ("reference", "numba"):
        own = [param.copy() for param in params]
        optimizer = case.make(own, backend=backend, n_threads=n_threads, **options)
        if backend == "numba":
            assert is_compiled(optimizer) == (name in COVERED)
        for given in gradients:
            optimizer.step([each.copy() for each in given])
        results.append((own, optimizer.state))
    assert_same(case, *results, name)


def test_settings_and_numbers_that_change(rng: np.random.Generator) -> None:
    def change(optimizer: fastopt.Optimizer, step: int) -> None:
        if step == 1:
            optimizer.set_segments([0, 4], lr_scale=0.5)
            optimizer.set_segments([1], weight_decay=0.25)
        if step == 2:
            optimizer.set_segments([2], frozen=True)
            optimizer.param_groups[0]["betas"] = (0.5, 0.75)
        if step == 3:
            optimizer.param_groups[0]["lr"] = 0.125
            optimizer.grad_scale = 4.0

    params, gradients = problem(rng, np.float32, steps=8)
    for case in (Case("AdamW", {"weight_decay": 0.1}), Case("NAdam", {"lr": CosineDecay(0.1, 6)})):
        results = [run(case, backend, params, gradients, change) for backend in ("reference", "numba")]
        assert_same(case, *results, str(case))


def test_bound_gradients_and_counts() -> None:
    results = []
    for backend in ("reference", "numba"):
        param, grad = np.ones(100, np.float32), np.linspace(-1, 1, 100, dtype=np.float32)
        optimizer = fastopt.Adam([param, np.ones(3, np.float32)], grads=[grad, None], backend=backend)
        for _ in range(4):
            optimizer.step()
            grad *= -0.5
        results.append((param, [int(optimizer.state[index]["step"]) for index in (0, 1)], optimizer.iterations))
    assert equal_bits(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:] == ([4, 0], 4)


@pytest.mark.parametrize("more", [{}, {"max_grad_norm": 0.5}, {"zero_grads": True}], ids=str)
@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_gradients_that_are_not_finite(nonfinite: str, more: dict[str, Any]) -> None:
    results = []
    for backend in ("reference", "numba"):
        params = [np.ones(5000, np.float32), np.ones(3, np.float32)]
        optimizer = fastopt.Adam(params, nonfinite=nonfinite, backend=backend, **more)
        found: list[Any] = []
        for value in (1.0, np.nan, 1.0, np.inf, 1e30, 2.0):
            gradients = [np.full(5000, 0.5, np.float32), np.ones(3, np.float32)]
            gradients[0][4500] = value
            try:
                optimizer.step(gradients)
            except FloatingPointError as error:
                found.append(str(error))
            found += [optimizer.skipped_steps, dict(optimizer.nonfinite_counts), repr(optimizer.grad_norm)]
            found += [[each.tobytes() for each in gradients], [param.tobytes() for param in params]]
        results.append(found)
    assert results[0] == results[1]


def test_norms_and_scales_that_change(rng: np.random.Generator) -> None:
    def change(optimizer: fastopt.Optimizer, step: int) -> None:
        optimizer.max_grad_norm = 0.25 * (step + 1)
        optimizer.grad_scale = 2.0**step

    params, gradients = problem(rng, np.float32)
    case = Case("Adam", {"max_grad_norm": 1.0})
    assert_same(case, *(run(case, backend, params, gradients, change) for backend in ("reference", "numba")), "changed")


class Own(np.ndarray):
    """A subclass, whose instances are read as arrays."""


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


FINE: dict[str, Callable[[np.ndarray], Any]] = {
    "itself": lambda grad: grad,
    "read-only": read_only,
    "a subclass": lambda grad: grad.view(Own),
    "a view": lambda grad: np.concatenate([grad, grad]).reshape(2, *grad.shape)[1],
    "another dtype object": lambda grad: grad.view(np.dtype(np.float32, metadata={"of": "mine"})),
}

WRONG: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "a list": lambda grad, param: grad.tolist(),
    "a number": lambda grad, param: 1.0,
    "no object's type": lambda grad, param: object(),
    "float64": lambda grad, param: grad.astype(np.float64),
    "integers": lambda grad, param: grad.astype(np.int32),
    "swapped bytes": lambda grad, param: grad.astype(np.dtype(np.float32).newbyteorder()),
    "shape": lambda grad, param: grad.reshape(-1),
    "fewer": lambda grad, param: grad[:1],
    "strides": lambda grad, param: np.asfortranarray(grad),
    "masked": lambda grad, param: np.ma.masked_array(grad),
    "the parameter": lambda grad, param: param,
    "unaligned": lambda grad, param: np.zeros(grad.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(grad.shape),
}


@pytest.mark.parametrize("name", FINE)
def test_gradients_that_can_be_read(name: str) -> None:
    param, grad = np.ones((3, 4), np.float32), np.full((3, 4), 0.5, np.float32)
    twin = param.copy()
    fastopt.SGD(param, lr=1.0, backend="numba").step(FINE[name](grad.copy()))
    fastopt.SGD(twin, lr=1.0, backend="reference").step(grad)
    assert equal_bits(param, twin)


@pytest.mark.parametrize("name", WRONG)
def test_gradients_that_cannot_be_read(name: str) -> None:
    """The same error as from other engines, and nothing is written, though the first gradient is sound."""
    found = []
    for backend in ("reference", "numba"):
        params = [np.ones((3, 4), np.float32), np.ones((3, 4), np.float32)]
        optimizer = fastopt.Adam(params, backend=backend)
        optimizer.step([np.ones((3, 4), np.float32)] * 2)
        before, state = [each.copy() for each in params], optimizer.state[0]["exp_avg"].copy()
        with pytest.raises((TypeError, ValueError)) as caught:
            optimizer.step([np.ones((3, 4), np.float32), WRONG[name](np.full((3, 4), 0.5, np.float32), params[0])])
        found.append((caught.type, str(caught.value).partition(" address")[0]))
        assert all(map(equal_bits, params, before))
        assert equal_bits(optimizer.state[0]["exp_avg"], state)
        assert optimizer.iterations == 1
    assert found[0] == found[1]


def test_a_scalar_for_a_parameter_without_dimensions() -> None:
    param = np.ones((), np.float32)
    fastopt.SGD(param, lr=1.0, backend="numba").step(np.float32(0.5))
    assert param == 0.5


@pytest.mark.parametrize("which", ["param", "grad", "its owner"])
def test_arrays_that_were_resized(which: str) -> None:
    param, owner = np.ones(8, np.float32), np.ones(16, np.float32)
    grad = owner[:8] if which == "its owner" else np.ones(8, np.float32)
    optimizer = fastopt.SGD(param, lr=1.0, grads=grad, backend="numba")
    optimizer.step()
    before = param.copy()
    {"param": param, "grad": grad, "its owner": owner}[which].resize(10_000, refcheck=False)
    with pytest.raises(RuntimeError, match="was resized or its memory replaced"):
        optimizer.step()
    assert which == "param" or equal_bits(param, before)
    assert optimizer.iterations == 1


def test_where_arrays_are_laid_out_otherwise_steps_are_done_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt.kernels.engine import step_table

    monkeypatch.setattr(step_table, "HEAD_WORDS", step_table.HEAD_WORDS + 1)
    param = np.ones(5, np.float32)
    optimizer = fastopt.SGD(param, lr=0.5, backend="numba")
    assert not is_compiled(optimizer)
    optimizer.step(np.ones(5, np.float32))
    assert (param == 0.5).all()


@pytest.mark.parametrize("binds", [False, True])
def test_the_first_steps_of_a_process_compile_nothing_more(binds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.load("numba").engine.keywords, "is_kept", lambda: False)  # type: ignore[attr-defined]
    monkeypatch.setattr(compiled_engine, "PATIENCE", 3)
    monkeypatch.setattr(compiled_engine, "_steps_in_python", 0)
    grad = np.linspace(-1, 1, 50, dtype=np.float32)
    param, twin = np.ones(50, np.float32), np.ones(50, np.float32)
    bound = {"grads": grad} if binds else {}
    optimizer, other = fastopt.NAdam(param, backend="numba", **bound), fastopt.NAdam(twin, backend="reference")
    found = []
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        other.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.step(*(() if binds else (grad,)))
        other.step(grad)
        found.append(is_compiled(optimizer))
    assert found == [False, False, True, True, True, True]
    assert equal_bits(param, twin)
    assert is_compiled(fastopt.Adam(param, backend="numba"))


@pytest.mark.usefixtures("threads_always")
def test_threads_hold_on_to_nothing() -> None:
    param = np.ones(500_000, np.float32)
    optimizer = fastopt.Adam(param, grads=param.copy(), backend="numba", n_threads=4)
    assert is_compiled(optimizer)
    for _ in range(20):
        optimizer.step()
    gone = weakref.ref(param)
    del param, optimizer
    gc.collect()
    assert gone() is None

"""Python threads that step at the same time: each optimizer gets its own bits, and one optimizer one step at a time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
from cases import BACKENDS, equal_bits
from processes import in_a_fresh_process

import fastopt


def in_threads(work: list[Callable[[], None]]) -> None:
    """Call all of these at once, each in a thread; an exception in one is raised here."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(work))

    def call(function: Callable[[], None]) -> None:
        try:
            barrier.wait()
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(function,)) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def step_in_eight_threads(backends: tuple[str, ...], size: int, steps: int) -> None:
    """Each thread with optimizers of its own, made anew now and then, on one to three threads of OpenMP's each."""
    rng = np.random.default_rng(3)
    gradients = [rng.standard_normal(size).astype(np.float32) for _ in range(8)]
    expected = []
    for gradient in gradients:
        expected.append(np.ones(size, np.float32))
        twin = fastopt.Adam(expected[-1], grads=gradient, n_threads=1)
        for _ in range(steps):
            twin.step()

    def work(index: int) -> None:
        for _ in range(3):
            param = np.ones(size, np.float32)
            optimizer = fastopt.Adam(
                param, grads=gradients[index], backend=backends[index % len(backends)], n_threads=1 + index % 3
            )
            for _ in range(steps):
                optimizer.step()
            assert equal_bits(param, expected[index]), index

    in_threads([lambda index=index: work(index) for index in range(8)])  # type: ignore[misc]


@pytest.mark.parametrize(
    ("backends", "size", "steps"),
    [
        (("cython",), 1_000, 100),
        (("cython",), 100_000, 50),
        (("numba",), 1_000, 100),
        (("numba",), 100_000, 50),
        (("reference",), 1_000, 50),
        (BACKENDS, 100_000, 10),
    ],
    ids=str,
)
@pytest.mark.usefixtures("threads_always")
def test_optimizers_in_eight_threads_do_not_disturb_each_other(
    backends: tuple[str, ...], size: int, steps: int
) -> None:
    step_in_eight_threads(backends, size, steps)


@pytest.mark.parametrize(("size", "calls"), [(1_000, 300), (1_000_000, 20)])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("threads_always")
def test_one_optimizer_takes_one_step_at_a_time(backend: str, size: int, calls: int) -> None:
    """Threads that meet in it get an error; parameters, states and counts are those of the steps that succeeded."""
    gradient = np.linspace(-1, 1, size, dtype=np.float32)
    optimizer, twin = (
        fastopt.Adam(np.ones(size, np.float32), grads=gradient, backend=each, n_threads=2)
        for each in (backend, "cython")
    )
    done: list[int] = []
    refused: list[str] = []

    def work() -> None:
        for _ in range(calls):
            try:
                optimizer.step()
                done.append(1)
            except RuntimeError as error:
                refused.append(str(error))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads([work] * 8)
    finally:
        sys.setswitchinterval(before)
    assert len(done) + len(refused) == 8 * calls
    assert all("another thread" in message for message in refused)
    assert refused or size == 1_000, "the steps never met"
    for _ in done:
        twin.step()
    assert optimizer.state[0]["step"] == len(done)
    assert equal_bits(optimizer.param_groups[0]["params"][0], twin.param_groups[0]["params"][0])
    for name in ("exp_avg", "exp_avg_sq"):
        assert equal_bits(optimizer.state[0][name], twin.state[0][name])


def step_beside_numba(layer: str) -> None:
    """In a process of its own: steps in eight threads while a ninth runs a parallel function of the user's."""
    import numba

    numba.config.THREADING_LAYER = layer

    @numba.njit(parallel=True)
    def doubled(values: np.ndarray) -> np.ndarray:
        result = np.empty_like(values)
        for index in numba.prange(values.size):
            result[index] = 2 * values[index]
        return result

    values = np.arange(100_000.0)
    try:
        doubled(values)
    except ValueError as error:
        print(f"not installed: {error}")
        return
    stop, calls = threading.Event(), 0

    def keep_doubling() -> None:
        nonlocal calls
        while not stop.is_set():
            assert (doubled(values) == 2 * values).all()
            calls += 1

    def step_then_stop() -> None:
        try:
            step_in_eight_threads(("cython", "numba"), 100_000, 5)
        finally:
            stop.set()

    from fastopt.kernels import native

    native.set_thread_policy(1e-6, False)
    in_threads([keep_doubling, step_then_stop])
    assert calls
    print(f"ran {numba.threading_layer()}")


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_numbas_own_threads_do_no_harm(layer: str) -> None:
    """fastopt's loops have none of Numba's threading layers in them; a user's own function may have any."""
    code = f"import test_concurrency\ntest_concurrency.step_beside_numba({layer!r})"
    output = in_a_fresh_process(code, NUMBA_NUM_THREADS="2")
    if output.startswith("not installed"):
        pytest.skip(output)
    assert output == f"ran {layer}\n"

"""A child process steps, on threads too, with the same bits, however it was made and whatever its parent did before."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS
from processes import in_a_fresh_process, threads_during_steps

import fastopt
from fastopt.kernels import native

if not hasattr(os, "fork"):
    pytest.skip("this system cannot fork", allow_module_level=True)

SIZE = 100_000
COMPILED = ("cython", "numba")
GRADIENT = np.linspace(-1, 1, SIZE, dtype=np.float32)


def run_here(call: str) -> None:
    """Run a function of this file in a fresh process."""
    assert in_a_fresh_process(f"import test_forks\ntest_forks.{call}\nprint('done')") == "done\n"


def digest(optimizer: fastopt.Optimizer) -> str:
    arrays = [optimizer.param_groups[0]["params"][0], *list(optimizer.state[0].values())[1:]]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def make(backend: str, n_threads: int = 2) -> fastopt.Optimizer:
    native.set_thread_policy(1e-6, False)
    return fastopt.Adam(np.ones(SIZE, np.float32), grads=GRADIENT, backend=backend, n_threads=n_threads)


def step(optimizer: fastopt.Optimizer, times: int = 3) -> str:
    for _ in range(times):
        optimizer.step()
    return digest(optimizer)


def work(backend: str) -> str:
    """What children do: step a new optimizer."""
    return step(make(backend))


def in_fork(function: Callable[[], Any]) -> list[Any]:
    """The result of `function()` in a forked child, in a list; an empty one if the child failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(writing, repr(function()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result = pipe.read()
    return [eval(result)] if os.waitpid(child, 0)[1] == 0 else []


def by_pool(method: str) -> list[str]:
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(work, COMPILED, chunksize=1)


def by_executor() -> list[str]:
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        return list(pool.map(work, COMPILED))


class Steps:
    """A dataset whose items are steps."""

    def __len__(self) -> int:
        return len(COMPILED)

    def __getitem__(self, index: int) -> str:
        return work(COMPILED[index])


def by_data_loader() -> list[str]:
    from torch.utils.data import DataLoader

    return [item for batch in DataLoader(Steps(), num_workers=2) for item in batch]  # type: ignore[arg-type]


WAYS: dict[str, Callable[[], list[str]]] = {
    "fork": lambda: [result for backend in COMPILED for result in in_fork(functools.partial(work, backend))],
    "fork of a fork": lambda: [work("numba"), *in_fork(lambda: [work("cython"), *in_fork(lambda: work("numba"))])[0]],
    "multiprocessing fork": lambda: by_pool("fork"),
    "multiprocessing forkserver": lambda: by_pool("forkserver"),
    "multiprocessing spawn": lambda: by_pool("spawn"),
    "ProcessPoolExecutor": by_executor,
    "DataLoader": by_data_loader,
}


def step_in_children(way: str) -> None:
    """Threads before, in children, and afterwards; and a child goes on with its parent's optimizers."""
    expected, after = (step(make("reference"), times) for times in (3, 4))
    optimizers = [make(backend) for backend in COMPILED]
    assert [step(optimizer) for optimizer in optimizers] == [expected] * 2
    results = WAYS[way]()
    assert len(results) >= 2
    assert set(results) == {expected}
    assert in_fork(lambda: [step(optimizer, 1) for optimizer in optimizers]) == [[after] * 2]
    assert [step(optimizer, 1) for optimizer in optimizers] == [after] * 2


@pytest.mark.parametrize("way", WAYS)
def test_children_step_after_threads_were_used(way: str) -> None:
    run_here(f"step_in_children({way!r})")


def uses_threads() -> bool:
    """Whether there are more threads in this process during steps on three than during steps on one."""
    native.set_thread_policy(1e-6, False)
    several = threads_during_steps(1) + 2
    return threads_during_steps(3, enough=several) >= several


def torch_used_threads() -> None:
    import torch

    torch.set_num_threads(2)
    (torch.ones(3_000_000) + 1).sum()


def numba_used_threads() -> None:
    import numba

    @numba.njit(parallel=True)
    def total(values: np.ndarray) -> float:
        result = 0.0
        for index in numba.prange(values.size):
            result += values[index]
        return result

    numba.config.THREADING_LAYER = "omp"
    assert total(np.ones(1000)) == 1000


# What the parent did before its first fork. Torch, Numba and fastopt may share one OpenMP runtime.
PASTS: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "fastopt": lambda: work("cython"),
    "torch": torch_used_threads,
    "numba": numba_used_threads,
}


def step_after(past: str) -> None:
    expected = step(make("reference"))
    PASTS[past]()
    for _ in range(2):
        assert in_fork(lambda: [uses_threads(), work("cython")]) == [[True, expected]]
        assert work("cython") == expected


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="this system does not list threads")
@pytest.mark.parametrize("past", PASTS)
def test_a_child_has_threads_of_its_own(past: str) -> None:
    run_here(f"step_after({past!r})")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not say that a process was forked")
def test_a_child_that_imports_fastopt_after_the_fork() -> None:
    code = """
import os, torch
torch.set_num_threads(2)
(torch.ones(3_000_000) + 1).sum()
if os.fork() == 0:
    import test_forks
    os._exit(0 if test_forks.work("cython") == test_forks.step(test_forks.make("reference")) else 1)
assert os.wait()[1] == 0
print("done")
"""
    assert in_a_fresh_process(code) == "done\n"


def train_while_workers_load() -> None:
    from torch.utils.data import DataLoader

    optimizer, twin = (fastopt.Adam(np.ones(SIZE, np.float32), backend=each) for each in ("cython", "reference"))
    batches = 0
    for epoch in range(2):
        for batch in DataLoader([GRADIENT * (index + epoch) for index in range(4)], num_workers=2):  # type: ignore[arg-type]
            gradient = batch.numpy()[0]
            optimizer.step(gradient)
            twin.step(gradient)
            batches += 1
    assert batches == 8
    assert digest(optimizer) == digest(twin)


def test_a_parent_trains_while_workers_load() -> None:
    run_here("train_while_workers_load()")


def fork_during_a_step(backend: str) -> None:
    """Another thread steps all the time. A child finds its optimizer in the middle of a step, and makes a new one."""
    expected = step(make("reference"))
    native.set_thread_policy(1e-6, False)
    size = 500_000 if backend == "reference" else 5_000_000
    param = np.zeros(size)
    optimizer = fastopt.SGD(param, lr=1.0, grads=np.ones(size), backend=backend, n_threads=2)
    steps, stop = 0, threading.Event()

    def keep_stepping() -> None:
        nonlocal steps
        while not stop.is_set():
            optimizer.step()
            steps += 1

    def in_child() -> tuple[str, str]:
        try:
            optimizer.step()
        except RuntimeError as error:
            return str(error), work(backend)
        return "", work(backend)

    work(backend)
    thread = threading.Thread(target=keep_stepping)
    thread.start()
    try:
        results = [in_fork(in_child)[0] for _ in range(10)]
    finally:
        stop.set()
        thread.join()
    assert {made for _, made in results} == {expected}
    met = {message for message, _ in results} - {""}
    assert len(met) == 1, "no child was forked during a step"
    assert "when this process was forked" in met.pop()
    assert (param == -steps).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_forked_during_a_step_of_another_thread(backend: str) -> None:
    run_here(f"fork_during_a_step({backend!r})")

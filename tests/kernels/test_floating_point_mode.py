"""Denormals are flushed inside a step and nowhere else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from cases import BACKENDS, PLAIN, Case

import fastopt
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
        if name not in ("step", "mu_product"):
            assert not ((state != 0) & (np.abs(state) < TINY)).any(), name


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

"""Fixtures for all tests."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.kernels import backends, cpu
from fastopt.kernels.python import compiled_engine

os.environ.setdefault("KERAS_BACKEND", "torch")  # Without it, Keras asks for TensorFlow.

if "FASTOPT_CACHE_DIR" not in os.environ:  # Not the user's own; processes that are started from here share it.
    os.environ["FASTOPT_CACHE_DIR"] = tempfile.mkdtemp(prefix="fastopt-cache-")
    atexit.register(shutil.rmtree, os.environ["FASTOPT_CACHE_DIR"], ignore_errors=True)

WITHOUT_EXTENSION = os.environ.get("FASTOPT_TEST_WITHOUT_EXTENSION") == "1"
if (backends.compiled_module_error() is not None) != WITHOUT_EXTENSION:
    raise pytest.UsageError(
        f"compiled module: {backends.compiled_module_error() or 'there'}, FASTOPT_TEST_WITHOUT_EXTENSION is "
        f"{int(WITHOUT_EXTENSION)}; .ci/without-extension sets it and runs the tests that need no compiled module"
    )
if WITHOUT_EXTENSION:
    # What tests say of both engines holds of the only one that there is.
    backends.BACKENDS["cython"] = backends.BACKENDS["numba"]
    compiled_engine.PATIENCE = 0

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


_forks: list[None] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=lambda: _forks.append(None))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if WITHOUT_EXTENSION and item.get_closest_marker("compiled"):
        pytest.skip("needs the compiled module")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Find tests that fork this process: others of it may have started threads, with JAX for example."""
    if _forks:
        _forks.clear()
        pytest.fail("the test forked the process of the tests; let it do so in processes.in_a_fresh_process")


def pytest_collection_finish() -> None:
    """Let the garbage collector never look at what was collected: 16,000 tests, one seventh of all processor time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`: whole files to each process, whose fixtures are made once; files of few tests, which take longest, do
    not come last."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """For tests that raise at any place: JAX has a callback in Python for collections, where that must not be."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture
def threads_always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every step use as many threads as it may, at least two, however small it is and however long it takes."""
    fastopt.set_num_threads(max(2, cpu.available_cpus()))
    monkeypatch.setattr(compiled_engine, "PATIENCE", 0)
    monkeypatch.setattr(compiled_engine, "NANOSECONDS_TO_RELEASE", 0.0)
    monkeypatch.setattr(compiled_engine, "NANOSECONDS_PER_THREAD", 1e-6)
    if WITHOUT_EXTENSION:
        yield
        return
    from fastopt.kernels import native

    before = native.set_thread_policy(1e-6, False)
    yield
    native.set_thread_policy(*before)


WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
N_THREADS = max(1, cpu.available_cpus() // WORKERS) if WORKERS > 1 else None
"""Each of xdist's processes has its share of the processors: where threads wait for others', steps take six times as
long. Tests that are about threads ask for a number, or for `threads_always`."""


@pytest.fixture(autouse=True)
def _default_threads() -> Iterator[None]:
    fastopt.set_num_threads(N_THREADS)
    yield
    fastopt.set_num_threads(None)

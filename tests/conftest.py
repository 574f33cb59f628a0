"""Fixtures for all tests."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.kernels import native

os.environ.setdefault("KERAS_BACKEND", "torch")  # Without it, Keras asks for TensorFlow.

if "FASTOPT_CACHE_DIR" not in os.environ:  # Not the user's own; processes that are started from here share it.
    os.environ["FASTOPT_CACHE_DIR"] = tempfile.mkdtemp(prefix="fastopt-cache-")
    atexit.register(shutil.rmtree, os.environ["FASTOPT_CACHE_DIR"], ignore_errors=True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

WITH_JAX = ("test_frameworks", "test_schedules_agreement")
"""Run last: JAX's threads do not go together with the forks of other tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem in WITH_JAX)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`: whole files to each process, whose fixtures are made once, and those with JAX still last."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture
def threads_always() -> Iterator[None]:
    """Let every step use as many threads as it may, however small it is and however long it takes."""
    before = native.set_thread_policy(1e-6, False)
    yield
    native.set_thread_policy(*before)


@pytest.fixture(autouse=True)
def _default_threads() -> Iterator[None]:
    yield
    fastopt.set_num_threads(None)


def _is_about_nadam(request: pytest.FixtureRequest) -> bool:
    return "NAdam" in request.node.name and request.module.__name__.startswith("test_torch_")


@pytest.fixture
def default_dtype() -> Iterator[Callable[[str], None]]:
    """Sets torch's default dtype for a test."""
    import torch

    before = torch.get_default_dtype()
    yield lambda name: torch.set_default_dtype(getattr(torch, name))
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _precise_mu_product(request: pytest.FixtureRequest) -> None:
    """Let torch keep NAdam's `mu_product` in float64 where the parameters are.

    Torch keeps it in its default dtype, rounds it in each step, and takes it over in the parameter's from a state dict.
    """
    dtype = request.node.callspec.params.get("dtype") if hasattr(request.node, "callspec") else None
    if _is_about_nadam(request) and "float64" in str(dtype):
        request.getfixturevalue("default_dtype")("float64")


@pytest.fixture
def mu_product_in_float64(request: pytest.FixtureRequest) -> None:
    """The same in a test without `dtype`, or that compares with NumPy's optimizers, which keep it in float64."""
    if _is_about_nadam(request):
        request.getfixturevalue("default_dtype")("float64")

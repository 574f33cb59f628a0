"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

import fastopt
from fastopt.kernels import native

os.environ.setdefault("KERAS_BACKEND", "torch")  # Without it, Keras asks for TensorFlow.


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

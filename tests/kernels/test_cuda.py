"""Runs `tests/kernels/cuda`: in Numba's simulator, which must be chosen before Numba is imported, and on a device if
there is one."""

from __future__ import annotations

import importlib.abc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.kernels.cuda import availability
from fastopt.kernels.cuda.availability import unavailable

FOLDER = Path(__file__).parent / "cuda"

pytestmark = pytest.mark.cuda


def run_in_child(arguments: list[str], **variables: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    environment = {**os.environ, "FASTOPT_TEST_CUDA": "1", **variables}
    done = subprocess.run(command, env=environment, cwd=FOLDER.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_in_the_simulator() -> None:
    run_in_child([str(FOLDER)], NUMBA_ENABLE_CUDASIM="1")


def test_on_a_device() -> None:
    error = unavailable()
    if error is not None:
        pytest.skip(str(error))
    run_in_child([str(FOLDER)], NUMBA_ENABLE_CUDASIM="0")


@pytest.fixture
def looked_at_anew() -> Iterator[None]:
    unavailable.cache_clear()
    yield
    unavailable.cache_clear()


@pytest.mark.usefixtures("looked_at_anew")
def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the package numba-cuda: `pip install 'fastopt\[cuda\]'`"):
        fastopt.Adam(np.zeros(3), backend="cuda")


class Broken(importlib.abc.MetaPathFinder):
    """Importing this module raises the error of numba-cuda 0.30 with NumPy 2.5."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *arguments: Any) -> None:
        if name == self.name:
            raise AttributeError("module 'numpy' has no\nattribute 'row_stack'")


@pytest.mark.parametrize("name", ["numba.cuda", *availability.FIRST_IMPORTS])
@pytest.mark.usefixtures("looked_at_anew")
def test_beside_a_numpy_that_it_does_not_work_with(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba import cuda

    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(name), *sys.meta_path])
    versions = f"numba-cuda {version('numba-cuda')}, numba {version('numba')}, numpy {np.__version__}"
    reason = "AttributeError: module 'numpy' has no attribute 'row_stack'"
    message = f"these versions do not work together: {versions} ({reason}); `pip install 'fastopt[cuda]'` installs"
    with pytest.raises(ImportError, match=re.escape(message)):
        fastopt.Adam(np.zeros(3), backend="cuda")
    assert availability.describe().startswith(f"no: {message}")


@pytest.mark.usefixtures("looked_at_anew")
def test_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba import cuda

    monkeypatch.setattr(cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda, "cuda_error", lambda: "the driver\nis gone")
    with pytest.raises(RuntimeError, match="no CUDA device can be used here: the driver is gone"):
        fastopt.Adam(np.zeros(3), backend="cuda")

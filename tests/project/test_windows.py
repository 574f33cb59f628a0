"""What Windows lacks is not needed without the compiled module: see `like_windows`. Not run on Windows itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import in_a_fresh_process

PRETEND = "import like_windows, pathlib\nlike_windows.pretend()\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="open files are listed in /proc"),
]


def test_arrays_files_and_caches(tmp_path: Path) -> None:
    output = in_a_fresh_process(PRETEND + f"like_windows.work(pathlib.Path({str(tmp_path)!r}))")
    assert "backend auto:         numba" in output


def test_workers_and_the_command() -> None:
    output = in_a_fresh_process(PRETEND + "like_windows.tune()", PYTHONIOENCODING="cp1252")
    assert "usage: fastopt" in output


def test_the_pretence_refuses() -> None:
    code = """
import os, sys, tempfile, pytest
for name in ("fcntl", "resource", "fastopt.kernels.native"):
    with pytest.raises(ImportError):
        __import__(name)
path = os.path.join(tempfile.mkdtemp(), "file")
with open(path, "w"), pytest.raises(PermissionError):
    os.replace(path, path + "2")
with pytest.raises(PermissionError):
    os.open(os.path.dirname(path), os.O_RDONLY)
assert not hasattr(os, "fork")
"""
    in_a_fresh_process(PRETEND + code)

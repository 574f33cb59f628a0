"""Fixtures for tests of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: flushing to a disk takes 10 ms."""
    if not MEMORY.is_dir():
        yield tmp_path
        return
    path = MEMORY / f"fastopt-{os.getpid()}-{tmp_path.name}"
    path.mkdir()
    try:
        yield path
    finally:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()

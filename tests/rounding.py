"""Rounding modes of the processor that a caller of a step may have set."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import platform
import sys
from collections.abc import Iterator
from typing import Any

import pytest

ROUNDING = {
    "x86_64": {"down": 0x400, "up": 0x800, "to zero": 0xC00},
    "aarch64": {"up": 0x400000, "down": 0x800000, "to zero": 0xC00000},
}.get(platform.machine(), {})
"""The values of FE_DOWNWARD and the like."""

needs_rounding = pytest.mark.skipif(sys.platform != "linux" or not ROUNDING, reason="values of the C library unknown")


def c_library() -> Any:
    return ctypes.CDLL(ctypes.util.find_library("m"))


@contextlib.contextmanager
def rounding(mode: str) -> Iterator[None]:
    library = c_library()
    library.fesetround(ROUNDING[mode])
    try:
        yield
        kept = library.fegetround()
    finally:
        library.fesetround(0)
    assert kept == ROUNDING[mode], "the mode of the caller was not restored"

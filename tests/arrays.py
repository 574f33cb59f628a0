"""Arrays for tests: of ones, read-only, at an offset in memory."""

from __future__ import annotations

from typing import Any

import numpy as np


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def at_offset(values: np.ndarray, offset: int) -> np.ndarray:
    """A copy that starts `offset` elements after a cache line."""
    memory = np.empty(values.size + offset + 64, values.dtype)
    start = (-memory.ctypes.data % 64) // values.itemsize + offset
    view = memory[start : start + values.size]
    view[:] = values
    return view

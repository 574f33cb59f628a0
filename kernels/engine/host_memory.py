"""Operations on NumPy arrays in main memory; `cuda.memory` has the same names for the memory of a CUDA device."""

from __future__ import annotations

import collections
import itertools
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

ARRAYS = "a numpy.ndarray"
"""The description of an array in error messages."""

ALIGNMENT = 64
"""Alignment in bytes: the size of a cache line, and of the widest vector register."""

PICKLES = True
"""Whether optimizers over these arrays can be pickled and deep-copied."""


CONTIGUOUS_COPY = "np.ascontiguousarray(...)"
"""What makes a contiguous copy of an array, for error messages."""


def is_masked(array: object) -> bool:
    """Whether an array has a mask; does not load numpy.ma, which takes longer than the rest of a first step."""
    return isinstance(array, getattr(sys.modules.get("numpy.ma"), "MaskedArray", ()))


def as_array(value: object) -> np.ndarray | None:
    """The value itself if it is an unmasked NumPy array; None otherwise.

    For an instance of a subclass, it is a plain view: a subclass can overrule `size`, `dtype`, `base` and the like.
    """
    if type(value) is np.ndarray:
        return value
    return np.ndarray.view(value, np.ndarray) if isinstance(value, np.ndarray) and not is_masked(value) else None


def as_plain(array: np.ndarray) -> np.ndarray:
    """The same memory without what a subclass overrules."""
    return array if type(array) is np.ndarray else np.ndarray.view(array, np.ndarray)


def zeros(size: int, dtype: np.dtype[Any]) -> np.ndarray:
    """A one-dimensional array of zeros that starts on a cache line."""
    memory = np.zeros(size * dtype.itemsize + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size * dtype.itemsize].view(dtype)


def fill(array: np.ndarray, value: float) -> None:
    array.fill(value)


def clear_together(arrays: Iterable[np.ndarray], records: Iterable[np.ndarray]) -> None:
    """Fill all arrays, and all records of them, with zeros: all or, if a signal handler raises before, none.

    One call of C code does all of it, within which no signal handler runs.
    """
    targets = [*arrays, *records]
    assign: Any = operator.setitem
    collections.deque(map(assign, targets, itertools.repeat(...), itertools.repeat(0)), maxlen=0)


def copy(target: np.ndarray, source: Any) -> None:
    """Copy an array into another array of the same shape."""
    target[...] = source


def to_host(array: np.ndarray) -> np.ndarray:
    """A copy of an array in main memory, in C order."""
    return array.copy()


def address(array: np.ndarray) -> int:
    begin: int = array.__array_interface__["data"][0]
    return begin


def is_contiguous(array: np.ndarray) -> bool:
    return array.flags.c_contiguous


def is_writable(array: np.ndarray) -> bool:
    return array.flags.writeable


def place(array: np.ndarray) -> str:
    """The memory that holds an array; all arrays of an optimizer must be in the same memory."""
    return "main memory"


def resized_message(array: np.ndarray) -> str:
    return (
        "an array was resized or its memory replaced after it was given to the optimizer "
        f"(now of shape {array.shape}); nothing was changed, create a new optimizer"
    )


_base_of: Callable[[np.ndarray], Any] = np.ndarray.base.__get__
"""Reads `base`, which a subclass cannot overrule here."""


def with_owners(arrays: Iterable[np.ndarray | None]) -> list[np.ndarray]:
    """These arrays and the arrays that own their memory: all of them must stay in place while addresses are held."""
    watched: dict[int, np.ndarray] = {}
    for array in arrays:
        each: object = array
        while isinstance(each, np.ndarray):
            watched[id(each)] = each
            each = _base_of(each)
    return list(watched.values())


def owners(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """The arrays that own the memory of these, without views of them: far fewer, if many share a buffer."""
    return with_owners(array if (base := _base_of(array)) is None else base for array in arrays)

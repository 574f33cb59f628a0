"""Runs the codecs with NumPy: slow, and the reference that the compiled ones must match bit by bit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..formulas import codecs as _codecs
from ..formulas.storage import BLOCK, FORMATS

Decode = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]
"""The float32 elements of codes, given what else holds them: the rest of each, or the base of each block."""

Encode = Callable[[np.ndarray, np.ndarray, "np.ndarray | None", int, int], None]
"""Writes codes, and what else holds them, from float32 elements. The last arguments are the key of random bits and the
number of the first element."""

WORD = np.uint32

codecs: Any = _codecs
"""Of functions without types: they take arrays and single words alike."""


def codec(name: str, stochastic: bool) -> tuple[Decode, Encode]:
    """What decodes and encodes a format; both take whole arrays."""
    return functools.partial(_decode, name), functools.partial(_encode, name, stochastic)


def _decode(name: str, codes: np.ndarray, more: np.ndarray | None) -> np.ndarray:
    storage, words = FORMATS[name], codes.astype(WORD)
    function = getattr(codecs, f"{name}_decoded")
    if storage.has_base:
        assert more is not None
        bits = function(words, _for_each_element(more, codes.size))
    else:
        bits = function(words, more.astype(WORD)) if storage.has_rest and more is not None else function(words)
    return np.asarray(bits, WORD).view(np.float32)


def _encode(
    name: str,
    stochastic: bool,
    elements: np.ndarray,
    codes: np.ndarray,
    more: np.ndarray | None,
    key: int,
    first: int,
) -> None:
    storage, bits = FORMATS[name], elements.view(WORD)
    arguments: list[Any] = [bits]
    if storage.has_base:
        assert more is not None
        magnitudes = np.zeros(-(-bits.size // BLOCK) * BLOCK, WORD)
        magnitudes[: bits.size] = bits & WORD(0x7FFFFFFF)
        more[:] = getattr(codecs, f"{name}_base")(magnitudes.reshape(-1, BLOCK).max(axis=1))
        arguments.append(_for_each_element(more, bits.size))
    if stochastic:
        numbers = np.arange(first, first + bits.size, dtype=np.uint64).astype(WORD)
        arguments.append(codecs.random_word(codecs.element_word(numbers, WORD(key))))
    results = getattr(codecs, f"{name}_{'stochastic' if stochastic else 'nearest'}")(*arguments)
    if storage.has_rest:
        assert more is not None
        codes[:], more[:] = results
    else:
        codes[:] = results


def _for_each_element(bases: np.ndarray, size: int) -> np.ndarray:
    return np.repeat(bases.astype(WORD), BLOCK)[:size]


def rounding_key(seed: int, update: int, number: int, operand: int) -> int:
    """The key of the random bits for one operand of one parameter in one update."""
    key = 0
    for word in (seed, seed >> 32, update, number, operand):
        key = derived_key(key, word)
    return key


def derived_key(key: int, word: int) -> int:
    """Another key, for each word."""
    return int(codecs.combined_key(np.array([key], WORD), np.array([word & 0xFFFFFFFF], WORD))[0])

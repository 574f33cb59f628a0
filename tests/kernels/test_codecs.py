"""The storage formats: compiled codecs beside the reference, and both beside what the formats promise."""

from __future__ import annotations

import ctypes
import importlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastopt.kernels import cpu, native
from fastopt.kernels.formulas.storage import BLOCK, FORMATS
from fastopt.kernels.python import codecs

CODES = {8: np.uint8, 16: np.uint16}
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
WAYS = [(name, False) for name in FORMATS] + [(name, True) for name, each in FORMATS.items() if each.stochastic]
LEVELS = [level for level in cpu.LEVELS if native.CAPABILITIES.get(level.replace("-", "_"))] or [cpu.OTHER]
BASED = [name for name, each in FORMATS.items() if each.has_base]

DECODE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p)
ENCODE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32
)


def address(array):
    return 0 if array is None else array.ctypes.data


def empty(name, size):
    """Arrays for codes and what else holds elements."""
    storage = FORMATS[name]
    codes = np.zeros(size, CODES[storage.bits])
    if storage.has_base:
        return codes, np.zeros(-(-size // BLOCK), np.uint8)
    return codes, np.zeros(size, np.uint16) if storage.has_rest else None


def encoded(name, elements, stochastic=False, key=0, first=0):
    codes, more = empty(name, elements.size)
    codecs.codec(name, stochastic)[1](elements, codes, more, key, first)
    return codes, more


def decoded(name, codes, more):
    return codecs.codec(name, False)[0](codes, more)


def rounded(name, elements, stochastic=False, key=0):
    return decoded(name, *encoded(name, elements, stochastic, key))


def any_floats(rng, size):
    """Numbers of all magnitudes, and all kinds that are special."""
    found = rng.integers(0, 1 << 32, size, dtype=np.uint32).view(np.float32)
    near = (rng.standard_normal(size) * 10.0 ** rng.uniform(-9, 6, size)).astype(np.float32)
    found = np.where(rng.random(size) < 0.5, found, near)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65520, 1e-45, 3.4e38, 6e-8, 2.98e-8], np.float32)
    found[: min(size, special.size)] = special[:size]
    return found


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("name", "stochastic"), WAYS)
def test_compiled_codecs_are_the_reference(level, name, stochastic, rng):
    module = importlib.import_module("fastopt.kernels.native." + cpu.module_name(level))
    decode, encode = DECODE(module.DECODERS[name]), ENCODE(module.ENCODERS[name, stochastic])
    for size in (1, 7, 255, 256, 1000, 4096):
        for elements in (any_floats(rng, size), rng.standard_normal(size).astype(np.float32)):
            codes, more = empty(name, size)
            encode(address(elements), size, address(codes), address(more), 12345, 512)
            expected, expected_more = encoded(name, elements, stochastic, 12345, 512)
            np.testing.assert_array_equal(codes, expected)
            found = np.empty(size, np.float32)
            if more is not None:
                np.testing.assert_array_equal(more, expected_more)
            decode(address(codes), address(more), size, address(found))
            np.testing.assert_array_equal(found.view(np.uint32), decoded(name, codes, more).view(np.uint32))


@pytest.mark.parametrize("name", DTYPES)
def test_sixteen_bits_are_those_of_numpy(name, rng):
    """Every code decodes, and every number rounds to the nearest code, as NumPy and ml_dtypes have it."""
    codes = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # signalling NaN, on arm64
        expected = codes.view(DTYPES[name]).astype(np.float32)
    np.testing.assert_array_equal(decoded(name, codes, None), expected)
    elements = any_floats(rng, 200_000)
    elements.view(np.uint32)[np.isnan(elements)] |= 0x400000  # quiet, as those of arithmetic
    with np.errstate(over="ignore", invalid="ignore"):
        expected = elements.astype(DTYPES[name]).astype(np.float32)
    found = rounded(name, elements)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(elements))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stochastic", [False, True])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_decoded_numbers_are_stored_exactly(name, stochastic, data):
    """Storing what was decoded changes nothing, whatever the random bits are."""
    stochastic = stochastic and FORMATS[name].stochastic
    size = data.draw(st.integers(1, 600))
    seed, key = data.draw(st.integers(0, 1000)), data.draw(st.integers(0, 2**32 - 1))
    elements = any_floats(np.random.default_rng(seed), size)
    once = rounded(name, elements, stochastic, key)
    again = rounded(name, once, stochastic, key ^ 0x5555)
    np.testing.assert_array_equal(again, once)


LEAST_INFINITE = np.array(0x7F7F8000, np.uint32).view(np.float32)
"""The least float32 number that is infinite as bfloat16."""


def test_a_split_number_is_the_number(rng):
    elements = any_floats(rng, 100_000)
    elements[:4] = LEAST_INFINITE, -LEAST_INFINITE, np.nextafter(LEAST_INFINITE, np.float32(0)), 3.4028235e38
    codes, rest = encoded("split_bfloat16", elements)
    is_number = ~np.isnan(elements)
    found = decoded("split_bfloat16", codes, rest)
    is_infinite = np.abs(elements) >= LEAST_INFINITE
    expected = np.where(is_infinite, np.copysign(np.float32(np.inf), elements), elements)
    np.testing.assert_array_equal(found.view(np.uint32)[is_number], expected.view(np.uint32)[is_number])
    assert np.isnan(found[~is_number]).all()
    finite = np.abs(elements) < 3e38
    error = np.abs(codes.view(ml_dtypes.bfloat16)[finite].astype(np.float64) - elements[finite])
    assert (error <= np.abs(elements[finite]).astype(np.float64) * 2.0**-8 + 1e-40).all()


def test_any_rest_beside_an_infinity_or_a_nan_means_nothing():
    codes = np.array([0x7F80, 0xFF80, 0x7FC0, 0xFF81], np.uint16)
    wide = (codes.astype(np.uint32) << 16).view(np.uint32)
    for rest in (0, 1, 0x1234, 0x7FFF, 0x8000, 0xFFFF):
        found = decoded("split_bfloat16", codes, np.full(codes.size, rest, np.uint16))
        np.testing.assert_array_equal(found.view(np.uint32), wide)


@pytest.mark.parametrize("name", [each for each in FORMATS if FORMATS[each].stochastic])
def test_stochastic_rounding_is_unbiased(name):
    """The mean over many roundings is the number itself: within 5 standard deviations, which rounding to nearest misses
    for most numbers."""
    rng = np.random.default_rng(1)
    elements = rng.uniform(0.6, 1.9, 512).astype(np.float32)
    n = 2000
    total = sum(rounded(name, elements, True, key * 2654435761 % 2**32).astype(np.float64) for key in range(n))
    nearest = rounded(name, elements).astype(np.float64)
    spacing = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float8": 2.0**-3, "unsigned_float8": 2.0**-4}[name]
    margin = 5 * spacing / 2 / np.sqrt(n)
    assert (np.abs(total / n - elements) < margin).all()
    assert (np.abs(nearest - elements) > margin).mean() > 0.5


@pytest.mark.parametrize("name", BASED)
@pytest.mark.parametrize("stochastic", [False, True])
def test_eight_bits_are_near(name, stochastic, rng):
    """The error is at most half the distance between codes, or all of it; far below the largest, a share of that."""
    elements = np.exp(rng.normal(size=50 * BLOCK) * 3).astype(np.float32)
    error = np.abs(rounded(name, elements, stochastic).astype(np.float64) - elements)
    largest = np.repeat(elements.reshape(-1, BLOCK).max(axis=1), BLOCK)
    is_fine = (name != "float8") & (elements > largest * 2.0**-7)
    smallest = largest * 2.0 ** (-14 if name == "float8" else -22)
    spacing = np.maximum(elements * np.where(is_fine, 2.0**-4, 2.0**-3), smallest)
    nearest = (elements > smallest) & (not stochastic)  # below it, a second moment is rounded up
    assert (error <= spacing * np.where(nearest, 0.51, 1)).all()


@pytest.mark.parametrize(
    ("name", "spread", "highest"),
    [("unsigned_float8", 0.75, 1.5), ("unsigned_float8", 1.5, 1.8), ("bfloat16", 0.75, 1.2), ("bfloat16", 1.5, 1.2)],
)
def test_a_second_moment_follows_its_gradients(name, spread, highest):
    """The roots of a moving average of squares, beside exact ones, when steady gradients fall to a tenth.

    Measured over 6 seeds: the median is 0.97 to 1.00; the 99th per cent of 8 bits is 1.37 to 1.40 where the scales of a
    block spread by e^0.75, 1.49 to 1.70 where they spread by e^1.5, and of 16 bits 1.10 to 1.11. Rounded to nearest,
    bfloat16 stays 4.7 times too high.
    """
    rng = np.random.default_rng(3)
    scale = np.exp(spread * rng.standard_normal(4096)).astype(np.float32)
    decode, encode = codecs.codec(name, True)
    codes, more = empty(name, 4096)
    exact = np.zeros(4096)
    for step in range(3000):
        gradient = (rng.standard_normal(4096) * scale * (1 if step < 1500 else 0.1)).astype(np.float32)
        average = decode(codes, more) * np.float32(0.999) + np.float32(0.001) * gradient * gradient
        encode(average, codes, more, codecs.rounding_key(0, step + 1, 0, 3), 0)
        exact = exact * 0.999 + 0.001 * gradient.astype(np.float64) ** 2
    ratios = np.sqrt(decode(codes, more) / exact)
    assert 0.9 < np.median(ratios) < 1.1
    assert np.percentile(ratios, 99) < highest


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_second_moment_never_becomes_zero(stochastic, rng):
    elements = (10.0 ** rng.uniform(-37, 0, 10 * BLOCK)).astype(np.float32)
    elements[::7] = 0
    found = rounded("unsigned_float8", elements, stochastic, 99)
    np.testing.assert_array_equal(found == 0, elements == 0)

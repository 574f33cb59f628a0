"""How closely a device must agree with the processor: bit by bit, unless coefficients are computed with powers."""

from __future__ import annotations

import ast

import numpy as np
from cases import equal_bits

from fastopt.kernels.cuda.availability import is_simulated
from fastopt.kernels.formulas import registry

TOLERANCE = {"float32": 1e-5, "float64": 1e-11, "bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Of values that depend on a power, on a device; for 16 bits, one rounding. See test_cuda_coefficients.py."""


def has_power(coefficients: str) -> bool:
    """Whether coefficients are computed with a power, which devices do not round as processors do."""
    return any(
        isinstance(node, ast.Pow)
        for function in registry.functions_of_coefficients(coefficients)
        for part in (*function.body, *function.returns)
        for node in ast.walk(part)
    )


def is_exact(coefficients: str) -> bool:
    """Whether a rule with these coefficients gives the same bits here as on the processor."""
    return is_simulated() or not has_power(coefficients)


def assert_agrees(expected: np.ndarray, actual: np.ndarray, exact: bool, label: object = "") -> None:
    """The same bits; where `exact` is false, relative to the largest value, within TOLERANCE."""
    if exact:
        assert equal_bits(expected, actual), f"{label}: expected {expected}, got {actual}"
        return
    epsilon = TOLERANCE[expected.dtype.name]
    assert actual.dtype == expected.dtype, label
    if expected.dtype.itemsize == 2:
        expected, actual = expected.astype(np.float32), actual.astype(np.float32)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max()) if finite.size else 1.0
    np.testing.assert_allclose(actual, expected, rtol=epsilon, atol=epsilon * scale, err_msg=str(label))

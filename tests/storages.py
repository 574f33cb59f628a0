"""The table of storages: in which formats parameters and states can be, for tests that go over all of them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

HALVES: dict[str, np.dtype[Any]] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
"""The dtypes of 16 bits that parameters can have."""

FLOAT32 = np.dtype(np.float32)

STORAGES: dict[str, tuple[tuple[np.dtype[Any], ...], dict[str, Any]]] = {
    "halves": ((*HALVES.values(), FLOAT32), {}),
    "halves, stochastic": ((*HALVES.values(), FLOAT32), {"stochastic_rounding": True, "seed": 7}),
    "bfloat16 states": ((FLOAT32, *HALVES.values()), {"state_dtype": "bfloat16"}),
    "bfloat16 states, stochastic": (
        (HALVES["bfloat16"], FLOAT32),
        {"state_dtype": "bfloat16", "stochastic_rounding": True, "seed": 2**64 - 1},
    ),
    "float8 states": ((FLOAT32, *HALVES.values()), {"state_dtype": "float8"}),
    "float8 states, stochastic": (
        (HALVES["bfloat16"], FLOAT32),
        {"state_dtype": "float8", "stochastic_rounding": True, "seed": 2**33},
    ),
    "master weights": ((HALVES["bfloat16"], FLOAT32), {"master_weights": True}),
    "master weights, float8 states": (
        (HALVES["bfloat16"],),
        {"master_weights": True, "state_dtype": "float8", "stochastic_rounding": True},
    ),
}
"""Dtypes of parameters and options, by a name for each."""

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (7,), (), (0, 4), (4, 1300), (9000,), (40, 3, 2), (257,), (1, 64))
"""Shapes of parameters, two of them large enough for states of fewer bits."""


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.dtype.itemsize}")


def problem(
    rng: np.random.Generator, dtypes: tuple[np.dtype[Any], ...], steps: int = 5
) -> tuple[list[np.ndarray], list[list[np.ndarray | None]]]:
    """Parameters of these dtypes in turn, and gradients of it or of float32; some are missing in some steps."""
    of = [dtypes[index % len(dtypes)] for index in range(len(SHAPES))]
    params = [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape, dtype in zip(SHAPES, of, strict=True)]
    gradients = [
        [
            None
            if (step + index) % 5 == 4
            else np.asarray(rng.standard_normal(shape) * 0.1**index).astype(
                FLOAT32 if (step + index) % 3 == 0 else dtype
            )
            for index, (shape, dtype) in enumerate(zip(SHAPES, of, strict=True))
        ]
        for step in range(steps)
    ]
    return params, gradients

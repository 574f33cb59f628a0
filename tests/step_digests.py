"""Digests of what steps compute, by case, and the record of them: the same on every processor and in every version.

`python tests/step_digests.py` writes the record again, where a formula or a table of cases has changed on purpose.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cases import CASES, CONVENTION_CASES, DTYPES, PLAIN, Case, extra_options
from storages import HALVES, STORAGES

RECORD = Path(__file__).parent / "golden" / "step_digests.txt"
LENGTHS = (0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 4097)
SHAPES = ((65, 63), (7, 1), (3,))
STEPS = 20


def gradient(rng: np.random.Generator, shape: Any, dtype: Any) -> np.ndarray:
    """Zeros, both signs, huge and tiny values: from integers and powers of two alone, the same on every machine.

    NumPy's normal numbers are not: they come from the C library's logarithms, and compilers may fuse their operations.
    """
    scales = np.where(rng.random(shape) < 0.2, np.ldexp(1.0, rng.integers(-130, 50, shape)), 1)
    return np.asarray(np.where(rng.random(shape) < 0.2, 0, (rng.random(shape) - 0.5) * scales)).astype(dtype)


@functools.cache
def inputs(dtypes: tuple[Any, ...], shapes: tuple[Any, ...]) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Parameters of these dtypes in turn, and gradients for each step; some of those of 16 bits are float32."""
    rng = np.random.default_rng(3)
    arrays = [(dtypes[index % len(dtypes)], shape) for index, shape in enumerate(shapes)]
    params = [(rng.random(shape) - 0.5).astype(dtype) for dtype, shape in arrays]
    with np.errstate(under="ignore", over="ignore"):
        return params, [
            [
                gradient(rng, shape, np.float32 if dtype in HALVES.values() and step % 3 == 0 else dtype)
                for dtype, shape in arrays
            ]
            for step in range(STEPS)
        ]


def digest(case: Case, dtypes: tuple[Any, ...], shapes: tuple[Any, ...], **options: Any) -> str:
    starts, steps = inputs(dtypes, shapes)
    params = [start.copy() for start in starts]
    optimizer = case.make(params, **options)
    with np.errstate(all="ignore"):
        for gradients in steps:
            optimizer.step([each.copy() for each in gradients])  # zero_grads writes into them.
    found = hashlib.sha256()
    for index, param in enumerate(params):
        states = optimizer.state[index]
        for name, value in (("param", param), *sorted(states.items())):
            array = np.array(value, np.float64)
            array[np.isnan(array)] = np.nan  # A processor may choose which.
            found.update(name.encode() + array.tobytes())
    return found.hexdigest()[:16]


def digests(optimizer: str, backend: str) -> Iterator[tuple[str, str]]:
    """The name and the digest of each case of an optimizer: its variants, then what can be done around an update, and
    all storages."""
    for dtype in DTYPES:
        for case in (*CASES, *CONVENTION_CASES):
            if case.optimizer == optimizer:
                yield f"{case} {dtype.__name__}", digest(case, (dtype,), LENGTHS, backend=backend)
        for name, options in extra_options().items():
            case = Case(optimizer, {})
            if case.can(options):
                yield f"{case} {dtype.__name__}, {name}", digest(case, (dtype,), SHAPES, backend=backend, **options)
    for name, (dtypes, options) in STORAGES.items():
        case = Case(optimizer, {})
        yield f"{case} stored, {name}", digest(case, dtypes, LENGTHS, backend=backend, **options)


if __name__ == "__main__":
    rows = [row for case in PLAIN for row in digests(case.optimizer, "cython")]
    RECORD.write_text("".join(f"{name}: {value}\n" for name, value in rows), encoding="utf-8")

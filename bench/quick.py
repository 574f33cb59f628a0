"""The cases of `--quick`: a table from a test's name to patterns of the identifiers that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from .cases import MAIN, identifier

LARGEST = 1_000_000
"""Most parameters of a case; larger cases are left out whatever the table says."""

NOTHING: tuple[str, ...] = ()

KEPT: Mapping[str, tuple[str, ...]] = {
    # Some peers compile for seconds in each case.
    "test_flat_tensor": (
        *(f"1_000-{identifier(variant)}" for variant in MAIN),
        "10*_000-Adam",
        "1_000_000-Adam",
        "1_000_000-RMSprop",
    ),
    "test_list_of_tensors": ("10-*-Adam", "500-*-Adam"),
    "test_one_thread": NOTHING,
    "test_clip_step_zero": ("10_000", "1_000_000", "10-tensors*"),
    "test_loops": ("Adam-1_000", "Adam-1_000_000", "RMSprop-1_000_000"),
    "test_every_pair_agrees": NOTHING,
    "test_cold_start": ("fastopt", "custom*rule"),
    "test_custom_rule": ("100_000", "1_000_000"),
    "test_half_dead_gradients": ("Adam-step_10", "Adam-step_1000"),
    "test_growth": ("Adam-step_1000",),
    "test_numba_beside_cython": ("1_000_000-Adam", "1_000_000-RMSprop", "1_000_000-Rprop"),
    "test_threads_of_adam": ("1_000", "10_000", "100_000"),
    "test_threads": NOTHING,
}
"""Patterns with the wildcards of file names; a test without an entry runs all its cases up to LARGEST."""


def keeps(test: str, identifier: str, size: int) -> bool:
    """Whether a quick run includes this case, which has `size` parameters."""
    return size <= LARGEST and any(fnmatchcase(identifier, pattern) for pattern in KEPT.get(test, ("*",)))

"""Which cases are measured: a table from a test's name to patterns of the identifiers of its cases, for each extent."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from fnmatch import fnmatchcase

import pytest

from .cases import MAIN, VARIANTS, identifier


class Extent(enum.Enum):
    """How many cases are measured; the value is what a report says of it."""

    QUICK = "the main cases, quickly"
    USUAL = "the usual cases"
    ALL = "all cases"

    @classmethod
    def of(cls, config: pytest.Config) -> Extent:
        """That of a run: an expression for -k selects among all cases, unless the run is quick."""
        if config.getoption("--quick"):
            return cls.QUICK
        return cls.ALL if config.getoption("--all") or config.getoption("keyword") else cls.USUAL


LARGEST = 1_000_000
"""Most parameters of a case of `--quick`; larger cases are left out whatever the table says."""

NOTHING: tuple[str, ...] = ()

FIRST = ("Adam", "RMSprop")
"""The optimizers of the cases that take longest, in which others would show the same."""

MAIN_NAMES = tuple(map(identifier, MAIN))

PLAIN_NAMES = tuple(identifier(each) for each in VARIANTS.values() if not each.hyperparameters or each in MAIN)
"""Every optimizer once."""


def each(sizes: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{size}-{name}" for size in sizes for name in names)


LEFT_OUT_OF_QUICK = ("torch compile",)
"""Peers that a quick run measures only if they are named: compiling would take a third of its time."""

QUICK: Mapping[str, tuple[str, ...]] = {
    "test_flat_tensor": ("1*_000-Adam", "1_000_000-RMSprop", "1_000_000-Rprop"),
    "test_list_of_tensors": ("10-*-Adam", "500-*-Adam"),
    "test_one_thread": NOTHING,
    "test_every_pair_agrees": NOTHING,
    "test_cold_start": ("fastopt", "custom*rule"),
    "test_custom_rule": ("100_000", "1_000_000"),
    "test_half_dead_gradients": ("Adam-step_1000",),
    "test_growth": ("Adam-step_1000",),
    "test_numba_beside_cython": ("1_000_000-Adam",),
    "test_threads_of_adam": ("1_000", "10_000", "100_000"),
    "test_threads": NOTHING,
    "test_loops": ("Adam-1_000", "Adam-10_000"),
    "test_clip_step_zero": ("10_000", "1_000_000", "10-*"),
    "test_training": ("step",),
    "test_training_without_optimizer": NOTHING,
    "test_step_in_backward": NOTHING,
    "test_storage_beside_peers": ("1_000_000-Adam-float8-states", "1_000_000-*-bfloat16-*"),
    "test_storage_beside_float32": NOTHING,
    "test_steps": ("*-step",),
    "test_steps_over_new_gradients": NOTHING,
}
"""Patterns with the wildcards of file names; a test without an entry runs all its cases."""

USUAL: Mapping[str, tuple[str, ...]] = {
    # Every optimizer at one size, the main ones at all but the largest, where a case takes a minute.
    "test_flat_tensor": (
        *each(("1_000_000",), PLAIN_NAMES),
        *each(("1_000", "10_000", "100_000", "10_000_000"), (*MAIN_NAMES, "AdamW")),
        *each(("100_000_000",), FIRST),
    ),
    "test_list_of_tensors": (
        *(f"10-*-{name}" for name in MAIN_NAMES),
        *(f"500-*-{name}" for name in FIRST),
        *(f"{size}-*-Adam" for size in ("1_000", "ResNet", "GPT")),
    ),
    "test_one_thread": ("*-Adam",),
    "test_numba_beside_cython": each(("100_000", "1_000_000"), MAIN_NAMES),
    "test_threads": NOTHING,
    "test_loops": tuple(f"{name}-*" for name in FIRST),
    "test_half_dead_gradients": ("Adam-step_10", "Adam-step_1000"),
    "test_growth": ("Adam-*",),
    "test_memory": ("Adam-*",),
    "test_storage_beside_peers": ("1_000_000-*", "100_000_000-*"),
    "test_storage_beside_float32": ("1_000_000-*",),
    "test_clip_step_zero": ("10_000", "1_000_000", "100_000_000", "10-*", "GPT-*"),
    # On a GPU: as many as there are in a minute or two.
    "test_flat": tuple(f"*-{size}" for size in ("10_000", "1_000_000", "10_000_000", "100_000_000")),
    "test_lists": ("*-Adam",),
}

KEPT: Mapping[Extent, Mapping[str, tuple[str, ...]]] = {Extent.QUICK: QUICK, Extent.USUAL: USUAL, Extent.ALL: {}}


def keeps(extent: Extent, test: str, identifier: str, size: int) -> bool:
    """Whether a run of this extent includes a case, which has `size` parameters."""
    if extent is Extent.QUICK and size > LARGEST:
        return False
    return any(fnmatchcase(identifier, pattern) for pattern in KEPT[extent].get(test, ("*",)))

"""The main optimizers on one thread, beside peers on one thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from .cases import FLAT, MAIN, Variant, Workload, identifier
from .measure import Settings

WORKLOADS = FLAT[:-1]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """As elsewhere, but for the threads, of fastopt and of everyone beside it."""
    return dataclasses.replace(settings, n_threads=1)


@pytest.mark.parametrize("variant", MAIN, ids=identifier)
@pytest.mark.parametrize("workload", WORKLOADS, ids=identifier)
def test_one_thread(compare: Callable[..., None], variant: Variant, workload: Workload) -> None:
    compare("One thread", variant, workload)

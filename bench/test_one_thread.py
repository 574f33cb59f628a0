"""The main optimizers and their peers on one thread."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .cases import FLAT, MAIN, Variant, Workload, identifier


@pytest.mark.parametrize("variant", MAIN, ids=identifier)
@pytest.mark.parametrize("workload", FLAT[:-1], ids=identifier)
def test_one_thread(compare: Callable[..., None], variant: Variant, workload: Workload) -> None:
    compare("One thread", variant, workload, n_threads=1)

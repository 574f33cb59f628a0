"""Loops of updates compiled by Numba with `fastopt.jit`, and the same loops in Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import jit_loops
from .cases import ADAM, MAIN, Variant, Workload, flat, identifier

Compare = Callable[..., None]
SIZES = [flat(size) for size in (16, 1000, 10_000, 1_000_000)]


@pytest.mark.parametrize("workload", SIZES, ids=identifier)
@pytest.mark.parametrize("variant", MAIN, ids=identifier)
def test_loops(compare: Compare, variant: Variant, workload: Workload) -> None:
    large = workload.size > 100_000
    compare(
        "Loops of 100 updates",
        variant,
        workload,
        subject=jit_loops.PARALLEL if large else jit_loops.IN_NJIT,
        peers=(jit_loops.FROM_PYTHON,),
        only_moves=False,
    )


def test_loops_of_a_custom_rule(compare: Compare) -> None:
    compare(
        "Loops of a custom rule",
        ADAM,
        flat(1000),
        subject=jit_loops.CUSTOM_RULE,
        peers=(jit_loops.CUSTOM_FROM_PYTHON,),
        only_moves=False,
    )

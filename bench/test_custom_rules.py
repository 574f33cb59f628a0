"""fastopt compared with itself: backends, threads, ways to call it, custom rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import custom_loops
from .cases import ADAM, VARIANTS, Variant, Workload, flat, identifier

Compare = Callable[..., None]


def workloads(*powers: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("workload", [flat(10**power) for power in powers], ids=identifier)


every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=identifier)
other_variants = pytest.mark.parametrize(
    "variant", [each for each in VARIANTS.values() if each is not ADAM], ids=identifier
)


@workloads(3, 5, 6)
def test_ways_to_call(compare: Compare, workload: Workload) -> None:
    compare("Ways to call", ADAM, workload, peers=(custom_loops.PASSED, custom_loops.UNALIGNED))


@every_variant
@workloads(5, 6)
def test_numba_beside_cython(compare: Compare, variant: Variant, workload: Workload) -> None:
    compare("Numba and Cython", variant, workload, subject=custom_loops.NUMBA, peers=(custom_loops.CYTHON,))


@workloads(7, 8)
def test_large_numba_beside_cython(compare: Compare, workload: Workload) -> None:
    compare("Numba and Cython", ADAM, workload, subject=custom_loops.NUMBA, peers=(custom_loops.CYTHON,))


@workloads(3, 5, 6, 7, 8)
def test_custom_rule(compare: Compare, workload: Workload) -> None:
    compare(
        "A custom rule",
        ADAM,
        workload,
        subject=custom_loops.CUSTOM_RULE,
        peers=(custom_loops.NUMBA, custom_loops.FASTOPT),
    )


@workloads(3, 5, 6, 7, 8)
def test_custom_rule_with_a_sum(compare: Compare, workload: Workload) -> None:
    compare(
        "A custom rule with a sum",
        VARIANTS["StableAdamW"],
        workload,
        subject=custom_loops.CUSTOM_RULE,
        peers=(custom_loops.NUMBA, custom_loops.FASTOPT),
    )


@workloads(*range(9))
def test_threads_of_adam(compare: Compare, workload: Workload) -> None:
    compare("Threads", ADAM, workload, peers=(custom_loops.SERIAL, custom_loops.THREADED))


@other_variants
@workloads(4, 5)
def test_threads(compare: Compare, variant: Variant, workload: Workload) -> None:
    compare("Threads", variant, workload, peers=(custom_loops.SERIAL, custom_loops.THREADED))

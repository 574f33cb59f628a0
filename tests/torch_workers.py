"""What runs in processes of its own for test_torch_conformance.py; started processes import this file alone."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch_cases import parameters, train

import fastopt.torch
from fastopt.definitions.specs import SPECS

SHARDED_STEPS = 5
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Adam": ({"amsgrad": True, "weight_decay": 0.1}, {}),
    "SGD": ({"momentum": 0.9, "dampening": 0.3, "n_threads": 1}, {}),
    "RMSprop": ({"centered": True, "momentum": 0.5}, {"parameters_as_bucket_view": True}),
    "Adagrad": ({"initial_accumulator_value": 0.1}, {}),
    "Adadelta": ({"rho": 0.5}, {}),
    "Adamax": ({"weight_decay": 0.1}, {}),
    "NAdam": ({"momentum_decay": 0.1}, {}),
    "RAdam": ({"betas": (0.9, 0.9)}, {}),
    "Lion": ({"weight_decay": 0.1}, {}),
}
JOBS = {name: OPTIONS.get(name, ({}, {})) for name, spec in SPECS.items() if not spec.has_sums_over_all}
"""By optimizer that knows its share of the parameters alone, its options, and those of ZeroRedundancyOptimizer."""


def shard(rank: int, folder: str, n_processes: int) -> None:
    """Train with states that are spread over processes; the first one writes down what came of it."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, for what stands beside it
        from torch.distributed.optim import ZeroRedundancyOptimizer
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=n_processes)
    try:
        results = {}
        for name, (options, how) in JOBS.items():
            params = parameters(torch.float32, plain=True)
            optimizer = ZeroRedundancyOptimizer(
                list(params.values()), optimizer_class=getattr(fastopt.torch, name), lr=0.01, **options, **how
            )
            train(optimizer, params, range(SHARDED_STEPS))
            assert isinstance(optimizer.optim, getattr(fastopt.torch, name))
            optimizer.consolidate_state_dict(to=0)
            if rank == 0:
                results[name] = (
                    {key: param.detach().clone() for key, param in params.items()},
                    optimizer.state_dict(),
                )
        if rank == 0:
            torch.save(results, f"{folder}/results.pt")
    finally:
        dist.destroy_process_group()

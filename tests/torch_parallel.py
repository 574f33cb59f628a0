"""Training with fully_shard and parallelize_module, for the tests of DTensor parameters; runs in `ranks.run_ranks`."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fastopt.torch

SIZES = (5, 7, 6, 1)
"""Of layers; most are not divisible by the number of processes, and the last bias is empty on all but the first."""


def network(even: bool = False) -> nn.Sequential:
    """Tensor parallelism needs a hidden layer of an even size."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    sizes = (SIZES[0], SIZES[1] + even, *SIZES[2:])
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers)


def fsdp(model: nn.Sequential, mesh: DeviceMesh | None, **options: Any) -> nn.Sequential:
    """Nested: each layer by itself, and the rest."""
    for layer in model[:4]:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def tensor_parallel(model: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    """The last layer stays plain."""
    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})  # type: ignore[return-value]


def parallel(kind: str) -> nn.Sequential:
    """A model, spread over all processes."""
    n_ranks = dist.get_world_size()
    model = network(even="tensor" in kind)
    if kind == "fsdp":
        return fsdp(model, None)
    if kind == "fsdp, later reshard":
        return fsdp(model, None, reshard_after_forward=False)
    if kind == "fsdp, bfloat16":
        return fsdp(model, None, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    if kind == "fsdp, other dimension":
        return fsdp(model, None, shard_placement_fn=lambda param: Shard(param.ndim - 1))
    if kind == "hsdp":
        return fsdp(model, init_device_mesh("cpu", (2, n_ranks // 2), mesh_dim_names=("replicate", "shard")))
    if kind == "tensor":
        return tensor_parallel(model, init_device_mesh("cpu", (n_ranks,), mesh_dim_names=("tensor",)))
    if kind == "fsdp and tensor":
        mesh = init_device_mesh("cpu", (n_ranks // 2, 2), mesh_dim_names=("shard", "tensor"))
        return fsdp(tensor_parallel(model, mesh["tensor"]), mesh["shard"])
    raise ValueError(kind)


KINDS = ("fsdp", "fsdp, later reshard", "fsdp, bfloat16", "hsdp", "tensor")


def batch(step: int, own: bool) -> tuple[Tensor, Tensor]:
    """The data of a step: another one for each process, or not."""
    made = torch.Generator().manual_seed(1000 * step + own * dist.get_rank())
    return torch.randn(8, SIZES[0], generator=made), torch.randn(8, SIZES[-1], generator=made)


def train_parallel(model: nn.Module, optimizer: Any, steps: int, own_data: bool) -> None:
    for step in range(steps):
        x, y = batch(step, own_data)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def gathered(tensor: Tensor) -> Tensor:
    """All of a DTensor."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def difference_to_torch(kind: str, name: str, options: dict[str, Any]) -> tuple[float, bool]:
    """The largest difference of a parameter or state after training, and whether some shard is empty."""
    model, other = parallel(kind), parallel(kind)
    optimizer = getattr(fastopt.torch, name)(model.parameters(), **options)
    theirs = getattr(torch.optim, name)(other.parameters(), **options)
    own_data = kind != "tensor"
    train_parallel(model, optimizer, 6, own_data)
    train_parallel(other, theirs, 6, own_data)
    worst, empty = 0.0, False
    for param, expected in zip(model.parameters(), other.parameters(), strict=True):
        pairs = [(param, expected)]
        assert optimizer.state[param].keys() == theirs.state[expected].keys()
        pairs += [(optimizer.state[param][key], value) for key, value in theirs.state[expected].items()]
        for one, two in pairs:
            assert type(one) is type(two)
            worst = max(worst, float((gathered(one) - gathered(two)).abs().max()))
        empty = empty or (isinstance(param, DTensor) and not param._local_tensor.numel())
    return worst, empty

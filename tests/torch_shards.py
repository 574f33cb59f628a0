"""DTensors for tests: worlds in which this process is one of several without the others, and shards of every layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from cases import equal_bits
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.nn import Parameter
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch_cases import gradient


@contextmanager
def world(n_ranks: int, rank: int) -> Iterator[None]:
    """This process as one of several that do not exist: they are neither sent anything nor waited for."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=n_ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def mesh_of(*sizes: int) -> DeviceMesh:
    names = ("replicate", "shard")[-len(sizes) :]
    return init_device_mesh("cpu", sizes, mesh_dim_names=names)


def local(tensor: Any) -> Tensor:
    """What this process has of a DTensor; a plain tensor as it is."""
    found: Tensor = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    return found.detach()


def whole(shard: Tensor, mesh: DeviceMesh, placements: Iterable[Placement] | None = None) -> Any:
    """A DTensor that has this shard here, and one element less elsewhere along the first dimension."""
    if placements is None:
        placements = [Replicate()] * (mesh.ndim - 1) + [Shard(0) if shard.ndim and len(shard) else Replicate()]
    placements = list(placements)
    shape = list(shard.shape)
    for size, placement in zip(mesh.shape, placements, strict=True):
        if isinstance(placement, Shard):
            shape[placement.dim] += (size - 1) * max(shape[placement.dim] - 1, 0)
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(shard, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


def sharded(params: dict[str, Parameter], mesh: DeviceMesh, *plain: str) -> dict[str, Parameter]:
    """DTensors whose shards here are copies of these parameters, of the same layout; `plain` names those that stay."""
    made = {}
    for name, param in params.items():
        copied = param.detach().as_strided(param.shape, param.stride())
        if param.untyped_storage().nbytes():  # also of what is between the elements
            storage = param.untyped_storage().clone()
            copied = torch.empty(0, dtype=param.dtype).set_(
                storage, param.storage_offset(), param.shape, param.stride()
            )
        made[name] = Parameter(copied if name in plain else whole(copied, mesh))
    return made


def train_shards(optimizer: Any, params: dict[str, Any], steps: Iterable[int]) -> None:
    """As `torch_cases.train`, with the same gradients of the shards."""
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


def set_gradients(params: dict[str, Any], step: int) -> None:
    for name, param in params.items():
        found = gradient(name, local(param), step)  # type: ignore[arg-type]
        if found is not None and isinstance(param, DTensor):
            found = whole(found, param.device_mesh, param.placements)
        param.grad = found


def same_bits(mine: Tensor, other: Tensor) -> bool:
    if mine.dtype is torch.bfloat16 is other.dtype:
        mine, other = mine.view(torch.int16), other.view(torch.int16)
    return equal_bits(mine.numpy(), other.numpy())


def assert_same_shards(mine: Any, params: dict[str, Any], other: Any, others: dict[str, Parameter]) -> None:
    """Parameters and states here have the bits of plain ones, and are DTensors as their parameters are."""
    for name, param in params.items():
        assert same_bits(local(param), others[name].detach()), name
        state, expected = mine.state.get(param, {}), other.state.get(others[name], {})
        assert list(state) == list(expected)
        for key, value in expected.items():
            assert same_bits(local(state[key]), value), f"{key} of {name}"
            if isinstance(param, DTensor) and key not in ("step", *mine.spec.carried):
                assert isinstance(state[key], DTensor)
                assert (state[key].device_mesh, state[key].placements) == (param.device_mesh, param.placements)
                assert (state[key].shape, state[key].stride()) == (param.shape, param.stride())
                assert state[key].dtype == value.dtype
            else:
                assert type(state[key]) is Tensor

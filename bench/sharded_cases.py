"""Steps of DTensors: each side steps the shards that one process has, in a world of this process alone."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cases import Problem, Workload
from .peers import TORCH, Tensors
from .peers.pytorch import unavailable_in
from .runner import Peer, Runner
from .torch_cases import PACKAGE, ours

SHARDS = tuple(Workload(f"{n} shards of 256", ((256,),) * n) for n in (6, 100, 500))


def mesh() -> Any:
    """A mesh of this process, which sends nothing to anybody."""
    from torch.distributed.device_mesh import init_device_mesh

    dist: Any = importlib.import_module("torch.distributed")
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return init_device_mesh("cpu", (1,))


@dataclass
class Shards(Tensors):
    """The parameters of a problem as DTensors; `grads` are the shards of their gradients."""

    @classmethod
    def of(cls, problem: Problem, device: str = "cpu", dtype: str = "float32") -> Shards:
        import torch
        from torch.distributed.tensor import DTensor, Shard

        plain, own = Tensors.of(problem, device, dtype), mesh()

        def whole(shard: Any) -> Any:
            return DTensor.from_local(shard, own, [Shard(0)], run_check=False)

        params = [torch.nn.Parameter(whole(param.detach())) for param in plain.params]
        grads = list(map(whole, plain.grads))
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        return cls(problem, params, [grad.to_local() for grad in grads])

    def results(self) -> list[np.ndarray]:
        return [param.detach().to_local().numpy() for param in self.params]

    def optimizer(self, package: str, **options: object) -> Any:
        shards = self.grads
        made = super().optimizer(package, **options)
        self.grads = shards
        return made


def sharded(name: str, package: str = "torch.optim", **options: object) -> Peer:
    """An optimizer of a package over DTensors."""

    def start(problem: Problem) -> Runner:
        tensors = Shards.of(problem)
        return Runner(tensors.optimizer(package, **options).step, tensors.results, tensors.take_gradients)

    return Peer(name, start, unavailable_in(package, **options))


OURS = sharded(PACKAGE, PACKAGE)
TORCHS = tuple(sharded(name, **options) for name, options in TORCH.items())
PLAIN = Peer("fastopt, plain tensors", ours().start, ours().unavailable)

"""A model in checkpoints of torch.distributed.checkpoint, in one process or several; started processes import this."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch_peers import TORCH

import fastopt.torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own, about what it is going to change
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

DAMPED = {"momentum": 0.9, "dampening": 0.5}
SHARED: dict[str, dict[str, Any]] = {"SGD": DAMPED, "Adam": {"amsgrad": True}, "NAdam": {}, "Rprop": {}, "Adan": {}}
"""The optimizers of checkpoints that are shared between processes, and their options."""


class Model(nn.Module):
    """Of a matrix, vectors and a number; the same values each time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(7, 5), nn.Linear(5, 3)
        self.number = nn.Parameter(torch.empty(()))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for param in self.parameters():
                param.copy_(torch.randn(param.shape, generator=generator))

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.second(torch.tanh(self.first(inputs))) * self.number
        return result


def make(
    name: str, options: dict[str, Any], in_backward: bool = False, torchs: bool = False, **more: Any
) -> tuple[Model, Any]:
    model = Model()
    if in_backward:
        return model, fastopt.torch.step_in_backward(model, getattr(fastopt.torch, name), **options, **more)
    return model, getattr(TORCH if torchs else fastopt.torch, name)(model.parameters(), **options, **more)


def backward(model: nn.Module, seed: int) -> None:
    model(torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))).square().mean().backward()


def train(model: nn.Module, optimizer: Any, seeds: Iterable[int]) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        backward(model, seed)
        optimizer.step()


def save(model: nn.Module, optimizer: Any, folder: Path, **how: Any) -> None:
    saved = get_state_dict(model, optimizer, options=StateDictOptions(**how))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save(
            dict(zip(("model", "optimizer"), saved, strict=True)),
            checkpoint_id=folder,
            no_dist=not dist.is_initialized(),
        )


def load(model: nn.Module, optimizer: Any, folder: Path, **how: Any) -> None:
    options = StateDictOptions(**how)
    found = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer, options=options), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.load(found, checkpoint_id=folder, no_dist=not dist.is_initialized())
    set_state_dict(
        model,
        optimizer,
        model_state_dict=found["model"],
        optim_state_dict=found["optimizer"],
        options=options,
    )


def resume_as_two(rank: int, folder: str, n_processes: int) -> None:
    """Go on from a checkpoint of one process and write what came of it; and save one, with the same contents."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=n_processes)
    try:
        for name, options in SHARED.items():
            model, optimizer = make(name, options, flatten=True)
            load(model, optimizer, Path(folder) / name / "one")
            save(model, optimizer, Path(folder) / name / "two")
            train(model, optimizer, range(3, 6))
            torch.save([param.detach().clone() for param in model.parameters()], Path(folder) / name / f"{rank}.pt")
    finally:
        dist.destroy_process_group()

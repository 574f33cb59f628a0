"""What processes do for test_torch_distributed_checkpoints.py; they import this file alone.

All processes have the same inputs. Sums over 2 or 4 of them and the division after are exact, so that training has the
same bits in any number of processes, sharded or not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastopt.torch

BEFORE, AFTER = range(3), range(3, 6)


@dataclass(frozen=True)
class Setup:
    """An optimizer, and how its states are named and gathered in a checkpoint."""

    name: str
    options: dict[str, Any] = field(hash=False, default_factory=dict)
    how: dict[str, bool] = field(hash=False, default_factory=dict)
    dtype: torch.dtype = torch.float32


class Model(nn.Module):
    """Layers that two and four processes do not share evenly, and one that is large enough for `state_dtype`.

    Its shards are whole blocks of float8, which are of 256 elements.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(7, 5), nn.Linear(5, 3), nn.Linear(3, 2048)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.third(self.second(self.first(inputs).tanh()))
        return result


def made(setup: Setup, kind: str, package: str = "fastopt") -> tuple[nn.Module, Any]:
    model: nn.Module = Model().to(setup.dtype)
    if kind == "fully_shard":
        for layer in model.children():
            fully_shard(layer)
        fully_shard(model)
    if kind == "ddp":
        model = DistributedDataParallel(model)
    if kind == "in backward":
        model = DistributedDataParallel(model)
        cls = getattr(fastopt.torch, setup.name)
        return model, fastopt.torch.step_in_backward(model, cls, **setup.options)
    if kind == "flat":
        return model, getattr(fastopt.torch, setup.name)(model.parameters(), flatten=True, **setup.options)
    classes = fastopt.torch if package == "fastopt" else torch.optim
    return model, getattr(classes, setup.name)(model.parameters(), **setup.options)


def train(setup: Setup, model: nn.Module, optimizer: Any, steps: Iterable[int]) -> None:
    for step in steps:
        optimizer.zero_grad()
        inputs = torch.randn(6, 7, generator=torch.Generator().manual_seed(step)).to(setup.dtype)
        model(inputs).square().mean().backward()
        optimizer.step()


def whole(tensor: Any) -> Tensor:
    if tensor.dtype is torch.int16:  # which gloo does not send
        tensor = tensor.to(torch.int32)
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered.detach().clone()


def contents(model: nn.Module, optimizer: Any) -> list[Tensor]:
    """Parameters and states, of all processes."""
    params = list(model.parameters())
    states = (value for param in params for _, value in sorted(optimizer.state.get(param, {}).items()))
    return [whole(each) for each in (*params, *states) if isinstance(each, Tensor)]


def checkpointed(setup: Setup, model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """What a checkpoint has of a model and its optimizer."""
    options = StateDictOptions(**setup.how)
    return dict(zip(("model", "optimizer"), get_state_dict(model, optimizer, options=options), strict=True))


def save(setups: dict[str, Setup], kind: str, folder: Path, package: str) -> None:
    """Train some steps with each optimizer, and save all in one checkpoint."""
    saved = {}
    for name, setup in setups.items():
        model, optimizer = made(setup, kind, package)
        train(setup, model, optimizer, BEFORE)
        saved[name] = checkpointed(setup, model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save(saved, storage_writer=checkpoint.FileSystemWriter(folder, sync_files=False))


def resume(setups: dict[str, Setup], kind: str, folder: Path, package: str) -> dict[str, list[Tensor]]:
    """What comes of going on from such a checkpoint, by name."""
    pairs = {name: made(setup, kind, package) for name, setup in setups.items()}
    found = {}
    for name, (model, optimizer) in pairs.items():
        before = contents(model, optimizer)
        found[name] = checkpointed(setups[name], model, optimizer)
        # That makes all states, by a step without gradients, which changes no parameter.
        assert all(map(torch.equal, contents(model, optimizer), before))
        assert all(optimizer.state.get(param) for param in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.load(found, checkpoint_id=folder)
    trained = {}
    for name, (model, optimizer) in pairs.items():
        loaded, options = found[name], StateDictOptions(**setups[name].how)
        set_state_dict(
            model,
            optimizer,
            model_state_dict=loaded["model"],
            optim_state_dict=loaded["optimizer"],
            options=options,
        )
        train(setups[name], model, optimizer, AFTER)
        trained[name] = contents(model, optimizer)
    return trained


Job = tuple[str, str, dict[str, Setup], str, str]
"""What to do ("save" or "resume"), the folder, optimizers, what the model is wrapped in, and the package."""


def run_jobs(folder: Path, jobs: list[Job]) -> list[dict[str, list[Tensor]] | None]:
    """What is trained after resuming, by job and name."""
    actions: dict[str, Any] = {"save": save, "resume": resume}
    return [actions[action](setups, kind, folder / name, package) for action, name, setups, kind, package in jobs]


def uninterrupted(setups: list[Setup]) -> list[list[Tensor]]:
    return [_uninterrupted(setup) for setup in setups]


def _uninterrupted(setup: Setup) -> list[Tensor]:
    model, optimizer = made(setup, "plain")
    train(setup, model, optimizer, (*BEFORE, *AFTER))
    return contents(model, optimizer)


def through_zero(setups: list[Setup]) -> list[tuple[list[Tensor], list[Tensor] | None]]:
    """Parameters after going on in ZeroRedundancyOptimizer from a plain optimizer, and in a plain one from it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.distributed.optim import ZeroRedundancyOptimizer
    found = []
    for setup in setups:
        cls = getattr(fastopt.torch, setup.name)
        model, plain = made(setup, "plain")
        train(setup, model, plain, BEFORE)
        zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=cls, **setup.options)
        zero.load_state_dict(plain.state_dict())
        train(setup, model, zero, AFTER)
        from_plain = [whole(param) for param in model.parameters()]

        model = Model().to(setup.dtype)
        zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=cls, **setup.options)
        train(setup, model, zero, BEFORE)
        zero.consolidate_state_dict(to=0)
        from_zero = None
        if torch.distributed.get_rank() == 0:
            plain = cls(model.parameters(), **setup.options)
            plain.load_state_dict(zero.state_dict())
            train(setup, model, plain, AFTER)
            from_zero = [whole(param) for param in model.parameters()]
        found.append((from_plain, from_zero))
    return found

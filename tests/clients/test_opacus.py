"""Opacus: its DPOptimizer clips and adds noise, then calls the optimizer that it was given."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from opacus.optimizers import DPOptimizer
from opacus.utils.batch_memory_manager import BatchMemoryManager
from training import Weights, check_agreement, counted_steps, digits, network, weights

import fastopt.torch

EPOCHS, BATCH = 3, 64
OPTIMIZERS = {"Adam": dict(lr=1e-2), "SGD": dict(lr=0.1, momentum=0.9)}


def train(optimizer_class: type, clipping: str, physical_batch: int, options: dict[str, Any]) -> tuple[Weights, Any]:
    model = network()
    x, y = map(torch.from_numpy, digits())
    model, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer_class(model.parameters(), **options),
        data_loader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=BATCH),
        noise_multiplier=1.0,
        max_grad_norm=[1.0] * 4 if clipping == "per_layer" else 1.0,
        clipping=clipping,
        poisson_sampling=False,
        noise_generator=torch.Generator().manual_seed(1),
    )
    parts = nullcontext(loader)
    if physical_batch < BATCH:
        parts = BatchMemoryManager(data_loader=loader, max_physical_batch_size=physical_batch, optimizer=optimizer)
    with parts as batches:
        for _ in range(EPOCHS):
            for inputs, labels in batches:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
    return {name.removeprefix("_module."): value for name, value in weights(model).items()}, optimizer


@pytest.mark.parametrize(("clipping", "physical_batch"), [("flat", 64), ("per_layer", 64), ("flat", 16)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_private_training(name: str, clipping: str, physical_batch: int) -> None:
    how: Any = (clipping, physical_batch, OPTIMIZERS[name])
    with counted_steps() as counts:
        ours, optimizer = train(getattr(fastopt.torch, name), *how)
    assert counts == {f"fastopt.torch.{name}": EPOCHS * len(digits()[0]) // BATCH}
    assert isinstance(optimizer, DPOptimizer)
    theirs, _ = train(getattr(torch.optim, name), *how)
    check_agreement(ours, theirs, weights(network()))

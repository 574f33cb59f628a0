"""PyTorch Geometric, with graphs that come with it or that it generates."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch_geometric.datasets import FakeDataset, KarateClub
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GAT, GCN, SAGEConv, global_mean_pool
from training import Weights, check_agreement, counted_steps, weights

import fastopt.torch

STEPS = 8


class Lazy(torch.nn.Module):
    """The sizes of its inputs are found at the first forward pass, after the optimizer was made."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = SAGEConv((-1, -1), 16), SAGEConv((-1, -1), 4)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)


NODES: dict[str, Callable[[], torch.nn.Module]] = {
    "GCN": lambda: GCN(34, 16, 2, 4, dropout=0.5),
    "GAT": lambda: GAT(34, 16, 2, 4, heads=4),
    "lazy": Lazy,
}


def classify_nodes(model: str, optimizer_class: type, lr: float = 1e-2) -> Weights:
    torch.manual_seed(0)
    network, data = NODES[model](), KarateClub()[0]
    optimizer = optimizer_class(network.parameters(), lr=lr, weight_decay=5e-4)
    for _ in range(STEPS):
        optimizer.zero_grad()
        found = network(data.x, data.edge_index)
        torch.nn.functional.cross_entropy(found[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
    return weights(network)


@functools.cache
def graphs() -> Any:
    random.seed(0)
    torch.manual_seed(0)
    return FakeDataset(num_graphs=32, avg_num_nodes=20, num_channels=16, num_classes=4)


def classify_graphs(optimizer_class: type, lr: float = 1e-2) -> Weights:
    data = graphs()
    torch.manual_seed(0)
    network = GCN(16, 16, 2, data.num_classes)
    optimizer = optimizer_class(network.parameters(), lr=lr)
    for batch in DataLoader(data, batch_size=32 // STEPS):
        optimizer.zero_grad()
        found = global_mean_pool(network(batch.x, batch.edge_index), batch.batch)
        torch.nn.functional.cross_entropy(found, batch.y).backward()
        optimizer.step()
    return weights(network)


@pytest.mark.parametrize("model", NODES)
def test_classifying_nodes(model: str) -> None:
    with counted_steps() as counts:
        ours = classify_nodes(model, fastopt.torch.Adam)
    assert counts == {"fastopt.torch.Adam": STEPS}
    before = classify_nodes(model, torch.optim.Adam, lr=0.0)
    check_agreement(ours, classify_nodes(model, torch.optim.Adam), before)


def test_classifying_graphs() -> None:
    with counted_steps() as counts:
        ours = classify_graphs(fastopt.torch.Adam)
    assert counts == {"fastopt.torch.Adam": STEPS}
    check_agreement(ours, classify_graphs(torch.optim.Adam), classify_graphs(torch.optim.Adam, lr=0.0))

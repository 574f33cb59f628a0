"""fastopt and torch on a CUDA device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest

from . import cuda_cases
from .cases import ADAM, GPT2, MAIN, MANY, RESNET50, Variant, Workload, identifier
from .clock import CLOCK
from .cuda_cases import FASTOPT, GRAPH, LARGEST, OURS, PEERS, SIZES, TORCH_GRAPH

pytest.importorskip("torch")

Compare = Callable[..., None]


@pytest.fixture
def compare_on_device(compare: Compare) -> Iterator[Compare]:
    """Steps run on while the host goes on: the clock waits for them."""
    reason = cuda_cases.unavailable()
    if reason:
        pytest.skip(reason)
    import torch

    with CLOCK.waiting(torch.cuda.synchronize):
        yield functools.partial(compare, roofline=cuda_cases.COPY, sides=cuda_cases.sides_on_device)


@pytest.mark.parametrize(
    ("variant", "workload"),
    [*((variant, size) for variant in MAIN for size in SIZES), (ADAM, LARGEST)],
    ids=identifier,
)
def test_flat(compare_on_device: Compare, variant: Variant, workload: Workload) -> None:
    compare_on_device("CUDA: flat tensors", variant, workload, FASTOPT, PEERS)


@pytest.mark.parametrize("variant", MAIN, ids=identifier)
@pytest.mark.parametrize("workload", [MANY, RESNET50, GPT2], ids=identifier)
def test_lists(compare_on_device: Compare, variant: Variant, workload: Workload) -> None:
    compare_on_device("CUDA: lists of tensors", variant, workload, FASTOPT, PEERS)


@pytest.mark.parametrize("workload", [SIZES[0], MANY, GPT2], ids=identifier)
def test_graphs(compare_on_device: Compare, workload: Workload) -> None:
    compare_on_device("CUDA: replayed graphs", ADAM, workload, GRAPH, (TORCH_GRAPH,))


@pytest.mark.parametrize("workload", [SIZES[0], MANY, RESNET50, GPT2], ids=identifier)
def test_torch(compare_on_device: Compare, workload: Workload) -> None:
    compare_on_device("CUDA: torch: steps", ADAM, workload, OURS, PEERS)

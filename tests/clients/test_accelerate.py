"""Hugging Face accelerate: `prepare`, accumulation, clipping, saved states, ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from ranks import run_ranks
from training import Weights, as_torchrun_does, check_agreement, counted_steps, digits, distance, network, weights

import fastopt.torch

EPOCHS, BATCH = 2, 64
BATCHES = len(digits()[0]) // BATCH


@pytest.fixture(autouse=True)
def _forget_precision() -> Iterator[None]:
    """Accelerate keeps it for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Run:
    """Digits, learnt as accelerate's documentation says."""

    def __init__(self, optimizer: type, accumulate: int = 1, precision: str = "no", **options: Any) -> None:
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate, mixed_precision=precision)
        x, y = map(torch.from_numpy, digits())
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=BATCH)
        model = network()
        made = optimizer(model.parameters(), lr=1e-2, **options)
        schedule = torch.optim.lr_scheduler.StepLR(made, 2, 0.9)
        self.model, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(model, made, loader, schedule)

    def train(self, epochs: int = EPOCHS, clip: float | None = None) -> Weights:
        for _ in range(epochs):
            for x, y in self.loader:
                with self.accelerator.accumulate(self.model):
                    self.accelerator.backward(torch.nn.functional.cross_entropy(self.model(x), y))
                    if clip is not None and self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), clip)
                    self.optimizer.step()
                    self.schedule.step()
                    self.optimizer.zero_grad()
        return weights(self.accelerator.unwrap_model(self.model))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_training(accumulate: int, precision: str, clip: float | None) -> None:
    run = Run(fastopt.torch.Adam, accumulate, precision)
    with counted_steps() as counts:
        ours = run.train(clip=clip)
    assert isinstance(run.optimizer, AcceleratedOptimizer)
    assert counts == {"fastopt.torch.Adam": EPOCHS * BATCHES // accumulate}
    assert not run.optimizer.step_was_skipped
    theirs = Run(torch.optim.Adam, accumulate, precision).train(clip=clip)
    check_agreement(ours, theirs, weights(network()))


def test_training_clipped_by_the_optimizer() -> None:
    """`max_grad_norm=` does what `accelerator.clip_grad_norm_` does before the step."""
    ours = Run(fastopt.torch.Adam, 2, max_grad_norm=0.1).train()
    check_agreement(ours, Run(torch.optim.Adam, 2).train(clip=0.1), weights(network()))


def test_training_goes_on_from_a_saved_state(tmp_path: Path) -> None:
    whole = Run(fastopt.torch.Adam).train(2)
    first = Run(fastopt.torch.Adam)
    first.train(1)
    first.accelerator.save_state(str(tmp_path))
    second = Run(fastopt.torch.Adam)
    second.accelerator.load_state(str(tmp_path))
    assert distance(second.train(1), whole) == 0


def train_as_a_rank() -> tuple[Weights, Weights, dict[str, int]]:
    as_torchrun_does()
    with counted_steps() as counts:
        ours = Run(fastopt.torch.Adam).train(clip=0.1)
    return ours, Run(torch.optim.Adam).train(clip=0.1), dict(counts)


def test_training_in_two_processes() -> None:
    (ours, theirs, counts), (other, *_) = run_ranks(train_as_a_rank, 2)
    assert counts == {"fastopt.torch.Adam": EPOCHS * BATCHES // 2}
    assert distance(ours, other) == 0
    check_agreement(ours, theirs, weights(network()))

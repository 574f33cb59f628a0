"""Lightning's Trainer: precision, clipping, manual optimization, the rate finder, checkpoints, ranks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.strategies import DDPStrategy
from ranks import run_ranks
from training import (
    AGREE,
    Weights,
    as_torchrun_does,
    check_agreement,
    counted_steps,
    digits,
    distance,
    network,
    weights,
)

import fastopt.torch

EPOCHS, BATCH = 2, 64
BATCHES = len(digits()[0]) // BATCH


class Digits(lightning.LightningModule):
    def __init__(self, optimizer: type = fastopt.torch.AdamW, **options: Any) -> None:
        super().__init__()
        self.model = network()
        self.lr = 1e-2
        self.make, self.options = optimizer, options

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.parameters(), lr=self.lr, **self.options)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    def training_step(self, batch: Any, _: int) -> torch.Tensor | None:
        x, y = batch
        return torch.nn.functional.cross_entropy(self.model(x), y)

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        x, y = map(torch.from_numpy, digits())
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=BATCH)


class Manual(Digits):
    """Steps by hand, as for two networks that play against each other."""

    automatic_optimization = False

    def training_step(self, batch: Any, _: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, _))
        self.clip_gradients(optimizer, gradient_clip_val=0.1)
        optimizer.step()


def trainer(folder: Path, **options: Any) -> lightning.Trainer:
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    return lightning.Trainer(
        **{"accelerator": "cpu", "devices": 1, "max_epochs": EPOCHS, "default_root_dir": folder, **quiet, **options}
    )


# Options of the Trainer, and how far weights may be apart.
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "plain": ({}, AGREE),
    "clipped by norm": (dict(gradient_clip_val=0.1), AGREE),
    "clipped by value": (dict(gradient_clip_val=0.01, gradient_clip_algorithm="value"), AGREE),
    "accumulation": (dict(accumulate_grad_batches=2), AGREE),
    "bf16-mixed": (dict(precision="bf16-mixed"), AGREE),
    "64-true": (dict(precision="64-true"), 1e-14),
}


@pytest.mark.parametrize("case", CASES)
def test_training(case: str, tmp_path: Path) -> None:
    options, limit = CASES[case]
    ours, theirs = Digits(), Digits(torch.optim.AdamW)
    with counted_steps() as counts:
        trainer(tmp_path, **options).fit(ours)
    assert counts == {"fastopt.torch.AdamW": EPOCHS * BATCHES // options.get("accumulate_grad_batches", 1)}
    trainer(tmp_path, **options).fit(theirs)
    check_agreement(weights(ours), weights(theirs), weights(Digits()), limit)


def test_training_in_bfloat16(tmp_path: Path) -> None:
    ours, theirs = Digits(), Digits(torch.optim.AdamW, fused=True)
    with counted_steps() as counts:
        trainer(tmp_path, precision="bf16-true").fit(ours)
    trainer(tmp_path, precision="bf16-true").fit(theirs)
    assert counts == {"fastopt.torch.AdamW": EPOCHS * BATCHES}
    assert all(each.dtype == torch.bfloat16 for each in weights(ours).values())
    check_agreement(weights(ours), weights(theirs), weights(Digits()), 2e-3, 10)  # 0 measured: fused rounds once, too


def test_master_weights_in_bfloat16(tmp_path: Path) -> None:
    """At this rate most updates are less than half the distance between neighbouring numbers of bfloat16."""
    kept, rounded = Digits(master_weights=True), Digits()
    kept.lr = rounded.lr = 1e-5
    fitted = trainer(tmp_path, precision="bf16-true")
    fitted.fit(kept)
    (optimizer,) = fitted.optimizers
    trainer(tmp_path, precision="bf16-true").fit(rounded)
    before = [each.bfloat16() for each in weights(Digits()).values()]
    changed = [param != old for param, old in zip(optimizer.master_params(), before, strict=True)]
    assert all(each.float().mean() > 0.9 for each in changed)  # 1 measured
    changed = [param != old for param, old in zip(weights(rounded).values(), before, strict=True)]
    assert all(each.float().mean() < 0.2 for each in changed)  # 0.1 at most


def test_manual_optimization(tmp_path: Path) -> None:
    ours, theirs = Manual(), Manual(torch.optim.AdamW)
    with counted_steps() as counts:
        trainer(tmp_path).fit(ours)
    assert counts == {"fastopt.torch.AdamW": EPOCHS * BATCHES}
    trainer(tmp_path).fit(theirs)
    check_agreement(weights(ours), weights(theirs), weights(Digits()))


def test_the_rate_finder_suggests_the_same(tmp_path: Path) -> None:
    def find(make: type) -> tuple[float, list[float]]:
        finder = LearningRateFinder(num_training_steps=50, early_stop_threshold=None)
        model = Digits(make)
        trainer(tmp_path, max_epochs=20, callbacks=[finder]).fit(model)
        assert finder.optimal_lr is not None
        assert model.lr == finder.optimal_lr.suggestion()
        return model.lr, finder.optimal_lr.results["loss"]

    with counted_steps() as counts:
        lr, losses = find(fastopt.torch.AdamW)
    assert counts == {"fastopt.torch.AdamW": 50 + 20 * BATCHES}
    expected_lr, expected = find(torch.optim.AdamW)
    assert lr == expected_lr
    assert losses == pytest.approx(expected, rel=1e-5)  # 2e-7 measured


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_training_goes_on_from_a_checkpoint(precision: str, tmp_path: Path) -> None:
    whole, first, second = Digits(), Digits(), Digits()
    trainer(tmp_path, max_epochs=3, precision=precision).fit(whole)
    begun = trainer(tmp_path, max_epochs=1, precision=precision)
    begun.fit(first)
    begun.save_checkpoint(tmp_path / "first.ckpt")
    with counted_steps() as counts:
        trainer(tmp_path, max_epochs=3, precision=precision).fit(second, ckpt_path=tmp_path / "first.ckpt")
    assert counts == {"fastopt.torch.AdamW": 2 * BATCHES}
    assert distance(weights(second), weights(whole)) == 0


def fit_as_a_rank() -> tuple[Weights, Weights, dict[str, int]]:
    as_torchrun_does()
    ours, theirs = Digits(), Digits(torch.optim.AdamW)
    with tempfile.TemporaryDirectory() as folder:
        options: Any = dict(strategy="ddp", devices=2, gradient_clip_val=0.1)
        with counted_steps() as counts:
            fitted = trainer(Path(folder), **options)
            fitted.fit(ours)
        assert isinstance(fitted.strategy, DDPStrategy)
        trainer(Path(folder), **options).fit(theirs)
    return weights(ours), weights(theirs), dict(counts)


def test_training_in_two_processes() -> None:
    (ours, theirs, counts), (other, *_) = run_ranks(fit_as_a_rank, 2)
    assert counts == {"fastopt.torch.AdamW": EPOCHS * BATCHES // 2}
    assert distance(ours, other) == 0
    check_agreement(ours, theirs, weights(Digits()))

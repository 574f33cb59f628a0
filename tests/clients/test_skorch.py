"""skorch's NeuralNetClassifier, a scikit-learn estimator, with `optimizer=` a class of fastopt.torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping, LRScheduler
from training import check_agreement, counted_steps, digits, distance, network, weights

import fastopt.torch

EPOCHS, BATCHES = 3, 2


def make(optimizer: type, **options: Any) -> NeuralNetClassifier:
    return NeuralNetClassifier(
        network,
        max_epochs=EPOCHS,
        batch_size=128,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=optimizer,
        train_split=None,
        verbose=0,
        **options,
    )


CASES = {
    "Adam": ("Adam", dict(lr=1e-2)),
    "SGD": ("SGD", dict(lr=0.1, optimizer__momentum=0.9)),
    "decay of parameters by name": ("AdamW", dict(lr=1e-2, optimizer__param_groups=[("*.bias", {"weight_decay": 0})])),
    "callbacks": (
        "RMSprop",
        dict(
            lr=1e-3,
            callbacks=[GradientNormClipping(0.1), LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)],
        ),
    ),
}


@pytest.mark.parametrize(("name", "options"), CASES.values(), ids=CASES)
def test_training(name: str, options: dict[str, Any]) -> None:
    with counted_steps() as counts:
        ours = make(getattr(fastopt.torch, name), **options).fit(*digits())
    assert counts == {f"fastopt.torch.{name}": EPOCHS * BATCHES}
    theirs = make(getattr(torch.optim, name), **options).fit(*digits())
    check_agreement(weights(ours.module_), weights(theirs.module_), weights(network()))


def test_training_goes_on_from_saved_files(tmp_path: Path) -> None:
    whole = make(fastopt.torch.Adam, lr=1e-2).fit(*digits())
    whole.partial_fit(*digits())
    first = make(fastopt.torch.Adam, lr=1e-2).fit(*digits())
    files = {f"f_{name}": tmp_path / name for name in ("params", "optimizer", "history")}
    first.save_params(**files)
    second = make(fastopt.torch.Adam, lr=1e-2).initialize()
    second.load_params(**files)
    second.partial_fit(*digits())
    assert distance(weights(second.module_), weights(whole.module_)) == 0

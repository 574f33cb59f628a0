"""An ordinary PyTorch training loop with fastopt.torch: a classifier of handwritten digits.

Two lines differ from a loop with torch.optim.AdamW: the import, and `max_grad_norm=`, which replaces the call of
`clip_grad_norm_`. The scheduler, the state dicts and the checkpoint are torch's own.

Run it with `python examples/torch_digits.py`; it takes some seconds and needs PyTorch and scikit-learn. With
`--checkpoint digits.pt` it saves after each epoch, and with `--resume` it continues from there, with the same bits as a
run that was never interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import torch
    from sklearn.datasets import load_digits
    from torch import Tensor, nn

    from fastopt.torch import AdamW
except ImportError as error:
    missing = SystemExit if __name__ == "__main__" else ImportError
    raise missing(f"needs PyTorch and scikit-learn: pip install 'fastopt[torch]' scikit-learn ({error})") from error

VALIDATION = 360
"""The number of images, of 1,797, that are not trained on."""

BATCH = 32


class CheckpointError(ValueError):
    """A file is not a checkpoint of this training."""


def load_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images of 8 by 8 pixels and their digits: for training, then for validation. The split is always the same."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    validation, training = order[:VALIDATION], order[VALIDATION:]
    return images[training], labels[training], images[validation], labels[validation]


class Training:
    """The model and everything that changes during training: optimizer, schedule, random numbers, epoch."""

    def __init__(self, epochs: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.images, self.labels, *self.validation = load_data()
        self.epoch, self.epochs = 0, epochs
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
        self.optimizer = AdamW(self.model.parameters(), lr=1e-3, weight_decay=1e-2, max_grad_norm=1.0)
        steps = epochs * -(-len(self.images) // BATCH)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=1e-2, total_steps=steps)

    def train_epoch(self) -> float:
        """Train for one epoch, and return the mean loss."""
        self.model.train()
        losses = []
        for rows in torch.split(torch.randperm(len(self.images)), BATCH):
            loss = nn.functional.cross_entropy(self.model(self.images[rows]), self.labels[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()  # clips by the norm of all gradients, then updates: one native call
            self.scheduler.step()
            losses.append(loss.item())
        self.epoch += 1
        return sum(losses) / len(losses)

    @torch.no_grad()
    def accuracy(self) -> float:
        """The share of correct answers on the images that are not trained on."""
        self.model.eval()
        images, labels = self.validation
        return float((self.model(images).argmax(dim=1) == labels).float().mean())

    def save(self, path: Path) -> None:
        """Write a checkpoint. The previous one is replaced only when the new one is complete."""
        new = path.with_name(path.name + ".new")
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        torch.save({**parts, "random": torch.get_rng_state(), "epoch": self.epoch, "epochs": self.epochs}, new)
        new.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises
        ------
        CheckpointError
            The file is missing, damaged, or belongs to another model or schedule.
        """
        try:
            saved = torch.load(path, weights_only=True)
            if saved["epochs"] != self.epochs:  # the schedule would differ
                raise CheckpointError(f"{path} is of a training over {saved['epochs']} epochs, not {self.epochs}")
            for name, part in self._parts().items():
                part.load_state_dict(saved[name])
            torch.set_rng_state(saved["random"])
            self.epoch = saved["epoch"]
        except CheckpointError:
            raise
        except Exception as error:  # from zipfile, pickle or torch, depending on the file
            raise CheckpointError(f"cannot go on from {path}: {type(error).__name__}: {error}") from error

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}


def main(arguments: Sequence[str] | None = None) -> Training:
    """Train, and print the accuracy after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, help="epochs of the whole training (default: 20; with --quick 5)")
    parser.add_argument("--stop-after", type=int, metavar="EPOCH", help="stop after this epoch, to resume later")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="save to this file after each epoch")
    parser.add_argument("--resume", action="store_true", help="continue from --checkpoint FILE")
    parser.add_argument("--quick", action="store_true", help="few epochs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.resume and options.checkpoint is None:
        parser.error("--resume needs --checkpoint FILE")
    torch.set_num_threads(1)  # with small matrices, several threads mostly wait for each other
    training = Training(options.epochs or (5 if options.quick else 20), options.seed)
    if options.resume:
        try:
            training.load(options.checkpoint)
        except CheckpointError as error:
            parser.error(str(error))
    while training.epoch < min(training.epochs, options.stop_after or training.epochs):
        loss = training.train_epoch()
        print(f"epoch {training.epoch}: loss {loss:.4f}, accuracy {training.accuracy():.2%}")
        if options.checkpoint is not None:
            training.save(options.checkpoint)
    print(f"accuracy {training.accuracy():.2%} on {VALIDATION} images that were not trained on")
    return training


if __name__ == "__main__":
    main()

"""Three networks to train with weights stored in fewer bits: their own arithmetic is float32 whatever the storage.

A network shows its weights and gradients as float32 arrays. An optimizer keeps the weights in its own storage, and puts
what they are in float32 into the network after each step: rows of a comparison differ by the storage alone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastopt.examples import char_rnn, data
from fastopt.examples.models import MLP, shuffled_batches


class Network(Protocol):
    """A network with its data.

    `weights` are written by the optimizer, `gradients` by each batch of `training`, which yields nothing of interest.
    """

    weights: list[np.ndarray]

    @property
    def gradients(self) -> list[np.ndarray]: ...

    def training(self, steps: int) -> Iterator[None]: ...

    def held_out_loss(self) -> float: ...


# --- the demo's recurrent network -------------------------------------------------------------------------------------


@functools.cache
def corpus(characters: int) -> char_rnn.Corpus:
    return char_rnn.Corpus.from_text(char_rnn.python_documentation()[:characters])


class Recurrent:
    """The long short-term memory of `fastopt demo` on Python's documentation."""

    def __init__(self, seed: int, quick: bool) -> None:
        self.corpus = corpus(20_000 if quick else 120_000)
        self.network = char_rnn.CharacterNetwork(len(self.corpus.characters), 32 if quick else 96, seed)
        self.weights = list(self.network.weights.values())
        self.gradients = list(self.network.gradients.values())
        self.settings = char_rnn.Training(epochs=1)

    def training(self, steps: int) -> Iterator[None]:
        batches = char_rnn.batches(self.corpus.training, self.settings.batch, self.settings.sequence)
        for step, (inputs, targets) in zip(range(steps), itertools.cycle(batches), strict=False):
            if step % len(batches) == 0:
                state = self.network.initial_state(self.settings.batch)
            _, state = self.network.loss_and_gradients(inputs, targets, state)
            limit, flat = char_rnn.GRADIENT_LIMIT, self.network.flat_gradients
            np.clip(flat, -limit, limit, out=flat)
            yield

    def held_out_loss(self) -> float:
        return char_rnn.evaluate(self.network, self.corpus.held_out, self.settings)


# --- digits -----------------------------------------------------------------------------------------------------------


class Digits:
    """Two hidden layers on scikit-learn's digits; 40 % of the images are held out."""

    def __init__(self, seed: int, quick: bool) -> None:
        self.data = data.digits()
        self.network = MLP((64, 128, 64, 10), seed)
        self.weights = list(self.network.weights.values())
        self.gradients = list(self.network.gradients.values())
        self.random = np.random.default_rng(seed)

    def training(self, steps: int) -> Iterator[None]:
        part = self.data.training
        epochs = (shuffled_batches(len(part.labels), 32, self.random) for _ in itertools.count())
        for rows in itertools.islice(itertools.chain.from_iterable(epochs), steps):
            self.network.loss_and_gradients(part.inputs[rows], part.labels[rows])
            yield

    def held_out_loss(self) -> float:
        parts = (self.data.validation, self.data.test)
        inputs, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("inputs", "labels"))
        return self.network.loss(inputs, labels)


# --- a transformer ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """The size of a transformer over characters."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 64
    batch: int = 8


def transformer(characters: int, shape: Shape) -> Any:
    """A decoder before its softmax: pre-norm layers of torch, learned positions, and an output of its own."""
    import torch
    from torch import nn

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = shape.width
            self.characters, self.positions = nn.Embedding(characters, width), nn.Embedding(shape.context, width)
            layers = (
                nn.TransformerEncoderLayer(
                    width, shape.heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
                )
                for _ in range(shape.layers)
            )
            self.layers = nn.ModuleList(layers)
            self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, characters)

        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            length = numbers.shape[1]
            hidden = self.characters(numbers) + self.positions.weight[:length]
            mask = nn.Transformer.generate_square_subsequent_mask(length)
            for layer in self.layers:
                hidden = layer(hidden, src_mask=mask, is_causal=True)
            result: torch.Tensor = self.output(self.norm(hidden))
            return result

    return Transformer()


class Transformer:
    """A small transformer on Python's documentation, which reads 64 characters at a time."""

    def __init__(self, seed: int, quick: bool) -> None:
        import torch

        torch.manual_seed(seed)
        self.corpus, self.shape = corpus(600_000), Shape(layers=1, batch=4) if quick else Shape()
        self.network = transformer(len(self.corpus.characters), self.shape)
        self.params = list(self.network.parameters())
        self.weights = [param.detach().numpy() for param in self.params]
        self.random = np.random.default_rng(seed)

    @property
    def gradients(self) -> list[np.ndarray]:
        return [param.grad.numpy() for param in self.params]

    def training(self, steps: int) -> Iterator[None]:
        length = self.shape.context + 1
        for _ in range(steps):
            starts = self.random.integers(0, len(self.corpus.training) - length, self.shape.batch)
            for param in self.params:
                param.grad = None
            self._loss(np.stack([self.corpus.training[start : start + length] for start in starts])).backward()
            yield

    def held_out_loss(self) -> float:
        import torch

        length = self.shape.context + 1
        rows = self.corpus.held_out[: len(self.corpus.held_out) // length * length].reshape(-1, length)
        with torch.no_grad():
            return float(self._loss(rows[: 64 if self.shape.layers == 1 else None]))

    def _loss(self, rows: np.ndarray) -> Any:
        import torch

        numbers = torch.from_numpy(rows)
        scores = self.network(numbers[:, :-1])
        return torch.nn.functional.cross_entropy(scores.flatten(0, 1), numbers[:, 1:].flatten())

"""A multilayer perceptron in plain NumPy, and one epoch of training, which several examples share.

One flat buffer holds all weights, another all gradients. The optimizer gets these two:

>>> import numpy as np, fastopt
>>> model = MLP([2, 8, 2], seed=0)
>>> optimizer = fastopt.Adam(model.flat, grads=model.flat_gradients, lr=1e-2)
>>> inputs, labels = np.array([[0, 1], [1, 0]], np.float32), np.array([0, 1])
>>> for step in range(100):
...     loss = model.loss_and_gradients(inputs, labels)
...     optimizer.step()
>>> model.accuracy(inputs, labels)
1.0
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

import fastopt
from fastopt.examples.data import Part


class MLP:
    """Layers of rectified linear units, and a softmax over classes, trained by cross-entropy.

    With x the inputs, layer by layer h = max(0, x W1 + b1), ..., and log p = log softmax(h Wn + bn); the loss is the
    mean of -log p of the right class.

    Parameters
    ----------
    sizes: sequence of int
        The number of inputs, of units in each hidden layer, and of classes.
    seed: int
        Seed of the initial weights, which are normal with variance 2 / (the layer's number of inputs): He et al.,
        Delving deep into rectifiers, 2015. Biases start at zero.
    dtype: float32 or float64
        Dtype of weights and gradients.
    """

    def __init__(self, sizes: Sequence[int], seed: int, dtype: Any = np.float32) -> None:
        random = np.random.default_rng(seed)
        initial = {}
        for number, (rows, columns) in enumerate(pairwise(sizes), start=1):
            initial[f"W{number}"] = (random.normal(size=(rows, columns)) * np.sqrt(2 / rows)).astype(dtype)
            initial[f"b{number}"] = np.zeros(columns, dtype)
        self.flat, self.weights = fastopt.pack(initial)
        self.flat_gradients, self.gradients = fastopt.pack({name: np.zeros_like(w) for name, w in initial.items()})
        self.n_layers = len(sizes) - 1

    def forward(self, inputs: np.ndarray) -> list[np.ndarray]:
        """The inputs of each layer, followed by the logarithms of the classes' probabilities."""
        layers = [inputs]
        for number in range(1, self.n_layers + 1):
            scores = layers[-1] @ self.weights[f"W{number}"] + self.weights[f"b{number}"]
            layers.append(np.maximum(scores, 0) if number < self.n_layers else scores)
        scores = layers.pop()
        scores -= scores.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return [*layers, scores]

    def loss(self, inputs: np.ndarray, labels: np.ndarray) -> float:
        """The mean of -log(probability of the right class)."""
        return _cross_entropy(self.forward(inputs)[-1], labels)

    def loss_and_gradients(self, inputs: np.ndarray, labels: np.ndarray) -> float:
        """Return the loss, and fill `gradients` with its derivatives."""
        *layers, log_probabilities = self.forward(inputs)
        d_scores = np.exp(log_probabilities)
        d_scores[np.arange(len(labels)), labels] -= 1
        d_scores /= len(labels)
        for number in range(self.n_layers, 0, -1):
            layer = layers[number - 1]
            np.matmul(layer.T, d_scores, out=self.gradients[f"W{number}"])
            np.sum(d_scores, axis=0, out=self.gradients[f"b{number}"])
            if number > 1:
                d_scores = d_scores @ self.weights[f"W{number}"].T
                d_scores *= layer > 0
        return _cross_entropy(log_probabilities, labels)

    def accuracy(self, inputs: np.ndarray, labels: np.ndarray) -> float:
        """The share of rows whose most probable class is the right one."""
        return float((self.forward(inputs)[-1].argmax(axis=1) == labels).mean())


def _cross_entropy(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_probabilities[np.arange(len(labels)), labels].mean(dtype=np.float64))


def shuffled_batches(n_rows: int, batch: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """The row numbers of each mini-batch of an epoch. The last batch may be smaller."""
    order = random.permutation(n_rows)
    for start in range(0, n_rows, batch):
        yield order[start : start + batch]


def train_epoch(model: MLP, optimizer: fastopt.Optimizer, part: Part, batch: int, random: np.random.Generator) -> float:
    """Train on all rows once, in mini-batches, and return the mean of the losses.

    `optimizer` must update `model.flat`, with `model.flat_gradients` bound as its gradients.
    """
    losses = []
    for rows in shuffled_batches(len(part.labels), batch, random):
        losses.append(model.loss_and_gradients(part.inputs[rows], part.labels[rows]))
        optimizer.step()
    return float(np.mean(losses))

"""Networks and data for the tests of the divergence guard: small enough to be trained in a second."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

Params = dict[str, np.ndarray]


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] and their digits."""
    data = load_digits()
    return data.data / 16, data.target


def initial_params(
    sizes: Sequence[int], dtype: Any, seed: int = 0, scale: float | None = None, bias: float = 0.0
) -> Params:
    """Weights W1, W2, ... of variance 1 / inputs, or of standard deviation `scale`; biases b1, b2, ..."""
    rng = np.random.default_rng(seed)
    params: Params = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=1):
        deviation = inputs**-0.5 if scale is None else scale
        params[f"W{layer}"] = (rng.standard_normal((inputs, outputs)) * deviation).astype(dtype)
        params[f"b{layer}"] = np.full(outputs, bias if layer < len(sizes) - 1 else 0, dtype)
    return params


def loss_and_gradients(
    params: Params, images: np.ndarray, labels: np.ndarray, sigmoid: bool = False
) -> tuple[float, Params]:
    """The mean cross entropy of a network with ReLU (or sigmoid) units, and its gradients."""
    layers, rows = len(params) // 2, np.arange(len(labels))
    activations = [images]
    for layer in range(1, layers + 1):
        z = activations[-1] @ params[f"W{layer}"] + params[f"b{layer}"]
        if layer < layers:
            z = 1 / (1 + np.exp(-z)) if sigmoid else np.maximum(z, 0)
        activations.append(z)
    log_p = z - z.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    delta = np.exp(log_p)
    delta[rows, labels] -= 1
    delta /= len(labels)
    grads: Params = {}
    for layer in range(layers, 0, -1):
        a = activations[layer - 1]
        grads[f"W{layer}"], grads[f"b{layer}"] = a.T @ delta, delta.sum(axis=0)
        delta = delta @ params[f"W{layer}"].T * (a * (1 - a) if sigmoid else a > 0)
    return float(-log_p[rows, labels].mean()), {name: grads[name] for name in params}


def batches(size: int, steps: int, dtype: Any, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """So many batches of the digits, shuffled in each epoch."""
    images, labels = digits()
    rng = np.random.default_rng(seed)
    order = np.empty(0, int)
    for _ in range(steps):
        if len(order) < size:
            order = rng.permutation(len(labels))
        rows, order = order[:size], order[size:]
        yield images[rows].astype(dtype), labels[rows]

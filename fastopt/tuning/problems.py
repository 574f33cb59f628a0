"""The bundled problems: small enough for a sweep in a minute, real enough to have a best rate."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

Batch = tuple[np.ndarray, np.ndarray]
Metrics = dict[str, float]

HELD_OUT = 0.2
"""The fraction of samples that are held out, the same ones for every seed."""

BATCH = 32
"""The approximate number of samples in a batch."""


def check_available(problem: str) -> None:
    """Raise a ModuleNotFoundError if the package with a problem's data is not installed."""
    if problem != "char-rnn" and importlib.util.find_spec("sklearn") is None:
        message = f"the data of {problem} are from scikit-learn: `pip install 'fastopt[cli]'` installs it"
        raise ModuleNotFoundError(message, name="sklearn")


def _load(name: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    features, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
    return features, targets


class Model(Protocol):
    """A model with its parameters, metrics and gradients."""

    params: dict[str, np.ndarray]

    def metrics(self, inputs: np.ndarray, targets: np.ndarray) -> Metrics: ...

    def metrics_and_gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[Metrics, Any]: ...


class Samples:
    """A problem with independent samples: shuffled batches for training, and held-out samples for evaluation."""

    def __init__(self, model: Model, inputs: np.ndarray, targets: np.ndarray, seed: int, epochs: int) -> None:
        order = np.random.default_rng(0).permutation(len(inputs))
        n_held_out = round(HELD_OUT * len(inputs))
        self.held_out = inputs[order[:n_held_out]], targets[order[:n_held_out]]
        self.training = inputs[order[n_held_out:]], targets[order[n_held_out:]]
        self.model, self.params, self.seed, self.epochs = model, model.params, seed, epochs

    def batches(self, epoch: int) -> Iterator[Batch]:
        inputs, targets = self.training
        order = np.random.default_rng([self.seed, epoch]).permutation(len(inputs))
        # Batches of equal size, so that the mean over them is the mean over all samples.
        for chosen in np.array_split(order, round(len(order) / BATCH)):
            yield inputs[chosen], targets[chosen]

    def loss_and_gradients(self, batch: Batch) -> tuple[Metrics, Any]:
        return self.model.metrics_and_gradients(*batch)

    def evaluate(self) -> Metrics:
        return self.model.metrics(*self.held_out)


# --- classification ---------------------------------------------------------------------------------------------------


class Softmax:
    """Softmax regression."""

    def __init__(self, n_inputs: int, n_classes: int) -> None:
        self.params = {"W": np.zeros((n_inputs, n_classes), np.float32), "b": np.zeros(n_classes, np.float32)}

    def metrics(self, inputs: np.ndarray, targets: np.ndarray) -> Metrics:
        return cross_entropy(inputs @ self.params["W"] + self.params["b"], targets)[0]

    def metrics_and_gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[Metrics, Any]:
        metrics, d_scores = cross_entropy(inputs @ self.params["W"] + self.params["b"], targets)
        return metrics, {"W": inputs.T @ d_scores, "b": d_scores.sum(axis=0)}


def cross_entropy(scores: np.ndarray, targets: np.ndarray) -> tuple[Metrics, np.ndarray]:
    """The loss and accuracy of scores (one row per sample), and the derivative of the loss by the scores."""
    scores = scores - scores.max(axis=1, keepdims=True)
    rows = np.arange(len(targets))
    log_sum = np.log(np.exp(scores).sum(axis=1))
    loss = float((log_sum - scores[rows, targets]).mean())
    accuracy = float((scores.argmax(axis=1) == targets).mean())
    d_scores = np.exp(scores - log_sum[:, np.newaxis])
    d_scores[rows, targets] -= 1
    d_scores /= len(targets)
    return {"loss": loss, "accuracy": accuracy}, d_scores


class Perceptron:
    """A network with one hidden layer of rectified linear units and a softmax output."""

    def __init__(self, n_inputs: int, n_hidden: int, n_classes: int, seed: int) -> None:
        random = np.random.default_rng(seed)

        def layer(n: int, m: int) -> np.ndarray:
            return random.normal(0, np.sqrt(2 / n), (n, m)).astype(np.float32)

        self.params = {
            "W1": layer(n_inputs, n_hidden),
            "b1": np.zeros(n_hidden, np.float32),
            "W2": layer(n_hidden, n_classes),
            "b2": np.zeros(n_classes, np.float32),
        }

    def forward(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hidden = np.maximum(inputs @ self.params["W1"] + self.params["b1"], 0)
        return hidden, hidden @ self.params["W2"] + self.params["b2"]

    def metrics(self, inputs: np.ndarray, targets: np.ndarray) -> Metrics:
        return cross_entropy(self.forward(inputs)[1], targets)[0]

    def metrics_and_gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[Metrics, Any]:
        hidden, scores = self.forward(inputs)
        metrics, d_scores = cross_entropy(scores, targets)
        d_hidden = (d_scores @ self.params["W2"].T) * (hidden > 0)
        return metrics, {
            "W1": inputs.T @ d_hidden,
            "b1": d_hidden.sum(axis=0),
            "W2": hidden.T @ d_scores,
            "b2": d_scores.sum(axis=0),
        }


def _digits() -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = _load("digits")
    return (inputs / 16).astype(np.float32), targets.astype(np.intp)


def digits(seed: int) -> Samples:
    """Softmax regression on 1,797 handwritten digits of 8 x 8 pixels, in 45 batches of 32 per epoch.

    The loss is convex. With a good rate, the model recognises 96 % of the held-out digits. The seed shuffles batches.
    """
    return Samples(Softmax(64, 10), *_digits(), seed, epochs=15)


def digits_mlp(seed: int) -> Samples:
    """A hidden layer of 32 units on the same digits; the seed also initialises the weights."""
    return Samples(Perceptron(64, 32, 10, seed), *_digits(), seed, epochs=15)


# --- regression -------------------------------------------------------------------------------------------------------


class Linear:
    """Linear regression; the loss is the mean squared error, "r2" is 1 - loss / variance."""

    def __init__(self, n_inputs: int) -> None:
        self.params = {"w": np.zeros(n_inputs, np.float64), "b": np.zeros(1, np.float64)}

    def metrics(self, inputs: np.ndarray, targets: np.ndarray) -> Metrics:
        loss = float(np.square(inputs @ self.params["w"] + self.params["b"] - targets).mean())
        return {"loss": loss, "r2": 1 - loss / float(targets.var())}

    def metrics_and_gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[Metrics, Any]:
        error = inputs @ self.params["w"] + self.params["b"] - targets
        gradients = {"w": 2 * inputs.T @ error / len(error), "b": 2 * error.mean(keepdims=True)}
        return {"loss": float(np.square(error).mean())}, gradients


def diabetes(seed: int) -> Samples:
    """Ten measurements of 442 patients, and the progression of their diabetes a year later; all standardised."""
    inputs, targets = _load("diabetes")
    inputs = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    return Samples(Linear(inputs.shape[1]), inputs, (targets - targets.mean()) / targets.std(), seed, epochs=30)


# --- a recurrent network ----------------------------------------------------------------------------------------------


class CharacterRNN:
    """The network of `fastopt demo` on the beginning of Python's documentation; the seed initialises the weights."""

    def __init__(self, seed: int) -> None:
        from ..examples import char_rnn

        self._example = char_rnn
        self._training = char_rnn.Training(epochs=4, sequence=16)
        self._corpus = char_rnn.Corpus.from_text(char_rnn.python_documentation()[:40_000])
        self._network = char_rnn.CharacterNetwork(len(self._corpus.characters), n_hidden=48, seed=seed)
        self._state = self._network.initial_state(self._training.batch)
        self.params, self.epochs = self._network.flat, self._training.epochs

    def batches(self, epoch: int) -> list[Batch]:
        self._state = self._network.initial_state(self._training.batch)
        return self._example.batches(self._corpus.training, self._training.batch, self._training.sequence)

    def loss_and_gradients(self, batch: Batch) -> tuple[float, np.ndarray]:
        loss, self._state = self._network.loss_and_gradients(*batch, self._state)
        gradients, limit = self._network.flat_gradients, self._example.GRADIENT_LIMIT
        np.clip(gradients, -limit, limit, out=gradients)
        return loss, gradients

    def evaluate(self) -> Metrics:
        loss = self._example.evaluate(self._network, self._corpus.held_out, self._training)
        return {"loss": loss, "bits": self._example.bits(loss)}


def char_rnn(seed: int) -> CharacterRNN:
    """A character-level network with 48 cells on 36,000 characters, four epochs of 140 steps."""
    return CharacterRNN(seed)

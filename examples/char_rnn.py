"""A character-level recurrent network in plain NumPy, trained by fastopt: how to embed an optimizer.

The network is one layer of Karpathy's char-rnn: a long short-term memory that reads a text character by character and
predicts the next one. Forward pass and backpropagation through time are written out by hand below. The program and its
optimizer meet in three places:

1. `CharacterNetwork.__init__` packs all weights into one flat buffer, and their gradients into another.
2. `main` (at the end) creates the optimizer over the two buffers, once.
3. `train` sets the rate of each epoch and calls `optimizer.step()` after each backward pass.

Run it with `python examples/char_rnn.py`; it takes about half a minute, and with `--quick` a few seconds. If other
programs run at the same time, set the environment variable OPENBLAS_NUM_THREADS=1: the matrices are small, and several
threads of NumPy's matrix products would mostly wait for each other.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import numpy as np

import fastopt

State = tuple[np.ndarray, np.ndarray]
"""The network's state: its output and its cells, both of shape (batch, hidden)."""

Batch = tuple[np.ndarray, np.ndarray]
"""Character numbers of shape (sequence, batch), and the number of the character that follows each."""

HELD_OUT = 0.1
"""The share of the text, at its end, that is held out from training."""

GRADIENT_LIMIT = 5.0
"""Gradients are clipped to plus or minus this, as in char-rnn: backpropagation through time can make them explode."""


# --- the text ---------------------------------------------------------------------------------------------------------


def python_documentation() -> str:
    """The documentation that Python includes for `help()`: half a megabyte of English."""
    return "".join(topics.values())


class TextTooShortError(ValueError):
    """A text is too short to fill a single batch."""


@dataclass(frozen=True)
class Corpus:
    """A text as character numbers: `characters[number]` is the character."""

    characters: str
    training: np.ndarray
    held_out: np.ndarray

    @classmethod
    def from_text(cls, text: str) -> Corpus:
        """Number the characters and hold out the end of the text.

        Held-out paragraphs that also occur in the training part are removed: the network may know them by heart.
        """
        start = round(len(text) * (1 - HELD_OUT))
        known = set(text[:start].split("\n\n"))
        end = "\n\n".join(paragraph for paragraph in text[start:].split("\n\n") if paragraph not in known)
        characters = "".join(sorted(set(text)))
        numbers = {character: number for number, character in enumerate(characters)}
        training, held_out = (np.array([numbers[each] for each in part], np.intp) for part in (text[:start], end))
        return cls(characters, training, held_out)

    def unigram_loss(self) -> float:
        """The held-out loss of a model that knows only how frequent each character is. A network has to beat it."""
        counts = np.bincount(self.training, minlength=len(self.characters)) + 1.0
        return float(-np.log(counts / counts.sum())[self.held_out].mean())


def bits(loss: float) -> float:
    """A loss in nats per character as bits per character."""
    return loss / math.log(2)


def batches(numbers: np.ndarray, batch: int, sequence: int) -> list[Batch]:
    """Cut a text into `batch` parallel streams, and these into sequences of `sequence` characters.

    Raises
    ------
    TextTooShortError
        The text does not fill one batch.
    """
    length = (len(numbers) - 1) // batch
    if length < sequence:
        raise TextTooShortError(
            f"{len(numbers):,} characters are too few for {batch} sequences of {sequence} "
            f"(expected at least {batch * sequence + 1:,})"
        )
    inputs, targets = (numbers[shift : shift + length * batch].reshape(batch, length).T for shift in (0, 1))
    starts = range(0, length - sequence + 1, sequence)
    return [(inputs[start : start + sequence], targets[start : start + sequence]) for start in starts]


# --- the network ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activations:
    """Results of the forward pass that the backward pass needs. `hidden` and `cells` begin with the initial state."""

    gates: np.ndarray
    cells: np.ndarray
    squashed_cells: np.ndarray
    hidden: np.ndarray
    probabilities: np.ndarray


class CharacterNetwork:
    """A long short-term memory over characters.

    `flat` holds all weights and `flat_gradients` all gradients. `weights` and `gradients` are dicts of views of them.
    The gates are stored side by side: input, forget and output gate, then the candidate for the cell.
    """

    def __init__(self, n_characters: int, n_hidden: int, seed: int, dtype: Any = np.float32) -> None:
        random = np.random.default_rng(seed)

        def uniform(*shape: int) -> np.ndarray:
            return random.uniform(-0.08, 0.08, shape).astype(dtype)

        initial = {
            "input_to_gates": uniform(n_characters, 4 * n_hidden),
            "hidden_to_gates": uniform(n_hidden, 4 * n_hidden),
            "gates_bias": np.zeros(4 * n_hidden, dtype),
            "hidden_to_output": uniform(n_hidden, n_characters),
            "output_bias": np.zeros(n_characters, dtype),
        }
        initial["gates_bias"][n_hidden : 2 * n_hidden] = 1  # remember everything, until training teaches what to forget
        self.flat, self.weights = fastopt.pack(initial)
        self.flat_gradients, self.gradients = fastopt.pack({name: np.zeros_like(w) for name, w in initial.items()})
        self.n_hidden = n_hidden

    def initial_state(self, batch: int) -> State:
        """The state before any character: zeros."""
        zeros = np.zeros((batch, self.n_hidden), self.flat.dtype)
        return zeros, zeros

    def forward(self, inputs: np.ndarray, state: State) -> tuple[State, Activations]:
        """Read a batch of sequences. The probabilities have one row for each character read."""
        sequence, batch = inputs.shape
        n = self.n_hidden
        gates = self.weights["input_to_gates"][inputs] + self.weights["gates_bias"]
        hidden = np.empty((sequence + 1, batch, n), gates.dtype)
        cells = np.empty_like(hidden)
        squashed_cells = np.empty_like(hidden[1:])
        hidden[0], cells[0] = state
        for time in range(sequence):
            now = gates[time]
            now += hidden[time] @ self.weights["hidden_to_gates"]
            sigmoids = now[:, : 3 * n]
            sigmoids *= 0.5  # sigmoid(x) = (tanh(x / 2) + 1) / 2, so one tanh computes all four
            np.tanh(now, out=now)
            sigmoids += 1
            sigmoids *= 0.5
            input_gate, forget_gate, output_gate, candidate = split_gates(now)
            cells[time + 1] = forget_gate * cells[time] + input_gate * candidate
            np.tanh(cells[time + 1], out=squashed_cells[time])
            hidden[time + 1] = output_gate * squashed_cells[time]
        scores = hidden[1:].reshape(-1, n) @ self.weights["hidden_to_output"] + self.weights["output_bias"]
        scores -= scores.max(axis=1, keepdims=True)
        probabilities = np.exp(scores)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return (hidden[-1], cells[-1]), Activations(gates, cells, squashed_cells, hidden, probabilities)

    def loss(self, inputs: np.ndarray, targets: np.ndarray, state: State) -> tuple[float, State]:
        """The mean of -log(probability of the correct character), and the state after the batch."""
        state, activations = self.forward(inputs, state)
        return cross_entropy(activations.probabilities, targets), state

    def loss_and_gradients(self, inputs: np.ndarray, targets: np.ndarray, state: State) -> tuple[float, State]:
        """Return the same as `loss`, and fill `gradients` with the derivatives of the loss."""
        state, activations = self.forward(inputs, state)
        loss = cross_entropy(activations.probabilities, targets)
        self.backward(inputs, targets, activations)
        return loss, state

    def backward(self, inputs: np.ndarray, targets: np.ndarray, activations: Activations) -> None:
        """Backpropagate through time. `d_x` is the derivative of the loss with respect to x."""
        sequence, batch = inputs.shape
        n, rows = self.n_hidden, np.arange(inputs.size)
        hidden, cells, squashed_cells = activations.hidden, activations.cells, activations.squashed_cells

        d_scores = activations.probabilities.copy()
        d_scores[rows, targets.ravel()] -= 1
        d_scores /= inputs.size
        np.matmul(hidden[1:].reshape(-1, n).T, d_scores, out=self.gradients["hidden_to_output"])
        np.sum(d_scores, axis=0, out=self.gradients["output_bias"])
        d_hidden = (d_scores @ self.weights["hidden_to_output"].T).reshape(sequence, batch, n)

        d_gates = np.empty_like(activations.gates)
        d_cell = np.zeros_like(d_hidden[0])
        d_hidden_later = np.zeros_like(d_hidden[0])  # through the gates one time step later
        gates_to_hidden = np.ascontiguousarray(self.weights["hidden_to_gates"].T)  # speeds up the products in the loop
        for time in reversed(range(sequence)):
            input_gate, forget_gate, output_gate, candidate = split_gates(activations.gates[time])
            d_now = d_hidden[time] + d_hidden_later
            d_cell += d_now * output_gate * (1 - squashed_cells[time] ** 2)
            d_input, d_forget, d_output, d_candidate = split_gates(d_gates[time])
            d_input[...] = d_cell * candidate * input_gate * (1 - input_gate)
            d_forget[...] = d_cell * cells[time] * forget_gate * (1 - forget_gate)
            d_output[...] = d_now * squashed_cells[time] * output_gate * (1 - output_gate)
            d_candidate[...] = d_cell * input_gate * (1 - candidate**2)
            d_cell *= forget_gate
            d_hidden_later = d_gates[time] @ gates_to_hidden

        flat_d_gates = d_gates.reshape(-1, 4 * n)
        np.matmul(hidden[:-1].reshape(-1, n).T, flat_d_gates, out=self.gradients["hidden_to_gates"])
        np.sum(flat_d_gates, axis=0, out=self.gradients["gates_bias"])
        one_hot = np.zeros((inputs.size, len(self.weights["input_to_gates"])), d_gates.dtype)
        one_hot[rows, inputs.ravel()] = 1
        np.matmul(one_hot.T, flat_d_gates, out=self.gradients["input_to_gates"])

    def generate(self, length: int, first: int, seed: int, temperature: float = 0.7) -> list[int]:
        """Let the network write: draw each character from its predictions, then let it read the character.

        A lower temperature favours likely characters.
        """
        random = np.random.default_rng(seed)
        written, state = [first], self.initial_state(1)
        for _ in range(length - 1):
            state, activations = self.forward(np.array([written[-1:]]), state)
            probabilities = activations.probabilities[0].astype(np.float64) ** (1 / temperature)
            written.append(int(random.choice(probabilities.size, p=probabilities / probabilities.sum())))
        return written


def split_gates(gates: np.ndarray) -> np.ndarray:
    """Views of the four gates, which are stored side by side in each row."""
    return gates.reshape(len(gates), 4, -1).swapaxes(0, 1)


def cross_entropy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The mean of -log(probability of the correct character)."""
    right = probabilities[np.arange(targets.size), targets.ravel()]
    return float(-np.log(np.maximum(right, np.finfo(right.dtype).tiny)).mean())


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """Settings of a training. `decay_rate` multiplies the learning rate after each epoch.

    char-rnn trains for 50 epochs with a rate of 2e-3 and a decay of 0.97. The fewer epochs here need a higher rate and
    a faster decay.
    """

    epochs: int
    batch: int = 16
    sequence: int = 32
    decay_rate: float = 0.8


@dataclass(frozen=True)
class Progress:
    """Progress after a step. `held_out_loss` is None except after the last step of an epoch."""

    epoch: int
    learning_rate: float
    loss: float
    held_out_loss: float | None = None


def train(
    network: CharacterNetwork, optimizer: fastopt.Optimizer, corpus: Corpus, training: Training
) -> Iterator[Progress]:
    """Train with one step for each batch, and report after each step.

    `optimizer` must update `network.flat`, with `network.flat_gradients` bound as its gradients.
    """
    training_batches = batches(corpus.training, training.batch, training.sequence)
    group = optimizer.param_groups[0]
    first_rate = group["lr"]
    for epoch in range(training.epochs):
        group["lr"] = first_rate * training.decay_rate**epoch
        state = network.initial_state(training.batch)
        for inputs, targets in training_batches:
            loss, state = network.loss_and_gradients(inputs, targets, state)
            np.clip(network.flat_gradients, -GRADIENT_LIMIT, GRADIENT_LIMIT, out=network.flat_gradients)
            optimizer.step()
            is_last = inputs is training_batches[-1][0]
            held_out_loss = evaluate(network, corpus.held_out, training) if is_last else None
            yield Progress(epoch, group["lr"], loss, held_out_loss)


def evaluate(network: CharacterNetwork, numbers: np.ndarray, training: Training) -> float:
    """The mean loss over a held-out text."""
    losses, state = [], network.initial_state(training.batch)
    for inputs, targets in batches(numbers, training.batch, training.sequence):
        loss, state = network.loss(inputs, targets, state)
        losses.append(loss)
    return float(np.mean(losses))


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "SGD": {"lr": 3.0},
    "Adam": {"lr": 2e-2},
    "AdamW": {"lr": 2e-2},
    "RMSprop": {"lr": 7e-3, "alpha": 0.95},
    "Adagrad": {"lr": 1e-1},
    # Rprop is for full batches. Here most signs are noise; without a lower limit, its step sizes would shrink to 0.
    "Rprop": {"lr": 4e-3, "step_sizes": (4e-3, 6e-3)},
    "Adadelta": {"lr": 30.0},
    "Adamax": {"lr": 4e-2},
    "NAdam": {"lr": 2e-2},
    "RAdam": {"lr": 5e-2},
    "Lion": {"lr": 1e-2},
    "AdaBelief": {"lr": 2e-2, "eps": 1e-12},
    "AdEMAMix": {"lr": 2e-2},
    "ADOPT": {"lr": 2e-2},
    "Adan": {"lr": 4e-2},
}
"""Hyperparameters that suit this network. Optimizers that are not listed use their defaults."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on Python's documentation, and print a text that the trained network writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds: a small network, little text, two epochs")
    quick = parser.parse_args(arguments).quick
    text, n_hidden = (python_documentation()[:40_000], 48) if quick else (python_documentation(), 96)
    corpus = Corpus.from_text(text)
    network = CharacterNetwork(len(corpus.characters), n_hidden, seed=0)
    lr, alpha = SETTINGS["RMSprop"]["lr"], SETTINGS["RMSprop"]["alpha"]
    optimizer = fastopt.RMSprop(network.flat, grads=network.flat_gradients, lr=lr, alpha=alpha)
    training = Training(epochs=2, sequence=16) if quick else Training(epochs=6)
    for progress in train(network, optimizer, corpus, training):
        if progress.held_out_loss is not None:
            held_out = bits(progress.held_out_loss)
            print(f"epoch {progress.epoch + 1}: rate {progress.learning_rate:.4f}, {held_out:.3f} bits per character")
    print("".join(corpus.characters[number] for number in network.generate(500, corpus.training[0], seed=0)))


if __name__ == "__main__":
    main()

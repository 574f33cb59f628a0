"""How fast is a training loop that is one compiled function?

A network learns to classify scikit-learn's handwritten digits. Batches, gradients, a decaying rate and Adam are all in
one `@njit(cache=True)` function that calls `fastopt.jit.adam`. For comparison, an ordinary Python loop calls the same
compiled gradient and `opt.step()`. Both end with the same bits.

Run it with `python examples/njit_training.py`; it takes about ten seconds the first time, while Numba compiles, and
three later; `--quick` takes less. It needs the packages of `pip install 'fastopt[cli]'`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numba
import numpy as np

import fastopt
from fastopt import jit
from fastopt.examples.data import Part, digits
from fastopt.examples.report import Report, main
from fastopt.schedules import PolynomialDecay

INPUTS, HIDDEN, CLASSES = 64, 8, 10
BATCH = 4
SCHEDULE = PolynomialDecay(0.005, 5000, end_learning_rate=0.0005)
RATE = SCHEDULE.jit


@numba.njit(cache=True)
def layers(flat):  # type: ignore[no-untyped-def]
    """Both layers of the network as views of its flat parameters. The last column of each is the bias."""
    split = HIDDEN * (INPUTS + 1)
    return flat[:split].reshape(HIDDEN, INPUTS + 1), flat[split:].reshape(CLASSES, HIDDEN + 1)


@numba.njit(cache=True)
def scores_of(flat, image, hidden, scores):  # type: ignore[no-untyped-def]
    """Compute the hidden units and the scores of one image, in place."""
    first, second = layers(flat)
    for unit in range(HIDDEN):
        value = first[unit, INPUTS]
        for pixel in range(INPUTS):
            value += first[unit, pixel] * image[pixel]
        hidden[unit] = max(value, np.float32(0))
    for each in range(CLASSES):
        value = second[each, HIDDEN]
        for unit in range(HIDDEN):
            value += second[each, unit] * hidden[unit]
        scores[each] = value


@numba.njit(cache=True)
def gradient_of(flat, images, labels, rows, grad):  # type: ignore[no-untyped-def]
    """Compute the gradient of the cross entropy, summed over these rows, in place."""
    grad[:] = 0
    _, second = layers(flat)
    grad_first, grad_second = layers(grad)
    hidden, scores = np.empty(HIDDEN, np.float32), np.empty(CLASSES, np.float32)
    for row in rows:
        scores_of(flat, images[row], hidden, scores)
        scores -= scores.max()
        total = np.float32(0)
        for each in range(CLASSES):
            scores[each] = np.exp(scores[each])
            total += scores[each]
        scores /= total
        scores[labels[row]] -= np.float32(1)
        for unit in range(HIDDEN):
            error = np.float32(0)
            for each in range(CLASSES):
                grad_second[each, unit] += scores[each] * hidden[unit]
                error += scores[each] * second[each, unit]
            if hidden[unit] > 0:
                for pixel in range(INPUTS):
                    grad_first[unit, pixel] += error * images[row, pixel]
                grad_first[unit, INPUTS] += error
        for each in range(CLASSES):
            grad_second[each, HIDDEN] += scores[each]


@numba.njit(cache=True, nogil=True)
def train(flat, images, labels, orders):  # type: ignore[no-untyped-def]
    """Train in place, batch after batch, once through each order of the rows. Return the state of Adam."""
    state = jit.adam_state(flat)
    grad = np.empty_like(flat)
    for epoch in range(orders.shape[0]):
        for first in range(0, orders.shape[1] - BATCH + 1, BATCH):
            gradient_of(flat, images, labels, orders[epoch, first : first + BATCH], grad)
            jit.adam(flat, grad, state, lr=RATE(state.step[0]), grad_scale=BATCH)
    return state


def train_in_python(flat: np.ndarray, part: Part, orders: np.ndarray) -> fastopt.Adam:
    """The same training as a Python loop."""
    grad = np.empty_like(flat)
    optimizer = fastopt.Adam(flat, lr=SCHEDULE, grads=grad, grad_scale=BATCH)
    for order in orders:
        for first in range(0, len(order) - BATCH + 1, BATCH):
            gradient_of(flat, part.inputs, part.labels, order[first : first + BATCH], grad)
            optimizer.step()
    return optimizer


def new_parameters() -> np.ndarray:
    """Small random weights and zero biases."""
    flat = np.zeros(HIDDEN * (INPUTS + 1) + CLASSES * (HIDDEN + 1), np.float32)
    random = np.random.default_rng(0)
    for weights in layers(flat):
        columns = weights.shape[1] - 1
        weights[:, :columns] = random.normal(0, columns**-0.5, (weights.shape[0], columns))
    return flat


def accuracy(flat: np.ndarray, part: Part) -> float:
    hidden, scores = np.empty(HIDDEN, np.float32), np.empty(CLASSES, np.float32)
    right = 0
    for image, label in zip(part.inputs, part.labels, strict=True):
        scores_of(flat, image, hidden, scores)
        right += int(scores.argmax() == label)
    return right / len(part.labels)


@dataclass(frozen=True)
class Results:
    """Microseconds per update of both loops, and whether parameters and states have the same bits."""

    updates: int
    parameters: int
    compiled: float
    python: float
    same_bits: bool
    accuracy: float


def run(quick: bool) -> Results:
    data = digits()
    part = data.training
    random = np.random.default_rng(1)
    orders = np.array([random.permutation(len(part.labels)) for _ in range(4 if quick else 20)])
    train(new_parameters(), part.inputs, part.labels, orders[:0])  # compiles, or loads the compiled code
    compiled_times, python_times = [], []
    for _ in range(2 if quick else 5):
        flat, other = new_parameters(), new_parameters()
        start = time.perf_counter()
        state = train(flat, part.inputs, part.labels, orders)
        middle = time.perf_counter()
        optimizer = train_in_python(other, part, orders)
        compiled_times.append(middle - start)
        python_times.append(time.perf_counter() - middle)
    updates = int(state.step[0])
    kept = optimizer.state[0]
    return Results(
        updates,
        flat.size,
        1e6 * min(compiled_times) / updates,
        1e6 * min(python_times) / updates,
        all(
            np.array_equal(one, two)
            for one, two in ((flat, other), (state.exp_avg, kept["exp_avg"]), (state.exp_avg_sq, kept["exp_avg_sq"]))
        ),
        accuracy(flat, data.test),
    )


def report(results: Results) -> Report:
    return Report(
        ("loop", "microseconds per update", "relative"),
        [
            ("one @njit function", f"{results.compiled:.2f}", "1.00"),
            ("Python", f"{results.python:.2f}", f"{results.python / results.compiled:.2f}"),
        ],
        f"After {results.updates:,} updates of {results.parameters} parameters both loops have "
        f"{'the same' if results.same_bits else 'DIFFERENT'} bits, and the network reads {results.accuracy:.1%} of the "
        f"test images correctly. The Python loop takes {results.python / results.compiled:.2f} times as long.",
    )


if __name__ == "__main__":
    main(__doc__, run, report)

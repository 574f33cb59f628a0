"""How close does a single pass over ten million rows come to the solution of the normal equations?

This is linear regression over a stream that never fits into memory. Rows are drawn in chunks from a normal distribution
with the covariance of scikit-learn's diabetes data. The target is the linear regression of that data plus the same
amount of noise, so the true coefficients are known. Three optimizers read the stream in mini-batches. The normal
equations need the sums of X'X and X'y, which are small for ten features but not for ten thousand.

Averaging matters: at a constant rate, the coefficients stay noisy around the solution, but their average does not
(Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992; Ruppert, 1988). With `ema_decay`, the
update also computes a moving average over the last 1 / (1 - ema_decay) steps, in the same pass over memory.

Run it with `python examples/streaming_regression.py`; it takes about ten seconds, and `--quick` one (one
hundred thousand rows). It needs the packages of `pip install 'fastopt[cli]'`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

import fastopt
from fastopt.examples.data import diabetes
from fastopt.examples.report import Report, main

CHUNK = 20_000
"""The number of rows in memory at a time."""

BATCH = 100

Chunk = tuple[np.ndarray, np.ndarray]
"""Features of shape (rows, features), and the target of each row."""


class Stream:
    """Any number of rows distributed like the diabetes data. Every iteration gives the same rows."""

    def __init__(self, n_rows: int, seed: int = 0) -> None:
        data = diabetes()
        self.n_rows, self.seed = n_rows, seed
        self.true = np.linalg.lstsq(data.features, data.target, rcond=None)[0]
        self.noise = float(np.std(data.target - data.features @ self.true))
        self.covariance = data.features.T @ data.features / len(data.features)
        self._root = np.linalg.cholesky(self.covariance)

    def __iter__(self) -> Iterator[Chunk]:
        random = np.random.default_rng(self.seed)
        for start in range(0, self.n_rows, CHUNK):
            rows = min(CHUNK, self.n_rows - start)
            features = random.standard_normal((rows, len(self.true))) @ self._root.T
            yield features, features @ self.true + self.noise * random.standard_normal(rows)

    def error(self, coefficients: np.ndarray) -> float:
        """The root mean square of (prediction - best possible prediction) over the distribution of rows."""
        difference = coefficients - self.true
        return math.sqrt(difference @ self.covariance @ difference)


@dataclass(frozen=True)
class Row:
    """A method: the errors of its coefficients and of their average, and its seconds, without drawing the rows."""

    name: str
    error: float
    average_error: float
    seconds: float


@dataclass(frozen=True)
class Results:
    """All methods, the normal equations last. `start` is the error if all coefficients are zero."""

    rows: tuple[Row, ...]
    n_rows: int
    start: float
    chunk_bytes: int


def descend(stream: Stream, name: str, optimizer_class: Callable[..., fastopt.Optimizer], lr: float) -> Row:
    """Read the stream once, and take a step for each mini-batch."""
    coefficients, gradient = np.zeros_like(stream.true), np.zeros_like(stream.true)
    average_over = stream.n_rows / BATCH / 10  # the last tenth of the steps
    optimizer = optimizer_class(coefficients, lr=lr, grads=gradient, ema_decay=1 - 1 / average_over)
    seconds = 0.0
    for features, target in stream:
        start = time.perf_counter()
        for first in range(0, len(target), BATCH):
            x = features[first : first + BATCH]
            residuals = x @ coefficients
            residuals -= target[first : first + BATCH]
            np.matmul(residuals, x, out=gradient)
            gradient /= len(x)
            optimizer.step()
        seconds += time.perf_counter() - start
    error = stream.error(coefficients)
    with optimizer.averaged_params():
        return Row(name, error, stream.error(coefficients), seconds)


def solve(stream: Stream) -> Row:
    """Solve the normal equations (X'X) w = X'y, summed chunk by chunk."""
    n_features = len(stream.true)
    products, moments, seconds = np.zeros((n_features, n_features)), np.zeros(n_features), 0.0
    for features, target in stream:
        start = time.perf_counter()
        products += features.T @ features
        moments += features.T @ target
        seconds += time.perf_counter() - start
    return Row("normal equations", stream.error(np.linalg.solve(products, moments)), math.nan, seconds)


def run(quick: bool = False) -> Results:
    """Run all methods over the same rows."""
    stream = Stream(100_000 if quick else 10_000_000)
    rows = (
        descend(stream, "SGD", fastopt.SGD, lr=0.1),
        descend(stream, "Adam", fastopt.Adam, lr=0.2),
        descend(stream, "Adagrad", fastopt.Adagrad, lr=30.0),
        solve(stream),
    )
    features, target = next(iter(stream))
    return Results(rows, stream.n_rows, stream.error(np.zeros_like(stream.true)), features.nbytes + target.nbytes)


def report(results: Results) -> Report:
    """The table, and the answer."""
    rows = [
        (
            row.name,
            f"{results.n_rows / row.seconds / 1e6:.0f}",
            f"{row.error:.3f}",
            "-" if math.isnan(row.average_error) else f"{row.average_error:.3f}",
        )
        for row in results.rows
    ]
    *descents, exact = results.rows
    best = min(descents, key=lambda row: row.average_error)
    answer = (
        f"After one pass over {results.n_rows:,} rows, {results.chunk_bytes / 1e6:.1f} MB of them in memory at a time, "
        f"the predictions of {best.name}'s average differ by {best.average_error:.2f} from the best possible ones "
        f"(normal equations: {exact.error:.2f}; without averaging: {best.error:.2f}; before: {results.start:.0f}), at "
        f"{results.n_rows / best.seconds / 1e6:.0f} million rows a second."
    )
    return Report(("method", "million rows/s", "error", "error of average"), rows, answer)


if __name__ == "__main__":
    main(__doc__, run, report)

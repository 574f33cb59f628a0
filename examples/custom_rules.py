"""Which optimizers can be written as custom rules of fifteen lines?

Lion, AdaBelief, Yogi and sign-SGD with error feedback, each made from its formula with `fastopt.rule`. Like built-in
optimizers they are fused, in place and parallel, and have schedules, groups, clipping and state dicts. Each of them,
and fastopt.Adam, trains a network to classify scikit-learn's handwritten digits.

Run it with `python examples/custom_rules.py`: about ten seconds, or two with `--quick`. It needs the packages of `pip
install 'fastopt[cli]'`. The first run compiles the rules, half a second each; later runs load them from disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastopt
from fastopt.examples.data import digits
from fastopt.examples.models import MLP, shuffled_batches
from fastopt.examples.report import Report, main
from fastopt.rules import sign, sqrt


# Chen et al., Symbolic discovery of optimization algorithms, 2023.
@fastopt.rule(state=("exp_avg",), hyper=dict(lr=1e-4, beta1=0.9, beta2=0.99))
def Lion(param, grad, exp_avg, lr, beta1, beta2):  # type: ignore[no-untyped-def]
    param = param - lr * sign(beta1 * exp_avg + (1 - beta1) * grad)
    exp_avg = beta2 * exp_avg + (1 - beta2) * grad
    return param, exp_avg


# Adam's bias corrections: they make up for averages that start at zero.
def corrections(step, lr, beta1, beta2, eps):  # type: ignore[no-untyped-def]
    exp_avg_correction = 1 / (1 - beta1**step)
    square_correction = 1 / (1 - beta2**step)
    return lr, beta1, beta2, eps, exp_avg_correction, square_correction


# Zhuang et al., AdaBelief optimizer, 2020: Adam with the variance of the gradient around its average.
@fastopt.rule(
    state=("exp_avg", "exp_avg_var"), hyper=dict(lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-16), coefficients=corrections
)
def AdaBelief(param, grad, exp_avg, exp_avg_var, lr, beta1, beta2, eps, exp_avg_correction, square_correction):  # type: ignore[no-untyped-def]
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    surprise = grad - exp_avg
    exp_avg_var = beta2 * exp_avg_var + (1 - beta2) * surprise * surprise + eps
    param = param - lr * (exp_avg * exp_avg_correction) / (sqrt(exp_avg_var * square_correction) + eps)
    return param, exp_avg, exp_avg_var


# Zaheer et al., Adaptive methods for nonconvex optimization, 2018: the average of squares changes by steps whose size
# depends only on the gradient.
@fastopt.rule(
    state={"exp_avg": 1e-6, "exp_avg_sq": 1e-6},
    hyper=dict(lr=1e-2, beta1=0.9, beta2=0.999, eps=1e-3),
    coefficients=corrections,
)
def Yogi(param, grad, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, exp_avg_correction, square_correction):  # type: ignore[no-untyped-def]
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    exp_avg_sq = exp_avg_sq - (1 - beta2) * sign(exp_avg_sq - grad * grad) * grad * grad
    direction = exp_avg * exp_avg_correction / (sqrt(exp_avg_sq * square_correction) + eps)
    return param - lr * direction, exp_avg, exp_avg_sq


# Seide et al., 1-bit SGD, 2014; Karimireddy et al., Error feedback fixes SignSGD, 2019: the error of the sign is added
# to the next gradient. In the papers the step size is the mean magnitude of all elements. Custom rules are
# element-wise, so here it is a hyperparameter.
@fastopt.rule(state=("error",), hyper=dict(lr=1e-2, step_size=1e-3), domain={"step_size": "(0, inf)"})
def ErrorFeedbackSignSGD(param, grad, error, lr, step_size):  # type: ignore[no-untyped-def]
    wanted = lr * grad + error
    change = step_size * sign(wanted)
    error = wanted - change
    param = param - change
    return param, error


OPTIMIZERS: dict[str, tuple[Callable[..., fastopt.Optimizer], dict[str, float]]] = {
    "fastopt.Adam": (fastopt.Adam, {"lr": 3e-3}),
    "Lion": (Lion, {"lr": 1e-3}),
    "AdaBelief": (AdaBelief, {"lr": 3e-3}),
    "Yogi": (Yogi, {"lr": 3e-2}),
    "ErrorFeedbackSignSGD": (ErrorFeedbackSignSGD, {"lr": 0.1, "step_size": 1e-3}),
}


@dataclass(frozen=True)
class Training:
    """Final loss and accuracy of a training, and the seconds to create the optimizer and take its first step."""

    loss: float
    accuracy: float
    first_step: float


def train(optimizer_class: Callable[..., fastopt.Optimizer], options: dict[str, Any], epochs: int) -> Training:
    """Train the network in mini-batches."""
    data = digits()
    images, labels = data.training.inputs, data.training.labels
    model, random = MLP([64, 32, 10], seed=0), np.random.default_rng(0)
    start = time.perf_counter()
    optimizer = optimizer_class(model.flat, grads=model.flat_gradients, **options)
    optimizer.step()
    first_step = time.perf_counter() - start
    for _ in range(epochs):
        for rows in shuffled_batches(len(labels), 32, random):
            model.loss_and_gradients(images[rows], labels[rows])
            optimizer.step()
    return Training(
        loss=model.loss(images, labels),
        accuracy=model.accuracy(data.test.inputs, data.test.labels),
        first_step=first_step,
    )


def run(quick: bool = False) -> dict[str, Training]:
    """Train once with each optimizer."""
    epochs = 10 if quick else 60
    return {name: train(made, options, epochs) for name, (made, options) in OPTIMIZERS.items()}


def report(results: dict[str, Training]) -> Report:
    """The table, and the answer."""
    rows = [
        (name, f"{each.loss:.2g}", f"{each.accuracy:.1%}", f"{each.first_step * 1e3:.0f} ms")
        for name, each in results.items()
    ]
    own = [each for name, each in results.items() if name != "fastopt.Adam"]
    answer = (
        f"All {len(own)} learn: test accuracies of {min(each.accuracy for each in own):.1%} to "
        f"{max(each.accuracy for each in own):.1%} (fastopt.Adam: {results['fastopt.Adam'].accuracy:.1%})."
    )
    return Report(("optimizer", "loss", "accuracy", "first step"), rows, answer)


if __name__ == "__main__":
    main(__doc__, run, report)

"""Choosing a learning rate: diagnose a rate, find a range, sweep it.

Three steps, each a function and a command (`fastopt diagnose`, `range-test`, `sweep`), on your own training code or on
a bundled real problem:

1. `diagnose` trains at one rate and reads the curve: too high, too low, oscillating, premature, diverged or good.
2. `range_test` raises the rate during one short run, suggests a rate and restores everything.
3. `sweep` trains at many rates with several seeds, in parallel, and shows which rate is best and by how much.

There are three ways to say what to train:

- **Your training function**, the simplest for a sweep: `train(lr, seed)` that returns the final loss or a dict of
  metrics. For `diagnose` it returns the metrics of each epoch: a list or generator of dicts, or a dict of lists like
  Keras' `History.history`. It may also take `epochs`, and `optimizer`, which it calls with its parameters:
  `optimizer(params)`.
- **A `Problem`**: parameters, batches, and a method for loss and gradients. fastopt runs the loop. It works with all
  three functions.
- **Your optimizer and a closure**, for `range_test` in the middle of your program.

>>> import fastopt.tuning
>>> fastopt.tuning.range_test("digits", optimizer="SGD")
RangeTest(digits, SGD, suggestion=0.351, 100 rates)

A training function, twenty steps of gradient descent on x**2; rates above 1 diverge:

>>> def train(lr, seed):
...     x = 1.0 + seed
...     for step in range(20):
...         x -= lr * 2 * x
...         yield {"loss": x * x}
>>> fastopt.tuning.sweep(train, rates=[0.01, 0.1, 0.5, 0.9, 1.5], workers=0).best.lr
0.5
"""

from .diagnoses import Diagnosis, diagnose
from .histories import History
from .range_tests import RangeTest, range_test
from .readings import READINGS, Evidence, Reading, read_history
from .results import OtherConfigurationError
from .runs import RatePoint, SweepRun
from .sources import BUNDLED, Problem, load_source
from .sweeps import Sweep, sweep

__all__ = [
    "BUNDLED",
    "READINGS",
    "Diagnosis",
    "Evidence",
    "History",
    "OtherConfigurationError",
    "Problem",
    "RangeTest",
    "RatePoint",
    "Reading",
    "Sweep",
    "SweepRun",
    "diagnose",
    "load_source",
    "range_test",
    "read_history",
    "sweep",
]

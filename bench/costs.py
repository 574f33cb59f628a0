"""`python -m fastopt.bench.costs [OPTIMIZER ...]`: measure `Spec.costs`, nanoseconds per element of each rule.

It measures on one thread, with everything in cache, and excludes the time of the call by the difference of two sizes.
Beside each cost it prints the number in the table of specs and an estimate from the text of the rule
(`kernels/formulas/costs.py`), which custom rules use. Costs decide when another thread makes a step faster; a fifth
more or less does not matter. Measure on an idle processor with AVX-512.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Sequence
from typing import Any

import numpy as np

import fastopt
from fastopt.definitions.specs import SPECS
from fastopt.kernels.formulas import registry
from fastopt.kernels.formulas.costs import cost

from .cases import VARIANTS, Variant

SIZES = (1024, 9216)
"""With six arrays of float64 the larger one takes 442 kB."""

REPEATS = 300
CALLS = 20


def nanoseconds(variant: Variant, dtype: type) -> float:
    """Measured nanoseconds per element."""
    best = []
    for size in SIZES:
        make = getattr(fastopt, variant.optimizer)
        grads: Any = np.ones(size, dtype)
        step = make(np.ones(size, dtype), grads=grads, n_threads=1, **variant.hyperparameters).step
        step()
        best.append(min(timeit.repeat(step, number=CALLS, repeat=REPEATS)) / CALLS)
    return (best[1] - best[0]) / (SIZES[1] - SIZES[0]) * 1e9


def main(names: Sequence[str]) -> None:
    for name in names or SPECS:
        for variant in VARIANTS.values():
            if variant.optimizer == name:
                rule, spec = variant.rule, SPECS[name]
                measured = tuple(nanoseconds(variant, dtype) for dtype in (np.float32, np.float64))
                shown = (measured, spec.costs[rule], cost(registry.loop(rule)))
                values = ("({:.2f}, {:.2f})".format(*each) for each in shown)
                print("{}: {} (table: {}, estimate: {})".format(rule, *values))


if __name__ == "__main__":
    main(sys.argv[1:])

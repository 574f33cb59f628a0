"""Do projected and proximal steps find the same solutions as specialised solvers?

The problems are least squares on scikit-learn's diabetes data: plain, with non-negative coefficients, with the
penalties of the lasso and the elastic net, and with both. Constraint and penalty are one argument of `fastopt.SGD`
each. scikit-learn has specialised solvers: an active set for non-negative least squares, coordinate descent for the
penalties.

The objective is |y - X w|^2 / (2 n) + l1 |w|_1 + l2 / 2 |w|_2^2 (scikit-learn: l1 = alpha * l1_ratio and
l2 = alpha * (1 - l1_ratio)). Its gradient without the penalties is H w - c with H = X'X / n and c = X'y / n. With a
rate of 1 / (largest eigenvalue of H), every step lowers the objective.

Run it with `python examples/projected_and_proximal.py`; it takes about two seconds. It needs the packages of
`pip install 'fastopt[cli]'`.

References: Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009 (this is ISTA); Bertsekas,
On the Goldstein-Levitin-Polyak gradient projection method, 1976.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastopt
from fastopt.constraints import L1, ElasticNet, NonNegative
from fastopt.examples.data import Regression, diabetes
from fastopt.examples.report import Report, main

MAX_STEPS = 200_000


@dataclass(frozen=True)
class Problem:
    """A problem as arguments of `fastopt.SGD`, and as an estimator of scikit-learn with its arguments."""

    name: str
    options: Mapping[str, Any]
    estimator: str
    settings: Mapping[str, Any]


EXACT = {"fit_intercept": False, "tol": 1e-14, "max_iter": 1_000_000}

PROBLEMS = (
    Problem("least squares", {}, "LinearRegression", {"fit_intercept": False}),
    Problem(
        "non-negative least squares",
        {"projection": NonNegative()},
        "LinearRegression",
        {"fit_intercept": False, "positive": True},
    ),
    Problem("lasso", {"prox": L1(2.0)}, "Lasso", {"alpha": 2.0, **EXACT}),
    Problem(
        "non-negative lasso",
        {"prox": L1(2.0), "projection": NonNegative()},
        "Lasso",
        {"alpha": 2.0, "positive": True, **EXACT},
    ),
    Problem(
        "elastic net",
        {"prox": ElasticNet(l1=1.5, l2=0.5)},
        "ElasticNet",
        {"alpha": 2.0, "l1_ratio": 0.75, **EXACT},
    ),
)


@dataclass(frozen=True)
class Row:
    """A problem with both solutions. `steps` is how many steps fastopt took."""

    name: str
    steps: int
    mine: np.ndarray
    theirs: np.ndarray

    @property
    def difference(self) -> float:
        """The largest difference of any coefficient."""
        return float(np.abs(self.mine - self.theirs).max())

    @property
    def same_zeros(self) -> bool:
        """Whether exactly the same coefficients are zero."""
        return bool(((self.mine == 0) == (self.theirs == 0)).all())


Results = tuple[Row, ...]


def solve(data: Regression, options: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """Step until no coefficient changes by more than 1e-12 of the largest; return coefficients and number of steps."""
    n_rows, n_features = data.features.shape
    hessian = data.features.T @ data.features / n_rows
    linear = data.features.T @ data.target / n_rows
    coefficients, gradient = np.zeros(n_features), np.zeros(n_features)
    lr = 1 / float(np.linalg.eigvalsh(hessian)[-1])
    optimizer = fastopt.SGD(coefficients, lr=lr, grads=gradient, **options)
    for step in range(1, MAX_STEPS + 1):
        before = coefficients.copy()
        gradient[:] = hessian @ coefficients - linear
        optimizer.step()
        if np.abs(coefficients - before).max() <= 1e-12 * np.abs(coefficients).max():
            return coefficients, step
    raise RuntimeError(f"not solved after {MAX_STEPS:,} steps with {dict(options)}")


def run(quick: bool = False) -> Results:
    """Solve every problem. `quick` changes nothing, because this takes only two seconds."""
    from sklearn import linear_model

    data = diabetes()
    rows = []
    for problem in PROBLEMS:
        mine, steps = solve(data, problem.options)
        estimator = getattr(linear_model, problem.estimator)(**problem.settings)
        rows.append(Row(problem.name, steps, mine, estimator.fit(data.features, data.target).coef_))
    return tuple(rows)


def report(results: Results) -> Report:
    """The table, and the answer."""
    rows = [
        (
            row.name,
            f"{row.steps:,}",
            f"{np.count_nonzero(row.mine == 0)}",
            f"{np.count_nonzero(row.theirs == 0)}",
            f"{np.abs(row.mine).max():.2f}",
            f"{row.difference:.1e}",
        )
        for row in results
    ]
    same = sum(row.same_zeros for row in results)
    answer = (
        f"The largest difference from scikit-learn's coefficients is {max(row.difference for row in results):.1e}, and "
        f"in {same} of {len(results)} problems exactly the same coefficients are zero."
    )
    columns = ("problem", "steps", "zeros", "in sklearn", "largest", "difference")
    return Report(columns, rows, answer)


if __name__ == "__main__":
    main(__doc__, run, report)

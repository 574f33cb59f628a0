"""The benchmarks' cases on a device: that they start, step, and agree with the processor's."""

from __future__ import annotations

import numpy as np
import pytest

from fastopt.bench import check, cuda_cases, custom_loops
from fastopt.bench.cases import MAIN, Variant, Workload, identifier
from fastopt.bench.cases import Problem as Case
from fastopt.kernels.cuda.availability import is_simulated


@pytest.mark.parametrize("variant", MAIN, ids=identifier)
def test_fastopt_agrees_with_itself(variant: Variant) -> None:
    problem = Case.make(variant, Workload("small", ((7, 5), (40,))), 1)
    runners = {each.name: each.start(problem) for each in (cuda_cases.FASTOPT, custom_loops.CYTHON)}
    check.take_steps(problem, runners)
    assert check.disagreement(problem, *runners.values()) is None
    assert any(np.any(a != b) for a, b in zip(runners["fastopt"].results(), problem.params, strict=True))


def test_the_simulator_measures_nothing() -> None:
    reason = cuda_cases.unavailable()
    if is_simulated():
        assert reason == "Numba's simulator measures nothing"

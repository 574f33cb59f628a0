"""Coefficients are computed on the device, at any step, as on the processor.

A device's power is off by up to 2 units in the last place of float64, where the processor's is by about half of one. A
difference such as 1 - beta**step makes that larger, relative to what is left, but seldom large enough to change a
coefficient in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import DTYPES, VARIANTS, Case
from engines import Pair, on_device

from fastopt.kernels.cuda import memory

VARIANTS = [case for case in VARIANTS if not case.has_sums]  # which devices do not compute
STEPS = (0, 1, 9, 1000, 123_456, 2**40)
TOLERANCE = {np.float32: float(np.finfo(np.float32).eps), np.float64: 1e-11}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_coefficients_at_any_step(case: Case, dtype: Any) -> None:
    pair = Pair(case, [np.zeros(3, dtype)])
    engine, reference = pair.engine, pair.opt._room.engine  # type: ignore[attr-defined]
    gradient = on_device(np.zeros(3, dtype))
    engine.bind([gradient])
    engine.upload()
    structure = engine.structures[0]
    for step in STEPS:
        engine.records.steps[0] = reference.records.steps[0] = step
        engine.send()
        engine._launch["prepare"](engine.tables.header)
        results = reference.results(0, 1.0)
        expected = np.array([results[stage][position] for stage, position in structure.picks]).astype(dtype)
        actual = memory.to_host(engine.tables.alive["coefficients"])[: expected.size]
        tolerance = 0.0 if pair.exact else TOLERANCE[dtype]
        np.testing.assert_allclose(actual, expected, rtol=tolerance, err_msg=f"at step {step}")

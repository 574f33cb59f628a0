"""The bits of steps are those of the record, on every processor."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cases import PLAIN, Case
from step_digests import RECORD, SHAPES, digest, digests

RECORDED = dict(line.rsplit(": ", 1) for line in RECORD.read_text(encoding="utf-8").splitlines())


@pytest.mark.skipif(
    sys.platform != "linux", reason="coefficients have powers, which another C library may round otherwise"
)
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_steps_have_the_bits_of_the_record(case: Case) -> None:
    expected = {name: value for name, value in RECORDED.items() if name.split("-")[0].split()[0] == case.optimizer}
    assert expected
    assert dict(digests(case.optimizer, "cython")) == expected, (
        "other bits than those of earlier versions; where that is meant, run python tests/step_digests.py"
    )


def test_a_digest_depends_on_every_number() -> None:
    lr = 0.02
    found = {
        digest(Case("SGD", {"lr": value}), (np.float64,), SHAPES, backend="reference")
        for value in (lr, np.nextafter(lr, 1))
    }
    assert len(found) == 2

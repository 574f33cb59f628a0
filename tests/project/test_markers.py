"""The tests that plain `pytest` leaves out: `.ci/run` runs them, and CONTRIBUTING.md says how."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_left_out_is_run_elsewhere(pytestconfig: pytest.Config) -> None:
    left_out = re.findall(r"not (\w+)", " ".join(pytestconfig.getini("addopts")))
    assert len(left_out) >= 3
    assert f'pytest -n 2 -m "{" or ".join(left_out)}"\n' in (ROOT / ".ci" / "run").read_text()
    described = re.findall(r"`pytest -n 2 -m (\w+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert described == left_out
    registered = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    assert registered >= set(left_out)

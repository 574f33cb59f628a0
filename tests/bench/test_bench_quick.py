"""The table of what a quick benchmark keeps speaks of tests and cases that there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_pattern_keeps_a_case(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from bench.quick import KEPT

    command = [sys.executable, "-m", "pytest", "bench", "--quick", "--collect-only", "-q", "-o", "addopts="]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    listed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    kept = re.findall(r"::(\w+)\[(.*)\]$", listed, re.MULTILINE)
    assert kept
    for test, patterns in KEPT.items():
        for pattern in patterns:
            assert any(name == test and fnmatchcase(case, pattern) for name, case in kept), (test, pattern)
        if not patterns:
            assert all(name != test for name, _ in kept)
            assert any(f"def {test}(" in path.read_text() for path in (ROOT / "bench").glob("test_*.py")), test

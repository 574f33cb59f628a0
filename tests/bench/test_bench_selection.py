"""The tables of what is measured speak of tests and cases that there are."""

from __future__ import annotations

import json
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from fastopt.bench.selection import KEPT, Extent

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json
from fastopt.bench import suite
from fastopt.bench.conftest import is_kept
from fastopt.bench.selection import Extent

collecting = suite.Collecting()
assert suite.run(["--all", "--collect-only"], collecting).exit_code == 0
kept = {extent.name: [item.name for item in collecting.items if is_kept(item, extent)] for extent in Extent}
print(json.dumps(kept))
"""


@pytest.fixture(scope="module")
def cases() -> dict[Extent, set[tuple[str, str]]]:
    """Tests and the identifiers of their cases."""
    listed = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT / "tests", capture_output=True, check=True).stdout
    return {
        Extent[extent]: {(name.split("[")[0], name.partition("[")[2][:-1]) for name in names}
        for extent, names in json.loads(listed).items()
    }


@pytest.mark.parametrize("extent", [Extent.QUICK, Extent.USUAL], ids=str)
def test_every_pattern_keeps_a_case(extent: Extent, cases: dict[Extent, set[tuple[str, str]]]) -> None:
    kept = cases[extent]
    assert kept < cases[Extent.ALL]
    for test, patterns in KEPT[extent].items():
        for pattern in patterns:
            assert any(name == test and fnmatchcase(case, pattern) for name, case in kept), (test, pattern)
        if not patterns:
            assert all(name != test for name, _ in kept)
            assert any(f"def {test}(" in path.read_text() for path in (ROOT / "bench").glob("test_*.py")), test


def test_what_stands_at_the_top_of_a_page_is_usual(cases: dict[Extent, set[tuple[str, str]]]) -> None:
    sizes = ("1_000", "100_000", "1_000_000", "100_000_000")
    wanted = {("test_flat_tensor", f"{size}-Adam") for size in sizes} | {
        ("test_flat_tensor", "1_000_000-RMSprop"),
        ("test_flat_tensor", "1_000_000-SGD-momentum"),
        ("test_list_of_tensors", "500-tensors-of-256-Adam"),
        ("test_list_of_tensors", "GPT-2-124M-148-tensors-Adam"),
        ("test_clip_step_zero", "1_000_000"),
        ("test_steps", "500-tensors-of-256-step"),
        ("test_large_steps", "GPT-2-124M-148-tensors-Adam"),
        ("test_training", "step"),
    }
    assert wanted <= cases[Extent.USUAL]

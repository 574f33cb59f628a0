"""The code in docs/cuda.md runs: in the simulator that which needs nothing but Numba."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from fastopt.kernels.cuda.availability import is_simulated

PAGE = Path(__file__).parents[3] / "docs" / "cuda.md"
BLOCKS = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_the_code_in_the_page_runs(index: int) -> None:
    wanted = [package for package in ("cupy", "torch") if f"import {package}\n" in BLOCKS[index]]
    if wanted and (is_simulated() or not all(map(importlib.util.find_spec, wanted))):
        pytest.skip(f"needs a device, and {wanted[0]}")
    exec(compile(BLOCKS[index], "cuda.md", "exec"), {})


def test_one_block_needs_numba_alone() -> None:
    assert len([block for block in BLOCKS if "from numba import cuda" in block]) == 1

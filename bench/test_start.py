"""The time of a fresh process up to the end of its first step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .cases import identifier
from .cold_starts import COLD_STARTS, ColdStart
from .measure import Record

Keep = Callable[[Record], None]

MOST_STARTS, LEAST_STARTS, ENOUGH_SECONDS = 9, 3, 5.0
"""The test starts MOST_STARTS processes, or fewer, but at least LEAST_STARTS, once they have taken ENOUGH_SECONDS."""


@pytest.mark.parametrize("start", COLD_STARTS, ids=identifier)
def test_cold_start(benchmark: BenchmarkFixture, record: Keep, quick: bool, tmp_path: Path, start: ColdStart) -> None:
    found: list[tuple[float, float]] = []
    reasons = [start.absent] if start.absent else []
    wanted = LEAST_STARTS if quick else MOST_STARTS

    def run() -> None:
        begun = time.perf_counter()
        while not reasons and len(found) <= wanted:  # the first one fills the caches
            result = start.run(tmp_path)
            reasons.extend([result] if isinstance(result, str) else [])
            found.extend([] if isinstance(result, str) else [result])
            if len(found) > LEAST_STARTS and time.perf_counter() - begun > ENOUGH_SECONDS:
                break

    benchmark.pedantic(run)
    name, values = start.name, {}
    if reasons:
        name += f": {reasons[0]}"
    else:
        imports, firsts = (1e3 * statistics.median(seconds) for seconds in zip(*found[1:] or found, strict=True))
        values = {"import": (imports, "ms"), "import and first step": (firsts, "ms")}
        if start.cache:
            values["with empty caches"] = (1e3 * found[0][1], "ms")
    record({"section": "Cold start", "name": name, "values": values})

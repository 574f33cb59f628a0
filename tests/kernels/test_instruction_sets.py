"""One build, three instruction sets: chosen at import, forced by a variable, the same bits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastopt.kernels import cpu, native

PROGRAM = """
import hashlib, sys
sys.path[:0] = sys.argv[1:]
import numpy as np, fastopt
from cases import CASES, random_gradient
from fastopt.kernels.native import loops as cython_loops
digest = hashlib.sha256()
for dtype in (np.float32, np.float64):
    for case in CASES:
        rng = np.random.default_rng(3)
        params = [rng.standard_normal(size).astype(dtype) for size in (0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 4097)]
        optimizer = case.make(params, backend="cython")
        for _ in range(20):
            optimizer.step([random_gradient(rng, param.size, dtype) for param in params])
        for index, param in enumerate(params):
            digest.update(param)
            for name, value in optimizer.state[index].items():
                digest.update(value if name not in ("step", *case.spec.carried) else b"")
print(cython_loops.LEVEL, digest.hexdigest())
"""

USABLE = [level for level in cpu.LEVELS if native.CAPABILITIES.get(level.replace("-", "_"))]


def run(program: str = PROGRAM, **environment: str) -> subprocess.CompletedProcess[str]:
    folder = os.path.dirname(os.path.dirname(__file__))
    return subprocess.run(
        [sys.executable, "-c", program, folder], env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.skipif(len(USABLE) < 2, reason="this processor has only one of the instruction sets")
def test_all_instruction_sets_give_the_same_bits() -> None:
    results = [run(FASTOPT_CPU=level).stdout.split() for level in USABLE]
    assert [level for level, _ in results] == USABLE
    assert len({digest for _, digest in results}) == 1


def test_the_best_is_chosen() -> None:
    inherited = {key: value for key, value in os.environ.items() if key != "FASTOPT_CPU"}
    program = "from fastopt.kernels.native import loops as cython_loops; print(cython_loops.LEVEL)"
    result = subprocess.run([sys.executable, "-c", program], env=inherited, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == (USABLE[-1] if USABLE else cpu.OTHER)


@pytest.mark.parametrize(
    ("level", "capabilities", "message"),
    [
        ("avx512", {"x86_64": True, "x86_64_v3": True}, "is no instruction set level; choose one of x86-64, x86-64-v3"),
        ("x86-64-v4", {"x86_64": True, "x86_64_v3": True}, "cannot run on this processor; choose one of x86-64, x86"),
        ("x86-64", {"x86_64": False}, "cannot run on this processor; choose one of native"),
    ],
)
def test_an_impossible_choice(
    level: str, capabilities: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTOPT_CPU", level)
    with pytest.raises(ValueError, match=message):
        cpu.choose_level(capabilities)


def test_the_error_reaches_the_user() -> None:
    result = run("import numpy, fastopt; fastopt.Adam(numpy.ones(3))", FASTOPT_CPU="avx512")
    assert result.returncode != 0
    assert "FASTOPT_CPU='avx512' is no instruction set level" in result.stderr


@pytest.mark.slow
def test_prefetching_does_not_change_the_bits() -> None:
    large = PROGRAM.replace("63, 64, 65, 4097", "64, 4097, 9_000_003").replace("range(20)", "range(2)")
    large = large.replace("in CASES", "in CASES[:1] + CASES[9:10]")
    large = large.replace("random_gradient(rng, param.size, dtype)", "rng.random(param.size, dtype) - 0.5")  # faster
    digests = {run(large, FASTOPT_PREFETCH=distance).stdout for distance in ("0", "512")}
    assert len(digests) == 1
    assert "" not in digests


def test_a_bad_prefetch_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTOPT_PREFETCH", "far")
    with pytest.raises(ValueError, match="FASTOPT_PREFETCH='far': expected a number of elements"):
        cpu.choose_prefetch_distance({"intel": True})

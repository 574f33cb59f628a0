"""Square roots by multiplications: the bits of the instruction, and of loops that do not use them."""

from __future__ import annotations

import ctypes
import importlib
import re
import shutil

import numpy as np
import pytest
from test_instruction_sets import run
from test_rendering import instructions_of_loops

from fastopt.kernels import cpu, floating_point, native
from fastopt.kernels.formulas import registry
from fastopt.kernels.render import cython_source as render_cython

LEVELS = [level for level in cpu.LEVELS if native.CAPABILITIES.get(level.replace("-", "_"))]
MODULES = [importlib.import_module(f"fastopt.kernels.native.{cpu.module_name(level)}") for level in LEVELS]
SHARING = [module for module in MODULES if module.CAN_SHARE_ROOTS]

needs_avx512 = pytest.mark.skipif(not SHARING, reason="only loops for AVX-512 share their roots")

SIGNIFICANDS = np.arange(1 << 23, dtype=np.uint32)
ONE = 127


def assert_exact(bits: np.ndarray) -> None:
    """Every root has the bits of the instruction, denormals being zero; NaN is NaN."""
    (module,) = SHARING
    roots_by_fma = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ssize_t)(module.ROOTS_BY_FMA)
    inputs = bits.view(np.float32)
    roots = inputs.copy()
    floating_point.with_denormals(True, lambda: roots_by_fma(roots.ctypes.data, roots.size))
    with np.errstate(invalid="ignore"):
        denormal = np.abs(inputs) < np.finfo(np.float32).tiny
        expected = np.sqrt(np.where(denormal, np.copysign(np.float32(0), inputs), inputs))
    both_nan = np.isnan(roots) & np.isnan(expected)
    assert np.array_equal(np.where(both_nan, 0, roots.view(np.uint32)), np.where(both_nan, 0, expected.view(np.uint32)))


@needs_avx512
@pytest.mark.parametrize("exponent", [ONE, ONE + 1], ids=["odd", "even"])
def test_every_significand(exponent: int) -> None:
    assert_exact(SIGNIFICANDS | np.uint32(exponent << 23))


@needs_avx512
@pytest.mark.parametrize("sign", [0, 1], ids=["positive", "negative"])
def test_every_exponent(sign: int) -> None:
    """Zero, denormals, infinity and NaN among them."""
    exponents = np.arange(256, dtype=np.uint32)[:, np.newaxis] << 23
    assert_exact((exponents | SIGNIFICANDS[:: 1 << 11] | np.uint32(sign << 31)).ravel())


@pytest.mark.slow
@needs_avx512
def test_all_optimizers_give_the_same_bits() -> None:
    results = {run(FASTOPT_SHARED_ROOTS=share).stdout for share in ("0", "1")}
    assert len(results) == 1
    assert "x86-64-v4" in results.pop()


DENORMAL_AVERAGE = """
import numpy as np, fastopt
param, grad = np.zeros(1000, np.float32), np.full(1000, 1e-20, np.float32)
optimizer = fastopt.RMSprop(param, grads=grad, eps=1e-25, flush_denormals=False)
optimizer.step()
assert 0 < optimizer.state[0]["square_avg"][0] < np.finfo(np.float32).tiny
print(param.tobytes().hex())
"""


@needs_avx512
def test_denormals_that_are_kept_have_roots() -> None:
    """Roots are shared only where denormals are zero."""
    results = {run(DENORMAL_AVERAGE, FASTOPT_SHARED_ROOTS=share).stdout for share in ("0", "1")}
    assert len(results) == 1
    assert results != {""}


@needs_avx512
@pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump, of binutils")
def test_sharing_loops_are_vectorised() -> None:
    (module,) = SHARING
    bodies = instructions_of_loops(module.__file__)
    with_roots = {loop.name for loop in registry.loops().values() if render_cython.takes_roots(loop)}
    sharing = with_roots.difference(render_cython.SPARING)
    assert "adam" in sharing
    assert "sgd" not in sharing
    assert sorted(module.SHARING) == sorted((name, "float32") for name in sharing)
    for name in sharing:
        body = bodies[f"{name} sharing"]
        assert re.search(r"\bvfmadd\d+ps\b.*%zmm", body), name
        assert re.search(r"\bvsqrtps\b.*%zmm", body), name


@pytest.mark.parametrize(
    ("wanted", "intel", "can_share", "expected"),
    [("", True, True, True), ("", False, True, False), ("1", False, True, True), ("0", True, True, False),
     ("", True, False, False), ("1", True, False, False)],
)  # fmt: skip
def test_the_choice(wanted: str, intel: bool, can_share: bool, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTOPT_SHARED_ROOTS", wanted)
    assert cpu.choose_shared_roots({"intel": intel}, can_share) is expected


def test_a_bad_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTOPT_SHARED_ROOTS", "yes")
    with pytest.raises(ValueError, match="FASTOPT_SHARED_ROOTS='yes': expected 0 or 1"):
        cpu.choose_shared_roots({"intel": True}, True)

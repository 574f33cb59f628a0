"""The kernels for CUDA are compiled to PTX, which needs no device, and looked at.

FASTOPT_TEST_PTX=all compiles every rule in both precisions, else a sample is. Some are linked as well, which says how
many registers they take.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, VARIANTS, Case
from storages import HALVES

import fastopt
from fastopt.definitions.specs import SPECS
from fastopt.kernels.backends import Backend
from fastopt.kernels.formulas import registry
from fastopt.rules import maximum, select
from fastopt.step import evaluation
from fastopt.step.planning import Planner
from fastopt.step.rates import rate_at
from fastopt.step.storage import formats_of, operand_forms

pytest.importorskip("numba_cuda", reason="numba-cuda, of the extra `test-all`, is not installed")
from cuda.core import Linker, LinkerOptions, ObjectCode
from numba import config, cuda

if config.ENABLE_CUDASIM:
    pytest.skip("the simulator compiles nothing", allow_module_level=True)

from fastopt.kernels.cuda import kernels
from fastopt.kernels.cuda.render_prepare import before_swap_source, prepare_source
from fastopt.kernels.cuda.render_sums import sums_source
from fastopt.kernels.cuda.render_update import VECTORS_IN_FLIGHT, update_source
from fastopt.kernels.cuda.structures import STEP, Structure

pytestmark = pytest.mark.cuda

HOPPER = (9, 0)
EVERYTHING = os.environ.get("FASTOPT_TEST_PTX") == "all"
KERNEL = "void(int64)"

SAMPLE = [*((case, np.float32) for case in VARIANTS), (Case("Adam", {}), np.float64), (Case("Rprop", {}), np.float64)]
ROWS = [(case, dtype) for case in VARIANTS for dtype in DTYPES] if EVERYTHING else SAMPLE
AROUND = {"max_grad_norm": 0.5, "nonfinite": "skip", "accumulate_steps": 2, "ema_decay": 0.5, "zero_grads": True}
THREADS = 256


@pytest.fixture(autouse=True)
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device functions are compiled for the current device; here that is one that is not there."""
    import numba.cuda.dispatcher as dispatcher

    monkeypatch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=HOPPER))


def sources(case: Case, dtype: Any, **more: Any) -> dict[str, str]:
    """The kernels that an engine would have compiled."""
    return sources_of(case.make([np.zeros(5, dtype)], backend="reference", **more), dtype)


BACKEND = Backend(
    "cuda",
    None,  # type: ignore[arg-type]
    lambda name, dtype: registry.loop(name),
    lambda name, dtype: registry.functions_of_sum(name),
    registry.functions_of_coefficients,
    lambda name, stochastic: (None, None),
)


def sources_of(opt: Any, dtype: Any) -> dict[str, str]:
    planner = Planner(opt.spec, BACKEND, np.dtype(dtype), opt._contents.options)
    plan, real = planner.step_plan(), np.dtype(dtype).name
    structures = [Structure.of(planner.group_plan(opt._contents.groups[0], rate_at(opt._contents.groups[0], 0)))]
    found = {
        "update": update_source(structures, real, STEP, 8192),
        "prepare": prepare_source(structures, real, plan.clipping),
    }
    if structures[0].sum:
        found["sums"] = sums_source(structures, real, THREADS)
        found["counts"] = sums_source(structures, real, THREADS, plan.unusable)
    if structures[0].program("swap"):
        found["swap"] = update_source(structures, real, ("swap",), 8192)
    return found


def function_of(source: str, name: str, dtype: Any) -> Any:
    own_name = {"counts": "sums", "swap": "update"}.get(name, name)
    return kernels.python_function(source, own_name, np.dtype(dtype).name)


def ptx(source: str, name: str, dtype: Any) -> str:
    code, _ = cuda.compile(function_of(source, name, dtype), KERNEL, device=False, abi="numba", cc=HOPPER)
    return str(code)


def instructions(code: str) -> Counter[str]:
    return Counter(re.findall(r"^\s*(?:@!?%p\d+\s+)?([a-z]\w*(?:\.\w+)*)\s", code, re.MULTILINE))


def registers(source: str, name: str, dtype: Any) -> int:
    """How many a thread of the kernel takes once it is linked as Numba links it; none is spilled to memory."""
    code, _ = cuda.compile(
        function_of(source, name, dtype), KERNEL, device=False, abi="numba", cc=HOPPER, output="ltoir"
    )
    options = LinkerOptions(arch="sm_90", verbose=True, link_time_optimization=True)
    linker = Linker(ObjectCode.from_ltoir(code), options=options)
    linker.link("cubin")
    said = linker.get_info_log()
    assert set(re.findall(r"(\d+) bytes spill", said)) == {"0"}, said
    return max(map(int, re.findall(r"Used (\d+) registers", said)))


@pytest.mark.parametrize(("case", "dtype"), ROWS, ids=lambda each: getattr(each, "__name__", str(each)))
def test_updates_are_what_they_should_be(case: Case, dtype: Any) -> None:
    source = sources(case, dtype)["update"]
    code = ptx(source, "update", dtype)
    found = instructions(code)
    bits, vector = ("f32", "v4.f32") if dtype == np.float32 else ("f64", "v2.f64")
    opt: Any = case.make([np.zeros(5, dtype)], backend="reference")
    states = len(opt.spec.states(opt._contents.groups[0]))
    loads, together = 2 + states, max(1, VECTORS_IN_FLIGHT // (2 + states))
    # One loop for several vectors, one for single ones.
    assert found[f"ld.global.{vector}"] == loads * (together + (together > 1)), found
    assert found[f"st.global.{vector}"] >= 1 + states, found
    assert found[f"mul.rn.{bits}"], found
    for name in found:
        assert not re.match(r"fma|mad\.\w+\.f|mul\.f|.*approx|.*ftz|.*\.local|call", name), (name, found)
        assert not re.match(r"(div|sqrt)\.(?!rn|[su]\d)", name), (name, found)
        assert dtype != np.float32 or not re.match(r"(add|sub|mul|div|sqrt|neg|setp|selp|cvt|ld|st)\S*f64", name), name
        assert not re.match(r"(div|rem)\.[su]\d", name), (name, found)


AROUND_ROWS = [({}, np.float64), (AROUND, np.float32)]


@pytest.mark.parametrize(("more", "dtype"), AROUND_ROWS, ids=["plain", "everything around"])
def test_all_kernels_of_a_step_compile(more: dict[str, Any], dtype: Any) -> None:
    for name, source in sources(Case("NAdam", {}), dtype, **more).items():
        code = ptx(source, name, dtype)
        found = instructions(code)
        if name != "prepare":  # powers are made of such
            assert not any(re.match(r"fma|mul\.f|.*approx|.*ftz|.*\.local", each) for each in found), (name, found)
        if name in ("sums", "counts"):
            assert found["bar.sync"] or found["barrier.sync"], found


@pytest.mark.parametrize("show", [True, False], ids=["show", "hide"])
def test_the_kernels_that_show_an_average_compile(show: bool) -> None:
    spec, array = SPECS["ScheduleFreeSGD"], np.zeros(5, np.float32)
    exchanged = evaluation.Exchanged(dict(spec.defaults), array, array, array, None, 1, None, "")
    structures = [Structure.of(evaluation._plan(spec, BACKEND, exchanged, array.dtype, show))]
    swap = update_source(structures, "float32", ("swap",), 8192)
    before = before_swap_source(structures, "float32")
    for name, source in (("swap", swap), ("prepare", before)):
        assert instructions(ptx(source, name, np.float32))["st.global.f32"], name


LINKED = VARIANTS if EVERYTHING else [case for case in VARIANTS if case.optimizer in ("Adam", "SGD", "RAdam")]


@pytest.mark.parametrize("case", LINKED, ids=str)
def test_enough_threads_fit(case: Case) -> None:
    """Of 64 Ki registers, 64 for a thread leave room for 1024 threads: more than keep a memory busy."""
    assert registers(sources(case, np.float32)["update"], "update", np.float32) <= 64


def test_sums_and_coefficients_fit() -> None:
    found = sources(Case("Adam", {}), np.float32, **AROUND)
    assert registers(found["sums"], "sums", np.float32) <= 80
    assert registers(found["prepare"], "prepare", np.float32) <= 128


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_a_rule_of_ones_own_compiles(dtype: Any) -> None:
    def corrections(step, lr, beta, eps):  # type: ignore[no-untyped-def]
        lr = lr / (1 - beta**step)
        return lr, beta, eps

    def update(param, grad, exp_avg, largest, lr, beta, eps):  # type: ignore[no-untyped-def]
        exp_avg = beta * exp_avg + (1 - beta) * grad
        largest = maximum(largest, select(grad < 0, -grad, grad))
        return param - lr * exp_avg / (largest + eps), exp_avg, largest

    hyper = {"lr": 1e-2, "beta": 0.9, "eps": 1e-8}
    own = fastopt.rule(state=("exp_avg", "largest"), hyper=hyper, coefficients=corrections)(update)
    opt = own([np.zeros(5, dtype)], backend="reference")
    for name, source in sources_of(opt, dtype).items():
        code = ptx(source, name, dtype)
        vector = "v4.f32" if dtype == np.float32 else "v2.f64"
        assert name != "update" or instructions(code)[f"ld.global.{vector}"] == 4


STATES_OF_16_BITS = dict.fromkeys(("exp_avg", "exp_avg_sq"), "bfloat16")
STORED: list[tuple[str, dict[str, Any]]] = [
    ("bfloat16", {"formats": STATES_OF_16_BITS, "stochastic": True}),
    ("float16", {}),
    ("bfloat16", {}),
    ("bfloat16", {"formats": STATES_OF_16_BITS}),
    ("float16", {"formats": STATES_OF_16_BITS, "stochastic": True}),
][: None if EVERYTHING else 1]


@pytest.mark.parametrize(("half", "stored"), STORED, ids=str)
def test_halves_are_loaded_four_at_a_time(half: str, stored: dict[str, Any]) -> None:
    """Codes of 16 bits in words of 64, arithmetic in float32, and few enough registers for many threads."""
    opt: Any = fastopt.Adam([np.zeros(5, np.float32)], backend="reference", max_grad_norm=1.0)
    planner = Planner(opt.spec, BACKEND, np.dtype(np.float32), opt._contents.options)
    group = opt._contents.groups[0]
    names = ("param", "grad", "exp_avg", "exp_avg_sq")
    formats = formats_of(names, half, stored.get("formats", {}))
    dtypes = [HALVES[formats[name]] if name in formats else np.dtype(np.float32) for name in names]
    forms = operand_forms(BACKEND, names, dtypes, formats, stochastic=stored.get("stochastic", False))
    structures = [Structure.of(planner.group_plan(group, rate_at(group, 0)), forms)]
    codes = 2 + len(stored.get("formats", {}))
    source = update_source(structures, "float32", STEP, 8192)
    found = instructions(ptx(source, "update", np.float32))
    assert found["ld.global.v4.u16"] == codes, found
    assert found["ld.global.v4.f32"] == 4 - codes, found
    assert found["st.global.v4.u16"] == codes - 1, found
    for name in found:
        assert not re.match(r"fma|mad\.\w+\.f|mul\.f|.*approx|.*ftz|.*\.local|call|(div|rem)\.[su]\d", name), (
            name,
            found,
        )
        assert not re.match(r"(add|sub|mul|div|sqrt|neg|setp|selp|cvt|ld|st)\S*f64", name), name
    assert registers(source, "update", np.float32) <= 64
    sums = instructions(ptx(sums_source(structures, "float32", THREADS), "sums", np.float32))
    assert sums["ld.global.v4.u16"], sums


def test_a_product_is_not_contracted_with_a_sum() -> None:
    """What the words of the kernels are for: as Numba spells them, the compiler makes one instruction of two."""
    from fastopt.kernels.cuda.words import words

    known = words("float32")

    def contracted(header):  # type: ignore[no-untyped-def]
        x = known_load(header, 0)
        known_store(header, 1, x * x + x)

    def separate(header):  # type: ignore[no-untyped-def]
        x = known_load(header, 0)
        known_store(header, 1, known_multiply(x, x) + x)

    known_load, known_store, known_multiply = known["load_real"], known["store_real"], known["multiply"]
    for function, expected in ((contracted, True), (separate, False)):
        code, _ = cuda.compile(function, "void(int64)", device=False, abi="numba", cc=HOPPER)
        assert any(name.startswith("fma") for name in instructions(code)) == expected

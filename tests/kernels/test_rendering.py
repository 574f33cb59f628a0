"""What is compiled is what `rules.py` says, in vector instructions; what is outside of the dialect is refused."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fastopt.definitions.conventions import conventions_of, spec_of
from fastopt.definitions.hyperparameters import HYPERPARAMETERS
from fastopt.definitions.specs import SPECS, Spec
from fastopt.kernels import cpu, native
from fastopt.kernels.formulas import coefficients, dialect, operations, registry, rules
from fastopt.kernels.native import _coefficients
from fastopt.kernels.numba import loops as numba_loops
from fastopt.kernels.numba import machine_code
from fastopt.kernels.render.cython_source import SPARING
from fastopt.kernels.render.spelling import ALONE

FLAGS = {name for name, each in HYPERPARAMETERS.items() if each.flag} | {"eps_outside", "negated"}
SHARED = ("clip_coefficient", "factor", "threshold")
"""What coefficient functions of clipping and of rows return."""

LEVELS = [
    level
    for level in (*cpu.LEVELS, cpu.OTHER)
    if importlib.util.find_spec(f"fastopt.kernels.native.{cpu.module_name(level)}")
]

X86_REGISTERS = {"x86-64": "xmm", "x86-64-v3": "ymm", "x86-64-v4": "zmm"}
ARM = platform.machine() in ("aarch64", "arm64")
FUSED = r"\bfn?m(add|sub|la|ls)\b" if ARM else r"\bvfn?m(add|sub)"
IN_SINGLE = r"\s+(v\d+\.[24]s|s\d)" if ARM else r"\w*[ps]s\b"
OBJDUMP = shutil.which(f"{platform.machine()}-linux-gnu-objdump") or shutil.which("objdump")

needs_objdump = pytest.mark.skipif(OBJDUMP is None, reason="needs objdump, of binutils")
knows_instructions = pytest.mark.skipif(
    not (ARM or native.CAPABILITIES["x86_64"]), reason="looks for instructions of x86-64 or arm64"
)


def packed(operation: str, real: str, level: str) -> str:
    """A pattern: an operation on a whole vector of the longest that a level has ("": of any that Numba may choose)."""
    if ARM:
        return rf"\bf{operation}\s+v\d+\.{'4s' if real == 'float32' else '2d'}"
    suffix = "ps" if real == "float32" else "pd"
    return rf"\bv?{operation}{suffix}\b.*%{X86_REGISTERS.get(level, '[xyz]mm')}"


def moved(level: str) -> str:
    """A pattern: a vector that is loaded or stored, or memory that is set or copied."""
    if ARM:
        return r"\b(?:ld|st)[pru1]+\b.*\b(?:q\d|v\d+\.)|\bb[lr]*\b.*mem(?:set|cpy|move)"
    return rf"\bv?movu?a?p[sd]\b.*%{X86_REGISTERS.get(level, '[xyz]mm')}|call.*mem(?:set|cpy|move)"


@pytest.mark.parametrize("level", LEVELS)
def test_every_compiled_module_was_rendered_from_these_rules(level: str) -> None:
    module = importlib.import_module(f"fastopt.kernels.native.{cpu.module_name(level)}")
    assert module.DIGEST == registry.digest() == _coefficients.DIGEST, (
        "the rules have changed since the build; build again"
    )
    assert level == module.LEVEL
    assert set(module.ADDRESSES) == {(loop, real) for loop in registry.loops() for real in registry.REALS}


def test_any_change_of_a_formula_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = registry.digest()
    for name in registry.SOURCES:
        shutil.copy(registry.HERE / name, tmp_path / name)
    monkeypatch.setattr(registry, "HERE", tmp_path)
    assert registry.digest() == before
    text = (tmp_path / "rules.py").read_text()
    (tmp_path / "rules.py").write_text("# a comment\n" + text)
    assert registry.digest() == before
    (tmp_path / "rules.py").write_text(text.replace("step_size * grad", "step_size / grad", 1))
    assert registry.digest() != before


@pytest.mark.parametrize("rule", registry.rules().values(), ids=lambda rule: rule.name)
def test_rules_have_the_form_that_the_renderer_reads(rule: dialect.Rule) -> None:
    signature = list(inspect.signature(getattr(rules, rule.name)).parameters)
    assert signature == [*rule.operands, *rule.coefficients]


def numbers_of(spec: Spec) -> set[str]:
    """What the coefficient functions of a convention can see."""
    return {*spec.constants, *(part for name in spec.defaults for part in spec.parts(name))}


def test_the_table_of_optimizers_fits_the_rules() -> None:
    used, used_functions, before_all = set(), set(), set()
    specs = [spec_of(name, convention) for name in SPECS for convention in conventions_of(name)]
    for spec in specs:
        known = {"step", "lr", *spec.carried, *spec.common}
        for name in spec.rules.values():
            terms = registry.terms(name)
            known |= set() if terms is None else {*terms.names, "numel"}
        known |= spec.numbers(spec.convert(spec.defaults)).keys()
        # What a convention does not have is 0.
        absent = {part for each in specs if each.coefficients == spec.coefficients for part in numbers_of(each)}
        for name in spec.rules.values():
            rule = registry.rule(name)
            used.add(name)
            before, *functions = map(registry.coefficient_function, spec.stages(name))
            before_all.add(before.name)
            used_functions |= {each.name for each in functions}
            arguments = {argument for each in functions for argument in each.arguments}
            assert arguments <= {*known, *absent}
            assert set(spec.constants) <= {*arguments, *before.arguments}
            shared = registry.rule_functions()["regularize"].arguments[2:]
            assert before.returned_names[: len(shared)] == shared
            results = {result for each in (before, *functions) for result in each.returned_names}
            assert set(rule.coefficients) <= results, f"{spec.stages(name)} for {name}"
            assert name in spec.costs
            assert {*spec.initial, *spec.starts_as_param} <= set(rule.states)
    assert used == set(registry.rules()), "a rule that no optimizer uses"
    around = {"preparation", "averaging", "constraint", "evaluation", *before_all}
    functions = {name for name, each in registry.coefficient_functions().items() if each.returned_names} - around
    own = {name for name in functions if not registry.coefficient_function(name).returned_names[0].endswith(SHARED)}
    assert used_functions == own, "a coefficient function that no optimizer uses"


@pytest.mark.parametrize("name", registry.coefficient_functions())
def test_compiled_coefficient_functions_are_the_python_ones(name: str) -> None:
    import ctypes

    function = registry.coefficient_function(name)
    native_function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(native.coefficient_function(name))
    random = np.random.default_rng(5)
    for step in (1, 2, 3, 10, 1000, 2**31 + 1, 10**12):
        values = random.uniform(0.01, 0.99, len(function.arguments))
        for index, argument in enumerate(function.arguments):
            values[index] = step if argument == "step" else values[index]
            if argument == "ema_overwrite_frequency":
                values[index] = 5
            if argument in FLAGS:
                values[index] = step % 2
        results = np.empty(len(function.returns))
        native_function(values.ctypes.data, results.ctypes.data)
        returned = getattr(coefficients, name)(*values.tolist())
        expected = [float(value) for value in (returned if isinstance(returned, tuple) else (returned,))]
        assert results.tolist() == expected


def instructions_of_loops(path: str) -> dict[str, str]:
    """Disassembly of each loop and each sum in a compiled module; "adam sharing": the loop that shares its roots."""
    text = subprocess.run(
        [OBJDUMP, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    blocks = re.split(r"\n[0-9a-f]+ <([^>]*)>:\n", text)
    found: dict[str, str] = {}
    names = sorted((*registry.loops(), *registry.sum_functions()), key=len, reverse=True)
    for name, body in zip(blocks[1::2], blocks[2::2], strict=True):
        match = re.search(r"([a-z_0-9]+)_(?:loop|over|sum)_(float32|float64)", name)
        if match:
            loop = next(each for each in names if match[1].removesuffix("_sharing").endswith("_" + each))
            key = f"{loop} sharing" if match[1].endswith("_sharing") else f"{loop} {match[2]}"
            found[key] = found.get(key, "") + body
    return found


ARITHMETIC = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}


def arithmetic_of(loop: registry.Loop) -> set[str]:
    """The arithmetic that must appear packed; what operations multiply can be the same for all elements."""
    functions = [function for function, _, _ in loop.calls]
    known = {**registry.rule_functions(), **registry.operation_functions()}
    found = set()
    for function in functions:
        for each in (function, *dialect.called_functions(function, known)):
            for part in (*each.body, *each.returns):
                for node in ast.walk(part):
                    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
                        found.add(ARITHMETIC[type(node.op)])
                    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sqrt":
                        found.add("sqrt")
    return found & ({"mul", "div", "sqrt"} if loop.name in registry.rules() else {"div", "sqrt"})


@needs_objdump
@knows_instructions
@pytest.mark.parametrize("level", LEVELS)
def test_every_compiled_loop_is_vectorised(level: str) -> None:
    module = importlib.import_module(f"fastopt.kernels.native.{cpu.module_name(level)}")
    bodies = instructions_of_loops(module.__file__)
    for loop in registry.loops().values():
        for real in registry.REALS:
            body = bodies[f"{loop.name} {real}"]
            bodies_in_it = 3 if loop.alone and real in ALONE and loop.name not in SPARING else 2
            for operation in arithmetic_of(loop):
                found = re.findall(packed(operation, real, level), body)
                assert len(found) >= bodies_in_it, f"{loop.name} {real} at {level}: no packed {operation} in some loop"
            found = re.findall(moved(level), body)
            enough = len(found) >= bodies_in_it or "mem" in found[0]
            assert enough, f"{loop.name} {real} at {level}: nothing packed in some loop"
            # Squares of float32 are exact in float64: their sums have the same bits.
            exact = {"square"} & set(loop.reductions) and real == "float32"
            contracted = re.search(FUSED + (IN_SINGLE if exact else ""), body)
            assert not contracted, f"{loop.name} {real} at {level}: contracted, so other bits"


@needs_objdump
@knows_instructions
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("real", registry.REALS)
def test_every_sum_is_vectorised(level: str, real: str) -> None:
    module = importlib.import_module(f"fastopt.kernels.native.{cpu.module_name(level)}")
    assert set(module.SUMS) == {(name, each) for name in registry.sum_functions() for each in registry.REALS}
    bodies = instructions_of_loops(module.__file__)
    for name in registry.sum_functions():
        body = bodies[f"{name} {real}"]
        added = real if name in registry.counts() else "float64"
        assert len(re.findall(packed("add", added, level), body)) >= 2, f"{name} {real} at {level}"
        assert not re.search(FUSED, body)


IN_TURN = [
    pytest.param(loop, real, marks=pytest.mark.slow if (number + index) % 2 else pytest.mark.exhaustive)
    for number, loop in enumerate(registry.loops().values())
    for index, real in enumerate(registry.REALS)
]
"""Loops whose dtypes are looked at in turn, in `.ci/run`."""


@knows_instructions
@pytest.mark.parametrize(("loop", "real"), IN_TURN, ids=lambda each: getattr(each, "name", each))
def test_every_numba_loop_is_vectorised(loop: registry.Loop, real: str) -> None:
    assembly = machine_code.assembly(numba_loops.loop_text(loop.name, real))
    for operation in arithmetic_of(loop):
        assert re.search(packed(operation, real, ""), assembly), f"no packed {operation}"
    assert re.search(moved("") + "|mem(set|cpy|move)", assembly), "nothing packed"
    assert not re.search(FUSED, assembly)


def test_operations_have_the_form_that_the_renderer_reads() -> None:
    assert not set(registry.operation_functions()) & {*registry.rule_functions(), *registry.sum_functions()}
    for operation in registry.operations().values():
        parameters = inspect.signature(getattr(operations, operation.name)).parameters.values()
        positional = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        assert (positional, keywords) == (list(operation.reads), list(operation.coefficients))


OUTSIDE = [
    ("if a > 0:\n        a = b\n    return a", 2, "only assignments"),
    ("for i in a:\n        pass\n    return a", 2, "only assignments"),
    ("a += b\n    return a", 2, "only assignments"),
    ("a = b if a > 0 else a\n    return a", 2, "outside of the dialect"),
    ("a = a.real\n    return a", 2, "outside of the dialect"),
    ("a = a // b\n    return a", 2, "outside of the dialect"),
    ("a = a[0]\n    return a", 2, "outside of the dialect"),
    ("a = 'x'\n    return a", 2, "outside of the dialect"),
    ("b = a\n    return exp(b)", 3, r"exp\(\) is not in the vocabulary"),
    ("return sqrt(a, b)", 2, r"sqrt\(\) takes 1 arguments, got 2"),
    ("return select(a, b, a)", 2, "condition of select"),
    ("return a + c", 2, "'c' is not defined here"),
    ("return 0 < a < b", 2, "outside of the dialect"),
    ("a = b", 2, "must return a value"),
    ("a, b[0] = a, b\n    return a", 2, "one plain name"),
]


@pytest.mark.parametrize(("body", "line", "message"), OUTSIDE, ids=[each[0].split("\n")[0] for each in OUTSIDE])
def test_what_is_outside_of_the_dialect_is_refused_with_its_line(
    body: str, line: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "rules.py"
    path.write_text(f"def rule(a, b):\n    {body}\n")
    with pytest.raises(dialect.DialectError, match=message) as caught:
        dialect.read_module(path)
    assert caught.value.filename == str(path)
    assert caught.value.lineno == line


def test_keyword_arguments_and_defaults_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rules.py"
    path.write_text("def rule(a, b=1):\n    return a\n")
    with pytest.raises(dialect.DialectError, match="plain arguments only"):
        dialect.read_module(path)

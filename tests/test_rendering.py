"""What is compiled is what `rules.py` says, in vector instructions; what is outside of the dialect is refused."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fastopt.kernels import _coefficients, coefficients, cpu, dialect, native, numba_loops, render, rules
from fastopt.specs import SPECS

LEVELS = [
    level for level in (*cpu.LEVELS, cpu.OTHER) if importlib.util.find_spec(f"fastopt.kernels.{cpu.module_name(level)}")
]
REGISTERS = {"x86-64": "xmm", "x86-64-v3": "ymm", "x86-64-v4": "zmm"}


@pytest.mark.parametrize("level", LEVELS)
def test_every_compiled_module_was_rendered_from_these_rules(level: str) -> None:
    module = importlib.import_module(f"fastopt.kernels.{cpu.module_name(level)}")
    assert module.DIGEST == render.digest() == _coefficients.DIGEST, (
        "the rules have changed since the build; build again"
    )
    assert level == module.LEVEL
    assert set(module.ADDRESSES) == {(rule, real) for rule in render.rules() for real in render.REALS}


def test_any_change_of_a_formula_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = render.digest()
    for name in ("rules.py", "coefficients.py"):
        shutil.copy(render.HERE / name, tmp_path / name)
    monkeypatch.setattr(render, "HERE", tmp_path)
    assert render.digest() == before
    text = (tmp_path / "rules.py").read_text()
    (tmp_path / "rules.py").write_text("# a comment\n" + text)
    assert render.digest() == before
    (tmp_path / "rules.py").write_text(text.replace("step_size * grad", "step_size / grad", 1))
    assert render.digest() != before


@pytest.mark.parametrize("rule", render.rules().values(), ids=lambda rule: rule.name)
def test_rules_have_the_form_that_the_renderer_reads(rule: dialect.Rule) -> None:
    signature = list(inspect.signature(getattr(rules, rule.name)).parameters)
    assert signature == [*rule.streams, *rule.coefficients]


def test_the_table_of_optimizers_fits_the_rules() -> None:
    used = set()
    for spec in SPECS.values():
        for name in spec.rules.values():
            rule = render.rules()[name]
            used.add(name)
            assert name in spec.costs
            for convention in spec.coefficients.values():
                function = render.coefficient_functions()[convention]
                assert set(rule.coefficients) <= set(function.returned_names), f"{convention} for {name}"
                known = {"step", *(key for key in spec.numbers(spec.convert(spec.defaults)))}
                assert set(function.arguments) <= known
            assert set(spec.initial) <= set(rule.states)
    assert used == set(render.rules()), "a rule that no optimizer uses"


@pytest.mark.parametrize("name", render.coefficient_functions())
def test_compiled_coefficient_functions_are_the_python_ones(name: str) -> None:
    import ctypes

    function = render.coefficient_functions()[name]
    native_function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(native.coefficient_function(name))
    random = np.random.default_rng(5)
    for step in (1, 2, 3, 10, 1000, 2**31 + 1, 10**12):
        values = random.uniform(0.01, 0.99, len(function.arguments))
        for index, argument in enumerate(function.arguments):
            values[index] = step if argument == "step" else values[index]
            if argument in ("maximize", "decoupled_weight_decay"):
                values[index] = step % 2
        results = np.empty(len(function.returns))
        native_function(values.ctypes.data, results.ctypes.data)
        expected = [float(value) for value in getattr(coefficients, name)(*values.tolist())]
        assert results.tolist() == expected


def instructions_of_loops(path: str) -> dict[str, str]:
    """Disassembly of each loop in a compiled module."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    blocks = re.split(r"\n[0-9a-f]+ <([^>]*)>:\n", text)
    found: dict[str, str] = {}
    for name, body in zip(blocks[1::2], blocks[2::2], strict=True):
        match = re.search(r"([a-z_]+)_(?:loop|over)_(float32|float64)", name)
        if match:
            rule = next(each for each in sorted(render.rules(), key=len, reverse=True) if match[1].endswith("_" + each))
            found[f"{rule} {match[2]}"] = found.get(f"{rule} {match[2]}", "") + body
    return found


def operations_of(rule: dialect.Rule) -> set[str]:
    """The arithmetic that must appear packed: every loop multiplies; some divide and take roots."""
    functions = render.rule_functions()
    text = " ".join(
        inspect.getsource(getattr(rules, function.name))
        for function in (rule.function, *dialect.called_functions(rule.function, functions))
    )
    return {"mul"} | ({"div"} if "/" in text else set()) | ({"sqrt"} if "sqrt" in text else set())


@pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump, of binutils")
@pytest.mark.skipif(not native.CAPABILITIES["x86_64"], reason="looks for x86-64 instructions")
@pytest.mark.parametrize("level", LEVELS)
def test_every_compiled_loop_is_vectorised(level: str) -> None:
    module = importlib.import_module(f"fastopt.kernels.{cpu.module_name(level)}")
    loops = instructions_of_loops(module.__file__)
    for rule in render.rules().values():
        for real, suffix in (("float32", "ps"), ("float64", "pd")):
            body = loops[f"{rule.name} {real}"]
            for operation in operations_of(rule):
                packed = re.findall(rf"\bv?{operation}{suffix}\b.*%{REGISTERS[level]}", body)
                assert len(packed) >= 2, f"{rule.name} {real} at {level}: no packed {operation} in both loops"
            assert "fmadd" not in body, f"{rule.name} {real} at {level}: contracted, so other bits"


@pytest.mark.skipif(not native.CAPABILITIES["x86_64"], reason="looks for x86-64 instructions")
@pytest.mark.parametrize("rule", render.rules().values(), ids=lambda rule: rule.name)
@pytest.mark.parametrize("real", render.REALS)
def test_every_numba_loop_is_vectorised(rule: dialect.Rule, real: str) -> None:
    assembly = numba_loops.compiled_loop(rule.name, real)._library.get_asm_str()
    suffix = "ps" if real == "float32" else "pd"
    for operation in operations_of(rule):
        assert re.search(rf"\bv?{operation}{suffix}\b", assembly), f"no packed {operation}"
    assert "fmadd" not in assembly


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
    ("a, b[0] = a, b\n    return a", 2, "plain names"),
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

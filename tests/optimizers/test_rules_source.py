"""Rules whose source Python does not keep: it is given, or found in the command that Python runs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt import rules

TEXT = '''
from fastopt.rules import select, sqrt

def twice(x):
    return 2 * x

def rates(step, lr, beta: "no type"):
    """Coefficients."""
    step_size = twice(lr) / (1 - beta**step)
    return step_size, beta

def Mine(param, grad, exp_avg, step_size, beta):
    """A rule."""
    exp_avg = exp_avg + (1 - beta) * (grad - exp_avg)
    param = param - step_size * select(exp_avg > 0, sqrt(exp_avg), twice(exp_avg))
    return param, exp_avg
'''
ARGUMENTS: dict[str, Any] = {"state": ("exp_avg",), "hyper": {"lr": 0.5, "beta": 0.75}, "domain": {"beta": "[0, 1)"}}


def executed(text: str = TEXT) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(text, namespace)
    return namespace


def made(text: str = TEXT, **more: Any) -> Any:
    names = executed(text)
    return fastopt.rule(**ARGUMENTS, coefficients=names["rates"], source=text, **more)(names["Mine"])


def after_steps(cls: Any, **options: Any) -> bytes:
    w = np.linspace(-1, 1, 7)
    optimizer = cls(w, **options)
    for step in range(3):
        optimizer.step(np.sin(3 * w + step))
    return w.tobytes()


def from_a_file(tmp_path: Any) -> Any:
    import importlib.util

    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    spec = importlib.util.spec_from_file_location("mine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return fastopt.rule(**ARGUMENTS, coefficients=module.rates)(module.Mine)


def test_a_rule_of_executed_text(tmp_path: Any) -> None:
    """The same rule as from a file, for every backend."""
    cls, expected = made(), from_a_file(tmp_path)
    assert cls.spec.rules == expected.spec.rules
    for backend in ("numba", "reference"):
        assert after_steps(cls, backend=backend) == after_steps(expected, backend=backend)


def test_indented_text_and_functions_in_functions() -> None:
    text = """
        def make():
            def Mine(param, grad, lr):
                param = param - lr * grad
                return param
            return Mine
    """
    names = executed(text.replace("\n        ", "\n"))
    cls = fastopt.rule(state=(), hyper={"lr": 1.0}, source=text)(names["make"]())
    w = np.zeros(3)
    cls(w).step(np.ones(3))
    assert (w == -1).all()


def test_the_right_one_of_two_of_a_name() -> None:
    text = TEXT + TEXT.replace("param - step_size", "param - 3 * step_size")
    assert after_steps(made(text)) == after_steps(made(TEXT.replace("param - step_size", "param - 3 * step_size")))
    assert after_steps(made(text)) != after_steps(made())


def test_what_source_lacks_is_read_from_files() -> None:
    """A helper of a module, called by a rule of executed text."""
    text = "def Mine(param, grad, lr):\n    param = param - lr * helper(grad)\n    return param\n"
    names: dict[str, Any] = {"helper": helper}
    exec(text, names)
    cls = fastopt.rule(state=(), hyper={"lr": 1.0}, source=text)(names["Mine"])
    w = np.zeros(3)
    cls(w).step(np.ones(3))
    assert (w == -3).all()


def helper(x):  # type: ignore[no-untyped-def]
    return 3 * x


def test_errors_show_the_line_of_the_text() -> None:
    text = TEXT.replace("param - step_size", "param - np.sqrt(grad) * step_size")
    with pytest.raises(rules.DialectError, match="no dot") as error:
        made(text)
    assert error.value.lineno == text.split("param - np")[0].count("\n") + 1
    assert error.value.text is not None
    assert "np.sqrt(grad)" in error.value.text


WRONG: list[tuple[Any, type[Exception], str]] = [
    (TEXT.replace("twice(exp_avg)", "exp_avg"), rules.SourceError, "source has a function Mine, but .*code differs"),
    (TEXT.replace("2 * x", "3 * x"), rules.SourceError, "source has a function twice, but it is not the one"),
    (TEXT.replace("def Mine", "def Other"), rules.SourceError, "the source of Mine cannot be read.*with source="),
    ("def Mine(", rules.SourceError, "source is not Python"),
    (3, TypeError, "source must be a string, .*got 3"),
]


@pytest.mark.parametrize(("source", "error", "match"), WRONG, ids=[each[2] for each in WRONG])
def test_a_source_that_does_not_fit(source: Any, error: type[Exception], match: str) -> None:
    names = executed()
    with pytest.raises(error, match=match):
        fastopt.rule(**ARGUMENTS, coefficients=names["rates"], source=source)(names["Mine"])


COMMAND = """
import fastopt, numpy as np
@fastopt.rule(state=(), hyper=dict(lr=1.0))
def Mine(param, grad, lr):
    param = param - lr * grad
    return param
w = np.zeros(3)
Mine(w, backend="reference").step(np.ones(3))
print(w.tolist())
"""
TYPED = """
import fastopt, numpy as np
text = '''
def Mine(param, grad, lr):
    param = param - lr * grad
    return param
'''
exec(text)
w = np.zeros(3)
fastopt.rule(state=(), hyper=dict(lr=1.0), source=text)(Mine)(w, backend="reference").step(np.ones(3))
print(w.tolist())
"""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["-c", COMMAND], ""), (["-Wignore", "-Bc", COMMAND], ""), (["-c", TYPED], ""), (["-"], TYPED), (["-i"], TYPED)],
    ids=["-c", "-c with options", "exec in -c", "-", "-i"],
)
def test_commands_and_interpreters(arguments: list[str], text: str) -> None:
    done = subprocess.run([sys.executable, *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[-1.0, -1.0, -1.0]", done.stderr


def test_an_interpreter_without_source_says_what_to_do() -> None:
    done = subprocess.run([sys.executable, "-"], input=COMMAND, capture_output=True, text=True, check=False)
    assert "give the text that has it with source=" in done.stderr

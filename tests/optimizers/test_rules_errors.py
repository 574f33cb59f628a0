"""What is no rule is refused with its line, and a rule that was changed is another."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from custom_momentum import Momentum

from fastopt import rules

# --- changed rules --------------------------------------------------------------------------------------------------

SOURCE = """\
from fastopt import rule
from fastopt.rules import {words}

{before}
@rule(state=("exp_avg",), hyper=dict(lr=1.0, beta=0.5){more})
def Mine({arguments}):
    {body}
"""

counter = itertools.count()


def load(tmp_path: Path, body: str, **parts: str) -> ModuleType:
    path = tmp_path / f"mine_{next(counter)}.py"
    arguments = {"words": "sqrt, select", "before": "", "more": "", "arguments": "param, grad, exp_avg, lr, beta"}
    path.write_text(SOURCE.format(**{**arguments, **parts, "body": body}))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


GOOD = "exp_avg = {} * grad\n    param = param - lr * exp_avg\n    return param, exp_avg"


def test_a_changed_rule_is_another(tmp_path: Path) -> None:
    results = []
    for factor in (1, 2, 1):
        w = np.zeros(3)
        load(tmp_path, GOOD.format(factor)).Mine(w).step(np.ones(3))
        results.append(w[0])
    assert results == [-1, -2, -1]


def test_a_changed_helper_or_coefficient_is_another(tmp_path: Path) -> None:
    def result(**parts: str) -> float:
        w = np.zeros(3)
        load(tmp_path, GOOD.format("twice(beta)").replace("twice", "helper"), **parts).Mine(w).step(np.ones(3))
        return float(w[0])

    assert [result(before=f"def helper(x):\n    return x * {each}\n") for each in (2, 3)] == [-1.0, -1.5]
    rates = "def rates(step, lr, beta):\n    lr = lr * {}\n    return lr, beta\n\ndef helper(x):\n    return x\n"
    found = [result(before=rates.format(each), more=", coefficients=rates") for each in (2, 3)]
    assert found == [-1.0, -1.5]


def test_a_file_that_changed_since_it_was_loaded_is_not_compiled(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    text = "def mine(param, grad, lr):\n    param = param - {} * lr * grad\n    return param\n"
    path.write_text(text.format(1))
    spec = importlib.util.spec_from_file_location("changing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path.write_text(text.format(22))
    with pytest.raises(rules.SourceError, match="was changed since it was loaded"):
        rules.rule(state=(), hyper={"lr": 1.0})(module.mine)


def test_without_source_there_is_no_rule() -> None:
    namespace: dict[str, Any] = {}
    exec("def mine(param, grad, lr):\n    param = param - lr * grad\n    return param", namespace)
    with pytest.raises(rules.SourceError, match=r"the source of mine cannot be read.*write it with def"):
        rules.rule(state=(), hyper={"lr": 1.0})(namespace["mine"])
    with pytest.raises(rules.SourceError, match="written with def"):
        rules.rule(state=(), hyper={"lr": 1.0})(lambda param, grad, lr: param - lr * grad)
    with pytest.raises(TypeError, match="a plain function is needed"):
        rules.rule(state=(), hyper={"lr": 1.0})(np.sqrt)


# --- what is refused --------------------------------------------------------------------------------------------------

R = "\n    return param, exp_avg"
# (what it is, body, other parts, line within the file, message)
OUTSIDE: list[tuple[str, str, dict[str, str], int, str]] = [
    ("if", "if grad > 0:\n        param = param - lr" + R, {}, 7, r"write select\(condition"),
    ("conditional", "param = param if grad > 0 else -param" + R, {}, 7, r"write select\("),
    ("augmented", "param -= lr * grad" + R, {}, 7, r"write `name = name"),
    ("power", "exp_avg = exp_avg\n    param = param - lr * grad**2" + R, {}, 8, r"powers are for coefficient.*x \* x"),
    ("loop", "for i in range(3):\n        param = param - lr" + R, {}, 7, "no loops"),
    ("comparison", "param = param - lr * (grad > 0)" + R, {}, 7, "only be the condition of select"),
    ("two comparisons", "param = select(0 < grad < 1, param, grad)" + R, {}, 7, "must be one comparison"),
    ("no comparison", "param = select(grad, param, grad)" + R, {}, 7, "must be one comparison"),
    ("attribute", "param = np.sqrt(grad)" + R, {"before": "import numpy as np\n"}, 8, "'np.sqrt.*no dot"),
    ("subscript", "param = param[0]" + R, {}, 7, "nothing to index"),
    ("matrix product", "param = param @ grad" + R, {}, 7, "rows and columns, matrices and sorting are beyond them"),
    ("transposed", "param = param.T" + R, {}, 7, "rows and columns, matrices and sorting are beyond them"),
    ("index of a row", "param = grad[0]" + R, {}, 7, "rows and columns, matrices and sorting are beyond them"),
    ("mean of rows", "param = grad.mean(axis=0)" + R, {}, 7, "rows and columns, matrices and sorting are beyond them"),
    ("mean of all", "param = grad.mean()" + R, {}, 7, "to know of all together, `sums` adds up"),
    ("norm", "param = np.linalg.norm(grad)" + R, {"before": "import numpy as np\n"}, 8, "`sums` adds up"),
    ("sum", "param = param - lr * sum(grad)" + R, {}, 7, r"sum\(\) is not in the vocabulary.*`sums` adds up"),
    ("sorting", "param = sorted(grad)" + R, {}, 7, "matrices and sorting are beyond them"),
    (
        "a function of NumPy", "param = median(grad)" + R,
        {"before": "from numpy import median\n"}, 8, "no plain function.*matrices and sorting are beyond them",
    ),
    ("global", "param = param - RATE * grad" + R, {"before": "RATE = 0.5\n"}, 8, "'RATE' is not defined here"),
    ("abs", "param = abs(param)" + R, {}, 7, r"abs\(\) is not in the vocabulary.*write maximum\(x, -x\)"),
    ("other word", "param = sqrt(param)" + R, {"words": "sign", "before": "from math import sqrt\n"}, 8, "fastopt"),
    ("no import", "param = sign(param)" + R, {}, 7, "sign is not defined here; write `from fastopt.rules import sign`"),
    ("arity", "param = select(grad > 0, param)" + R, {}, 7, r"select\(\) takes 3 arguments, got 2"),
    ("string", "param = 'a'" + R, {}, 7, "outside of the dialect"),
    ("two targets", "param, exp_avg = exp_avg, param" + R, {}, 7, "one plain name"),
    ("logarithm", "param = log(param)" + R, {"words": "log"}, 7, "logarithms are for coefficient functions only"),
    ("word as a name", "sqrt = param" + R, {}, 7, "'sqrt' is a function here"),
    ("no return", "param = param - lr * grad", {}, 7, "must return a value"),
    ("returns less", "param = param - lr\n    return param", {}, 8, "must return param, exp_avg; it returns param"),
    ("returns other", "return exp_avg, param", {}, 7, "must return param, exp_avg; it returns exp_avg, param"),
    ("returns twice", "return param - lr, param + 1", {}, 7, "it returns param - lr, param"),
    ("arguments", "return param, exp_avg", {"arguments": "param, exp_avg, lr, beta"}, 6, "must begin with"),
    ("unknown argument", "return param, exp_avg", {"arguments": "param, grad, exp_avg, lr, gamma"}, 6, "'gamma'"),
    ("default", "return param, exp_avg", {"arguments": "param, grad, exp_avg, lr=1"}, 6, "without defaults"),
    ("weight decay", "return param, exp_avg", {"arguments": "param, grad, exp_avg, weight_decay"}, 6, "'weight_decay'"),
    (
        "helper", "param = helper(param)" + R,
        {"before": "def helper(x):\n    return x.real\n"}, 5, "no dot",
    ),
    (
        "helper of two", "param = helper(param)" + R,
        {"before": "def helper(x):\n    return x, x\n"}, 9, "returns 2 values",
    ),
    (
        "alias", "param = other(param)" + R,
        {"before": "def helper(x):\n    return x\nother = helper\n"}, 10, r"other\(\) is another name of helper\(\)",
    ),
    (
        "array", "param = table(param)" + R,
        {"before": "import numpy\ntable = numpy.zeros(3)\n"}, 9, r"table\(\) is array\(.*no plain function",
    ),
    (
        "recursion", "param = helper(param)" + R,
        {"before": "def helper(x):\n    return helper(x)\n"}, 5, "calls itself",
    ),
    (
        "coefficients", "return param, exp_avg",
        {"before": "def rates(lr):\n    return lr\n", "more": ", coefficients=rates"}, 5, "beta is missing",
    ),
    (
        "coefficients take", "return param, exp_avg",
        {"before": "def rates(lr, gamma):\n    return lr\n", "more": ", coefficients=rates"}, 4, "'gamma'",
    ),
    (
        "coefficients return", "return param, exp_avg",
        {"before": "def rates(lr, beta):\n    return lr, 1 - beta\n", "more": ", coefficients=rates"}, 5, "by name",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("what", "body", "parts", "line", "message"), OUTSIDE, ids=[each[0] for each in OUTSIDE])
def test_what_is_outside_of_the_dialect_is_refused_with_its_line(
    what: str, body: str, parts: dict[str, str], line: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(rules.DialectError, match=message) as caught:
        load(tmp_path, body, **parts)
    assert caught.value.filename is not None
    assert Path(caught.value.filename).parent == tmp_path
    assert caught.value.lineno == line
    assert caught.value.text
    assert caught.value.text.strip() in Path(caught.value.filename).read_text()


ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"state": "exp_avg"}, TypeError, "state must be a tuple of names, or a dict, got 'exp_avg'"),
    ({"state": 3}, TypeError, "state must be a tuple of names"),
    ({"state": (3,)}, TypeError, "state must be names, got 3"),
    ({"state": ("a b",)}, ValueError, "state: 'a b' is no name"),
    ({"state": ("lambda",)}, ValueError, "state: 'lambda' is no name"),
    ({"state": ("step",)}, ValueError, "state: 'step' is taken"),
    ({"state": ("param_i",)}, ValueError, "state: 'param_i' is taken"),
    ({"state": ("lr",)}, ValueError, "state: 'lr' is taken"),
    ({"state": ("a", "a")}, ValueError, "state has a name twice"),
    ({"state": tuple("abcdefg")}, ValueError, "at most 6 arrays, got 7"),
    ({"state": {"a": "nothing"}}, ValueError, "starts with 'nothing', which is no number in hyper, nor 'param'"),
    ({"state": {"a": "param"}, "unsigned": ("a",)}, ValueError, "unsigned has 'a', which starts with 'param'"),
    ({"state": {"a": float("nan")}}, ValueError, "must start with a finite number"),
    ({"hyper": ("lr",)}, TypeError, "hyper must be a dict"),
    ({"hyper": {"beta": 0.9}}, ValueError, "hyper must have 'lr'"),
    ({"hyper": {"lr": "1"}}, TypeError, "hyper['lr'] must be a real number"),
    ({"hyper": {"lr": -1.0}}, ValueError, "Invalid learning rate: -1"),
    ({"hyper": {"lr": 1.0, "step": 3.0}}, ValueError, "hyper: 'step' is taken"),
    ({"hyper": {"lr": 1.0, "sqrt": 3.0}}, ValueError, "hyper: 'sqrt' is taken"),
    ({"hyper": {"lr": 1.0, "clip_value": 3.0}}, ValueError, "hyper: 'clip_value' is taken"),
    ({"hyper": {"lr": 1.0, "decay": 0.1}}, ValueError, "hyper: 'decay' is taken"),
    ({"hyper": {"lr": 1.0, "maximize": 1.0}}, TypeError, "hyper['maximize'] must be True or False"),
    ({"hyper": {"lr": 1.0, "beta": float("inf")}}, ValueError, "expected a finite number"),
    ({"domain": {"gamma": "[0, 1)"}}, ValueError, "domain has 'gamma', which is no number in hyper"),
    ({"domain": {"lr": "0 to 1"}}, ValueError, "domain['lr'] must be an interval"),
    ({"domain": {"lr": "[1, 0]"}}, ValueError, "domain['lr'] must be an interval"),
    ({"domain": {"lr": "[0, 1)"}}, ValueError, "Invalid lr value: 1 (expected lr in [0, 1))"),
    ({"domain": ["lr"]}, TypeError, "domain must be a dict"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), ARGUMENTS, ids=[each[2] for each in ARGUMENTS])
def test_wrong_arguments_are_named(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    def mine(param, grad, lr):  # type: ignore[no-untyped-def]
        return param - lr * grad

    with pytest.raises(error, match=re.escape(message)):
        rules.rule(**{"state": (), "hyper": {"lr": 1.0}, **wrong})(mine)


def test_without_parentheses_it_says_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"write @fastopt.rule\(state="):
        rules.rule(lambda param: param)  # type: ignore[call-arg,arg-type]
    with pytest.raises(TypeError, match="hyper"):
        rules.rule(state=())  # type: ignore[call-arg]


WRONG_USE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -1}, ValueError, "Invalid learning rate: -1"),
    ({"beta": 1.0}, ValueError, "Invalid beta value: 1 (expected beta in [0, 1))"),
    ({"beta": "0.9"}, TypeError, "beta must be a real number, got '0.9'"),
    ({"nesterov": 1.0}, TypeError, "nesterov must be True or False"),
    ({"betas": (0.9, 0.99)}, TypeError, "Momentum() got an unexpected keyword argument 'betas'"),
    ({"convention": "keras"}, ValueError, "no convention='keras'"),
    ({"convention": "other"}, ValueError, "no convention='other'"),
    ({"backend": "cython"}, ValueError, "backend='cython' has loops for built-in rules only"),
    ({"backend": "other"}, ValueError, "unknown backend: 'other'"),
    ({"decay": 0.1}, TypeError, "unexpected keyword argument 'decay'"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG_USE, ids=[each[2] for each in WRONG_USE])
def test_wrong_use_of_the_class_is_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Momentum(np.zeros(3), **options)


def test_a_rate_can_be_positional_and_only_once() -> None:
    assert Momentum(np.zeros(3), 0.5).param_groups[0]["lr"] == 0.5
    with pytest.raises(TypeError, match=r"Momentum\(\): multiple values for argument 'lr'"):
        Momentum(np.zeros(3), 0.5, lr=0.5)
    with pytest.raises(ValueError, match="unknown key 'gamma'"):
        Momentum([{"params": np.zeros(3), "gamma": 1}])

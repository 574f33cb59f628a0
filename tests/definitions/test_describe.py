"""`describe()`: what it prints is what is done."""

from __future__ import annotations

import ast
import io
import math
from typing import Any

import numpy as np
import pytest
from cases import CASES, CONVENTION_CASES, Case

import fastopt
from fastopt.command.main import main
from fastopt.definitions.conventions import conventions_of
from fastopt.definitions.describe import update_lines
from fastopt.definitions.specs import SPECS
from fastopt.rules import maximum

NAMES: dict[str, Any] = {
    "sqrt": math.sqrt,
    "abs": abs,
    "max": max,
    "sign": np.sign,
    "clip": lambda x, low, high: min(max(x, low), high),
    "select": lambda condition, if_true, if_false: if_true if condition else if_false,
}


def described(optimizer: fastopt.Optimizer) -> str:
    file = io.StringIO()
    optimizer.describe(file)
    return file.getvalue()


NAMES_OF_ARRAYS: dict[str, Any] = {
    "sqrt": np.sqrt,
    "abs": np.abs,
    "max": np.maximum,
    "sum": np.sum,
    "sum_over_all": np.sum,
    "sign": np.sign,
    "select": np.where,
    "inf": math.inf,
}


class _Choices(ast.NodeTransformer):
    """Choices between arrays, element by element."""

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return ast.Call(ast.Name("select", ast.Load()), [node.test, node.body, node.orelse], [])


def run_lines(lines: list[str], variables: dict[str, Any], names: dict[str, Any] = NAMES) -> None:
    """Run printed assignments element by element, as Python."""
    for line in lines:
        name, _, expression = line.partition(" = ")
        code = expression.replace("^", "**").replace(" = ", " == ")
        tree = _Choices().visit(ast.parse(code, mode="eval"))
        variables[name] = np.float64(eval(compile(ast.fix_missing_locations(tree), "", "eval"), names, variables))


@pytest.mark.parametrize("case", [case for case in CASES if case.has_sums], ids=str)
def test_the_printed_lines_of_rules_with_sums_are_the_update(case: Case, rng: np.random.Generator) -> None:
    param = rng.standard_normal(5)
    follow_lines(case.make(param), param, rng)


def size_before(grad: Any, exp_avg: Any) -> Any:
    size = exp_avg * grad
    return size


def rate_of_size(lr: Any, beta: Any, size: Any) -> Any:
    rate = lr / maximum(size, 1)
    return rate, beta


def test_a_state_that_changes_after_it_was_added_up(rng: np.random.Generator) -> None:
    @fastopt.rule(state=("exp_avg",), hyper={"lr": 0.1, "beta": 0.5}, coefficients=rate_of_size, sums=size_before)
    def Late(param: Any, grad: Any, exp_avg: Any, rate: Any, beta: Any) -> Any:
        param = param - rate * exp_avg
        exp_avg = beta * exp_avg + grad
        return param, exp_avg

    param = rng.standard_normal(5)
    follow_lines(Late(param), param, rng)


def follow_lines(optimizer: fastopt.Optimizer, param: np.ndarray, rng: np.random.Generator) -> None:
    """Steps of an optimizer with sums, and what its printed lines do."""
    lines = update_lines(optimizer.spec, optimizer.param_groups[0])
    assert any(" = sum(" in line or " = sum_over_all(" in line for line in lines)
    states = {name: value for name, value in optimizer.state[0].items() if isinstance(value, np.ndarray)}
    variables = {"param": param.copy(), "numel": 5, **optimizer.spec.carried}
    variables |= {name: value.copy() for name, value in states.items()}
    variables |= optimizer.spec.common_starts(optimizer.param_groups[0])
    for t in range(1, 9):
        gradient = rng.standard_normal(5)
        optimizer.step(gradient)
        variables |= {"t": t, "grad": gradient}
        run_lines(lines, variables, NAMES_OF_ARRAYS)
    for name, value in {"param": param, **states}.items():
        np.testing.assert_allclose(variables[name], value, rtol=1e-9)


@pytest.mark.parametrize("case", [case for case in (*CASES, *CONVENTION_CASES) if not case.has_sums], ids=str)
def test_the_printed_lines_are_the_update(case: Case, rng: np.random.Generator) -> None:
    param = rng.standard_normal(3)
    optimizer = case.make(param)
    spec, group = optimizer.spec, optimizer.param_groups[0]
    lines = update_lines(spec, group)
    printed = described(optimizer)
    assert all(f"    {line}\n" in printed for line in lines)
    states = {name: value for name, value in optimizer.state[0].items() if isinstance(value, np.ndarray)}
    elements: list[dict[str, Any]] = [
        {"param": param[i], **case.spec.carried, **{name: value[i] for name, value in states.items()}} for i in range(3)
    ]
    for t in range(1, 9):
        gradient = np.where(rng.random(3) < 0.2, 0.0, rng.standard_normal(3))
        optimizer.step(gradient)
        for element, grad in zip(elements, gradient, strict=True):
            element |= {"t": t, "grad": grad}
            run_lines(lines, element)
    for name, values in {"param": param, **states}.items():
        np.testing.assert_allclose([each[name] for each in elements], values, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_the_same_as_pytorch_is_said_where_it_is(name: str) -> None:
    """Which conventions differ in their arithmetic, at torch's own hyperparameters and starts."""
    same = {
        convention
        for convention in conventions_of(name)[1:]
        if "does the same." in described(getattr(fastopt, name)(np.zeros(2), convention=convention))
    }
    expected = {
        "SGD": {"keras", "tf1", "tf_keras_legacy", "optax"},  # without momentum
        "Adam": {"optax"},
        "AdamW": {"optax"},
        "RMSprop": {"tf_keras_legacy"},
        "Adagrad": {"tf_keras_legacy"},
        "Adadelta": {"keras", "tf1", "tf_keras_legacy", "optax"},
        "Adamax": {"optax"},
        "Lion": {"keras", "optax"},
        "AdaBelief": {"optax"},
        "AdEMAMix": {"optax"},
        "ADOPT": {"optax"},
    }
    assert same == expected.get(name, set())


def test_what_differs_is_shown() -> None:
    text = described(fastopt.RMSprop(np.zeros(2), convention="tf1", lr=0.5))
    assert "Before the first step: square_avg = 1\n" in text
    assert "    param = param - 0.5 * grad / sqrt(square_avg + 1e-10)\n" in text
    theirs = "    square_avg starts with 0\n    param = param - 0.5 * grad / (sqrt(square_avg) + 1e-10)\n"
    assert f"does instead:\n{theirs}" in text
    assert "alpha 0.9 (0.99), eps 1e-10 (1e-08)" in text


def test_groups_schedules_and_what_is_done_around(capsys: pytest.CaptureFixture[str]) -> None:
    schedule = fastopt.schedules.ExponentialDecay(0.1, 100, 0.5)
    optimizer = fastopt.Adam(
        [{"params": np.zeros(2)}, {"params": np.zeros(3), "lr": schedule, "clip_value": None}],
        max_grad_norm=2.0,
        accumulate_steps=4,
        ema_decay=0.9,
    )
    optimizer.describe()
    text = capsys.readouterr().out
    first, second = text.split("Group 1:")
    assert "    step_size = 0.001 * " in first
    assert f"    lr = {schedule!r} of t - 1\n" in second
    assert "    step_size = lr * " in second
    for said in ("the mean over 4 calls", "a norm of at most 2\n", "0.9 * param_average + 0.1 * param"):
        assert said in first
        assert said in second


def test_decay_of_legacy_keras() -> None:
    text = described(fastopt.SGD(np.zeros(2), lr=0.5, decay=0.25, convention="tf_keras_legacy"))
    assert "    lr = 0.5 / (1 + (t - 1) * 0.25)\n    param = param - lr * grad\n" in text
    assert "does instead:\n    param = param - 0.5 * grad\n" in text


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "Adam", "--convention", "optax", "--set", "nesterov=True", "--set", "betas=0.5,0.75"]) == 0
    printed = capsys.readouterr().out
    optimizer = fastopt.Adam(np.zeros(1), convention="optax", nesterov=True, betas=(0.5, 0.75))
    assert printed == described(optimizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Adm"], "argument OPTIMIZER: invalid choice: 'Adm'"),
        (["Rprop", "--convention", "optax"], "optax.rprop applies each step one update late"),
        (["Adam", "--convention", "jax"], "unknown convention for Adam: 'jax'"),
        (["SGD", "--set", "rho=1"], "unexpected keyword argument 'rho'"),
        (["SGD", "--set", "lr=-1"], "Invalid learning rate: -1"),
        (["SGD", "--set", "lr"], "expected NAME=VALUE, got 'lr'"),
        (["Adam", "--set", "decay=0.1"], "no argument 'decay' with convention='torch' (it has with 'tf_keras_legacy')"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fastopt: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1

"""Describes an optimizer in formulas, read from the rules and coefficient functions that it runs, with its numbers.

This module does not hold a second copy of any formula. It simplifies a formula's text by exact arithmetic: it leaves
out terms of 0, factors of 1, choices with a known outcome, and the propagation of NaN.
"""

from __future__ import annotations

import ast
import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..kernels.formulas import registry
from ..kernels.formulas.dialect import Function
from ..kernels.formulas.rule_sums import NUMEL, Terms
from . import conventions
from .specs import SPECS, Spec

Lines = list[tuple[str, ast.expr]]
"""Assignments: (name, expression)."""

Words = tuple[Sequence[str], Sequence[str]]
"""Lines for the operations before the update, and lines for the operations after it."""


def description(
    spec: Spec, groups: Sequence[Mapping[str, Any]], around: Sequence[Words], stored: Sequence[Sequence[str]] = ()
) -> str:
    """The text of `Optimizer.describe`.

    `around` has, for each group, the lines for options around the update; `stored` those that say how the group's
    parameters and states are stored.
    """
    lines = [_title(spec)]
    for index, (group, words) in enumerate(zip(groups, around, strict=True)):
        if len(groups) > 1:
            lines.append(f"\nGroup {index}:")
        values = {name: group[name] for name in spec.defaults}
        lines.append("  " + ", ".join(f"{name}={value!r}" for name, value in values.items()))
        lines += _group_lines(spec, values, words)
        lines += stored[index] if stored else ()
    torchs = spec.defaults if spec.custom else SPECS[spec.name].defaults
    differing = {name: value for name, value in spec.defaults.items() if name in torchs and value != torchs[name]}
    if differing:
        whose = "PyTorch's" if spec.custom or spec.in_torch else "the authors'"
        shown = (f"{name} {value!r} ({torchs[name]!r})" for name, value in differing.items())
        lines.append(f"Defaults that differ from {whose} (in brackets): " + ", ".join(shown))
    return "\n".join(lines)


def _title(spec: Spec) -> str:
    if spec.custom:
        return f"{spec.name}, a custom rule"
    if spec.convention == "torch":
        return f"{spec.name}, the arithmetic of {'PyTorch' if spec.in_torch else 'its authors'}"
    called = conventions.DIFFERENCES[spec.convention][spec.name].called
    return f"{spec.name}, the arithmetic of {conventions.FRAMEWORKS[spec.convention]}: {called}"


def _torch_name(spec: Spec) -> str:
    """The name of the code that has the arithmetic of the "torch" convention."""
    return "PyTorch" if spec.custom or spec.in_torch else "The authors' code"


def _group_lines(spec: Spec, values: Mapping[str, Any], around: Words) -> list[str]:
    starts = [f"{name} = {_start(spec, values, name)}" for name in _states(spec, values)]
    lines = ["Before the first step: " + ", ".join(starts)] if starts else []
    lines.append("Step t = 1, 2, 3, ...:")
    before, after = around
    lines += [f"    {each}" for each in (*before, *update_lines(spec, values), *after)]
    return lines + _torch_lines(spec, values)


def _torch_lines(spec: Spec, values: Mapping[str, Any]) -> list[str]:
    """Lines that say how PyTorch's update with the same hyperparameters differs."""
    if spec.convention == "torch":
        return []
    torch_spec = SPECS[spec.name]
    same = {**torch_spec.defaults, **{name: value for name, value in values.items() if name in torch_spec.defaults}}
    starts = [
        f"{name} starts with {_start(torch_spec, same, name)}"
        for name in _states(torch_spec, same)
        if name in _states(spec, values) and _start(torch_spec, same, name) != _start(spec, values, name)
    ]
    own, theirs = (_by_target(*each) for each in ((spec, values), (torch_spec, same)))
    differing = {name for name in theirs if own.get(name) != theirs[name]}
    if "lr" in own:
        differing.add("param")
    known = {*update_lines(spec, values)}
    unchanged = set(theirs) - differing
    shown = [
        text
        for name, text in _texts(torch_spec, same, differing)
        if name not in unchanged and (text not in known or name in differing)
    ]
    if not starts and not shown:
        return [f"{_torch_name(spec)}, with the same hyperparameters, does the same."]
    return [
        f"{_torch_name(spec)}, with the same hyperparameters, does instead:",
        *(f"    {each}" for each in (*starts, *shown)),
    ]


def _by_target(spec: Spec, values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The new values of the parameter and of each state, with all other names substituted."""
    found: dict[str, list[str]] = {}
    for name, expression in _assignments(spec, values, name_all=False):
        found.setdefault(name, []).append(_text(expression))
    return found


def _states(spec: Spec, values: Mapping[str, Any]) -> tuple[str, ...]:
    return (*spec.common, *spec.carried, *spec.states(values))


def _start(spec: Spec, values: Mapping[str, Any], name: str) -> str:
    if name in spec.starts_as_param:
        return "param"
    source = {**spec.initial, **spec.carried, **spec.common}.get(name, 0.0)
    value = values[source] if isinstance(source, str) else source
    return repr(value) if callable(value) else _text(ast.Constant(value))


def update_lines(spec: Spec, values: Mapping[str, Any]) -> list[str]:
    """The assignments of one update, in order, with these hyperparameters substituted."""
    texts = [text for _, text in _texts(spec, values, {"param", *_states(spec, values)})]
    if callable(values["lr"]):
        texts.insert(0, f"lr = {values['lr']!r} of t - 1" + (", then:" if values.get("decay") else ""))
    return texts


def _texts(spec: Spec, values: Mapping[str, Any], wanted: set[str]) -> list[tuple[str, str]]:
    lines = _needed(_assignments(spec, values), wanted)
    return [(name, f"{name} = {_text(expression)}") for name, expression in lines]


def _assignments(spec: Spec, values: Mapping[str, Any], name_all: bool = True) -> Lines:
    """All assignments of one update, in order; unless `name_all`, only assignments to the parameter and the states."""
    rule = spec.rule(values)
    functions = dict(registry.coefficient_functions())
    functions |= {each.name: each for each in registry.functions_of_coefficients(spec.coefficients)}
    loop = registry.loop(rule)
    kept = None if name_all else {"param", *_states(spec, values)}
    stages = spec.stages(rule)
    environment: dict[str, ast.expr] = {
        name: ast.Constant(0) for stage in stages[1:] for name in functions[stage].arguments
    }
    environment |= {name: ast.Constant(value) for name, value in spec.numbers(values).items()}
    environment |= {
        "step": ast.Name("t"),
        **{name: ast.Name(name) for name in (*spec.carried, *spec.common)},
        "clip_coefficient": ast.Constant(1),  # described in words
        "update_divisor": ast.Constant(1),
    }
    lines: Lines = []
    lr: ast.expr = ast.Name("lr") if callable(values["lr"]) else ast.Constant(values["lr"])
    if values.get("decay"):
        given = {"step": ast.Name("t"), "lr": lr, "decay": ast.Constant(values["decay"])}
        lines.append(("lr", _simplified(_call(functions["decayed_rate"], given, functions))))
        lr = ast.Name("lr")
    environment["lr"] = lr
    terms = spec.terms(values)
    sums = () if terms is None else terms.names
    environment |= {name: ast.Name(name) for name in (*sums, NUMEL)}
    results: dict[str, ast.expr] = {}
    for name in stages:
        seen = dict(environment)  # each sees the hyperparameters, not the other's results
        lines += _run(functions[name], seen, functions, kept)
        results |= {result: seen[result] for result in functions[name].returned_names}
    environment |= results
    rules = {each.name: each for each in loop.functions}
    grad: ast.expr = ast.Name("grad")
    n_before = 0
    for function, arguments, targets in loop.calls:
        inner = {
            own: environment.get(given.removesuffix("_i"), ast.Name(given.removesuffix("_i")))
            for own, given in zip(function.arguments, arguments, strict=True)
        }
        operands = {name.removesuffix("_i") for name in (*loop.operands, *loop.local_names)}
        inner |= {
            own: grad if given.startswith("grad") and own == "grad" else ast.Name(given.removesuffix("_i"))
            for own, given in zip(function.arguments, arguments, strict=True)
            if given.removesuffix("_i") in operands
        }
        lines += _run(function, inner, rules, kept)
        grad = inner.get("grad", grad)
        if set(targets) <= set(loop.local_names):
            n_before = len(lines)
    if terms is None:
        return lines
    return _with_sums(lines, n_before, terms, environment, spec, values)


def _with_sums(
    lines: Lines,
    n_before: int,
    terms: Terms,
    environment: Mapping[str, ast.expr],
    spec: Spec,
    values: Mapping[str, Any],
) -> Lines:
    """The lines of an update, and those of the rule's sums before the first line that needs them.

    Lines that do not depend on sums come first, unless they are lines of the rule, those from `n_before` on, that
    change what a sum or another line reads before.
    """
    known = {(name, ast.dump(expression)) for name, expression in lines}
    loop = registry.loop(registry.terms_name(spec.rule(values)))
    functions = {each.name: each for each in loop.functions}
    inner: dict[str, ast.expr] = {}
    added: Lines = []
    read_before: set[str] = set()
    names = iter(terms.names)
    kinds = iter(zip(terms.reductions, terms.over_all, strict=True))
    for function in terms.functions:
        inner = {name: environment.get(name, ast.Name(name)) for name in function.arguments}
        inner |= {name: ast.Name(name) for name in loop.operands if name in function.arguments}
        found = _run(function, inner, functions)
        assigned_before: set[str] = set()
        for name, expression in found:
            if (name, ast.dump(expression)) not in known:
                read_before |= _names(expression) - assigned_before
            assigned_before.add(name)
        results = set(function.returned_names)
        added += [each for each in found if each[0] not in results and (each[0], ast.dump(each[1])) not in known]
        assigned = dict(found)
        for result in function.returned_names:
            reduction, over_all = next(kinds)
            term = assigned.get(result, inner[result])
            if reduction == "square":
                term = ast.BinOp(term, ast.Pow(), ast.Constant(2))
            added.append((next(names), ast.Call(ast.Name("sum_over_all" if over_all else "sum"), [term], [])))
    dependent, first, later = set(terms.names), [], []
    for index, (name, expression) in enumerate(lines):
        if _names(expression) & dependent or (index >= n_before and name in read_before):
            dependent.add(name)
            read_before |= _names(expression)
            later.append((name, expression))
        else:
            first.append((name, expression))
    return [*first, *added, *later]


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _run(
    function: Function,
    environment: dict[str, ast.expr],
    functions: Mapping[str, Function],
    kept: set[str] | None = None,
) -> Lines:
    """The assignments of a function that remain after `environment` is substituted; adds their names to `environment`.

    If `kept` is given, other names are not assigned: their expressions are substituted instead.
    """
    lines: Lines = []
    targets = [node.id for each in function.body for node in each.targets if isinstance(node, ast.Name)]
    for index, (target, statement) in enumerate(zip(targets, function.body, strict=True)):
        value = _simplified(_substituted(statement.value, environment, functions))
        # Another name for what is assigned later would then stand for the new value. What is carried to the next step
        # is an argument, and has a line in any case.
        is_alias = isinstance(value, ast.Name) and value.id not in targets[index:] and target not in function.arguments
        plain = isinstance(value, ast.Constant) or is_alias
        if plain or (kept is not None and target not in kept):
            environment[target] = value
        else:
            environment[target] = ast.Name(target)
            if not (isinstance(value, ast.Name) and value.id == target):
                lines.append((target, value))
    return lines


def _needed(lines: Lines, wanted: set[str]) -> Lines:
    """The lines that the wanted names depend on."""
    kept: Lines = []
    needed = set(wanted)
    for name, expression in reversed(lines):
        if name in needed:
            kept.append((name, expression))
            if name not in wanted and name != "grad":
                needed.discard(name)
            needed |= {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    return kept[::-1]


# --- expressions ------------------------------------------------------------------------------------------------------


class _Substitution(ast.NodeTransformer):
    """Substitutes the expressions of names, and the bodies of called functions."""

    def __init__(self, environment: Mapping[str, ast.expr], functions: Mapping[str, Function]) -> None:
        self.environment = environment
        self.functions = functions

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return copy.deepcopy(self.environment.get(node.id, node))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        assert isinstance(node.func, ast.Name)
        arguments = [self.visit(each) for each in node.args]
        function = self.functions.get(node.func.id)
        if function is None:
            return ast.Call(node.func, arguments, [])
        return _call(function, dict(zip(function.arguments, arguments, strict=True)), self.functions)


def _substituted(node: ast.expr, environment: Mapping[str, ast.expr], functions: Mapping[str, Function]) -> ast.expr:
    result: ast.expr = _Substitution(environment, functions).visit(copy.deepcopy(node))
    return result


def _call(function: Function, arguments: Mapping[str, ast.expr], functions: Mapping[str, Function]) -> ast.expr:
    """The returned expression of a function with one result, with its arguments substituted."""
    environment = dict(arguments)
    for statement in function.body:
        (target,) = (node.id for node in statement.targets if isinstance(node, ast.Name))
        environment[target] = _substituted(statement.value, environment, functions)
    return _substituted(function.returns[0], environment, functions)


_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def _number(node: ast.AST) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        return -float(node.operand.value)  # type: ignore[arg-type]
    return float(node.value) if isinstance(node, ast.Constant) else None  # type: ignore[arg-type]


def _same(one: ast.AST, other: ast.AST) -> bool:
    number = _number(one)
    return ast.dump(one) == ast.dump(other) or (number is not None and number == _number(other))


class _Simplification(ast.NodeTransformer):
    """Simplifies an expression by exact arithmetic."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        left, right = _number(node.left), _number(node.right)
        kind = type(node.op)
        if left is not None and right is not None and not (kind is ast.Div and right == 0):
            return ast.Constant(_ARITHMETIC[kind](left, right))
        if kind is ast.Mult and 0 in (left, right):
            return ast.Constant(0)
        if kind is ast.Div and left == 0:
            return ast.Constant(0)
        if kind is ast.Pow and right == 0:
            return ast.Constant(1)
        if right == {ast.Add: 0, ast.Sub: 0, ast.Mult: 1, ast.Div: 1, ast.Pow: 1}[kind]:
            return node.left
        if (kind, left) in ((ast.Add, 0), (ast.Mult, 1)):
            return node.right
        if (kind, left) in ((ast.Sub, 0), (ast.Mult, -1)):
            return ast.UnaryOp(ast.USub(), node.right)
        return self.square(node) if kind is ast.Mult else node

    def square(self, node: ast.BinOp) -> ast.AST:
        """Write x * x and y * x * x with a power."""
        if _same(node.left, node.right):
            return ast.BinOp(node.left, ast.Pow(), ast.Constant(2))
        inner = node.left
        if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Mult) and _same(inner.right, node.right):
            return ast.BinOp(inner.left, ast.Mult(), ast.BinOp(node.right, ast.Pow(), ast.Constant(2)))
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if _number(node.comparators[0]) == 0:
            node.left = _without_factor(node.left)
        left, right = _number(node.left), _number(node.comparators[0])
        if isinstance(node.ops[0], ast.Eq) and _same(node.left, node.comparators[0]):
            return ast.Constant(True)  # false for a NaN only
        if left is None or right is None:
            return node
        return ast.Constant(_COMPARISONS[type(node.ops[0])](left, right))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        assert isinstance(node.func, ast.Name)
        arguments = node.args
        numbers = [_number(each) for each in arguments]
        match node.func.id:
            case "select":
                return self.select(*arguments)
            case "sqrt" if numbers[0] is not None and numbers[0] >= 0:
                return ast.Constant(math.sqrt(numbers[0]))
            case "log" if numbers[0] is not None and numbers[0] > 0:
                return ast.Constant(math.log(numbers[0]))
            case "clip" if numbers[1:] == [-math.inf, math.inf]:
                return arguments[0]
            case "maximum" if None not in numbers:
                return ast.Constant(max(number for number in numbers if number is not None))
            case "maximum":
                if isinstance(arguments[1], ast.UnaryOp) and _same(arguments[0], arguments[1].operand):
                    return ast.Call(ast.Name("abs"), arguments[:1], [])
                return ast.Call(ast.Name("max"), arguments, [])
        return node

    def select(self, condition: ast.expr, if_true: ast.expr, if_false: ast.expr) -> ast.AST:
        if _same(if_true, if_false):
            return if_true
        if isinstance(condition, ast.Constant):
            return if_true if condition.value else if_false
        if isinstance(condition, ast.Compare) and isinstance(condition.ops[0], ast.Gt):
            pair = [condition.left, condition.comparators[0]]
            if _same(pair[0], if_true) and _same(pair[1], if_false):
                return ast.Call(ast.Name("max"), pair, [])
        return ast.IfExp(condition, if_true, if_false)


def _without_factor(node: ast.expr) -> ast.expr:
    """A product without a positive number that it begins with: its sign is the same."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        if (_number(node.left) or 0) > 0:
            return node.right
        return ast.BinOp(_without_factor(node.left), node.op, node.right)
    return node


def _simplified(node: ast.expr) -> ast.expr:
    result: ast.expr = _Simplification().visit(node)
    return result


class _Rounding(ast.NodeTransformer):
    """Rounds numbers for reading: 0.1, not 0.09999999999999998."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = float(f"{float(node.value):.10g}")  # type: ignore[arg-type]
        return ast.Constant(int(value) if value.is_integer() and abs(value) < 1e15 else value)


def _text(node: ast.expr) -> str:
    rounded = ast.fix_missing_locations(_Rounding().visit(copy.deepcopy(node)))
    text = ast.unparse(rounded).replace("1e309", "inf")
    return text.replace(" ** ", "^").replace("**", "^").replace(" == ", " = ")

"""What can be told of a rule from its text: what it costs, and whether it squares the gradient."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from .dialect import Function, Rule
from .formulas import Loop

ELEMENT = (0.06, 0.10)
"""Nanoseconds an element of float32 and of float64, one thread, everything in cache (AVX-512): reading and writing it."""

STATE = (0.04, 0.09)
"""The same for each state."""

DIVISION = (0.06, 0.20)
ROOT = (0.12, 0.45)


def cost(loop: Loop) -> tuple[float, float]:
    """About how many nanoseconds an element takes, as in `Spec.costs`: enough to tell when a thread pays for itself."""
    n_states = len(loop.streams) - 2
    nodes = [node for function in loop.functions for node in _walk(function)]
    divisions = sum(isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) for node in nodes)
    roots = sum(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sqrt" for node in nodes
    )
    single, double = (
        ELEMENT[index] + n_states * STATE[index] + divisions * DIVISION[index] + roots * ROOT[index] for index in (0, 1)
    )
    return single, double


def squares(rule: Rule, loop: Loop) -> bool:
    """Whether anything made of the gradient is multiplied by anything made of the gradient: whether it can overflow."""
    known = {function.name: function for function in loop.functions}
    found, _ = _trace(rule.function, {"grad"}, known)
    return found


def _walk(function: Function) -> Iterator[ast.AST]:
    for part in (*function.body, *function.returns):
        yield from ast.walk(part)


def _trace(function: Function, made_of_grad: set[str], known: Mapping[str, Function]) -> tuple[bool, bool]:
    """Whether a function squares the gradient, given which of its arguments are made of it; and whether its result is
    made of it."""
    names = set(made_of_grad)
    squared = False

    def visit(node: ast.AST) -> bool:
        """Whether an expression is made of the gradient."""
        nonlocal squared
        if isinstance(node, ast.Name):
            return node.id in names
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            callee = known[node.func.id]
            given = {name for name, value in zip(callee.arguments, node.args, strict=True) if visit(value)}
            inner, made = _trace(callee, given, known)
            squared = squared or inner
            return made
        children = [visit(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and all(children):
            squared = True
        return any(children)

    for statement in function.body:
        (target,) = statement.targets
        assert isinstance(target, ast.Name)
        (names.add if visit(statement.value) else names.discard)(target.id)
    results = [visit(value) for value in function.returns]
    return squared, any(results)

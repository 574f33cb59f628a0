"""Reads two things from the text of a rule: about how long it takes, and whether it squares the gradient."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from .dialect import Function, Rule
from .registry import Loop

ELEMENT = (0.06, 0.10)
"""Nanoseconds to read and write one element, of float32 and of float64: one thread, in cache (AVX-512)."""

STATE = (0.04, 0.09)
"""Nanoseconds to read and write one element of each state."""

DIVISION = (0.05, 0.15)
ROOT = (0.10, 0.45)
SELECT = (0.02, 0.04)
"""Also for each selection within another word, see `_WORDS`."""

_WORDS = {"sqrt": (1, 0), "select": (0, 1), "maximum": (0, 1), "clip": (0, 2), "sign": (0, 2)}
"""How many square roots and how many selections each word of the vocabulary takes."""


def cost(loop: Loop) -> tuple[float, float]:
    """Estimated nanoseconds per element, as in `Spec.costs`: enough to tell when another thread makes a step faster."""
    n_states = len(loop.operands) - 2
    nodes = [node for function in loop.functions[1:] for node in _walk(function)]  # the first is in ELEMENT: regularize
    divisions = sum(isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) for node in nodes)
    words = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    roots, selections = (sum(_WORDS.get(word, (0, 0))[which] for word in words) for which in (0, 1))
    counts = ((1, ELEMENT), (n_states, STATE), (divisions, DIVISION), (roots, ROOT), (selections, SELECT))
    single, double = (sum(count * each[index] for count, each in counts) for index in (0, 1))
    return single, double


def squares(rule: Rule, loop: Loop) -> bool:
    """Whether a rule multiplies two values that both depend on the gradient, so that the product can overflow."""
    known = {function.name: function for function in loop.functions}
    found, _ = _trace(rule.function, {"grad"}, known)
    return found


def _walk(function: Function) -> Iterator[ast.AST]:
    for part in (*function.body, *function.returns):
        yield from ast.walk(part)


def _trace(function: Function, made_of_grad: set[str], known: Mapping[str, Function]) -> tuple[bool, bool]:
    """Whether a function squares the gradient, and whether its result depends on the gradient; `made_of_grad` names the
    arguments that depend on it."""
    names = set(made_of_grad)
    squared = False

    def visit(node: ast.AST) -> bool:
        """Whether an expression depends on the gradient."""
        nonlocal squared
        if isinstance(node, ast.Name):
            return node.id in names
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            callee = known[node.func.id]
            given = {name for name, value in zip(callee.arguments, node.args, strict=True) if visit(value)}
            inner, made = _trace(callee, given, known)
            squared = squared or inner
            return made
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            made_of = [visit(argument) for argument in node.args]
            # A sign has magnitude 1, and the condition of `select` does not affect the magnitude of its result.
            return {"sign": False, "select": any(made_of[1:])}.get(node.func.id, any(made_of))
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

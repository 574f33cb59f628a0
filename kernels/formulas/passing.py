"""Reads from the text of a rule what becomes of its arguments: whether one is stored as it is, or compared.

The processor treats a denormal as zero when it computes with it, and makes a signalling NaN quiet. So 1 * x and x lead
to the same bits where a rule adds, multiplies or divides before it stores, and maybe not where it only selects or
negates.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from .dialect import Function

SELECTING = {"select": 1, "maximum": 0, "clip": 0}
"""The words that return one of their arguments, and the first argument that it can be."""


def stores_as_given(function: Function, given: frozenset[str], known: Mapping[str, Function]) -> bool:
    """Whether a result can be one of the `given` arguments, or its negative; the function may call `known` ones."""
    names = set(given)

    def is_given(node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in names
        if isinstance(node, ast.UnaryOp):
            return is_given(node.operand)
        if isinstance(node, ast.Tuple):
            return any(map(is_given, node.elts))
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            return False
        if node.func.id in SELECTING:
            return any(map(is_given, node.args[SELECTING[node.func.id] :]))
        callee = known.get(node.func.id)
        if callee is None:
            return False
        passed = zip(callee.arguments, node.args, strict=True)
        return stores_as_given(callee, frozenset(name for name, value in passed if is_given(value)), known)

    for statement in function.body:
        found = is_given(statement.value)
        for target in ast.walk(statement.targets[0]):
            if isinstance(target, ast.Name):
                (names.add if found else names.discard)(target.id)
    return any(map(is_given, function.returns))


def compared_arguments(function: Function, known: Mapping[str, Function]) -> frozenset[str]:
    """The arguments that stand in a condition, also in one of the `known` functions that this one calls."""
    found: set[str] = set()
    for part in (*function.body, *function.returns):
        for node in ast.walk(part):
            if isinstance(node, ast.Compare):
                found |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
                callee = known[node.func.id]
                inner = compared_arguments(callee, known)
                for name, value in zip(callee.arguments, node.args, strict=True):
                    if name in inner and isinstance(value, ast.Name):
                        found.add(value.id)
    return frozenset(found.intersection(function.arguments))

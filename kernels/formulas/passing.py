"""Reads from the text of a rule whether it stores a parameter or a gradient that it has not computed with.

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

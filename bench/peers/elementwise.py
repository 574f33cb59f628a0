"""Turns a function of whole arrays, from its source, into one loop over elements, as users of Numba write it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

INDEX = "index"


class Elements(ast.NodeTransformer):
    """Replaces arrays by their elements, and choices between arrays by choices between numbers."""

    def __init__(self, arrays: list[str]) -> None:
        self.arrays = arrays

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self.arrays:
            return node
        return ast.Subscript(ast.Name(node.id, ast.Load()), ast.Name(INDEX, ast.Load()), node.ctx)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """`x[:] = ...`, the only use of an index, sets the element."""
        if not (isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Slice)):
            raise ValueError(f"not of whole arrays: {ast.unparse(node)}")
        return self.visit_Name(ast.Name(node.value.id, node.ctx))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        return ast.IfExp(*node.args) if ast.unparse(node.func) == "np.where" else node


def as_loop(function: Callable[..., None], n_arrays: int, indices: Any = range) -> Callable[..., None]:
    """The function, whose first `n_arrays` arguments are arrays of one length, as a loop over `indices(length)`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    arrays = [each.arg for each in definition.args.args[:n_arrays]]
    length = ast.parse(f"indices({arrays[0]}.size)", mode="eval").body
    body = [Elements(arrays).visit(statement) for statement in definition.body]
    definition.body = [ast.For(ast.Name(INDEX, ast.Store()), length, body, [])]
    names: dict[str, Any] = {"np": np, "indices": indices}
    exec(compile(ast.fix_missing_locations(tree), f"<{function.__name__}, element by element>", "exec"), names)
    made: Callable[..., None] = names[function.__name__]
    return made

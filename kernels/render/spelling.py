"""Spells the functions of the dialect for a target language: renamed calls, wrapped numbers, `**` as a call."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..formulas.dialect import VOCABULARY, Function
from ..formulas.registry import Loop

ALONE = ("float32",)
"""The precisions in which a loop is also rendered without `regularize`, for steps that do not prefetch: others wait for
memory, whatever they compute."""


class _Spelling(ast.NodeTransformer):
    """Renames calls, wraps numbers, and turns `**` into a call."""

    def __init__(self, call: str, number: str, convert: Callable[[Any], Any]) -> None:
        self.call = call
        self.number = number
        self.convert = convert

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        assert isinstance(node.func, ast.Name)
        node.func = ast.Name(self.call.format(node.func.id), ast.Load())
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = ast.Constant(self.convert(node.value))
        return ast.Call(ast.Name(self.number, ast.Load()), [value], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Pow):
            return ast.Call(ast.Name(self.call.format("power"), ast.Load()), [node.left, node.right], [])
        return node


def statements(
    function: Function, call: str, number: str, convert: Callable[[Any], Any] = float
) -> tuple[list[str], list[str]]:
    """The body and the returned expressions, spelled for the target language; `convert` makes its numbers."""
    spelling = _Spelling(call, number, convert)
    body = [ast.unparse(spelling.visit(copy.deepcopy(node))) for node in function.body]
    returns = [ast.unparse(spelling.visit(copy.deepcopy(node))) for node in function.returns]
    return body, returns


def indent(lines: list[str], levels: int) -> str:
    return "\n".join("    " * levels + line for line in lines)


BY_KEY = """\
cdef dict by_key(str names, tuple kinds, const size_t *addresses):
    cdef dict found = {}
    cdef Py_ssize_t index = 0
    for kind in kinds:
        for name in names.split():
            found[name, kind] = addresses[index]
            index += 1
    return found
"""
"""What a module needs for `table`. A dict display, with its constants, takes ten times as much room."""


def table(name: str, keys: Iterable[str], kinds: Mapping[Any, str]) -> str:
    """The Cython text of a dict from (key, kind) to an address, given the ending of functions' names for each kind."""
    keys, array = list(keys), f"{name.lower()}_addresses"
    functions = [f"{key}_{ending}" for ending in kinds.values() for key in keys]
    lines = [f"cdef size_t {array}[{max(len(functions), 1)}]"]
    lines += [f"{array}[{index}] = <size_t>&{each}" for index, each in enumerate(functions)]
    return "\n".join([*lines, f'{name} = by_key("{" ".join(keys)}", {tuple(kinds)!r}, {array})'])


def call_lines(loop: Loop, call: str, element: str = "s_{}[i]") -> list[str]:
    """One line for each call in a loop; the format `call` spells the name of a function, `element` that of an operand.

    Operands get the prefix s_, coefficients c_, local names l_, so their names never collide with the variables of the
    loop, whatever names a rule uses.
    """

    def spelled(name: str) -> str:
        if name in loop.operands:
            return element.format(name)
        return f"l_{name}" if name in loop.local_names else f"c_{name}"

    return [
        f"{', '.join(map(spelled, targets))} = {call.format(function.name)}({', '.join(map(spelled, arguments))})"
        for function, arguments, targets in loop.calls
    ]


def without_terms(loop: Loop) -> Loop:
    """A loop of terms, with a variable of each element in place of each operand that holds terms."""
    terms = loop.operands[len(loop.operands) - len(loop.reductions) :]
    operands = loop.operands[: len(loop.operands) - len(terms)]
    return replace(loop, operands=operands, local_names=(*loop.local_names, *terms))


assert set(VOCABULARY) == {"sqrt", "floor", "log", "select", "maximum", "clip", "sign"}, (
    "spell the new word in C and Numba too"
)

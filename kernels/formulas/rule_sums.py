"""What a rule adds up before it updates anything: sums over its parameter, or over all parameters.

A rule `name` can have a function `name_sums` beside it, `(param, grad, *states, *coefficients) -> terms`, which takes
those of the rule's arguments that it needs, and `name_sums_over_all`; a rule `name_variant` without one takes that of
`name`. Their terms are computed in the precision of the
rule and added up in float64, in the order of `sums`. A term that is a square, `x * x`, is squared in float64, too: it
neither overflows nor vanishes. The sums are arguments of the rule's coefficient function, by the names of the terms.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace

from .dialect import Function

SUMS, SUMS_OVER_ALL = "_sums", "_sums_over_all"
"""What the names of such functions have after the name of their rule."""

NUMEL = "numel"
"""The argument of coefficient functions that is the number of elements of the parameter."""


@dataclass(frozen=True)
class Terms:
    """The terms of a rule's sums, for one element.

    Attributes
    ----------
    functions: one for the sums over each parameter, one for those over all parameters, as far as a rule has them.
    names: of the sums, in the order of the functions' results.
    reductions: for each of them the sum of `sums.py` that adds up the terms.
    over_all: for each of them whether it is over all parameters.
    """

    functions: tuple[Function, ...]
    names: tuple[str, ...]
    reductions: tuple[str, ...]
    over_all: tuple[bool, ...]

    @property
    def coefficients(self) -> tuple[str, ...]:
        """All arguments, in order."""
        return tuple(dict.fromkeys(name for function in self.functions for name in function.arguments))


def arguments_for(function: Function, results: set[str]) -> set[str]:
    """The arguments of a function of coefficients that these results depend on."""
    needed = results & set(function.returned_names)
    for statement in reversed(function.body):
        if _target(statement) in needed:
            names = {each.id for each in ast.walk(statement.value) if isinstance(each, ast.Name)}
            needed = needed - {_target(statement)} | names
    return needed & set(function.arguments)


def read_terms(own: Function | None, over_all: Function | None) -> Terms | None:
    """The terms of these functions; None if there are none."""
    functions: list[Function] = []
    names: list[str] = []
    reductions: list[str] = []
    kinds: list[bool] = []
    for function, is_over_all in ((own, False), (over_all, True)):
        if function is None:
            continue
        term, found = _split(function)
        functions.append(term)
        names += function.returned_names
        reductions += found
        kinds += [is_over_all] * len(found)
    return Terms(tuple(functions), tuple(names), tuple(reductions), tuple(kinds)) if functions else None


def _split(function: Function) -> tuple[Function, list[str]]:
    """A function that returns x where this one returns x * x, and which sum adds up each of its results."""
    body, reductions = list(function.body), []
    for name in function.returned_names:
        position = max((k for k, each in enumerate(body) if _target(each) == name), default=-1)
        value = body[position].value if position >= 0 else None
        used = any(isinstance(node, ast.Name) and node.id == name for each in body for node in ast.walk(each.value))
        match value:
            case ast.BinOp(left=ast.Name(id=left), op=ast.Mult(), right=ast.Name(id=right)) if (
                left == right and not used
            ):
                body[position] = ast.Assign([ast.Name(name, ast.Store())], ast.Name(left, ast.Load()), lineno=0)
                reductions.append("square")
            case _:
                reductions.append("total")
    return replace(function, name=f"{function.name}_term", body=tuple(body)), reductions


def _target(statement: ast.Assign) -> str:
    (target,) = statement.targets
    assert isinstance(target, ast.Name)
    return target.id

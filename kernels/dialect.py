"""Reads the functions of `rules` and `coefficients` from their source and checks that they keep to the dialect.

The dialect is what NumPy, Numba, CUDA and C can all run with the same bits: assignments and one `return`, `+ - * /`,
comparisons, numbers, and calls of the vocabulary or of other functions in the same file. `**` is for coefficients
only (a power is not correctly rounded). No branches, no loops, no attributes: a rule is straight-line code.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

VOCABULARY = {"sqrt": 1, "floor": 1, "select": 3, "maximum": 2, "clip": 3, "sign": 1}
"""The functions that may be called, and how many arguments each takes."""

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


class DialectError(SyntaxError):
    """A function uses something outside of the dialect; carries the file and the line."""


@dataclass(frozen=True)
class Function:
    """One function of the dialect: what it takes, what it does, what it gives back."""

    name: str
    arguments: tuple[str, ...]
    body: tuple[ast.Assign, ...]
    returns: tuple[ast.expr, ...]
    keywords: tuple[str, ...] = ()  # those of the arguments that are keyword-only

    @property
    def returned_names(self) -> tuple[str, ...]:
        """The variables handed back; empty when an expression is."""
        if all(isinstance(node, ast.Name) for node in self.returns):
            return tuple(node.id for node in self.returns if isinstance(node, ast.Name))
        return ()

    @property
    def local_names(self) -> tuple[str, ...]:
        """Variables that are assigned and are no arguments, in order."""
        names = dict.fromkeys(name for statement in self.body for name in _targets(statement))
        return tuple(name for name in names if name not in self.arguments)


@dataclass(frozen=True)
class Rule:
    """An update rule: a function `(param, grad, *states, *coefficients) -> (param, *states)`."""

    function: Function

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def states(self) -> tuple[str, ...]:
        return self.function.returned_names[1:]

    @property
    def coefficients(self) -> tuple[str, ...]:
        return self.function.arguments[2 + len(self.states) :]

    @property
    def streams(self) -> tuple[str, ...]:
        """What the loop walks over in memory: the parameter, the gradient, each state."""
        return ("param", "grad", *self.states)


@dataclass(frozen=True)
class Operation:
    """What is done around an update: a function `(arrays read, *, coefficients) -> arrays written`."""

    function: Function

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def reads(self) -> tuple[str, ...]:
        return self.function.arguments[: len(self.function.arguments) - len(self.function.keywords)]

    @property
    def writes(self) -> tuple[str, ...]:
        return self.function.returned_names

    @property
    def coefficients(self) -> tuple[str, ...]:
        return self.function.keywords

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.reads, *self.writes)))


def is_operation(function: Function) -> bool:
    """It writes what it returns; a helper returns an expression."""
    return bool(function.returned_names)


def is_rule(function: Function) -> bool:
    states = function.returned_names[1:]
    return (
        function.arguments[:2] == ("param", "grad")
        and function.returned_names[:1] == ("param",)
        and function.arguments[2 : 2 + len(states)] == states
    )


def read_module(path: Path | str, imported: Mapping[str, Function] | None = None) -> dict[str, Function]:
    """All functions of a source file, in order, each checked; they may call those of the files that it imports from."""
    path = Path(path)
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    functions: dict[str, Function] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = _Reader(str(path), {**(imported or {}), **functions}).read(node)
    return functions


def called_functions(function: Function, functions: Mapping[str, Function]) -> list[Function]:
    """The other functions that this one calls, directly or not, callees first."""
    found: dict[str, Function] = {}
    for node in _walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            callee = functions[node.func.id]
            for each in (*called_functions(callee, functions), callee):
                found[each.name] = each
    return list(found.values())


def _walk(function: Function) -> Iterator[ast.AST]:
    for part in (*function.body, *function.returns):
        yield from ast.walk(part)


def _targets(statement: ast.Assign) -> list[str]:
    target = statement.targets[0]
    nodes = target.elts if isinstance(target, ast.Tuple) else [target]
    return [node.id for node in nodes if isinstance(node, ast.Name)]


class _Reader:
    def __init__(self, path: str, known: dict[str, Function]) -> None:
        self.path = path
        self.known = known
        self.defined: set[str] = set()

    def fail(self, node: ast.AST, message: str) -> DialectError:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        return DialectError(message, (self.path, line, column + 1, None))

    def read(self, node: ast.FunctionDef) -> Function:
        spec = node.args
        if spec.vararg or spec.kwarg or spec.posonlyargs or spec.defaults or any(spec.kw_defaults):
            raise self.fail(node, f"{node.name}: plain arguments only, without defaults")
        arguments = tuple(argument.arg for argument in (*spec.args, *spec.kwonlyargs))
        keywords = tuple(argument.arg for argument in spec.kwonlyargs)
        self.defined = set(arguments)
        statements = list(node.body)
        first = statements[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            statements = statements[1:]
        if not statements or not isinstance(statements[-1], ast.Return) or statements[-1].value is None:
            raise self.fail(node.body[-1], f"{node.name}: the last statement must return a value")
        body = [self.assignment(statement) for statement in statements[:-1]]
        value = statements[-1].value
        returns = tuple(value.elts) if isinstance(value, ast.Tuple) else (value,)
        for part in returns:
            self.expression(part)
        return Function(node.name, arguments, tuple(body), returns, keywords)

    def assignment(self, node: ast.stmt) -> ast.Assign:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            raise self.fail(node, "only assignments `name = expression` and a final `return`")
        target = node.targets[0]
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        if not all(isinstance(name, ast.Name) for name in names):
            raise self.fail(node, "only plain names can be assigned")
        self.expression(node.value)
        self.defined.update(_targets(node))
        return node

    def expression(self, node: ast.expr) -> None:
        match node:
            case ast.Name(id=name):
                if name not in self.defined:
                    raise self.fail(node, f"{name!r} is not defined here; a rule sees its arguments and nothing else")
            case ast.Constant(value=bool() | int() | float()):
                pass
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
                self.expression(left)
                self.expression(right)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                self.expression(operand)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if isinstance(op, _COMPARISONS):
                self.expression(left)
                self.expression(right)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                arity = VOCABULARY.get(name) or (len(self.known[name].arguments) if name in self.known else None)
                if arity is None:
                    raise self.fail(node, f"{name}() is not in the vocabulary: {', '.join(VOCABULARY)}")
                if len(args) != arity:
                    raise self.fail(node, f"{name}() takes {arity} arguments, got {len(args)}")
                if name == "select" and not isinstance(args[0], ast.Compare):
                    raise self.fail(args[0], "the condition of select() must be a comparison")
                for argument in args:
                    self.expression(argument)
            case _:
                raise self.fail(node, f"{ast.unparse(node)!r} is outside of the dialect")

"""Reads the functions of the formulas from their source and checks that they use only the dialect.

The dialect is the part of Python that NumPy, Numba, CUDA and C all run with the same bits: assignments and one
`return`, `+ - * /`, comparisons, numbers, and calls of the vocabulary or of other functions in the same file. Only
coefficient functions may use `**` and `log`, which are not correctly rounded. A rule is straight-line code, without
branches, loops or attributes.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY = {"sqrt": 1, "floor": 1, "log": 1, "select": 3, "maximum": 2, "clip": 3, "sign": 1}
"""The functions that formulas may call, and how many arguments each takes."""

WORD_VOCABULARY = {"select": 3, "whole": 1, "larger": 2, "smaller": 2, "shifted": 2, "is_nan": 1}
"""The same for codecs, whose numbers are words of 32 bits."""

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
_WORD_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.BitAnd, ast.BitOr, ast.BitXor, ast.LShift, ast.RShift)
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


class DialectError(SyntaxError):
    """A function uses something outside of the dialect; the error carries the file and the line."""


@dataclass(frozen=True)
class Function:
    """One function of the dialect: its arguments, its assignments, and the expressions that it returns."""

    name: str
    arguments: tuple[str, ...]
    body: tuple[ast.Assign, ...]
    returns: tuple[ast.expr, ...]
    keywords: tuple[str, ...] = ()  # the keyword-only ones among the arguments

    def __reduce__(self) -> Any:
        """Pickles have the source, which every version of Python can read."""
        body = "\n".join(map(ast.unparse, self.body))
        return _from_source, (self.name, self.arguments, body, tuple(map(ast.unparse, self.returns)), self.keywords)

    @functools.cached_property
    def returned_names(self) -> tuple[str, ...]:
        """The names of the returned variables; empty if the function returns any other expression."""
        if all(isinstance(node, ast.Name) for node in self.returns):
            return tuple(node.id for node in self.returns if isinstance(node, ast.Name))
        return ()

    @property
    def local_names(self) -> tuple[str, ...]:
        """The assigned variables that are not arguments, in order."""
        names = dict.fromkeys(name for statement in self.body for name in _targets(statement))
        return tuple(name for name in names if name not in self.arguments)


def _from_source(
    name: str, arguments: tuple[str, ...], body: str, returns: tuple[str, ...], keywords: tuple[str, ...]
) -> Function:
    statements = tuple(each for each in ast.parse(body).body if isinstance(each, ast.Assign))
    return Function(name, arguments, statements, tuple(ast.parse(each, mode="eval").body for each in returns), keywords)


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
    def operands(self) -> tuple[str, ...]:
        """The arrays that the loop runs over: the parameter, the gradient, each state."""
        return ("param", "grad", *self.states)


@dataclass(frozen=True)
class Operation:
    """An operation around an update: a function `(arrays read, *, coefficients) -> arrays written`."""

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
    def operands(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.reads, *self.writes)))


def is_operation(function: Function) -> bool:
    """Whether a function is an operation, which returns variables and writes them; a helper returns an expression."""
    return bool(function.returned_names)


def is_rule(function: Function) -> bool:
    states = function.returned_names[1:]
    return (
        function.arguments[:2] == ("param", "grad")
        and function.returned_names[:1] == ("param",)
        and function.arguments[2 : 2 + len(states)] == states
    )


def read_module(
    path: Path | str, imported: Mapping[str, Function] | None = None, powers: bool = False, words: bool = False
) -> dict[str, Function]:
    """All functions of a source file, in order, each checked; they may call the `imported` functions."""
    path = Path(path)
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    functions: dict[str, Function] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = read_function(node, str(path), {**(imported or {}), **functions}, powers, words)
    return functions


def read_function(
    node: ast.FunctionDef, path: str, known: Mapping[str, Function], powers: bool = False, words: bool = False
) -> Function:
    """A function of the dialect, checked; it may call `known` functions and, with `powers`, use `**` and `log`.

    With `words`, it is a function of codecs.

    Raises
    ------
    DialectError
        It uses something outside of the dialect.
    """
    return _Reader(path, known, powers, words).read(node)


def called_functions(function: Function, functions: Mapping[str, Function]) -> list[Function]:
    """The other functions that this one calls, directly or indirectly, callees first."""
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


ADDED_UP = "custom rules are element-wise; what they need to know of all together, `sums` adds up"
BEYOND = "custom rules are element-wise, but for sums; rows and columns, matrices and sorting are beyond them"

WHOLE = {
    **dict.fromkeys(("dot", "inner", "mean", "nanmean", "nansum", "norm", "std", "sum", "var", "vdot"), ADDED_UP),
    **dict.fromkeys(
        ("T", "mT", "diag", "einsum", "linalg", "matmul", "mm", "mv", "outer", "trace", "transpose"), BEYOND
    ),
    **dict.fromkeys(("flatten", "permute", "ravel", "reshape", "shape", "unsqueeze", "view"), BEYOND),
    **dict.fromkeys(("argmax", "argmin", "argsort", "cumsum", "median", "quantile", "sort", "sorted", "topk"), BEYOND),
}
"""What functions and methods of these names need more than one element for, by name."""

ALONG_AXES = ("axis", "dim", "dims", "axes")
"""Arguments that make it a matter of rows and columns."""

HINTS: tuple[tuple[type[ast.AST], str], ...] = (
    (ast.If, "both sides are evaluated everywhere: write select(condition, if_true, if_false)"),
    (ast.IfExp, "write select(condition, if_true, if_false)"),
    (ast.AugAssign, "write `name = name + ...`"),
    (ast.AnnAssign, "without annotations"),
    (ast.For, "a rule is about one element; there are no loops"),
    (ast.While, "a rule is about one element; there are no loops"),
    (ast.Pow, "powers are for coefficient functions only; write x * x, or sqrt(x)"),
    (ast.Compare, "a comparison can only be the condition of select()"),
    (ast.BoolOp, "write one select() inside another"),
    (ast.Attribute, "only plain names, with no dot"),
    (ast.Subscript, f"names stand for one element each; there is nothing to index: {BEYOND}"),
    (ast.MatMult, BEYOND),
)
"""Hints on the code to write instead, by the kind of syntax that the dialect rejects."""


class _Reader:
    def __init__(self, path: str, known: Mapping[str, Function], powers: bool, words: bool) -> None:
        self.path = path
        self.known = known
        self.powers = powers
        self.words = words
        self.vocabulary = WORD_VOCABULARY if words else VOCABULARY
        self.operators = _WORD_OPERATORS if words else _OPERATORS
        self.defined: set[str] = set()

    def fail(self, node: ast.AST, message: str) -> DialectError:
        return error_at(self.path, node, message)

    def read(self, node: ast.FunctionDef) -> Function:
        spec = node.args
        if spec.vararg or spec.kwarg or spec.posonlyargs or spec.defaults or any(spec.kw_defaults):
            raise self.fail(node, f"{node.name}: plain arguments only, without defaults")
        arguments = tuple(argument.arg for argument in (*spec.args, *spec.kwonlyargs))
        keywords = tuple(argument.arg for argument in spec.kwonlyargs)
        for argument in (*spec.args, *spec.kwonlyargs):
            self.check_name(argument, argument.arg)
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

    def check_name(self, node: ast.AST, name: str) -> None:
        if name in self.vocabulary or name in self.known:
            raise self.fail(node, f"{name!r} is a function here; choose another name")

    def assignment(self, node: ast.stmt) -> ast.Assign:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            raise self.fail(node, f"only assignments `name = expression` and a final `return`{hint(node)}")
        if not isinstance(node.targets[0], ast.Name):
            raise self.fail(node, "one plain name at a time can be assigned")
        self.check_name(node, node.targets[0].id)
        self.expression(node.value)
        self.defined.update(_targets(node))
        return node

    def expression(self, node: ast.expr) -> None:
        match node:
            case ast.Name(id=name):
                if name not in self.defined:
                    raise self.fail(node, f"{name!r} is not defined here; a rule sees its arguments and nothing else")
            case ast.Constant(value=bool() | int() | float() as value) if not self.words or isinstance(value, int):
                pass
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, self.operators):
                if isinstance(op, ast.Pow) and not self.powers:
                    raise self.fail(node, f"{ast.unparse(node)!r} is outside of the dialect{hint(op)}")
                self.expression(left)
                self.expression(right)
            case ast.UnaryOp(op=ast.USub(), operand=operand) if not self.words:
                self.expression(operand)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                self.call(node, name, args)
            case _:
                raise self.fail(node, f"{ast.unparse(node)!r} is outside of the dialect{hint(node)}")

    def call(self, node: ast.expr, name: str, args: list[ast.expr]) -> None:
        function = self.known.get(name)
        arity = self.vocabulary.get(name) or (len(function.arguments) if function else None)
        if arity is None:
            raise self.fail(node, f"{name}() is not in the vocabulary: {', '.join(self.vocabulary)}")
        if name == "log" and not self.powers:
            raise self.fail(node, "logarithms are for coefficient functions only")
        if len(args) != arity:
            raise self.fail(node, f"{name}() takes {arity} arguments, got {len(args)}")
        if function is not None and len(function.returns) != 1:
            raise self.fail(node, f"{name}() returns {len(function.returns)} values; one that is called returns one")
        if name == "select":
            self.condition(args[0])
            args = args[1:]
        for argument in args:
            self.expression(argument)

    def condition(self, node: ast.expr) -> None:
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if isinstance(op, _COMPARISONS):
                self.expression(left)
                self.expression(right)
            case _:
                raise self.fail(node, "the condition of select() must be one comparison")


def error_at(path: str, node: ast.AST, message: str) -> DialectError:
    """An error that shows the line of the node."""
    import linecache

    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    return DialectError(message, (path, line, column + 1, linecache.getline(path, line) or None))


def hint(node: ast.AST) -> str:
    part = node.func if isinstance(node, ast.Call) else node.op if isinstance(node, ast.BinOp) else node
    whole = hint_of_name(node, part.attr) if isinstance(part, ast.Attribute) else ""
    return whole or next((f"; {text}" for kind, text in HINTS if isinstance(part, kind)), "")


def hint_of_name(node: ast.AST, name: str) -> str:
    """A hint on what needs more than one element, if a function or a method of this name does."""
    along = isinstance(node, ast.Call) and any(each.arg in ALONG_AXES for each in node.keywords)
    found = BEYOND if along else WHOLE.get(name)
    return f"; {found}" if found else ""

"""Custom rules: Python functions, read from their source, checked, and registered with `formulas`.

A rule is registered under its name and a digest of its entire content. Code compiled for one rule is therefore never
used for another, however often a function is changed and defined again.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import hashlib
import inspect
import keyword
import linecache
import sys
import textwrap
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..constants import MAX_ARGUMENTS, MAX_LOOP_OPERANDS, MAX_RESULTS, MAX_SUMS
from ..formulas import registry
from . import vocabulary
from .dialect import VOCABULARY, Function, error_at, hint_of_name, read_function
from .rule_sums import NUMEL, arguments_for

DIGEST_LENGTH = 16
"""Hexadecimal digits of the digest in names: 64 bits distinguish more rules than anyone will write."""

RESERVED_STREAMS = (
    *("param", "grad", "param_i", "grad_i", "prepared", "clipped", "grad_accumulator", "param_average"),
    *("step", "is_first_update"),
)
"""Names already used for the arrays of a step and for the numbers kept beside them."""

MAX_STATES = MAX_LOOP_OPERANDS - 2
"""The most states of a rule: all operands of a loop except the parameter and its gradient."""


class SourceError(ValueError):
    """The source of a function cannot be read, or differs from the function as it runs."""


def register(
    update: Callable[..., Any],
    states: Sequence[str],
    inputs: Sequence[str],
    coefficients: Callable[..., Any] | None,
    source: str | None = None,
    sums: Callable[..., Any] | None = None,
    sums_over_all: Callable[..., Any] | None = None,
    starts_as_param: Sequence[str] = (),
) -> registry.CustomRule:
    """Read a rule `(param, grad, *states, *coefficients) -> (param, *states)` and add it to the registry.

    `inputs` are the names of the available numbers: hyperparameters, `step` and carried numbers. `source` is a text
    that has functions whose source Python cannot find. `sums` and `sums_over_all` are the functions of the terms that
    are added up before the update, see `rule_sums`. `starts_as_param` are the states that start as the parameter.

    Raises
    ------
    DialectError
        A function uses something outside of the dialect, or is not a rule; the error carries the file and the line.
    SourceError
        A source cannot be read.
    """
    functions, node, path = read(update, source=source)
    function = functions[-1] = _with_named_results(functions[-1], ("param", *states))
    _check_states(function, states, node, path)
    arrays = ("param", "grad", *states)
    read_sums = [None if each is None else read(each, source=source) for each in (sums, sums_over_all)]
    terms = [each for each in read_sums if each is not None]
    names = tuple(name for each, *_ in terms for name in each[-1].returned_names)
    if terms and NUMEL in inputs:
        raise ValueError(f"{NUMEL!r} is the number of elements where a rule has sums; choose another name in hyper")
    inputs = (*inputs, *names, *((NUMEL,) if terms else ()))
    for each, term_node, term_path in terms:
        _check_sums(each[-1], arrays, inputs, term_node, term_path)
    of_terms = (name for each, *_ in terms for name in each[-1].arguments if name not in arrays)
    wanted = tuple(dict.fromkeys((*function.arguments[len(arrays) :], *of_terms)))
    if coefficients is None:
        _check_inputs(wanted, inputs, node, path, "the rule takes it, and there is no coefficients function")
        coefficient_functions = [Function(function.name, wanted, (), tuple(ast.Name(name) for name in wanted))]
    else:
        coefficient_functions, coefficient_node, coefficient_path = read(coefficients, powers=True, source=source)
        _check_coefficients(coefficient_functions[-1], wanted, inputs, coefficient_node, coefficient_path)
    if starts_as_param:
        functions[-1] = function = _begun(function, starts_as_param)
        coefficient_functions[-1] = _with_is_first(coefficient_functions[-1])
        for each, *_ in terms:
            each[-1] = _begun(each[-1], starts_as_param)
    last = coefficient_functions[-1]
    for each, term_node, term_path in terms:
        _check_order(each[-1], last, names, arrays, term_node, term_path)
    _check_room(names, {name for each, *_ in terms for name in each[-1].arguments if name in states})
    if len(last.arguments) > MAX_ARGUMENTS or len(last.returns) > MAX_RESULTS:
        raise ValueError(
            f"{last.name}: at most {MAX_ARGUMENTS} arguments and {MAX_RESULTS} results, got {len(last.arguments)} and "
            f"{len(last.returns)}"
        )
    own, over_all = (tuple(each[0]) if each is not None else () for each in read_sums)
    digest = _digest([*functions, *coefficient_functions, *own, *over_all], states)
    name = f"{function.name}_{digest}"
    renamed = replace(coefficient_functions[-1], name=name)
    return registry.add_custom_rule(
        replace(function, name=name), functions[:-1], (*coefficient_functions[:-1], renamed), (own, over_all)
    )


IS_FIRST = "is_first_update"
"""The coefficient that is 1 in the first update of a parameter, where a state starts as the parameter."""


def _begun(function: Function, states: Sequence[str]) -> Function:
    """The function with those of its arguments that are such states replaced by the parameter, in the first update."""
    own = [name for name in function.arguments if name in states]
    if not own:
        return function
    begun = ast.parse("\n".join(f"{name} = select({IS_FIRST} != 0, param, {name})" for name in own)).body
    arguments = function.arguments if "param" in function.arguments else ("param", *function.arguments)
    return replace(function, arguments=(*arguments, IS_FIRST), body=(*begun, *function.body))  # type: ignore[arg-type]


def _with_is_first(coefficients: Function) -> Function:
    """The coefficient function, which returns `IS_FIRST`, too."""
    arguments = coefficients.arguments if "step" in coefficients.arguments else (*coefficients.arguments, "step")
    (is_first,) = ast.parse(f"{IS_FIRST} = select(step == 1, 1, 0)").body
    body, returns = (is_first, *coefficients.body), (*coefficients.returns, ast.Name(IS_FIRST, ast.Load()))
    return replace(coefficients, arguments=arguments, body=body, returns=returns)  # type: ignore[arg-type]


def _digest(functions: Sequence[Function], states: Sequence[str]) -> str:
    digest = hashlib.sha256(repr(tuple(states)).encode())
    for function in functions:
        digest.update(repr((function.name, function.arguments)).encode())
        for part in (*function.body, *function.returns):
            digest.update(ast.dump(part).encode())
    return digest.hexdigest()[:DIGEST_LENGTH]


# --- checks of a rule and its coefficients ----------------------------------------------------------------------------


def _with_named_results(function: Function, names: Sequence[str]) -> Function:
    """Turn `return param - lr * grad, ...` into an assignment and `return param, ...`, if that means the same."""
    if len(function.returns) != len(names):
        return function
    body, assigned = list(function.body), set[str]()
    for name, value in zip(names, function.returns, strict=True):
        if isinstance(value, ast.Name):
            if value.id in assigned - {name}:
                return function
            continue
        if assigned & {each.id for each in ast.walk(value) if isinstance(each, ast.Name)}:
            return function
        assignment = ast.Assign([ast.Name(name, ast.Store())], value)
        body.append(ast.fix_missing_locations(ast.copy_location(assignment, value)))
        assigned.add(name)
    returns = [
        value if isinstance(value, ast.Name) else ast.Name(name, ast.Load())
        for name, value in zip(names, function.returns, strict=True)
    ]
    return replace(function, body=tuple(body), returns=tuple(returns))


def _check_states(function: Function, states: Sequence[str], node: ast.FunctionDef, path: str) -> None:
    expected = ("param", "grad", *states)
    for position, name in enumerate(expected):
        if function.arguments[position : position + 1] != (name,):
            given = ", ".join(function.arguments)
            raise error_at(path, node, f"{function.name} must begin with ({', '.join(expected)}, ...), got ({given})")
    returned = ("param", *states)
    if function.returned_names != returned:
        given = ", ".join(map(ast.unparse, function.returns))
        raise error_at(path, node.body[-1], f"{function.name} must return {', '.join(returned)}; it returns {given}")
    if function.keywords:
        raise error_at(path, node, f"{function.name}: no keyword-only arguments")


def _check_inputs(wanted: Sequence[str], inputs: Sequence[str], node: ast.FunctionDef, path: str, why: str) -> None:
    for name in wanted:
        if name not in inputs:
            known = ", ".join(inputs)
            raise error_at(path, node, f"{node.name}: there is no {name!r}: {why} (there are {known})")


def _check_coefficients(
    function: Function, wanted: Sequence[str], inputs: Sequence[str], node: ast.FunctionDef, path: str
) -> None:
    _check_inputs(function.arguments, inputs, node, path, "a coefficients function takes hyperparameters and `step`")
    if not function.returned_names:
        given = ", ".join(map(ast.unparse, function.returns))
        raise error_at(path, node.body[-1], f"{function.name} must return variables, by name; it returns {given}")
    missing = [name for name in wanted if name not in function.returned_names]
    if missing:
        raise error_at(
            path, node.body[-1], f"{function.name} must return all that the rule takes; {', '.join(missing)} is missing"
        )


def _check_sums(
    function: Function, arrays: Sequence[str], inputs: Sequence[str], node: ast.FunctionDef, path: str
) -> None:
    """Check that a function returns terms, by names of their own."""
    names = function.returned_names
    if not names or not set(names) <= set(function.local_names):
        given = ", ".join(map(ast.unparse, function.returns))
        raise error_at(
            path,
            node.body[-1],
            f"{function.name} must return variables that it assigns, whose names are those of the sums; it returns "
            f"{given}",
        )
    for name in names:
        check_name(f"{function.name} returns", name, (*arrays, *RESERVED_STREAMS))
        if inputs.count(name) > 1:
            raise error_at(path, node.body[-1], f"{function.name}: there are two numbers called {name!r}")
    if function.keywords:
        raise error_at(path, node, f"{function.name}: no keyword-only arguments")


def _check_order(
    function: Function,
    coefficients: Function,
    sums: Sequence[str],
    arrays: Sequence[str],
    node: ast.FunctionDef,
    path: str,
) -> None:
    """Check that terms can be computed before their sums are known."""
    for name in function.arguments:
        if name not in arrays and arguments_for(coefficients, {name}) & set(sums):
            raise error_at(
                path,
                node,
                f"{function.name} takes {name!r}, which depends on a sum; terms are computed before all sums",
            )


def _check_room(sums: Sequence[str], states: set[str]) -> None:
    if len(sums) > MAX_SUMS:
        raise ValueError(f"at most {MAX_SUMS} sums in a rule, got {len(sums)}: {', '.join(sums)}")
    if 2 + len(states) + len(sums) > MAX_LOOP_OPERANDS:
        raise ValueError(
            f"the states that sums read and the sums can be {MAX_LOOP_OPERANDS - 2} together, got {len(states)} and "
            f"{len(sums)}"
        )


INSTEAD = {"abs": "maximum(x, -x)", "max": "maximum(a, b)", "min": "-maximum(-a, -b)", "pow": "x * x", "float": "x"}
"""The expressions that replace some built-in functions of Python."""


def check_name(what: str, name: Any, taken: Sequence[str] = ()) -> str:
    """Check the name of a state or a hyperparameter, and return it.

    Raises
    ------
    TypeError, ValueError
        The value cannot serve as a name.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what} must be names, got {name!r}")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{what}: {name!r} is no name")
    if name in taken or name in VOCABULARY:
        raise ValueError(f"{what}: {name!r} is taken; choose another name")
    return name


# --- reading functions ------------------------------------------------------------------------------------------------


def read(
    function: Callable[..., Any], powers: bool = False, source: str | None = None
) -> tuple[list[Function], ast.FunctionDef, str]:
    """The functions that a function calls, callees first, and the function itself; its syntax tree; and its file.

    Raises
    ------
    DialectError, SourceError
        See `register`.
    """
    found: dict[str, tuple[Any, Function]] = {}
    node, path = _read(function, powers, found, (), source)
    return [each for _, each in found.values()], node, path


def _read(
    function: Any, powers: bool, found: dict[str, tuple[Any, Function]], callers: tuple[Any, ...], source: str | None
) -> tuple[ast.FunctionDef, str]:
    node, path = syntax_of(function, source)
    names = _names_seen_by(function)
    plain = [statement for statement in node.body if isinstance(statement, (ast.Assign, ast.Return))]
    for each in (part for statement in plain for part in ast.walk(statement)):
        if not (isinstance(each, ast.Call) and isinstance(each.func, ast.Name)):
            continue
        name = each.func.id
        callee = names.get(name)
        if name in VOCABULARY:
            if callee is not getattr(vocabulary, name):
                what = "is not defined here" if callee is None else f"is {callee!r} here"
                raise error_at(path, each, f"{name} {what}; write `from fastopt.rules import {name}`")
        elif callee is None:
            instead = f"; write {INSTEAD[name]}" if name in INSTEAD else hint_of_name(each, name)
            raise error_at(path, each, f"{name}() is not in the vocabulary ({_words()}){instead}")
        elif not isinstance(callee, types.FunctionType):
            what = f"{name}() is {callee!r}, no plain function, nor in the vocabulary ({_words()})"
            raise error_at(path, each, what + hint_of_name(each, name))
        elif callee in (function, *callers):
            raise error_at(path, each, f"{name}() calls itself")
        elif callee.__name__ != name:
            raise error_at(path, each, f"{name}() is another name of {callee.__name__}(); call it by its own")
        elif name not in found:
            _read(callee, powers, found, (function, *callers), source)
        elif found[name][0] is not callee:
            raise error_at(path, each, f"there are two functions called {name}; give one another name")
    if node.name == "regularize":
        raise error_at(path, node, f"{node.name} is what every rule calls first; choose another name")
    known = {name: each for name, (_, each) in found.items()}
    found[node.name] = function, read_function(node, path, known, powers)
    if not _is_source_of(node, function):
        raise SourceError(
            f"what {path} has at line {node.lineno} is not the source of {node.name} as it runs: the file was changed "
            "since it was loaded, start Python anew"
        )
    return node, path


def _words() -> str:
    return ", ".join(VOCABULARY)


def _names_seen_by(function: types.FunctionType) -> dict[str, Any]:
    """The values of the names in a function: from its closure, then from its module."""
    seen = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            seen[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            seen.pop(name, None)
    return seen


def syntax_of(function: Any, source: str | None = None) -> tuple[ast.FunctionDef, str]:
    """The syntax tree of a function, with the line numbers of its file, and the path of the file.

    `source` is looked at before the file. It need not have the function, but if it does, it must be this one.
    """
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"a plain function is needed, written with def, got {function!r}")
    name, path = function.__name__, function.__code__.co_filename
    if source is not None:
        found = _definition_in(source, function)
        if found is not None:
            return found, _as_file(source)
    command = _text_of_command(path)
    if command is not None:
        with contextlib.suppress(SourceError):  # code that was executed by the command, and not the command's own
            found = _definition_in(command, function)
            if found is not None:
                return found, _as_file(command)
    linecache.checkcache(path)
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
        if path == "<string>" and not isinstance(tree.body[0], ast.FunctionDef):
            # From Python 3.13, this is the text of a command that has executed another text.
            raise OSError("it is of a text that was executed")
    except (OSError, SyntaxError) as error:
        raise SourceError(
            f"the source of {name} cannot be read (from {path}: {error}); a rule is compiled from its source, so write "
            "it with def in a file or a notebook, or give the text that has it with source="
        ) from error
    node = tree.body[0]
    if not isinstance(node, ast.FunctionDef):
        got = lines[0].strip()
        raise SourceError(f"a rule must be a function written with def, got {got!r} (line {first} of {path})")
    ast.increment_lineno(node, first - 1)
    indentation = len(lines[0]) - len(lines[0].lstrip())
    for each in ast.walk(node):
        if isinstance(each, (ast.stmt, ast.expr, ast.arg)):
            each.col_offset += indentation
            if each.end_col_offset is not None:
                each.end_col_offset += indentation
    return node, path


def _text_of_command(path: str) -> str | None:
    """The text after `python -c`, for functions that are defined there; None for others."""
    if path == "<string>" and sys.argv[0] == "-c":
        for position, argument in enumerate(sys.orig_argv[1:-1], 2):
            if argument.startswith("-") and not argument.startswith("--") and argument.endswith("c"):
                return sys.orig_argv[position]
    return None


def _definition_in(text: str, function: types.FunctionType) -> ast.FunctionDef | None:
    """The definition of a function in a text, if it has a function of this name.

    Raises
    ------
    SourceError
        The text is not Python, or its functions of this name are others.
    """
    name = function.__name__
    try:
        tree = ast.parse(textwrap.dedent(text))
    except SyntaxError as error:
        raise SourceError(f"source is not Python: {error}") from error
    named = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) and each.name == name]
    for node in named:
        if _is_source_of(node, function):
            return node
    if named:
        raise SourceError(f"source has a function {name}, but it is not the one that was given: their code differs")
    return None


def _as_file(text: str) -> str:
    """A file name under which error messages find the lines of a text."""
    text = textwrap.dedent(text)
    name = f"<source {hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return name


def _is_source_of(node: ast.FunctionDef, function: types.FunctionType) -> bool:
    """Whether compiling the syntax tree gives the code of the function."""
    inner = copy.deepcopy(node)
    inner.decorator_list = []
    # The variables that it closes over become arguments of an outer function.
    module = ast.parse(f"def outer({', '.join(function.__code__.co_freevars)}): pass")
    outer = module.body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.body = [inner]
    code: Any = compile(module, "<source>", "exec", dont_inherit=True)
    for name in ("outer", node.name):
        within = (each for each in code.co_consts if isinstance(each, types.CodeType))
        code = next((each for each in within if each.co_name == name), None)
        if code is None:
            return False
    return _essence(code) == _essence(function.__code__)


def _essence(code: types.CodeType) -> tuple[Any, ...]:
    constants = tuple(repr(each) for each in code.co_consts if not isinstance(each, types.CodeType))
    return (code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_argcount)

"""Every formula, read from its source: rules, operations, sums, coefficient functions, and the loops over them.

The modules of `render` start from the syntax trees here, so each formula is written only once. This file must import
without NumPy, Numba and the compiled module, because `setup.py` runs it.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dialect import Function, Operation, Rule, called_functions, is_operation, is_rule, read_module
from .passing import stores_as_given
from .rule_sums import SUMS, SUMS_OVER_ALL, Terms, read_terms

HERE = Path(__file__).parent
REALS = {"float32": "float", "float64": "double"}
"""Working precisions and their C types."""

SOURCES = ("rules.py", "operations.py", "sums.py", "coefficients.py", "codecs.py", "storage.py")
"""The files that hold the formulas."""


@functools.cache
def rules() -> dict[str, Rule]:
    """Every update rule of `rules.py`, by name."""
    return {name: Rule(function) for name, function in rule_functions().items() if is_rule(function)}


@functools.cache
def operations() -> dict[str, Operation]:
    """Every operation of `operations.py`, by name."""
    return {name: Operation(function) for name, function in operation_functions().items() if is_operation(function)}


@functools.cache
def rule_functions() -> dict[str, Function]:
    return read_module(HERE / "rules.py")


@functools.cache
def operation_functions() -> dict[str, Function]:
    return read_module(HERE / "operations.py", rule_functions())


@functools.cache
def sum_functions() -> dict[str, Function]:
    """The term of every sum, by name."""
    return read_module(HERE / "sums.py")


@functools.cache
def coefficient_functions() -> dict[str, Function]:
    return read_module(HERE / "coefficients.py", powers=True)


@functools.cache
def codec_functions() -> dict[str, Function]:
    return read_module(HERE / "codecs.py", words=True)


@dataclass(frozen=True)
class Loop:
    """A loop over elements: its arrays, its coefficients, and the calls for one element, in order.

    A call is (function, its arguments, the names to which its results are assigned). In calls, an operand stands for
    its element, and `local_names` are variables for one element.
    """

    name: str
    operands: tuple[str, ...]
    coefficients: tuple[str, ...]
    calls: tuple[tuple[Function, tuple[str, ...], tuple[str, ...]], ...]
    local_names: tuple[str, ...]
    functions: tuple[Function, ...]
    """The functions that it calls for an element, callees first."""
    alone: Loop | None = None
    """The loop of a rule without `regularize`, if that gives the same bits wherever `regularize` has the coefficients
    `IDLE`. It takes the coefficients that follow those of `regularize`."""
    reductions: tuple[str, ...] = ()
    """In a loop of terms, for each of its last operands, which hold one term each: the sum that adds them up."""

    @property
    def writes(self) -> tuple[str, ...]:
        """The operands that it writes."""
        return tuple(target for _, _, targets in self.calls for target in targets if target in self.operands)


def loops() -> dict[str, Loop]:
    """The loop of every rule (`regularize`, then the rule), of every operation, and of the terms of sums, by name."""
    terms = (terms_name(name) for name in rules() if _built_in_terms(name) is not None)
    return {name: _built_in_loop(name) for name in (*rules(), *operations(), *terms)}


def terms_name(rule_name: str) -> str:
    """The name of the loop that computes the terms of a rule's sums."""
    return f"{rule_name if rule_name in CUSTOM_RULES else _with_terms(rule_name)}{TERMS}"


TERMS = "_terms"


@functools.cache
def _built_in_terms(name: str) -> Terms | None:
    own, over_all = (rule_functions().get(_with_terms(name) + suffix) for suffix in (SUMS, SUMS_OVER_ALL))
    return read_terms(own, over_all)


def _with_terms(name: str) -> str:
    """The rule whose sums a built-in rule has: its own, or those of the rule whose variant it is."""
    has_own = any(name + suffix in rule_functions() for suffix in (SUMS, SUMS_OVER_ALL))
    return name if has_own or "_" not in name else _with_terms(name.rpartition("_")[0])


IDLE = (1.0, 0.0, 1.0)
"""The coefficients with which `regularize` changes no parameter and no gradient: a factor of 1, no weight decay."""


@functools.cache
def _built_in_loop(name: str) -> Loop:
    """The loop of one rule or operation: a first step needs few loops, and so reads few files."""
    if name in rules():
        return rule_loop(rules()[name], rule_functions())
    if name.endswith(TERMS):
        of = name.removesuffix(TERMS)
        terms = _built_in_terms(of)
        assert terms is not None
        return terms_loop(rules()[of], terms, rule_functions())
    operation = operations()[name]
    call = (operation.function, operation.function.arguments, operation.writes)
    functions = (
        *called_functions(operation.function, {**rule_functions(), **operation_functions()}),
        operation.function,
    )
    return Loop(operation.name, operation.operands, operation.coefficients, (call,), (), functions)


def rule_loop(rule: Rule, known: Mapping[str, Function]) -> Loop:
    """The loop of a rule: `regularize`, then the rule, which may call the `known` functions."""
    regularize = rule_functions()["regularize"]
    shared = regularize.arguments[2:]
    between = ("param_i", "grad_i")
    calls = (
        (regularize, ("param", "grad", *shared), between),
        (rule.function, (*between, *rule.states, *rule.coefficients), ("param", *rule.states)),
    )
    functions = (*called_functions(rule.function, known), rule.function)
    alone = None
    if not stores_as_given(rule.function, frozenset(("param", "grad")), known):
        call = (rule.function, rule.function.arguments, ("param", *rule.states))
        alone = Loop(rule.name, rule.operands, rule.coefficients, (call,), (), functions)
    coefficients = (*shared, *rule.coefficients)
    return Loop(rule.name, rule.operands, coefficients, calls, between, (regularize, *functions), alone)


def terms_loop(rule: Rule, terms: Terms, known: Mapping[str, Function]) -> Loop:
    """The loop that computes the terms of a rule's sums: `regularize`, then their functions, as before the rule."""
    regularize = rule_functions()["regularize"]
    shared = regularize.arguments[2:]
    between = {"param": "param_i", "grad": "grad_i"}
    targets = tuple(term_operand(index) for index in range(len(terms.names)))
    calls: list[tuple[Function, tuple[str, ...], tuple[str, ...]]] = [
        (regularize, ("param", "grad", *shared), tuple(between.values()))
    ]
    functions = [regularize]
    for function in terms.functions:
        arguments = tuple(between.get(name, name) for name in function.arguments)
        count = len(function.returns)
        calls.append((function, arguments, targets[:count]))
        targets = targets[count:]
        functions += [each for each in (*called_functions(function, known), function) if each not in functions]
    states = tuple(name for name in rule.states if name in terms.coefficients)
    coefficients = tuple(name for name in terms.coefficients if name not in ("param", "grad", *states))
    operands = ("param", "grad", *states, *(term_operand(index) for index in range(len(terms.names))))
    name = terms_name(rule.name)
    return Loop(
        name,
        operands,
        (*shared, *coefficients),
        tuple(calls),
        tuple(between.values()),
        tuple(functions),
        reductions=terms.reductions,
    )


def term_operand(index: int) -> str:
    """The operand of a loop that holds the terms of one sum."""
    return f"term_{index}"


# --- by name, custom ones included ------------------------------------------------------------------------------------


SumFunctions = tuple[tuple[Function, ...], tuple[Function, ...]]
"""The functions of sums over each parameter, and over all parameters: callees first, or none."""


@dataclass(frozen=True)
class CustomRule:
    """A custom rule; no rule with other content has the same name, see `custom_rules`."""

    rule: Rule
    loop: Loop
    coefficients: tuple[Function, ...]
    """The functions that the coefficient function calls, then that function itself, named like the rule."""
    sums: SumFunctions = ((), ())

    @functools.cached_property
    def terms(self) -> Terms | None:
        own, over_all = (each[-1] if each else None for each in self.sums)
        return read_terms(own, over_all)

    @functools.cached_property
    def terms_loop(self) -> Loop:
        assert self.terms is not None
        return terms_loop(self.rule, self.terms, {each.name: each for called in self.sums for each in called})

    def __reduce__(self) -> Any:
        """A pickle has the source of the rule, and registers it where it is read."""
        _, *called, _ = self.loop.functions
        return add_custom_rule, (self.rule.function, tuple(called), self.coefficients, self.sums)


CUSTOM_RULES: dict[str, CustomRule] = {}
"""The custom rules, by name; the built-in ones are not here."""


def add_custom_rule(
    function: Function,
    called: Sequence[Function],
    coefficients: Sequence[Function],
    sums: SumFunctions = ((), ()),
) -> CustomRule:
    """The custom rule with this function, which is registered if it is new.

    `function` is named like the rule and calls the `called` functions, callees first; see `CustomRule` for the others.
    """
    if function.name not in CUSTOM_RULES:
        rule = Rule(function)
        loop = rule_loop(rule, {each.name: each for each in called})
        CUSTOM_RULES[function.name] = CustomRule(rule, loop, tuple(coefficients), sums)
    return CUSTOM_RULES[function.name]


def rule(name: str) -> Rule:
    """A rule, built in or custom."""
    return CUSTOM_RULES[name].rule if name in CUSTOM_RULES else rules()[name]


def loop(name: str) -> Loop:
    """The loop of a rule, built in or custom, or of an operation."""
    if name in CUSTOM_RULES:
        return CUSTOM_RULES[name].loop
    of = name.removesuffix(TERMS)
    return CUSTOM_RULES[of].terms_loop if of in CUSTOM_RULES else _built_in_loop(name)


def terms(name: str) -> Terms | None:
    """What a rule, built in or custom, adds up before its update; None if it needs no sums."""
    return CUSTOM_RULES[name].terms if name in CUSTOM_RULES else _built_in_terms(name)


def coefficient_function(name: str) -> Function:
    """A coefficient function, built in or custom."""
    return functions_of_coefficients(name)[-1]


def functions_of_coefficients(name: str) -> tuple[Function, ...]:
    """The functions that a coefficient function calls, callees first, and the function itself; built in or custom."""
    return CUSTOM_RULES[name].coefficients if name in CUSTOM_RULES else _built_in_coefficients(name)


@functools.cache
def _built_in_coefficients(name: str) -> tuple[Function, ...]:
    known = coefficient_functions()
    return (*called_functions(known[name], known), known[name])


@functools.cache
def functions_of_sum(name: str) -> tuple[Function, ...]:
    """The functions that the term of a sum calls, callees first; then the term itself."""
    known = sum_functions()
    return (*called_functions(known[name], known), known[name])


@functools.cache
def counts() -> frozenset[str]:
    """The sums that only count."""
    module = ast.parse((HERE / "sums.py").read_text(encoding="utf-8"))
    found = [
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COUNTS"
    ]
    return frozenset(*found)


def digest() -> str:
    """Identifies the formulas from which code was rendered, by everything except comments, file names and layout."""
    import hashlib  # rarely needed, and slow to load

    text = "\n".join(ast.dump(ast.parse((HERE / name).read_text(encoding="utf-8"))) for name in SOURCES)
    return hashlib.sha256(text.encode()).hexdigest()

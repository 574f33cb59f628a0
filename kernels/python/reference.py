"""Runs the rules and operations with NumPy: slow, and the reference that other backends must match bit by bit."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..constants import LANES, SUM_BLOCK
from ..formulas import coefficients, operations, registry, rules, sums, vocabulary
from ..formulas.dialect import Function
from ..render.numba_source import functions_source

BLOCK = 1 << 16
"""Elements per call of NumPy, few enough that temporaries stay in cache."""

Loop = Callable[[Sequence[np.ndarray], Sequence[Any]], None]
"""Updates one-dimensional arrays, the operands of a loop, in place with the given coefficients."""

Sum = Callable[[np.ndarray, float], tuple[float, float]]
"""Adds up a term over at most one block of elements; the second result is 0 if the term is a single number."""


def loop(name: str, dtype: np.dtype) -> Loop:
    """The loop of a rule or an operation over arrays of float32 or float64."""
    if name in registry.operations():
        return operation_loop(name)
    return terms_loop(name, dtype) if name.endswith(registry.TERMS) else rule_loop(name, dtype)


def rule_loop(name: str, dtype: np.dtype) -> Loop:
    rule = registry.rule(name)
    update = (
        custom_function(registry.loop(name).functions, dtype) if name in registry.CUSTOM_RULES else getattr(rules, name)
    )
    shared = len(registry.loop(name).coefficients) - len(rule.coefficients)

    def run(operands: Sequence[np.ndarray], scalars: Sequence[Any]) -> None:
        size = operands[0].size
        for start in range(0, size, BLOCK):
            param, grad, *states = (operand[start : start + BLOCK] for operand in operands)
            new_param, new_grad = rules.regularize(param, grad, *scalars[:shared])
            results = update(new_param, new_grad, *states, *scalars[shared:])
            store((param, *states), results)

    return run


def terms_loop(name: str, dtype: np.dtype) -> Loop:
    """The loop that computes the terms of a rule's sums."""
    found = registry.loop(name)
    functions = {each.name: custom_function(found.functions, dtype, each.name) for each in found.functions}

    def run(operands: Sequence[np.ndarray], scalars: Sequence[Any]) -> None:
        for start in range(0, operands[0].size, BLOCK):
            arrays = [operand[start : start + BLOCK] for operand in operands]
            values = dict(zip((*found.operands, *found.coefficients), (*arrays, *scalars), strict=True))
            for function, arguments, targets in found.calls:
                results = functions[function.name](*(values[each] for each in arguments))
                if set(targets).isdisjoint(found.writes):
                    values.update(zip(targets, results, strict=True))
                else:
                    store([values[each] for each in targets], results)

    return run


def operation_loop(name: str) -> Loop:
    operation = registry.operations()[name]
    function = getattr(operations, name)
    reads = len(operation.reads)
    written = [operation.operands.index(operand) for operand in operation.writes]

    def run(operands: Sequence[np.ndarray], scalars: Sequence[Any]) -> None:
        keywords = dict(zip(operation.coefficients, scalars, strict=True))
        results = function(*(operand.copy() for operand in operands[:reads]), **keywords)
        store([operands[index] for index in written], results)

    return run


def store(targets: Sequence[np.ndarray], results: Any) -> None:
    if len(targets) == 1:
        results = (results,)
    for target, value in zip(targets, results, strict=True):
        target[...] = value


def sum_over(name: str, dtype: np.dtype) -> Sum:
    """A sum over at most one block of elements, added in the order of the compiled sums."""
    term = getattr(sums, name)
    precision = dtype if name in sums.COUNTS else np.dtype(np.float64)

    def add_up(elements: np.ndarray, coefficient: float) -> tuple[float, float]:
        rows = np.zeros((-(-elements.size // LANES), LANES), precision)
        rows.reshape(-1)[: elements.size] = elements
        terms = term(rows, precision.type(coefficient))
        if not isinstance(terms, tuple):
            return fold(terms, elements.size), 0.0
        first, second = (fold(each, elements.size) for each in terms)
        return first, second

    return add_up


def fold(terms: np.ndarray, size: int) -> float:
    """Adds up the rows one after the other, then repeatedly adds one half of the remaining sums to the other half."""
    terms.reshape(-1)[size:] = 0  # beyond the end
    lanes = np.zeros(LANES)
    for row in terms:
        lanes = lanes + row
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    return float(lanes[0])


def add_up(sum_over: Any, elements: np.ndarray, coefficient: float, block: int = SUM_BLOCK) -> tuple[float, float]:
    """Both results of a sum over any number of elements, added block by block."""
    first = second = 0.0
    for start in range(0, elements.size, block):
        results = sum_over(elements[start : start + block], coefficient)
        first += results[0]
        second += results[1]
    return first, second


def add_up_arrays(arrays: list[np.ndarray], sum_over: Sum, n_threads: int) -> float:
    """The sum over all elements of arrays, array by array."""
    total = 0.0
    with np.errstate(all="ignore"):
        for array in arrays:
            total += add_up(sum_over, array.reshape(-1), 0.0)[0]
    return total


def change_arrays(arrays: list[np.ndarray], loop: Any, coefficients: tuple[float, ...], n_threads: int) -> None:
    """Calls a loop of one operand on each array."""
    with np.errstate(all="ignore"):
        for array in arrays:
            loop([array.reshape(-1)], [array.dtype.type(value) for value in coefficients])


def coefficient_function(name: str) -> Callable[..., Any]:
    """A coefficient function as plain Python."""
    if name in registry.CUSTOM_RULES:
        return custom_function(registry.functions_of_coefficients(name), np.dtype(np.float64))
    function: Callable[..., Any] = getattr(coefficients, name)
    return function


def custom_function(functions: Sequence[Function], dtype: np.dtype, name: str = "") -> Callable[..., Any]:
    """A function of a custom rule, by default the last one, over arrays; its numbers have the dtype, as with Numba.

    The functions cannot run as written, because Python computes expressions like 1 - 0.9 in double precision.
    """
    words = {name: getattr(vocabulary, name) for name in vocabulary.__all__}
    namespace: dict[str, Any] = {"inline": lambda each: each, "number": dtype.type, "power": operator.pow, **words}
    exec("\n\n".join(functions_source(functions)), namespace)
    function: Callable[..., Any] = namespace[name or functions[-1].name]
    return function

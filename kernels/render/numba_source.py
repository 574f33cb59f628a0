"""Writes a loop or a coefficient function as the source of a Numba function, when it is first used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..constants import CACHE_LINE, LANES, PREFETCH_BLOCK
from ..formulas.dialect import Function
from ..formulas.registry import IDLE, Loop, sum_functions
from .spelling import ALONE, call_lines, indent, statements, without_terms

_NUMBA_FUNCTION = """\
@inline
def {name}({arguments}):
{body}
"""

_NUMBA_COEFFICIENTS = """\
def {name}_coefficients(arguments, results):
{arguments}
{call}
{results}
"""

_NUMBA_LOOP = """\
def {name}_loop(operands, size, coefficients, prefetch_distance):
{locals}
{alone}
    blocks = 0
    if prefetch_distance > 0:
        blocks = size // {block}
        for block in range(blocks):
            for i in range(block * {block} + prefetch_distance, (block + 1) * {block} + prefetch_distance, {per_line}):
{prefetches}
            for j in range({block}):
                i = block * {block} + j
{body_in_block}
    for i in range(blocks * {block}, size):
{body}
"""


_NUMBA_ADDING_LOOP = """\
def {name}_loop(operands, size, coefficients, prefetch_distance):
{locals}
    rows = size // {lanes}
    for row in range(rows):
        if prefetch_distance > 0:
            for i in range(row * {lanes} + prefetch_distance, (row + 1) * {lanes} + prefetch_distance, {per_line}):
{prefetches}
        for lane in range({lanes}):
            i = row * {lanes} + lane
{body_in_row}
    for lane in range(size - rows * {lanes}):
        i = rows * {lanes} + lane
{body}
"""
"""A loop of terms, which adds each term to one of LANES partial sums, as the sums do.

The operands of terms are these partial sums, float64, to which it adds."""


_NUMBA_SUM = """\
def {name}_sum(elements, size, coefficient, lanes):
    c = number(coefficient)
    for lane in range({lanes}):
        lanes[lane] = 0.0
    rows = size // {lanes}
    for row in range(rows):
        for lane in range({lanes}):
            lanes[lane] += {name}(number(elements[row * {lanes} + lane]), c)
    for lane in range(size - rows * {lanes}):
        lanes[lane] += {name}(number(elements[rows * {lanes} + lane]), c)
    half = {lanes} // 2
    while half > 0:
        for lane in range(half):
            lanes[lane] += lanes[half + lane]
        half = half // 2
"""


def sum_source(functions: Sequence[Function]) -> str:
    """A sum whose term is one number, over at most one block of elements, as a function over raw pointers.

    Its result is the first of `lanes`, which are float64. It expects in its globals what `numba_source` expects;
    `number` is the precision of the terms.
    """
    return "\n\n".join([*functions_source(functions), _NUMBA_SUM.format(name=functions[-1].name, lanes=LANES)])


def numba_source(loop: Loop, real: str) -> str:
    """A loop as the source of a Numba function over raw pointers, with the functions that it calls.

    It expects `inline` (a decorator), `number` (the working precision), `prefetch` and the vocabulary in its globals.
    """
    parts = functions_source(loop.functions)
    body = call_lines(loop, call="{}")
    alone = []
    if loop.alone and real in ALONE:
        idle = " and ".join(f"coefficients[{index}] == {value}" for index, value in enumerate(IDLE))
        own = [f"        {line}" for line in call_lines(loop.alone, call="{}")]
        alone = [f"if prefetch_distance == 0 and {idle}:", "    for i in range(size):", *own, "    return"]
    local = [f"s_{name} = operands[{index}]" for index, name in enumerate(loop.operands)]
    local += [f"c_{name} = coefficients[{index}]" for index, name in enumerate(loop.coefficients)]
    parts.append(
        _NUMBA_LOOP.format(
            name=loop.name,
            block=PREFETCH_BLOCK,
            per_line=CACHE_LINE // (4 if real == "float32" else 8),
            locals=indent(local, 1),
            alone=indent(alone, 1),
            prefetches=indent([f"prefetch(s_{name}, i)" for name in loop.operands], 4),
            body_in_block=indent(body, 4),
            body=indent(body, 2),
        )
    )
    return "\n\n".join(parts)


def adding_source(loop: Loop, real: str) -> str:
    """The same for a loop of terms that adds them up; it also expects `float64`, `doubles` and `add_square` in its
    globals."""
    own = without_terms(loop)
    first = len(own.operands)
    terms = loop.operands[first:]
    known = sum_functions()
    sums = [replace(known[each], name=f"{loop.name}_{each}") for each in dict.fromkeys(loop.reductions)]
    add = []
    for term, each in zip(terms, loop.reductions, strict=True):
        if each == "square" and real == "float32":  # fused, since the square of a float32 is exact in float64
            add.append(f"s_{term}[lane] = add_square(s_{term}[lane], float64(l_{term}))")
        else:
            add.append(f"s_{term}[lane] += {loop.name}_{each}(float64(l_{term}), 0.0)")
    body = [*call_lines(own, call="{}"), *add]
    local = [f"s_{name} = operands[{index}]" for index, name in enumerate(own.operands)]
    local += [f"s_{name} = doubles(operands[{first + index}])" for index, name in enumerate(terms)]
    local += [f"c_{name} = coefficients[{index}]" for index, name in enumerate(loop.coefficients)]
    written = _NUMBA_ADDING_LOOP.format(
        name=loop.name,
        lanes=LANES,
        per_line=CACHE_LINE // (4 if real == "float32" else 8),
        locals=indent(local, 1),
        prefetches=indent([f"prefetch(s_{name}, i)" for name in own.operands], 4),
        body_in_row=indent(body, 3),
        body=indent(body, 2),
    )
    return "\n\n".join([*functions_source((*loop.functions, *sums)), written])


def functions_source(functions: Sequence[Function]) -> list[str]:
    """Functions of the dialect, each as the source of a Numba function."""
    parts = []
    for function in functions:
        body, returns = statements(function, call="{}", number="number")
        lines = [*body, "return " + ", ".join(returns)]
        arguments = ", ".join(function.arguments)
        parts.append(_NUMBA_FUNCTION.format(name=function.name, arguments=arguments, body=indent(lines, 1)))
    return parts


def coefficients_source(functions: Sequence[Function]) -> str:
    """The last of these functions, called through raw pointers to its float64 arguments and results."""
    function = functions[-1]
    arguments = [f"a_{name} = arguments[{index}]" for index, name in enumerate(function.arguments)]
    results = [f"results[{index}] = r_{index}" for index in range(len(function.returns))]
    targets = ", ".join(f"r_{index}" for index in range(len(function.returns)))
    call = f"{targets} = {function.name}({', '.join(f'a_{name}' for name in function.arguments)})"
    return "\n\n".join(
        [
            *functions_source(functions),
            _NUMBA_COEFFICIENTS.format(
                name=function.name,
                arguments=indent(arguments, 1),
                call=indent([call], 1),
                results=indent(results, 1),
            ),
        ]
    )

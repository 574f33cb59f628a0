"""Writes the formulas as Cython, when fastopt is built.

`setup.py` runs this file, so it imports no NumPy, Numba or compiled module. Numbers become numbers of the working
precision; the vocabulary becomes C functions of that precision.
"""

from __future__ import annotations

import ast

from ..constants import CACHE_LINE, LANES, PREFETCH_BLOCK
from ..formulas.dialect import Function
from ..formulas.registry import (
    IDLE,
    REALS,
    Loop,
    coefficient_functions,
    counts,
    digest,
    loops,
    operation_functions,
    rule_functions,
    rules,
    sum_functions,
    terms,
)
from .bfloat16_source import bfloat16_source
from .codecs_source import codecs_source
from .spelling import ALONE, BY_KEY, call_lines, indent, statements, table, without_terms

BY_FMA = "float32_by_fma"
"""float32, with square roots computed by multiplications (square_root.h)."""

C_TYPES = {**REALS, BY_FMA: "float"}

WITHOUT_BFLOAT16 = "x86-64"
"""An instruction set whose processors are few, and gain little from loops over bfloat16; they need much room."""

SPARING = ("adam_cautious", "adam_cautious_amsgrad", "lion_cautious")
"""Rules that are rendered once for each precision, as few use them: not without `regularize`, with shared square roots,
or over bfloat16. Their results are the same; a rule takes half the room."""

SHARED_BLOCK, SHARED_ROOTS = 48, 16
"""In each block of SHARED_BLOCK elements, the multipliers compute the square roots of the first SHARED_ROOTS elements,
and the divider computes the others. This split keeps both busy on the Intel processor on which it was found."""


def takes_roots(loop: Loop) -> bool:
    """Whether a loop that writes each element computes its square root."""
    return not loop.reductions and any("sqrt" in _words(function) for function in loop.functions)


def _words(function: Function) -> set[str]:
    """The names that a function calls."""
    nodes = [node for part in (*function.body, *function.returns) for node in ast.walk(part)]
    return {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


_CYTHON_HEADER = """\
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=False, embedsignature=False, freethreading_compatible=True
# Rendered by kernels/render/cython_source.py; never edited, never committed.

cdef extern from *:
    '''
    #include <math.h>
    #include "square_root.h"
    #if defined(__FP_FAST_FMA)
    #define add_square(sum, x) fma(x, x, sum)
    #else
    #define add_square(sum, x) ((sum) + (double)(x) * (double)(x))
    #endif
{vocabulary}
    '''
    double add_square(double, double) noexcept nogil
{declarations}
"""

_C_VOCABULARY = """\
    typedef {c} *__restrict__ {real}_operand;
    #define number_{real}(x) (({c})(x))
    static inline {c} sqrt_{real}({c} x) {{ return {sqrt}(x); }}
    static inline {c} floor_{real}({c} x) {{ return floor{suffix}(x); }}
    static inline {c} log_{real}({c} x) {{ return log{suffix}(x); }}
    static inline {c} power_{real}({c} x, {c} y) {{ return pow{suffix}(x, y); }}
    static inline {c} select_{real}(int condition, {c} a, {c} b) {{ return condition ? a : b; }}
    static inline {c} maximum_{real}({c} a, {c} b) {{ return a < b ? b : a; }}
    static inline {c} clip_{real}({c} x, {c} low, {c} high) {{ {c} y = x < low ? low : x; return y > high ? high : y; }}
    static inline {c} sign_{real}({c} x) {{ return x < 0 || x > 0 ? copysign{suffix}(1, x) : 0; }}"""

_CYTHON_DECLARATIONS = """\
    ctypedef {c} *{real}_operand
    {c} number_{real}(double) noexcept nogil
    {c} sqrt_{real}({c}) noexcept nogil
    {c} floor_{real}({c}) noexcept nogil
    {c} log_{real}({c}) noexcept nogil
    {c} power_{real}({c}, {c}) noexcept nogil
    {c} select_{real}(bint, {c}, {c}) noexcept nogil
    {c} maximum_{real}({c}, {c}) noexcept nogil
    {c} clip_{real}({c}, {c}, {c}) noexcept nogil
    {c} sign_{real}({c}) noexcept nogil"""

_CYTHON_CONSTANTS = f"""\
cdef extern from *:
    '''
    #if defined(__GNUC__)
    #define prefetch_for_update(address) __builtin_prefetch(address, 0, 3)
    #else
    #define prefetch_for_update(address) ((void)(address))
    #endif
    '''
    void prefetch_for_update(const void *) noexcept nogil
    int roots_can_be_shared() noexcept nogil
    int FASTOPT_CAN_SHARE_ROOTS

cdef enum:
    BLOCK = {PREFETCH_BLOCK}
    SHARED_BLOCK = {SHARED_BLOCK}
    SHARED_ROOTS = {SHARED_ROOTS}
    LANES = {LANES}
"""


def _cython_prelude(reals: list[str]) -> str:
    values = [{"real": real, "c": C_TYPES[real], "suffix": "" if real == "float64" else "f"} for real in reals]
    for value in values:
        value["sqrt"] = "sqrtf_by_fma" if value["real"] == BY_FMA else f"sqrt{value['suffix']}"
    return _CYTHON_HEADER.format(
        vocabulary="\n".join(_C_VOCABULARY.format(**value) for value in values),
        declarations="\n".join(_CYTHON_DECLARATIONS.format(**value) for value in values),
    )


def _cython_function(function: Function, real: str) -> str:
    c = C_TYPES[real]
    body, returns = statements(function, call="{}_" + real, number=f"number_{real}")
    result = c if len(returns) == 1 else "(" + ", ".join([c] * len(returns)) + ")"
    arguments = ", ".join(f"{c} {name}" for name in function.arguments)
    lines = [f"cdef {c} {name}" for name in function.local_names] + body
    lines.append("return " + (returns[0] if len(returns) == 1 else "(" + ", ".join(returns) + ")"))
    return f"cdef inline {result} {function.name}_{real}({arguments}) noexcept nogil:\n{indent(lines, 1)}\n"


_CYTHON_LOOP = """\
cdef inline void {name}_over_{real}({operand_arguments}, Py_ssize_t size, const {c} *coefficients,
                                    Py_ssize_t prefetch) noexcept nogil:
{locals}
    cdef Py_ssize_t i, block, blocks = 0
    if prefetch > 0:
        blocks = size // BLOCK
        for block in range(blocks):
            for i in range(block * BLOCK + prefetch, (block + 1) * BLOCK + prefetch, {per_line}):
{prefetches}
            for i in range(block * BLOCK, (block + 1) * BLOCK):
{body_in_block}
    for i in range(blocks * BLOCK, size):
{body}

{alone}
cdef void {name}_loop_{real}(void **operands, Py_ssize_t size, const void *coefficients,
                             Py_ssize_t prefetch) noexcept nogil:
    cdef const {c} *numbers = <const {c} *>coefficients
{choice}
    {name}_over_{real}({operands}, size, numbers, prefetch)
"""

_CYTHON_ALONE = """
cdef inline void {name}_alone_{real}({operand_arguments}, Py_ssize_t size, const {c} *coefficients) noexcept nogil:
{locals}
    cdef Py_ssize_t i
    for i in range(size):
{body}

"""


def _declared(loop: Loop, c: str) -> str:
    """The variables of a loop, and its coefficients."""
    lines = [f"cdef {c} l_{name}" for name in loop.local_names]
    lines += [f"cdef {c} c_{name} = coefficients[{index}]" for index, name in enumerate(loop.coefficients)]
    return indent(lines, 1)


def _cython_loop(loop: Loop, real: str) -> str:
    c = REALS[real]
    body = call_lines(loop, call="{}_" + real)
    itemsize = 4 if real == "float32" else 8
    spelled = {
        "name": loop.name,
        "real": real,
        "c": c,
        "operand_arguments": ", ".join(f"{real}_operand s_{name}" for name in loop.operands),
        "operands": ", ".join(f"<{real}_operand>operands[{index}]" for index in range(len(loop.operands))),
    }
    alone, choice = "", []
    if loop.alone and real in ALONE and loop.name not in SPARING:
        own = call_lines(loop.alone, call="{}_" + real)
        alone = _CYTHON_ALONE.format(**spelled, locals=_declared(loop.alone, c), body=indent(own, 2))
        idle = " and ".join(f"numbers[{index}] == {value:g}" for index, value in enumerate(IDLE))
        call = f"{loop.name}_alone_{real}({spelled['operands']}, size, numbers + {len(IDLE)})"
        choice = [f"if prefetch == 0 and {idle}:", f"    {call}", "    return"]
    return _CYTHON_LOOP.format(
        **spelled,
        alone=alone,
        choice=indent(choice, 1),
        locals=_declared(loop, c),
        per_line=CACHE_LINE // itemsize,
        prefetches=indent([f"prefetch_for_update(s_{name} + i)" for name in loop.operands], 4),
        body_in_block=indent(body, 4),
        body=indent(body, 2),
    )


_CYTHON_ADDING_LOOP = """\
cdef inline void {name}_over_{real}({operand_arguments}, {term_arguments}, Py_ssize_t size,
                                    const {c} *coefficients, Py_ssize_t prefetch) noexcept nogil:
{locals}
    cdef Py_ssize_t i, lane, row, whole = size // LANES * LANES
    for row in range(0, whole, {lanes}):
        if prefetch > 0:
            for i in range(row + prefetch, row + prefetch + LANES, {per_line}):
{prefetches}
        for lane in range(LANES):
            i = row + lane
{body_in_row}
    for lane in range(size - whole):
        i = whole + lane
{body}


cdef void {name}_loop_{real}(void **operands, Py_ssize_t size, const void *coefficients,
                             Py_ssize_t prefetch) noexcept nogil:
    {name}_over_{real}({operands}, {terms}, size, <const {c} *>coefficients, prefetch)
"""
"""A loop of terms, which adds each term to one of LANES partial sums, as the sums do.

The operands of terms are these partial sums, to which it adds."""


def added(number: str, reduction: str, term: str, real: str) -> str:
    """A partial sum, and a term of one number added to it."""
    if reduction == "square" and real == "float32":  # fused, since the square of a float32 is exact in float64
        return f"{number} = add_square({number}, {term})"
    return f"{number} += {reduction}_float64({term}, 0)"


def _cython_adding_loop(loop: Loop, real: str) -> str:
    own = without_terms(loop)
    first = len(own.operands)
    terms = loop.operands[first:]
    add = [added(f"s_{term}[lane]", each, f"l_{term}", real) for term, each in zip(terms, loop.reductions, strict=True)]
    body = [*call_lines(own, call="{}_" + real), *add]
    return _CYTHON_ADDING_LOOP.format(
        name=loop.name,
        real=real,
        c=REALS[real],
        lanes=LANES,
        operand_arguments=", ".join(f"{real}_operand s_{name}" for name in own.operands),
        term_arguments=", ".join(f"float64_operand s_{name}" for name in terms),
        operands=", ".join(f"<{real}_operand>operands[{index}]" for index in range(first)),
        terms=", ".join(f"<float64_operand>operands[{first + index}]" for index in range(len(terms))),
        locals=_declared(own, REALS[real]),
        per_line=CACHE_LINE // (4 if real == "float32" else 8),
        prefetches=indent([f"prefetch_for_update(s_{name} + i)" for name in own.operands], 4),
        body_in_row=indent(body, 3),
        body=indent(body, 2),
    )


_CYTHON_SHARING_LOOP = """\
cdef inline void {name}_sharing_float32({operand_arguments}, Py_ssize_t blocks,
                                        const float *coefficients) noexcept nogil:
{locals}
    cdef Py_ssize_t i, block, lane
    for block in range(blocks):
        for lane in range(SHARED_ROOTS):
            i = block * SHARED_BLOCK + lane
{body_by_fma}
        for lane in range(SHARED_BLOCK - SHARED_ROOTS):
            i = block * SHARED_BLOCK + SHARED_ROOTS + lane
{body}


cdef void {name}_sharing_loop_float32(void **operands, Py_ssize_t size, const void *coefficients,
                                      Py_ssize_t prefetch) noexcept nogil:
    cdef Py_ssize_t blocks = 0
    cdef void *rest[{n_operands}]
    if prefetch == 0 and roots_can_be_shared():
        blocks = size // SHARED_BLOCK
        {name}_sharing_float32({operands}, blocks, <const float *>coefficients)
{rest}
    {name}_loop_float32(rest, size - blocks * SHARED_BLOCK, coefficients, prefetch)
"""


def _cython_sharing_loop(loop: Loop) -> str:
    rest = [f"rest[{k}] = <float32_operand>operands[{k}] + blocks * SHARED_BLOCK" for k in range(len(loop.operands))]
    return _CYTHON_SHARING_LOOP.format(
        name=loop.name,
        n_operands=len(loop.operands),
        operand_arguments=", ".join(f"float32_operand s_{name}" for name in loop.operands),
        operands=", ".join(f"<float32_operand>operands[{index}]" for index in range(len(loop.operands))),
        locals=_declared(loop, "float"),
        body_by_fma=indent(call_lines(loop, call="{}_" + BY_FMA), 3),
        body=indent(call_lines(loop, call="{}_float32"), 3),
        rest=indent(rest, 1),
    )


_CYTHON_ROOTS = """\
cdef void roots_by_fma(float *x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        x[i] = sqrt_float32_by_fma(x[i])
"""
"""Only a test uses it."""


_CYTHON_SUM = """\
cdef void {name}_sum_{real}(const void *array, Py_ssize_t size, double coefficient, double *results) noexcept nogil:
    cdef const {c} *x = <const {c} *>array
    cdef Py_ssize_t i, lane, half, whole = size // LANES * LANES
    cdef {lane} {terms}, c_coefficient = <{lane}>coefficient
{declared}
    for lane in range(LANES):
{start}
    for i in range(0, whole, {lanes}):
        for lane in range(LANES):
            {terms} = {name}_{precision}(x[i + lane], c_coefficient)
{add}
    for lane in range(size - whole):
        {terms} = {name}_{precision}(x[whole + lane], c_coefficient)
{add_rest}
    half = LANES // 2
    while half > 0:
        for lane in range(half):
{fold}
        half = half // 2
{results}
"""


def _cython_sum(function: Function, real: str) -> str:
    numbers = range(len(function.returns))
    precision = real if function.name in counts() else "float64"
    add = [f"lanes_{number}[lane] += term_{number}" for number in numbers]
    return _CYTHON_SUM.format(
        name=function.name,
        real=real,
        c=REALS[real],
        lanes=LANES,
        precision=precision,
        lane=REALS[precision],
        terms=", ".join(f"term_{number}" for number in numbers),
        declared=indent([f"cdef {REALS[precision]} lanes_{number}[LANES]" for number in numbers], 1),
        start=indent([f"lanes_{number}[lane] = 0" for number in numbers], 2),
        add=indent(add, 3),
        add_rest=indent(add, 2),
        fold=indent([f"lanes_{number}[lane] += lanes_{number}[lane + half]" for number in numbers], 3),
        results=indent([f"results[{number}] = lanes_{number}[0]" for number in numbers], 1),
    )


def term_functions() -> list[Function]:
    """The functions of the terms of all rules' sums."""
    found = {each.name: each for rule in rules() for each in getattr(terms(rule), "functions", ())}
    return list(found.values())


def loops_source(level: str) -> str:
    """The Cython module of all loops and sums for one instruction set; only LEVEL differs between instruction sets."""
    parts = [_cython_function(function, "float64") for function in sum_functions().values()]
    for real in REALS:
        functions = (*rule_functions().values(), *operation_functions().values(), *term_functions())
        parts += [_cython_function(function, real) for function in functions]
        if real != "float64":
            parts += [_cython_function(sum_functions()[name], real) for name in sorted(counts())]
        parts += [(_cython_adding_loop if each.reductions else _cython_loop)(each, real) for each in loops().values()]
        parts += [_cython_sum(function, real) for function in sum_functions().values()]
    sharing = [loop for loop in loops().values() if takes_roots(loop) and loop.name not in SPARING]
    by_fma = {each.name: each for loop in sharing for each in loop.functions}
    parts += [_cython_function(function, BY_FMA) for function in by_fma.values()]
    parts += [_cython_sharing_loop(loop) for loop in sharing]
    return "\n\n".join(
        [
            _cython_prelude(list(C_TYPES)),
            _CYTHON_CONSTANTS,
            *parts,
            _CYTHON_ROOTS,
            BY_KEY,
            table("ADDRESSES", loops(), {real: f"loop_{real}" for real in REALS}),
            table("SHARING", [loop.name for loop in sharing], {"float32": "sharing_loop_float32"}),
            "CAN_SHARE_ROOTS = bool(FASTOPT_CAN_SHARE_ROOTS)\nROOTS_BY_FMA = <size_t>&roots_by_fma",
            table("SUMS", sum_functions(), {real: f"sum_{real}" for real in REALS}),
            codecs_source(),
            bfloat16_source(() if level == WITHOUT_BFLOAT16 else [name for name in rules() if name not in SPARING]),
            f"LEVEL = {level!r}\nDIGEST = {digest()!r}\n",
        ]
    )


_CYTHON_COEFFICIENTS = """\
cdef void {name}_host(const double *arguments, double *results) noexcept nogil:
    {results} = {name}_float64({arguments})
"""


def coefficients_source() -> str:
    """The Cython module that defines every coefficient function as `void f(const double *, double *)`."""
    functions, parts = coefficient_functions(), []
    for function in functions.values():
        parts.append(_cython_function(function, "float64"))
        parts.append(
            _CYTHON_COEFFICIENTS.format(
                name=function.name,
                results=", ".join(f"results[{index}]" for index in range(len(function.returns))),
                arguments=", ".join(f"arguments[{index}]" for index in range(len(function.arguments))),
            )
        )
    addresses = [f'"{name}": <size_t>&{name}_host,' for name in functions]
    ending = f"ADDRESSES = {{\n{indent(addresses, 1)}\n}}\nDIGEST = {digest()!r}\n"
    return "\n\n".join([_cython_prelude(["float64"]), *parts, ending])

"""Writes the rules and the coefficient functions as Cython (at build time) and as Numba source (when first used).

Both come from the syntax trees that `dialect` read, so there is one text of each formula. Numbers become numbers of the
working precision; the vocabulary becomes functions of that precision. This file must import without NumPy, Numba and
the compiled module: `setup.py` runs it.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .dialect import VOCABULARY, Function, Operation, Rule, called_functions, is_operation, is_rule, read_module

HERE = Path(__file__).parent
REALS = {"float32": "float", "float64": "double"}
"""Working precisions and their C types."""

BY_FMA = "float32_by_fma"
"""float32, its square roots by multiplications (square_root.h)."""

C_TYPES = {**REALS, BY_FMA: "float"}

SHARED_BLOCK, SHARED_ROOTS = 48, 16
"""Of so many elements, the first so many take their roots from the multipliers and the others from the divider. That is
what keeps both busy on the Intel processor on which it was found."""

PREFETCH_BLOCK = 64
"""Elements between two rounds of prefetches, in loops that prefetch."""

CACHE_LINE = 64

LANES = 64
"""Partial sums in a reduction: element i goes to number i modulo this; then each half is added to the other."""

SOURCES = ("rules.py", "operations.py", "sums.py", "coefficients.py")
"""Where the formulas are."""


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
    return read_module(HERE / "coefficients.py")


@dataclass(frozen=True)
class Loop:
    """A loop over elements: what it walks over, what else it takes, and the calls for one element, in order.

    A call is (function, its arguments, what its results are assigned to). In calls, streams stand for their elements,
    and `local_names` live for one element.
    """

    name: str
    streams: tuple[str, ...]
    coefficients: tuple[str, ...]
    calls: tuple[tuple[Function, tuple[str, ...], tuple[str, ...]], ...]
    local_names: tuple[str, ...] = ()


@functools.cache
def loops() -> dict[str, Loop]:
    """The loop of every rule (`regularize`, then the rule) and of every operation, by its name."""
    found = {}
    regularize = rule_functions()["regularize"]
    shared = regularize.arguments[2:]
    between = ("param_i", "grad_i")
    for rule in rules().values():
        calls = (
            (regularize, ("param", "grad", *shared), between),
            (rule.function, (*between, *rule.states, *rule.coefficients), ("param", *rule.states)),
        )
        found[rule.name] = Loop(rule.name, rule.streams, (*shared, *rule.coefficients), calls, between)
    for operation in operations().values():
        call = (operation.function, operation.function.arguments, operation.writes)
        found[operation.name] = Loop(operation.name, operation.streams, operation.coefficients, (call,))
    return found


def takes_roots(loop: Loop) -> bool:
    """Whether an element's update has a square root."""
    return any("sqrt" in _words(function) for function in _functions_of(loop))


def _functions_of(loop: Loop) -> list[Function]:
    """What a loop calls for an element, callees first."""
    known = {**rule_functions(), **operation_functions()}
    found: dict[str, Function] = {}
    for function, _, _ in loop.calls:
        found |= {each.name: each for each in (*called_functions(function, known), function)}
    return list(found.values())


def _words(function: Function) -> set[str]:
    """The names that a function calls."""
    nodes = [node for part in (*function.body, *function.returns) for node in ast.walk(part)]
    return {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


class _Spelling(ast.NodeTransformer):
    """Renames calls, wraps numbers, and turns `**` into a call."""

    def __init__(self, call: str, number: str) -> None:
        self.call = call
        self.number = number

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        assert isinstance(node.func, ast.Name)
        node.func = ast.Name(self.call.format(node.func.id), ast.Load())
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = ast.Constant(float(node.value))  # type: ignore[arg-type]
        return ast.Call(ast.Name(self.number, ast.Load()), [value], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Pow):
            return ast.Call(ast.Name(self.call.format("power"), ast.Load()), [node.left, node.right], [])
        return node


def _statements(function: Function, call: str, number: str) -> tuple[list[str], list[str]]:
    """The body and the returned expressions, respelled."""
    spelling = _Spelling(call, number)
    body = [ast.unparse(spelling.visit(copy.deepcopy(node))) for node in function.body]
    returns = [ast.unparse(spelling.visit(copy.deepcopy(node))) for node in function.returns]
    return body, returns


def _indent(lines: list[str], levels: int) -> str:
    return "\n".join("    " * levels + line for line in lines)


# --- Cython ---------------------------------------------------------------------------------------------------------

_CYTHON_HEADER = """\
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=False, embedsignature=False, freethreading_compatible=True
# Rendered by kernels/render.py; never edited, never committed.

cdef extern from *:
    '''
    #include <math.h>
    #include "square_root.h"
{vocabulary}
    '''
{declarations}
"""

_C_VOCABULARY = """\
    typedef {c} *__restrict__ {real}_stream;
    #define number_{real}(x) (({c})(x))
    static inline {c} sqrt_{real}({c} x) {{ return {sqrt}(x); }}
    static inline {c} floor_{real}({c} x) {{ return floor{suffix}(x); }}
    static inline {c} power_{real}({c} x, {c} y) {{ return pow{suffix}(x, y); }}
    static inline {c} select_{real}(int condition, {c} a, {c} b) {{ return condition ? a : b; }}
    static inline {c} maximum_{real}({c} a, {c} b) {{ return a < b ? b : a; }}
    static inline {c} clip_{real}({c} x, {c} low, {c} high) {{ {c} y = x < low ? low : x; return y > high ? high : y; }}
    static inline {c} sign_{real}({c} x) {{ return (x > 0 ? ({c})1 : ({c})0) - (x < 0 ? ({c})1 : ({c})0); }}"""

_CYTHON_DECLARATIONS = """\
    ctypedef {c} *{real}_stream
    {c} number_{real}(double) noexcept nogil
    {c} sqrt_{real}({c}) noexcept nogil
    {c} floor_{real}({c}) noexcept nogil
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
    body, returns = _statements(function, call="{}_" + real, number=f"number_{real}")
    result = c if len(returns) == 1 else "(" + ", ".join([c] * len(returns)) + ")"
    arguments = ", ".join(f"{c} {name}" for name in function.arguments)
    lines = [f"cdef {c} {name}" for name in function.local_names] + body
    lines.append("return " + (returns[0] if len(returns) == 1 else "(" + ", ".join(returns) + ")"))
    return f"cdef inline {result} {function.name}_{real}({arguments}) noexcept nogil:\n{_indent(lines, 1)}\n"


_CYTHON_LOOP = """\
cdef inline void {name}_over_{real}({stream_arguments}, Py_ssize_t size, const {c} *coefficients,
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


cdef void {name}_loop_{real}(void **streams, Py_ssize_t size, const void *coefficients,
                             Py_ssize_t prefetch) noexcept nogil:
    {name}_over_{real}({streams}, size, <const {c} *>coefficients, prefetch)
"""


def _calls(loop: Loop, call: str) -> list[str]:
    """One line for each call of a loop; `call` spells the name of a function."""

    def spelled(name: str) -> str:
        if name in loop.streams:
            return f"{name}[i]"
        return name if name in loop.local_names else f"c_{name}"

    return [
        f"{', '.join(map(spelled, targets))} = {call.format(function.name)}({', '.join(map(spelled, arguments))})"
        for function, arguments, targets in loop.calls
    ]


def _cython_loop(loop: Loop, real: str) -> str:
    c = REALS[real]
    body = _calls(loop, call="{}_" + real)
    declared = [f"cdef {c} {name}" for name in loop.local_names]
    declared += [f"cdef {c} c_{name} = coefficients[{index}]" for index, name in enumerate(loop.coefficients)]
    itemsize = 4 if real == "float32" else 8
    return _CYTHON_LOOP.format(
        name=loop.name,
        real=real,
        c=c,
        stream_arguments=", ".join(f"{real}_stream {name}" for name in loop.streams),
        streams=", ".join(f"<{real}_stream>streams[{index}]" for index in range(len(loop.streams))),
        locals=_indent(declared, 1),
        per_line=CACHE_LINE // itemsize,
        prefetches=_indent([f"prefetch_for_update({name} + i)" for name in loop.streams], 4),
        body_in_block=_indent(body, 4),
        body=_indent(body, 2),
    )


_CYTHON_SHARING_LOOP = """\
cdef inline void {name}_sharing_float32({stream_arguments}, Py_ssize_t blocks,
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


cdef void {name}_sharing_loop_float32(void **streams, Py_ssize_t size, const void *coefficients,
                                      Py_ssize_t prefetch) noexcept nogil:
    cdef Py_ssize_t blocks = 0
    cdef void *rest[{n_streams}]
    if prefetch == 0 and roots_can_be_shared():
        blocks = size // SHARED_BLOCK
        {name}_sharing_float32({streams}, blocks, <const float *>coefficients)
{rest}
    {name}_loop_float32(rest, size - blocks * SHARED_BLOCK, coefficients, prefetch)
"""


def _cython_sharing_loop(loop: Loop) -> str:
    declared = [f"cdef float {name}" for name in loop.local_names]
    declared += [f"cdef float c_{name} = coefficients[{index}]" for index, name in enumerate(loop.coefficients)]
    rest = [f"rest[{k}] = <float32_stream>streams[{k}] + blocks * SHARED_BLOCK" for k in range(len(loop.streams))]
    return _CYTHON_SHARING_LOOP.format(
        name=loop.name,
        n_streams=len(loop.streams),
        stream_arguments=", ".join(f"float32_stream {name}" for name in loop.streams),
        streams=", ".join(f"<float32_stream>streams[{index}]" for index in range(len(loop.streams))),
        locals=_indent(declared, 1),
        body_by_fma=_indent(_calls(loop, call="{}_" + BY_FMA), 3),
        body=_indent(_calls(loop, call="{}_float32"), 3),
        rest=_indent(rest, 1),
    )


_CYTHON_ROOTS = """\
cdef void roots_by_fma(float *x, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        x[i] = sqrt_float32_by_fma(x[i])
"""
"""For a test."""


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
        declared=_indent([f"cdef {REALS[precision]} lanes_{number}[LANES]" for number in numbers], 1),
        start=_indent([f"lanes_{number}[lane] = 0" for number in numbers], 2),
        add=_indent(add, 3),
        add_rest=_indent(add, 2),
        fold=_indent([f"lanes_{number}[lane] += lanes_{number}[lane + half]" for number in numbers], 3),
        results=_indent([f"results[{number}] = lanes_{number}[0]" for number in numbers], 1),
    )


def _table(name: str, keys: Iterable[str], suffix: str, reals: Iterable[str] = REALS) -> str:
    lines = [f'("{key}", "{real}"): <size_t>&{key}_{suffix}_{real},' for real in reals for key in keys]
    return f"{name} = {{\n{_indent(lines, 1)}\n}}"


def loops_source(level: str) -> str:
    """The Cython module that holds every loop and every sum, for one instruction set; the text is the same for each."""
    parts = [_cython_function(function, "float64") for function in sum_functions().values()]
    for real in REALS:
        functions = (*rule_functions().values(), *operation_functions().values())
        parts += [_cython_function(function, real) for function in functions]
        if real != "float64":
            parts += [_cython_function(sum_functions()[name], real) for name in sorted(counts())]
        parts += [_cython_loop(loop, real) for loop in loops().values()]
        parts += [_cython_sum(function, real) for function in sum_functions().values()]
    sharing = [loop for loop in loops().values() if takes_roots(loop)]
    by_fma = {each.name: each for loop in sharing for each in _functions_of(loop)}
    parts += [_cython_function(function, BY_FMA) for function in by_fma.values()]
    parts += [_cython_sharing_loop(loop) for loop in sharing]
    return "\n\n".join(
        [
            _cython_prelude(list(C_TYPES)),
            _CYTHON_CONSTANTS,
            *parts,
            _CYTHON_ROOTS,
            _table("ADDRESSES", loops(), "loop"),
            _table("SHARING", [loop.name for loop in sharing], "sharing_loop", reals=("float32",)),
            "CAN_SHARE_ROOTS = bool(FASTOPT_CAN_SHARE_ROOTS)\nROOTS_BY_FMA = <size_t>&roots_by_fma",
            _table("SUMS", sum_functions(), "sum"),
            f"LEVEL = {level!r}\nDIGEST = {digest()!r}\n",
        ]
    )


_CYTHON_COEFFICIENTS = """\
cdef void {name}_host(const double *arguments, double *results) noexcept nogil:
    {results} = {name}_float64({arguments})
"""


def coefficients_source() -> str:
    """The Cython module that holds every coefficient function as `void f(const double *, double *)`."""
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
    table = [f'"{name}": <size_t>&{name}_host,' for name in functions]
    ending = f"ADDRESSES = {{\n{_indent(table, 1)}\n}}\nDIGEST = {digest()!r}\n"
    return "\n\n".join([_cython_prelude(["float64"]), *parts, ending])


def digest() -> str:
    """Identifies the formulas that something was rendered from: everything but comments, names of files and layout."""
    import hashlib  # rarely needed, and slow to load

    text = "\n".join(ast.dump(ast.parse((HERE / name).read_text(encoding="utf-8"))) for name in SOURCES)
    return hashlib.sha256(text.encode()).hexdigest()


# --- Numba ----------------------------------------------------------------------------------------------------------

_NUMBA_FUNCTION = """\
@inline
def {name}({arguments}):
{body}
"""

_NUMBA_LOOP = """\
def {name}_loop(streams, size, coefficients, prefetch_distance):
{locals}
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


def numba_source(loop: Loop, real: str) -> str:
    """A loop as the source of a Numba function over raw pointers, with what it calls.

    It expects `inline` (a decorator), `number` (the working precision), `prefetch` and the vocabulary in its globals.
    """
    known = {**rule_functions(), **operation_functions()}
    needed: dict[str, Function] = {}
    for function, _, _ in loop.calls:
        needed |= {each.name: each for each in (*called_functions(function, known), function)}
    parts = []
    for function in needed.values():
        body, returns = _statements(function, call="{}", number="number")
        lines = [*body, "return " + ", ".join(returns)]
        arguments = ", ".join(function.arguments)
        parts.append(_NUMBA_FUNCTION.format(name=function.name, arguments=arguments, body=_indent(lines, 1)))
    body = _calls(loop, call="{}")
    local = [f"{name} = streams[{index}]" for index, name in enumerate(loop.streams)]
    local += [f"c_{name} = coefficients[{index}]" for index, name in enumerate(loop.coefficients)]
    parts.append(
        _NUMBA_LOOP.format(
            name=loop.name,
            block=PREFETCH_BLOCK,
            per_line=CACHE_LINE // (4 if real == "float32" else 8),
            locals=_indent(local, 1),
            prefetches=_indent([f"prefetch({name}, i)" for name in loop.streams], 4),
            body_in_block=_indent(body, 4),
            body=_indent(body, 2),
        )
    )
    return "\n\n".join(parts)


assert set(VOCABULARY) == {"sqrt", "floor", "select", "maximum", "clip", "sign"}, (
    "spell the new word in C and Numba too"
)

"""Pieces of kernels' source: formulas as functions, loops, rows of tables, and lines that several kernels share."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from ..formulas.dialect import Function
from ..render.spelling import indent, statements
from .structures import Structure, segment_bytes
from .table_format import COUNTERS, HEADER, PLAN, SCALER, SEGMENT


class _Products(ast.NodeTransformer):
    """Writes products as calls of `multiply`, which the compiler does not fuse with an addition."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Mult):
            return ast.Call(ast.Name("multiply", ast.Load()), [node.left, node.right], [])
        return node


class _Words(ast.NodeTransformer):
    """Lets arithmetic on words of 32 bits wrap around: wider results are cut off."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return ast.Call(ast.Name("as_word", ast.Load()), [node], [])


def word_function_source(function: Function) -> str:
    """The source of one function of codecs."""
    body, returns = statements(function, call="word_{}", number="as_word", convert=int)
    lines = [*body, "return " + ", ".join(returns)]
    wrapping = [ast.unparse(_Words().visit(ast.parse(line))) for line in lines]
    return device(f"word_{function.name}", function.arguments, wrapping)


def uncontracted(line: str) -> str:
    return ast.unparse(_Products().visit(ast.parse(line)))


def function_source(function: Function, prefix: str, number: str) -> str:
    """The source of one function of the dialect; the functions that it calls have the same prefix."""
    body, returns = statements(function, call=prefix + "_{}", number=number)
    lines = [*body, "return " + ", ".join(returns)]
    return device(f"{prefix}_{function.name}", function.arguments, [uncontracted(line) for line in lines])


def device(name: str, arguments: Iterable[str], lines: Sequence[str]) -> str:
    return f"@device_function\ndef {name}({', '.join(arguments)}):\n{indent(list(lines), 1)}\n"


def functions_source(functions: Iterable[Function], prefix: str, number: str) -> list[str]:
    return [function_source(each, prefix, number) for each in dict.fromkeys(functions)]


def at(table: str, columns: Sequence[str], column: str) -> str:
    """The arguments that load or store a column of a row."""
    return f"{table}, {columns.index(column)}"


def walk(index: str, first: str, stop: str, step: str, lines: Sequence[str]) -> list[str]:
    """A loop like `for` over `range`, but without the division that Numba needs to count the turns of a `range`."""
    return [
        f"{index} = {first}",
        f"while {index} < {stop}:",
        *(f"    {line}" for line in lines),
        f"    {index} += {step}",
    ]


def row_of(table: str, index: str, n_columns: int) -> str:
    return f"{table} + {index} * {n_columns * 8}"


def kernel_source(name: str, structures: Sequence[Structure], used: Sequence[str], body: Sequence[str]) -> str:
    lines = [f"{each} = load_int64(header, {HEADER.index(each)})" for each in used]
    lines.append(f"row_bytes = {segment_bytes(structures)}")
    return f"def {name}(header):\n{indent([*lines, *body], 1)}\n"


ACTIVE = (
    "frozen = load_int64(row, {frozen})".format(frozen=SEGMENT.index("frozen")),
    "gradient = load_int64(gradients, segment)",
    "waiting = load_int64(pending, segment)",
    "active = frozen == 0 and (gradient != 0 or (final and waiting != 0))",
)
"""Sets `active`: whether this call does anything to a segment."""

FINAL = (
    f"accumulated = load_int64(counters, {COUNTERS.index('accumulated')})",
    f"accumulate_steps = load_float64(plan, {PLAN.index('accumulate_steps')})",
    "final = accumulated + 1 >= accumulate_steps",
)
"""Sets `final`: whether this call updates."""

SCALE = (
    f"scale_address = load_int64(scaler, {SCALER.index('scale')})",
    "scale = float64(1.0)",
    "if scale_address != 0:",
    "    scale = float64(load_float32(scale_address, 0))",
)
"""Sets `scale`, which divides gradients in addition to the divisors set on the host."""

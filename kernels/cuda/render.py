"""Writes the kernels as source, from the formulas: elements, coefficients, and what walks over the tables.

A structure is what groups have in common whose plans differ in numbers only; each program of a structure is a variant
of the update kernel, in which all of its operations are done to an element while it is in registers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..dialect import Function
from ..formulas import LANES, Loop, indent, statements
from ..plan import CLIPPED, ENGINE_ARGUMENTS, GRAD, PREPARED, GroupPlan
from .layout import (
    COUNTERS,
    COUNTS,
    GROUP,
    HEADER,
    NO_SUM,
    NUMBERS,
    PLAN,
    SCALER,
    SEGMENT,
    SEQUENTIAL,
    SETTINGS,
    SQUARES,
    SUM_BLOCK,
    TREE,
    VALUES,
)

Pick = tuple[int, int]
"""(stage, which of its results)"""


@dataclass(frozen=True)
class Structure:
    """What the kernels know of a group."""

    stages: tuple[tuple[tuple[Function, ...], tuple[int, ...], int], ...]
    """For each: the coefficient function with what it calls, `Stage.positions`, and how many arguments it takes."""
    programs: tuple[tuple[str, tuple[tuple[Loop, tuple[int, ...], tuple[Pick, ...]], ...]], ...]
    sum: tuple[Function, ...]
    sum_of_squares: bool
    accumulator: int
    mu_product: Pick

    @staticmethod
    def of(plan: GroupPlan) -> Structure:
        return Structure(
            tuple((stage.function, stage.positions, len(stage.arguments)) for stage in plan.stages),
            tuple(
                (name, tuple((each.loop, each.streams, each.pick) for each in operations))
                for name, operations in sorted(plan.programs.items())
            ),
            plan.sum or (),
            plan.sum_of_squares,
            plan.accumulator,
            plan.mu_product,
        )

    @property
    def picks(self) -> tuple[Pick, ...]:
        """The coefficients that its operations take, in the order in which they are in its row."""
        return tuple(
            dict.fromkeys(pick for _, operations in self.programs for _, _, picks in operations for pick in picks)
        )

    @property
    def sum_kind(self) -> int:
        return NO_SUM if not self.sum else SQUARES if self.sum_of_squares else COUNTS

    def program(self, name: str) -> tuple[Any, ...]:
        return dict(self.programs).get(name, ())


# --- functions --------------------------------------------------------------------------------------------------------


class _Products(ast.NodeTransformer):
    """Spells products as calls, which the compiler does not contract with a sum."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Mult):
            return ast.Call(ast.Name("multiply", ast.Load()), [node.left, node.right], [])
        return node


def uncontracted(line: str) -> str:
    return ast.unparse(_Products().visit(ast.parse(line)))


def function_source(function: Function, prefix: str, number: str) -> str:
    """One function of the dialect; those that it calls have the same prefix."""
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
    """A loop as `range` would make it, without the division with which Numba counts the turns of that."""
    return [
        f"{index} = {first}",
        f"while {index} < {stop}:",
        *(f"    {line}" for line in lines),
        f"    {index} += {step}",
    ]


def row_of(table: str, index: str, n_columns: int) -> str:
    return f"{table} + {index} * {n_columns * 8}"


# --- an element -------------------------------------------------------------------------------------------------------

VECTORS_IN_FLIGHT = 4
"""Vectors that a thread loads before it computes: of a rule with few streams, several of each."""

OWN_STREAMS = {PREPARED: "prepared", CLIPPED: "clipped"}


@dataclass(frozen=True)
class Variant:
    """A program on one element: what is loaded, what is called, what is stored."""

    loads: tuple[int, ...]
    stores: tuple[int, ...]
    coefficients: tuple[int, ...]
    lines: tuple[str, ...]
    functions: tuple[Function, ...]


def variant(structure: Structure, program: str, with_gradient: bool = True) -> Variant:
    """A program of a structure; without a gradient, what was gathered before is all of it."""
    positions = {pick: index for index, pick in enumerate(structure.picks)}
    loads: dict[int, None] = {}
    stores: dict[int, None] = {}
    taken: dict[int, None] = {}
    functions: dict[Function, None] = {}
    lines: list[str] = []
    if not with_gradient:
        loads[structure.accumulator] = None
        lines.append(f"prepared = stream_{structure.accumulator}")
    for number, (loop, streams, picks) in enumerate(structure.program(program)):
        if not with_gradient and GRAD in streams:
            continue
        stands_for = dict(zip(loop.streams, streams, strict=True))
        coefficients = {name: positions[pick] for name, pick in zip(loop.coefficients, picks, strict=True)}

        def spelled(name: str, stands_for: dict[str, int] = stands_for, number: int = number, **more: Any) -> str:
            if name in stands_for:
                return OWN_STREAMS.get(stands_for[name], f"stream_{stands_for[name]}")
            return f"{name}_{number}" if name in more["local"] else f"c_{more['coefficients'][name]}"

        for function, arguments, targets in loop.calls:
            more = {"local": loop.local_names, "coefficients": coefficients}
            for name in arguments:
                stream = stands_for.get(name, -1)
                if stream >= 0 and stream not in stores:
                    loads[stream] = None
                if name in coefficients:
                    taken[coefficients[name]] = None
            given = ", ".join(spelled(name, **more) for name in arguments)
            lines.append(f"{', '.join(spelled(name, **more) for name in targets)} = element_{function.name}({given})")
            stores |= dict.fromkeys(stands_for[name] for name in targets if stands_for.get(name, -1) >= 0)
        functions |= dict.fromkeys(loop.functions)
    return Variant(tuple(sorted(loads)), tuple(sorted(stores)), tuple(sorted(taken)), tuple(lines), tuple(functions))


def is_variant(structure: Structure, program: str, with_gradient: bool = True) -> bool:
    return bool(structure.program(program)) and (with_gradient or structure.accumulator >= 0)


# --- the update kernel ------------------------------------------------------------------------------------------------

PROGRAM_COLUMNS = {
    "update": ("update", True),
    "without_gradient": ("update", False),
    "gather": ("gather", True),
    "clear": ("clear", True),
    "swap": ("swap", True),
}
"""Columns of `layout.GROUP`: the program, and whether there is a gradient."""

STEP = ("update", "without_gradient", "gather", "clear")


def numbered_variants(structures: Sequence[Structure], columns: Sequence[str]) -> dict[tuple[int, str], int]:
    """The numbers of the variants that structures have, from 1."""
    found = [
        (index, column)
        for index, structure in enumerate(structures)
        for column in columns
        if is_variant(structure, *PROGRAM_COLUMNS[column])
    ]
    return {each: number for number, each in enumerate(found, start=1)}


def update_source(structures: Sequence[Structure], real: str, columns: Sequence[str], chunk: int) -> str:
    """The kernel that walks over chunks, each in the variant that its segment has in this step."""
    numbers = numbered_variants(structures, columns)
    variants = {number: variant(structures[index], *PROGRAM_COLUMNS[name]) for (index, name), number in numbers.items()}
    functions = [function for each in variants.values() for function in each.functions]
    width = coefficient_width(structures)
    parts = functions_source(functions, "element", "real")
    for number, each in variants.items():
        parts += variant_source(number, each, real)
    calls: list[str] = []
    for number in variants:
        calls.append(f"{'if' if not calls else 'elif'} variant == {number}:")
        calls.append(f"    variant_{number}(row, gradient, taken, start, stop)")
    chosen = ["variant = load_int64(variants, segment)"]
    if columns == ("swap",):
        chosen = [
            f"group = load_int64(row, {SEGMENT.index('group')})",
            f"variant = load_int64({row_of('groups', 'group', len(GROUP))}, {GROUP.index('swap')})",
        ]
    each_chunk = [
        "segment = load_int64(chunks, 2 * chunk)",
        "start = load_int64(chunks, 2 * chunk + 1)",
        "row = segments + segment * row_bytes",
        *chosen,
        f"stop = min(start + {chunk}, load_int64(row, {SEGMENT.index('size')}))",
        "gradient = load_int64(gradients, segment)",
        f"taken = coefficients + segment * {width * (4 if real == 'float32' else 8)}",
        *calls,
    ]
    body = walk("chunk", "int(cuda.blockIdx.x)", "n_chunks", "cuda.gridDim.x", each_chunk)
    used = ("segments", "gradients", "groups", "variants", "coefficients", "chunks", "n_chunks")
    parts.append(kernel_source("update", structures, used, body))
    return "\n\n".join(parts)


def coefficient_width(structures: Sequence[Structure]) -> int:
    """Coefficients in a row of their table."""
    return max(1, *(len(each.picks) for each in structures))


def n_streams(structures: Sequence[Structure]) -> int:
    """Addresses in a row of the table of segments."""
    indices = [
        index
        for each in structures
        for _, operations in each.programs
        for _, streams, _ in operations
        for index in streams
    ]
    return 1 + max([GRAD, *indices])


def segment_bytes(structures: Sequence[Structure]) -> int:
    return 8 * (len(SEGMENT) - 1 + n_streams(structures))


def kernel_source(name: str, structures: Sequence[Structure], used: Sequence[str], body: Sequence[str]) -> str:
    lines = [f"{each} = load_int64(header, {HEADER.index(each)})" for each in used]
    lines.append(f"row_bytes = {segment_bytes(structures)}")
    return f"def {name}(header):\n{indent([*lines, *body], 1)}\n"


def variant_source(number: int, each: Variant, real: str) -> list[str]:
    """A variant on one element, and on what a block has of a segment: in vectors where all streams allow it."""
    itemsize = 4 if real == "float32" else 8
    lanes = 16 // itemsize
    streams = sorted({*each.loads, *each.stores})
    taken = [f"c_{index}" for index in each.coefficients]
    loaded = [f"stream_{index}" for index in each.loads]
    stored = [f"stream_{index}" for index in each.stores]
    element = device(f"element_of_{number}", [*loaded, *taken], [*each.lines, "return " + ", ".join(stored)])

    def call(values: Sequence[str], results: Sequence[str]) -> str:
        return f"{', '.join(results)} = element_of_{number}({', '.join([*values, *taken])})"

    def vectors(count: int) -> list[str]:
        """So many vectors, a block's width apart: everything is loaded before anything is computed or stored."""
        places = [f"i + {turn} * width" if turn else "i" for turn in range(count)]
        pairs = [(turn, lane) for turn in range(count) for lane in range(lanes)]
        body = [
            f"vector_{k}_{turn} = load_vector(address_{k}, {place})"
            for turn, place in enumerate(places)
            for k in each.loads
        ]
        body += [
            call([f"vector_{k}_{turn}[{lane}]" for k in each.loads], [f"new_{k}_{turn}_{lane}" for k in each.stores])
            for turn, lane in pairs
        ]
        for turn, place in enumerate(places):
            for k in each.stores:
                values = ", ".join(f"new_{k}_{turn}_{lane}" for lane in range(lanes))
                body.append(f"store_vector(address_{k}, {place}, ({values}))")
        return body

    together = max(1, VECTORS_IN_FLIGHT // max(1, len(each.loads)))
    single = [f"old_{index} = load_real(address_{index}, i)" for index in each.loads]
    single.append(call([f"old_{index}" for index in each.loads], [f"new_{index}" for index in each.stores]))
    single += [f"store_real(address_{index}, i, new_{index})" for index in each.stores]
    first = SEGMENT.index("streams")
    lines = [
        *(
            f"address_{index} = "
            + ("gradient" if index == GRAD else f"load_int64(row, {first + index})")
            + f" + start * {itemsize}"
            for index in streams
        ),
        *(f"c_{index} = load_real(taken, {index})" for index in each.coefficients),
        "size = stop - start",
        "width = int(cuda.blockDim.x)",
        "done = size * 0",
        f"if ({' | '.join(f'address_{index}' for index in streams)}) & 15 == 0:",
        f"    vectors = size // {lanes}",
        "    i = int(cuda.threadIdx.x)",
        *([f"    while i + {together - 1} * width < vectors:"] if together > 1 else []),
        *([f"        {line}" for line in [*vectors(together), f"i += {together} * width"]] if together > 1 else []),
        "    while i < vectors:",
        *(f"        {line}" for line in [*vectors(1), "i += width"]),
        f"    done = vectors * {lanes}",
        *walk("i", "done + cuda.threadIdx.x", "size", "width", single),
    ]
    return [element, device(f"variant_{number}", ("row", "gradient", "taken", "start", "stop"), lines)]


# --- sums -------------------------------------------------------------------------------------------------------------

ACTIVE = (
    "frozen = load_int64(row, {frozen})".format(frozen=SEGMENT.index("frozen")),
    "gradient = load_int64(gradients, segment)",
    "waiting = load_int64(pending, segment)",
    "active = frozen == 0 and (gradient != 0 or (final and waiting != 0))",
)
"""Whether a segment has a part in this call."""

FINAL = (
    f"accumulated = load_int64(counters, {COUNTERS.index('accumulated')})",
    f"accumulate_steps = load_float64(plan, {PLAN.index('accumulate_steps')})",
    "final = accumulated + 1 >= accumulate_steps",
)
"""Whether this call updates."""


ROWS_IN_FLIGHT = 4
"""Vectors of a gradient that a thread loads before it adds them up."""


def lane_source(index: int, structure: Structure, counting: tuple[Function, ...], real: str) -> str:
    """What a thread adds up of a block of a gradient, or of what it comes to with those of calls before: as many lanes,
    from `first` on, as a vector has elements, each in the order of its elements."""
    itemsize = 4 if real == "float32" else 8
    width = 16 // itemsize
    term = (counting or structure.sum)[-1]
    limit = "float64(limit)" if term.name == "square" else "limit"
    number = "float64({})" if term.name == "square" else "{}"
    lines = [f"limit = real(load_float64(values, {VALUES.index('limit')}))", "addresses = gradient"]
    gathers = structure.accumulator >= 0
    call = ""
    if gathers:
        loop, _, picks = structure.program("update")[0]  # it gathers
        stage, position = picks[0]
        functions, _, n_arguments = structure.stages[stage]
        offset = VALUES.index("arguments") + sum(each[2] for each in structure.stages[:stage])
        arguments = ", ".join(f"load_float64(values, {offset + k})" for k in range(n_arguments))
        names = ", ".join(f"result_{k}" for k in range(len(functions[-1].returns)))
        call = loop.calls[0][0].name
        lines += [
            f"gathered = load_int64(row, {SEGMENT.index('streams') + structure.accumulator})",
            "addresses = gradient | gathered",
            f"{names} = coefficient_{functions[-1].name}({arguments})",
            f"factor = real(result_{position})",
        ]

    def loaded(name: str, load: str, place: str) -> list[str]:
        """Elements as they are added up: of the gradient, or of what was gathered before and the gradient."""
        if not gathers:
            return [f"{name} = {load}(gradient + {place}, 0)"]
        return [
            f"{name} = {load}(gathered + {place}, 0)",
            f"{name}_more = {name}",
            "if gradient != 0:",
            f"    {name}_more = {load}(gradient + {place}, 0)",
        ]

    def added(lane: int, element: str, more: str) -> list[str]:
        value = [f"element = {element}"]
        if gathers:
            value += ["if gradient != 0:", f"    element = element_{call}(element, {more}, factor)"]
        total = f"total_{lane}"
        return [*value, f"{total} = {total} + float64(term_{term.name}({number.format('element')}, {limit}))"]

    def rows(count: int) -> list[str]:
        body = [
            line
            for turn in range(count)
            for line in loaded(f"vector_{turn}", "load_vector", f"(i + {turn * LANES}) * {itemsize}")
        ]
        for turn in range(count):
            for lane in range(width):
                body += added(lane, f"vector_{turn}[{lane}]", f"vector_{turn}_more[{lane}]")
        return [*body, f"i += {count * LANES}"]

    single = []
    for lane in range(width):
        one = [*loaded("single", "load_real", f"(i + {lane}) * {itemsize}"), *added(lane, "single", "single_more")]
        single += [f"if i + {lane} < stop:", *(f"    {line}" for line in one)]
    lines += [
        *(f"total_{lane} = float64(0.0)" for lane in range(width)),
        "i = start + first",
        "if addresses & 15 == 0:",
        f"    while i + {(ROWS_IN_FLIGHT - 1) * LANES + width} <= stop:",
        *(f"        {line}" for line in rows(ROWS_IN_FLIGHT)),
        f"    while i + {width} <= stop:",
        *(f"        {line}" for line in rows(1)),
        "while i < stop:",
        *(f"    {line}" for line in [*single, f"i += {LANES}"]),
        "return " + ", ".join(f"total_{lane}" for lane in range(width)),
    ]
    return device(f"lanes_{index}", ("row", "values", "gradient", "start", "stop", "first"), lines)


def sums_source(structures: Sequence[Structure], real: str, threads: int, counting: tuple[Function, ...] = ()) -> str:
    """The kernel that adds up gradients, a partial sum for each block of them; with `counting`, that term instead, and
    only after a call that was declined."""
    width = 16 // (4 if real == "float32" else 8)
    team = min(LANES // width, threads)
    teams = threads // team
    parts = []
    summed = [(index, each) for index, each in enumerate(structures) if each.sum or counting]
    for _, each in summed:
        if each.accumulator >= 0:
            loop, _, picks = each.program("update")[0]
            parts += functions_source(loop.functions, "element", "real")
            parts += functions_source(each.stages[picks[0][0]][0], "coefficient", "float64")
        for function in counting or each.sum:
            parts.append(function_source(function, "term", "float64" if function.name == "square" else "real"))
    parts = list(dict.fromkeys(parts))
    for index, each in summed:
        parts.append(lane_source(index, each, counting, real))
    calls: list[str] = []
    for index, _ in summed:
        calls.append(f"{'if' if not calls else 'elif'} structure == {index}:")
        calls.append(f"    totals = lanes_{index}(row, group_values, gradient, start, stop, first)")
    declined = f"load_int64(counters, {COUNTERS.index('declined')}) == 0"
    early = declined if counting else f"not final and load_float64(plan, {PLAN.index('checks')}) == 0.0"
    target = "unusable" if counting else "partials"
    zeros = ", ".join(["float64(0.0)"] * width)
    body = [
        f"lanes = cuda.shared.array({LANES * teams}, dtype=float64)",
        *FINAL,
        f"if {early}:",
        "    return",
        f"team = cuda.threadIdx.x // {team}",
        f"member = cuda.threadIdx.x - team * {team}",
    ]
    each_block = [
        "block = base + team",
        "if block < n_sum_blocks:",
        "    segment = load_int64(sum_blocks, 2 * block)",
        "    start = load_int64(sum_blocks, 2 * block + 1)",
        "    row = segments + segment * row_bytes",
        f"    group = load_int64(row, {SEGMENT.index('group')})",
        f"    group_values = {row_of('values', 'group', value_width(structures))}",
        f"    structure = load_int64({row_of('groups', 'group', len(GROUP))}, {GROUP.index('structure')})",
        f"    stop = min(start + {SUM_BLOCK}, load_int64(row, {SEGMENT.index('size')}))",
        *(f"    {line}" for line in ACTIVE),
        f"    for first in range(member * {width}, {LANES}, {team * width}):",
        f"        totals = ({zeros})",
        "        if active:",
        *(f"            {line}" for line in calls),
        *(f"        lanes[team * {LANES} + first + {lane}] = totals[{lane}]" for lane in range(width)),
        "cuda.syncthreads()",
        f"half = {LANES // 2}",
        "while half > 0:",
        f"    for lane in range(member, half, {team}):",
        f"        place = team * {LANES} + lane",
        "        lanes[place] = lanes[place] + lanes[place + half]",
        "    cuda.syncthreads()",
        "    half = half // 2",
        "if member == 0 and block < n_sum_blocks:",
        f"    store_float64({target}, block, lanes[team * {LANES}])",
        "cuda.syncthreads()",
    ]
    body += walk("base", f"int(cuda.blockIdx.x) * {teams}", "n_sum_blocks", f"cuda.gridDim.x * {teams}", each_block)
    used = ["segments", "gradients", "groups", "values", "plan", "counters", "pending", "sum_blocks", target]
    parts.append(kernel_source("sums", structures, [*used, "n_sum_blocks"], body))
    return "\n\n".join(parts)


# --- coefficients and counts ------------------------------------------------------------------------------------------


def value_width(structures: Sequence[Structure]) -> int:
    """Numbers in a row of the table of values."""
    return len(VALUES) - 1 + max(1, *(sum(stage[2] for stage in each.stages) for each in structures))


def coefficients_source(index: int, structure: Structure) -> str:
    """All coefficient functions of a structure, in float64, and their results as its operations take them."""
    lines = ["own_weight_decay = weight_decay"]
    offset = VALUES.index("arguments")
    divisor = first_divisor(structure)
    for number, (functions, positions, n_arguments) in enumerate(structure.stages):
        arguments = [f"load_float64(values, {offset + k})" for k in range(n_arguments)]
        for name, position in zip(ENGINE_ARGUMENTS, positions, strict=True):
            if position >= 0 and name == "weight_decay":
                lines.append(f"group_weight_decay_{number} = {arguments[position]}")
                lines.append("if own_weight_decay != own_weight_decay:")
                lines.append(f"    weight_decay = group_weight_decay_{number}")
                arguments[position] = "weight_decay"
            elif position >= 0:
                arguments[position] = name
        if divisor in functions[-1].arguments:
            arguments[functions[-1].arguments.index(divisor)] += " * scale"
        results = [f"result_{number}_{k}" for k in range(len(functions[-1].returns))]
        lines.append(f"{', '.join(results)} = coefficient_{functions[-1].name}({', '.join(arguments)})")
        offset += n_arguments
    for place, (stage, position) in enumerate(structure.picks):
        lines.append(f"store_real(target, {place}, real(result_{stage}_{position}))")
    stage, position = structure.mu_product
    lines.append(f"return {'mu_product' if stage < 0 else f'result_{stage}_{position}'}")
    arguments_of = ("target", "values", "scale", *ENGINE_ARGUMENTS)
    return device(f"coefficients_{index}", arguments_of, lines)


def first_divisor(structure: Structure) -> str:
    """Which argument of coefficient functions divides a gradient where it is first read; as `planning.Planner.numbers`
    has it."""
    names = {loop.name for name, operations in structure.programs if name == "update" for loop, _, _ in operations}
    return next((name for loop, name in DIVISORS.items() if loop in names), "update_divisor")


DIVISORS = {"gather": "gather_divisor", "clip_values": "value_divisor"}
"""For operations that read a gradient before the rule does."""


def prepare_source(structures: Sequence[Structure], real: str, clipping: tuple[Function, ...]) -> str:
    """The kernel of one block that decides what a call does: it adds up the partial sums, finds whether gradients can
    be used and by what they are clipped, computes the coefficients of every segment, and counts."""
    sums = any(each.sum for each in structures)
    functions = [function for each in structures for stage in each.stages for function in stage[0]]
    parts = functions_source([*functions, *clipping], "coefficient", "float64")
    parts += [coefficients_source(index, each) for index, each in enumerate(structures)]
    width = value_width(structures)
    clip = f"coefficient_{clipping[-1].name}"
    body = [
        "decided = cuda.shared.array(2, dtype=float64)",
        f"lanes = cuda.shared.array({TREE}, dtype=float64)",
        *FINAL,
        f"checks = load_float64(plan, {PLAN.index('checks')}) != 0.0",
        f"max_grad_norm = load_float64(plan, {PLAN.index('max_grad_norm')})",
        f"found_inf = load_int64(scaler, {SCALER.index('found_inf')})",
        f"scale_address = load_int64(scaler, {SCALER.index('scale')})",
        "overflowed = False",
        "if found_inf != 0:",
        "    overflowed = load_float32(found_inf, 0) != 0",
        "scale = float64(1.0)",
        "if scale_address != 0:",
        "    scale = float64(load_float32(scale_address, 0))",
        f"divisor = load_float64(plan, {PLAN.index('divisor')}) * scale",
    ]
    if sums:
        body += [
            "adds = final or checks",
            *TOTALS,
            "if cuda.threadIdx.x == 0:",
            "    decided[1] = 0.0",
            "cuda.syncthreads()",
            "if adds and checks:",
            "    for segment in range(cuda.threadIdx.x, n_segments, cuda.blockDim.x):",
            "        own = load_float64(totals, segment)",
            f"        group = load_int64(segments + segment * row_bytes, {SEGMENT.index('group')})",
            f"        kind = load_int64({row_of('groups', 'group', len(GROUP))}, {GROUP.index('sum_kind')})",
            f"        if (kind == {SQUARES} and not is_finite(own)) or (kind == {COUNTS} and own > 0.0):",
            "            decided[1] = 1.0  # whichever threads write it write the same",
            "if cuda.threadIdx.x == 0:",
            "    total = float64(0.0)",
            "    if adds:",
            "        for segment in range(n_segments):  # in order, as on the CPU; those without a part are 0",
            "            total = total + load_float64(totals, segment)",
            "    decided[0] = total",
            "cuda.syncthreads()",
            "total = decided[0]",
            "declined = decided[1] != 0.0",
        ]
    else:
        body += ["total = float64(0.0)", "declined = False"]
    body += [
        "declined = declined or overflowed",
        "for segment in range(cuda.threadIdx.x, n_segments, cuda.blockDim.x):",
        "    row = segments + segment * row_bytes",
        *(f"    {line}" for line in ACTIVE),
        f"    group = load_int64(row, {SEGMENT.index('group')})",
        f"    group_row = {row_of('groups', 'group', len(GROUP))}",
        f"    group_values = {row_of('values', 'group', width)}",
        "    variant = group * 0",
        "    if active and declined:",
        "        if gradient != 0 and not overflowed:",
        f"            variant = load_int64(group_row, {GROUP.index('clear')})",
        "    elif active:",
        "        step = load_int64(steps, segment) + 1",
        f"        own = {row_of('settings', 'segment', len(SETTINGS))}",
        "        lr = multiply(load_float64(group_values, {}), load_float64(own, {}))".format(
            VALUES.index("lr"), SETTINGS.index("lr_scale")
        ),
        "        clip_coefficient = float64(1.0)",
    ]
    if sums:
        body += [
            f"        clip_norm = load_float64(group_values, {VALUES.index('clip_norm')})",
            "        if final and max_grad_norm > 0.0:",
            f"            clip_coefficient = {clip}(total, divisor, max_grad_norm)",
            "        elif final and clip_norm > 0.0:",
            f"            clip_coefficient = {clip}(load_float64(totals, segment), divisor, clip_norm)",
        ]
    itemsize = 4 if real == "float32" else 8
    body += [
        f"        target = coefficients + segment * {coefficient_width(structures) * itemsize}",
        f"        structure = load_int64(group_row, {GROUP.index('structure')})",
        f"        weight_decay = load_float64(own, {SETTINGS.index('weight_decay')})",
        "        mu_product = load_float64(mu_products, segment)",
        "        next_mu_product = mu_product",
    ]
    known = "float64(step), lr, weight_decay, clip_coefficient, mu_product"
    for index in range(len(structures)):
        body.append(f"        {'if' if index == 0 else 'elif'} structure == {index}:")
        body.append(f"            next_mu_product = coefficients_{index}(target, group_values, scale, {known})")
    body += [
        "        if final:",
        "            store_int64(steps, segment, step)",
        "            store_float64(mu_products, segment, next_mu_product)",
        "            store_int64(pending, segment, 0)",
        f"            variant = load_int64(group_row, {GROUP.index('update')})",
        "            if gradient == 0:",
        f"                variant = load_int64(group_row, {GROUP.index('without_gradient')})",
        "        else:",
        "            store_int64(pending, segment, 1)",
        f"            variant = load_int64(group_row, {GROUP.index('gather')})",
        "    store_int64(variants, segment, variant)",
        "cuda.syncthreads()",
        "if cuda.threadIdx.x == 0:",
        "    if overflowed:",  # counted by who found it
        f"        store_int64(counters, {COUNTERS.index('declined')}, 0)",
        "    elif declined:",
        *counted("skipped", "1"),
        *counted("consecutive", "1"),
        f"        store_int64(counters, {COUNTERS.index('declined')}, 1)",
        "    else:",
        *counted("calls", "1"),
        f"        store_int64(counters, {COUNTERS.index('consecutive')}, 0)",
        f"        store_int64(counters, {COUNTERS.index('declined')}, 0)",
        "        if final:",
        *(f"    {line}" for line in counted("iterations", "1")),
        f"            store_int64(counters, {COUNTERS.index('accumulated')}, 0)",
    ]
    if sums:
        body += [
            "            if max_grad_norm > 0.0:",
            "                norm = coefficient_sqrt(total) / divisor",
            f"                store_float64(numbers, {NUMBERS.index('grad_norm')}, norm)",
        ]
    body += [
        "        else:",
        f"            store_int64(counters, {COUNTERS.index('accumulated')}, accumulated + 1)",
    ]
    parts.append(kernel_source("prepare", structures, HEADER, body))
    return "\n\n".join(parts)


def counted(name: str, by: str) -> list[str]:
    place = COUNTERS.index(name)
    return [f"        store_int64(counters, {place}, load_int64(counters, {place}) + {by})"]


TOTALS = (
    "if adds:",
    "    for segment in range(cuda.threadIdx.x, n_segments, cuda.blockDim.x):",
    "        row = segments + segment * row_bytes",
    f"        first = load_int64(row, {SEGMENT.index('first_sum_block')})",
    f"        count = load_int64(row, {SEGMENT.index('n_sum_blocks')})",
    f"        if count <= {SEQUENTIAL}:",
    "            own = float64(0.0)",
    "            for k in range(first, first + count):",
    "                own = own + load_float64(partials, k)",
    "            store_float64(totals, segment, own)",
    "    for segment in range(n_segments):",
    "        row = segments + segment * row_bytes",
    f"        first = load_int64(row, {SEGMENT.index('first_sum_block')})",
    f"        count = load_int64(row, {SEGMENT.index('n_sum_blocks')})",
    f"        if count > {SEQUENTIAL}:",
    f"            for lane in range(cuda.threadIdx.x, {TREE}, cuda.blockDim.x):",
    "                own = float64(0.0)",
    f"                for k in range(first + lane, first + count, {TREE}):",
    "                    own = own + load_float64(partials, k)",
    "                lanes[lane] = own",
    "            cuda.syncthreads()",
    f"            half = {TREE // 2}",
    "            while half > 0:",
    "                for lane in range(cuda.threadIdx.x, half, cuda.blockDim.x):",
    "                    lanes[lane] = lanes[lane] + lanes[lane + half]",
    "                cuda.syncthreads()",
    "                half = half // 2",
    "            if cuda.threadIdx.x == 0:",
    "                store_float64(totals, segment, lanes[0])",
    "            cuda.syncthreads()",
    "    cuda.syncthreads()",
)
"""The sum of each segment from its partial sums, in an order that does not depend on the number of threads."""

"""Writes the kernel that adds up gradients, always in the same order."""

from __future__ import annotations

from collections.abc import Sequence

from ..constants import GRAD, LANES, SUM_BLOCK
from ..formulas.dialect import Function
from .render_operands import Stored, aligned, codec_sources
from .source import ACTIVE, FINAL, SCALE, device, function_source, functions_source, kernel_source, row_of, walk
from .structures import Structure, value_width
from .table_format import COUNTERS, GROUP, PLAN, SEGMENT, VALUES

ROWS_IN_FLIGHT = 4
"""The number of gradient vectors that a thread loads before it adds them up."""


def lane_source(index: int, structure: Structure, counting: tuple[Function, ...], real: str) -> str:
    """A device function that adds up one thread's lanes of a block of a gradient.

    If gradients are accumulated over several calls, it adds up the accumulated gradient instead. The thread has as many
    lanes, from `first` on, as a vector has elements, and adds up each lane in the order of its elements.
    """
    itemsize = 4 if real == "float32" else 8
    width = 16 // itemsize
    term = (counting or structure.sum)[-1]
    limit = "float64(limit)" if term.name == "square" else "limit"
    number = "float64({})" if term.name == "square" else "{}"
    lines = [f"limit = real(load_float64(values, {VALUES.index('limit')}))"]
    places = {GRAD: "gradient"}
    gathers = structure.accumulator >= 0
    stored = Stored(structure, GRAD, width)
    call = ""
    if gathers:
        loop, _, picks = structure.program("update")[0]  # it gathers
        stage, position = picks[0]
        functions, _, _, n_arguments = structure.stages[stage]
        offset = VALUES.index("arguments") + sum(each[3] for each in structure.stages[:stage])
        divided = functions[-1].arguments.index(structure.divisor)
        given = [f"load_float64(values, {offset + k})" for k in range(n_arguments)]
        given[divided] = f"multiply({given[divided]}, scale)"
        arguments = ", ".join(given)
        names = ", ".join(f"result_{k}" for k in range(len(functions[-1].returns)))
        call = loop.calls[0][0].name
        places[structure.accumulator] = "gathered"
        lines += [
            f"gathered = load_int64(row, {SEGMENT.index('operands') + structure.accumulator})",
            "given = gathered if gradient == 0 else gradient",
            f"{names} = coefficient_{functions[-1].name}({arguments})",
            f"factor = real(result_{position})",
        ]

    def loaded(name: str, load: str, place: str) -> list[str]:
        """Lines that load the elements to add up: from the gradient, and from the accumulator if there is one."""
        vector = load == "load_vector"
        source = "given" if gathers else "gradient"
        own = f"{name}_more" if gathers else name
        lines = stored.load(f"{source} + {structure.offset(GRAD, place)}", own, "0", vector)
        if gathers:
            lines.append(f"{name} = {load}(gathered + {structure.offset(structure.accumulator, place)}, 0)")
        return lines

    def element_of(name: str, lane: int, vector: bool) -> str:
        """The element in a lane of what was loaded from the gradient."""
        return stored.value(f"{name}_more" if gathers else name, lane, vector)

    def added(lane: int, name: str, vector: bool) -> list[str]:
        at = lane if vector else 0
        value = [f"element = {element_of(name, at, vector)}"]
        if gathers:
            more = element_of(name, at, vector)
            value = [f"element = {name}[{lane}]" if vector else f"element = {name}"]
            value.append(f"element = element_select(gradient != 0, element_{call}(element, {more}, factor), element)")
        total = f"total_{lane}"
        return [*value, f"{total} = {total} + float64(term_{term.name}({number.format('element')}, {limit}))"]

    def rows(count: int) -> list[str]:
        body = [
            line for turn in range(count) for line in loaded(f"vector_{turn}", "load_vector", f"(i + {turn * LANES})")
        ]
        for turn in range(count):
            for lane in range(width):
                body += added(lane, f"vector_{turn}", True)
        return [*body, f"i += {count * LANES}"]

    single = []
    for lane in range(width):
        one = [*loaded("single", "load_real", f"(i + {lane})"), *added(lane, "single", False)]
        single += [f"if i + {lane} < stop:", *(f"    {line}" for line in one)]
    lines += [
        *(f"total_{lane} = float64(0.0)" for lane in range(width)),
        "i = start + first",
        f"if {aligned(structure, places)}:",
        f"    while i + {(ROWS_IN_FLIGHT - 1) * LANES + width} <= stop:",
        *(f"        {line}" for line in rows(ROWS_IN_FLIGHT)),
        f"    while i + {width} <= stop:",
        *(f"        {line}" for line in rows(1)),
        "while i < stop:",
        *(f"    {line}" for line in [*single, f"i += {LANES}"]),
        "return " + ", ".join(f"total_{lane}" for lane in range(width)),
    ]
    return device(f"lanes_{index}", ("row", "values", "gradient", "start", "stop", "first", "scale"), lines)


def sums_source(structures: Sequence[Structure], real: str, threads: int, counting: tuple[Function, ...] = ()) -> str:
    """The kernel that adds up gradients, with a partial sum for each block. With `counting`, it adds up that term
    instead, and only after a call that was declined."""
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
    parts += codec_sources([each for _, each in summed], gradients_alone=True)
    parts = list(dict.fromkeys(parts))
    for index, each in summed:
        parts.append(lane_source(index, each, counting, real))
    calls: list[str] = []
    for index, _ in summed:
        calls.append(f"{'if' if not calls else 'elif'} structure == {index}:")
        calls.append(f"    totals = lanes_{index}(row, group_values, gradient, start, stop, first, scale)")
    declined = f"load_int64(counters, {COUNTERS.index('declined')}) == 0"
    early = declined if counting else f"not final and load_float64(plan, {PLAN.index('checks')}) == 0.0"
    target = "unusable" if counting else "partials"
    zeros = ", ".join(["float64(0.0)"] * width)
    body = [
        f"lanes = cuda.shared.array({LANES * teams}, dtype=float64)",
        *FINAL,
        *SCALE,
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
    used = ["segments", "gradients", "groups", "values", "plan", "counters", "pending", "scaler", "sum_blocks", target]
    parts.append(kernel_source("sums", structures, [*used, "n_sum_blocks"], body))
    return "\n\n".join(parts)

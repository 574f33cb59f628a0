"""Writes the update kernel: it does all operations of a program to an element while the element is in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..constants import CLIPPED, GRAD, PREPARED
from ..formulas.dialect import Function
from ..formulas.passing import compared_arguments
from .render_operands import Stored, aligned, codec_sources, keys
from .source import device, functions_source, kernel_source, row_of, walk
from .structures import PROGRAM_COLUMNS, Structure, coefficient_width, numbered_variants
from .table_format import GROUP, SEGMENT

VECTORS_IN_FLIGHT = 6
"""The number of vectors that a thread loads before it computes; a rule with few operands loads several of each."""

OWN_BLOCKS = {PREPARED: "prepared", CLIPPED: "clipped"}


@dataclass(frozen=True)
class Variant:
    """A program on one element: the operands that it loads and stores, and the lines between that call functions."""

    loads: tuple[int, ...]
    stores: tuple[int, ...]
    coefficients: tuple[int, ...]
    lines: tuple[str, ...]
    functions: tuple[Function, ...]


def variant(structure: Structure, program: str, with_gradient: bool = True) -> Variant:
    """The variant of a program of a structure; without a gradient, it uses only the gradient accumulated earlier."""
    positions = {pick: index for index, pick in enumerate(structure.picks)}
    loads: dict[int, None] = {}
    stores: dict[int, None] = {}
    taken: dict[int, None] = {}
    functions: dict[Function, None] = {}
    lines: list[str] = []
    if not with_gradient:
        loads[structure.accumulator] = None
        lines.append(f"prepared = operand_{structure.accumulator}")
    for number, (loop, operands, picks) in enumerate(structure.program(program)):
        if not with_gradient and GRAD in operands:
            continue
        stands_for = dict(zip(loop.operands, operands, strict=True))
        coefficients = {name: positions[pick] for name, pick in zip(loop.coefficients, picks, strict=True)}

        def spelled(name: str, stands_for: dict[str, int] = stands_for, number: int = number, **more: Any) -> str:
            if name in stands_for:
                return OWN_BLOCKS.get(stands_for[name], f"operand_{stands_for[name]}")
            return f"{name}_{number}" if name in more["local"] else f"c_{more['coefficients'][name]}"

        known = {each.name: each for each in loop.functions}
        for function, arguments, targets in loop.calls:
            more = {"local": loop.local_names, "coefficients": coefficients}
            compared = compared_arguments(function, known)
            for name in arguments:
                operand = stands_for.get(name, -1)
                if operand >= 0 and operand not in stores:
                    loads[operand] = None
                if name in coefficients:
                    taken[coefficients[name]] = None
            given = ", ".join(
                f"varying({spelled(name, **more)})"
                if name in coefficients and own in compared
                else spelled(name, **more)
                for name, own in zip(arguments, function.arguments, strict=True)
            )
            lines.append(f"{', '.join(spelled(name, **more) for name in targets)} = element_{function.name}({given})")
            stores |= dict.fromkeys(stands_for[name] for name in targets if stands_for.get(name, -1) >= 0)
        functions |= dict.fromkeys(loop.functions)
    return Variant(tuple(sorted(loads)), tuple(sorted(stores)), tuple(sorted(taken)), tuple(lines), tuple(functions))


def update_source(structures: Sequence[Structure], real: str, columns: Sequence[str], chunk: int) -> str:
    """The kernel that walks over chunks and runs, on each, the variant that its segment has in this step."""
    numbers = numbered_variants(structures, columns)
    variants = {number: variant(structures[index], *PROGRAM_COLUMNS[name]) for (index, name), number in numbers.items()}
    functions = [function for each in variants.values() for function in each.functions]
    width = coefficient_width(structures)
    parts = [*functions_source(functions, "element", "real"), *codec_sources(structures)]
    rounds = any(each.rounds_at_random for each in structures)
    for (index, _), number in numbers.items():
        parts += variant_source(number, variants[number], structures[index], real, rounds)
    calls: list[str] = []
    for number in variants:
        calls.append(f"{'if' if not calls else 'elif'} variant == {number}:")
        step = ", step" * rounds
        calls.append(f"    variant_{number}(row, gradient, taken, start, stop{step})")
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
        *(["step = load_int64(steps, segment)"] if rounds else []),
        *calls,
    ]
    body = walk("chunk", "int(cuda.blockIdx.x)", "n_chunks", "cuda.gridDim.x", each_chunk)
    used = ["segments", "gradients", "groups", "variants", "coefficients", "chunks", "n_chunks"]
    parts.append(kernel_source("update", structures, [*used, *(["steps"] if rounds else [])], body))
    return "\n\n".join(parts)


def variant_source(number: int, each: Variant, structure: Structure, real: str, rounds: bool) -> list[str]:
    """Two device functions: a variant on one element, and the variant on a block's part of a segment.

    The second uses vectors if the addresses of all operands allow them. If any variant `rounds` at random, each gets
    the count of steps.
    """
    itemsize = 4 if real == "float32" else 8
    lanes = 16 // itemsize
    memory = {index: Stored(structure, index, lanes) for index in (*each.loads, *each.stores)}
    operands = sorted({index for stored in memory.values() for index in stored.arrays})
    taken = [f"c_{index}" for index in each.coefficients]
    loaded = [f"operand_{index}" for index in each.loads]
    stored = [f"operand_{index}" for index in each.stores]
    element = device(f"element_of_{number}", [*loaded, *taken], [*each.lines, "return " + ", ".join(stored)])

    def call(values: Sequence[str], results: Sequence[str]) -> str:
        return f"{', '.join(results)} = element_of_{number}({', '.join([*values, *taken])})"

    def vectors(count: int) -> list[str]:
        """Lines for `count` vectors, a block's width apart; they load everything before they compute or store."""
        places = [f"i + {turn} * width" if turn else "i" for turn in range(count)]
        pairs = [(turn, lane) for turn in range(count) for lane in range(lanes)]
        body = [
            line
            for turn, place in enumerate(places)
            for k in each.loads
            for line in memory[k].load("address_{}", f"vector_{turn}", place, True)
        ]
        body += [
            call(
                [memory[k].value(f"vector_{turn}", lane, True) for k in each.loads],
                [f"new_{k}_{turn}_{lane}" for k in each.stores],
            )
            for turn, lane in pairs
        ]
        for turn, place in enumerate(places):
            for k in each.stores:
                body += memory[k].store([f"new_{k}_{turn}_{lane}" for lane in range(lanes)], place, True)
        return body

    together = max(1, VECTORS_IN_FLIGHT // max(1, len(each.loads)))
    single = [line for k in each.loads for line in memory[k].load("address_{}", "old", "i", False)]
    single.append(call([memory[k].value("old", 0, False) for k in each.loads], [f"new_{k}" for k in each.stores]))
    single += [line for k in each.stores for line in memory[k].store([f"new_{k}"], "i", False)]
    first = SEGMENT.index("operands")
    lines = [
        *(
            f"address_{index} = "
            + ("gradient" if index == GRAD else f"load_int64(row, {first + index})")
            + f" + {structure.offset(index, 'start')}"
            for index in operands
        ),
        *(f"c_{index} = load_real(taken, {index})" for index in each.coefficients),
        "size = stop - start",
        "width = int(cuda.blockDim.x)",
        "done = size * 0",
        *keys(memory[k] for k in each.stores),
        f"if {aligned(structure, {index: f'address_{index}' for index in operands})}:",
        f"    vectors = size // {lanes}",
        "    i = int(cuda.threadIdx.x)",
        *([f"    while i + {together - 1} * width < vectors:"] if together > 1 else []),
        *([f"        {line}" for line in [*vectors(together), f"i += {together} * width"]] if together > 1 else []),
        "    while i < vectors:",
        *(f"        {line}" for line in [*vectors(1), "i += width"]),
        f"    done = vectors * {lanes}",
        *walk("i", "done + cuda.threadIdx.x", "size", "width", single),
    ]
    arguments = ("row", "gradient", "taken", "start", "stop", *(["step"] if rounds else []))
    return [element, device(f"variant_{number}", arguments, lines)]

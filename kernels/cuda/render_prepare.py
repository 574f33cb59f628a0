"""Writes the kernel that decides what a step does and computes the step's coefficients."""

from __future__ import annotations

from collections.abc import Sequence

from ..constants import ENGINE_ARGUMENTS
from ..formulas.dialect import Function
from .source import ACTIVE, FINAL, SCALE, device, functions_source, kernel_source, row_of
from .structures import Structure, coefficient_width, n_carried, value_width
from .table_format import (
    COUNTERS,
    COUNTS,
    GROUP,
    HEADER,
    NUMBERS,
    PLAN,
    SCALER,
    SEGMENT,
    SEQUENTIAL,
    SETTINGS,
    SQUARES,
    TREE,
    VALUES,
)


def coefficients_source(index: int, structure: Structure) -> str:
    """A device function that calls a structure's coefficient functions in float64 and stores their results.

    It stores the results in the precision and order in which the structure's operations take them.
    """
    lines = ["own_weight_decay = weight_decay"]
    offset = VALUES.index("arguments")
    divisor = structure.divisor
    for number, (functions, positions, carried, n_arguments) in enumerate(structure.stages):
        arguments = [f"load_float64(values, {offset + k})" for k in range(n_arguments)]
        for name, position in zip(ENGINE_ARGUMENTS, positions, strict=True):
            if position >= 0 and name == "weight_decay":
                lines.append(f"group_weight_decay_{number} = {arguments[position]}")
                lines.append("if own_weight_decay != own_weight_decay:")
                lines.append(f"    weight_decay = group_weight_decay_{number}")
                arguments[position] = "weight_decay"
            elif position >= 0:
                arguments[position] = name
        for each, position in enumerate(carried):
            if position >= 0:
                arguments[position] = f"carried_{each}"
        if divisor in functions[-1].arguments:
            place = functions[-1].arguments.index(divisor)
            arguments[place] = f"multiply({arguments[place]}, scale)"
        results = [f"result_{number}_{k}" for k in range(len(functions[-1].returns))]
        lines.append(f"{', '.join(results)} = coefficient_{functions[-1].name}({', '.join(arguments)})")
        offset += n_arguments
    for place, (stage, position) in enumerate(structure.picks):
        lines.append(f"store_real(target, {place}, real(result_{stage}_{position}))")
    if structure.carried:
        lines.append("return " + ", ".join(f"result_{stage}_{position}" for stage, position in structure.carried))
    names = [f"carried_{each}" for each in range(len(structure.carried))]
    arguments_of = ("target", "values", "scale", *ENGINE_ARGUMENTS, *names)
    return device(f"coefficients_{index}", arguments_of, lines)


def of_segment(structures: Sequence[Structure], real: str, scale: str, clip: Sequence[str] = ()) -> list[str]:
    """Lines that compute the coefficients of a segment's update; `clip` are those that change `clip_coefficient`.

    `next_0` and so on are then the numbers that it carries to the next step.
    """
    width, count = value_width(structures), n_carried(structures)
    itemsize = 4 if real == "float32" else 8
    lines = [
        f"group_values = {row_of('values', 'group', width)}",
        "step = load_int64(steps, segment) + 1",
        f"own = {row_of('settings', 'segment', len(SETTINGS))}",
        "lr = multiply(load_float64(group_values, {}), load_float64(own, {}))".format(
            VALUES.index("lr"), SETTINGS.index("lr_scale")
        ),
        "clip_coefficient = float64(1.0)",
        *clip,
        f"target = coefficients + segment * {coefficient_width(structures) * itemsize}",
        f"structure = load_int64({row_of('groups', 'group', len(GROUP))}, {GROUP.index('structure')})",
        f"weight_decay = load_float64(own, {SETTINGS.index('weight_decay')})",
        *(f"carried_{k} = load_float64(carried, segment * {count} + {k})" for k in range(count)),
        *(f"next_{k} = carried_{k}" for k in range(count)),
    ]
    known = ", ".join(["float64(step), lr, weight_decay, clip_coefficient", *(f"carried_{k}" for k in range(count))])
    results = ", ".join(f"next_{k}" for k in range(count)) + (" = " if count else "")
    for index in range(len(structures)):
        lines.append(f"{'if' if index == 0 else 'elif'} structure == {index}:")
        lines.append(f"    {results}coefficients_{index}(target, group_values, {scale}, {known})")
    return lines


def before_swap_source(structures: Sequence[Structure], real: str) -> str:
    """The kernel, of one block, that computes the coefficients of every segment, for a program that is no step."""
    functions = [function for each in structures for stage in each.stages for function in stage[0]]
    parts = functions_source(functions, "coefficient", "float64")
    parts += [coefficients_source(index, each) for index, each in enumerate(structures)]
    body = [
        "for segment in range(cuda.threadIdx.x, n_segments, cuda.blockDim.x):",
        "    row = segments + segment * row_bytes",
        f"    group = load_int64(row, {SEGMENT.index('group')})",
        *(f"    {line}" for line in of_segment(structures, real, "float64(1.0)")),
    ]
    parts.append(kernel_source("prepare", structures, HEADER, body))
    return "\n\n".join(parts)


def prepare_source(structures: Sequence[Structure], real: str, clipping: tuple[Function, ...]) -> str:
    """The kernel, of one block, that decides what a call does. It adds up the partial sums, finds whether gradients can
    be used and how much they are clipped, computes the coefficients of every segment, and updates the counts."""
    sums = any(each.sum for each in structures)
    functions = [function for each in structures for stage in each.stages for function in stage[0]]
    parts = functions_source([*functions, *clipping], "coefficient", "float64")
    parts += [coefficients_source(index, each) for index, each in enumerate(structures)]
    count = n_carried(structures)
    clip, clipped = f"coefficient_{clipping[-1].name}", []
    if sums:
        clipped = [
            f"clip_norm = load_float64(group_values, {VALUES.index('clip_norm')})",
            "if final and max_grad_norm > 0.0:",
            f"    clip_coefficient = {clip}(total, divisor, max_grad_norm)",
            "elif final and clip_norm > 0.0:",
            f"    clip_coefficient = {clip}(load_float64(totals, segment), divisor, clip_norm)",
        ]
    body = [
        "decided = cuda.shared.array(2, dtype=float64)",
        f"lanes = cuda.shared.array({TREE}, dtype=float64)",
        *FINAL,
        f"checks = load_float64(plan, {PLAN.index('checks')}) != 0.0",
        f"max_grad_norm = load_float64(plan, {PLAN.index('max_grad_norm')})",
        f"found_inf = load_int64(scaler, {SCALER.index('found_inf')})",
        "overflowed = False",
        "if found_inf != 0:",
        "    overflowed = load_float32(found_inf, 0) != 0",
        *SCALE,
        f"divisor = multiply(load_float64(plan, {PLAN.index('divisor')}), scale)",
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
        "    variant = group * 0",
        "    if active and declined:",
        "        if gradient != 0 and not overflowed:",
        f"            variant = load_int64(group_row, {GROUP.index('clear')})",
        "    elif active:",
        *(f"        {line}" for line in of_segment(structures, real, "scale", clipped)),
        "        if final:",
        "            store_int64(steps, segment, step)",
        *(f"            store_float64(carried, segment * {count} + {k}, next_{k})" for k in range(count)),
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
        "    if overflowed:",  # the caller that found the overflow counts it
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
"""Adds up each segment's partial sums, in an order that does not depend on the number of threads."""

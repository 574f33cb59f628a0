"""A whole step as one compiled function, over the table that `engine.step_table` describes; needs Numba.

It does what the engine of the compiled module does: it checks everything, computes coefficients, calls loops, and
counts, in this order. Nothing can fail after the first write. The function does not depend on the optimizer, so it is
compiled once; loops and coefficient functions are called through their addresses.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import float32, types
from numba.extending import intrinsic

from ..constants import (
    BLOCK,
    BOUNDARY,
    GRAD,
    MAX_COEFFICIENTS,
    MAX_RESULTS,
    SUM_BLOCK,
)
from ..engine import step_table as at
from .modes import BITS, STANDARD, inline, leave_mode, pinned, set_mode

PIECE = 1 << 15
"""The elements that a thread takes at a time."""


def _pointer_to(number: Any) -> Any:
    """An intrinsic that makes a pointer of an address."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(number)))

        return types.CPointer(number)(types.int64), generate

    return pointer


words, doubles, singles, halves, small = map(
    _pointer_to, (types.int64, types.float64, types.float32, types.int32, types.uint8)
)


def _calls(*kinds: str) -> Any:
    """An intrinsic that calls the function at an address.

    Its arguments are addresses (p), numbers (n), or a float64 of which they have the bits (d).
    """

    @intrinsic
    def call(typing_context: Any, function: Any, arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            byte, word = ir.IntType(8).as_pointer(), ir.IntType(64)
            given = [builder.extract_value(values[1], index) for index in range(len(kinds))]
            as_declared = {"p": byte, "n": word, "d": ir.DoubleType()}
            convert = {"p": builder.inttoptr, "n": lambda value, kind: value, "d": builder.bitcast}
            given = [convert[kind](each, as_declared[kind]) for kind, each in zip(kinds, given, strict=True)]
            called = ir.FunctionType(ir.VoidType(), [as_declared[kind] for kind in kinds])
            builder.call(builder.inttoptr(values[0], called.as_pointer()), given)
            return context.get_dummy_value()

        return types.void(types.int64, types.UniTuple(types.int64, len(kinds))), generate

    return call


call_loop = _calls("p", "n", "p", "n")
call_coefficients = _calls("p", "p")
call_sum = _calls("p", "n", "d", "p")


@intrinsic
def add_atomically(typing_context: Any, address: Any, number: Any) -> Any:
    """Add a number to a word, in one piece; returns what it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@inline
def mode_of(table):
    """The floating-point mode of a step."""
    return STANDARD | BITS if table[at.FLUSH] else STANDARD


# --- checks -----------------------------------------------------------------------------------------------------------


@inline
def moved(table):
    """The position of the first guarded array that was moved or resized, plus 1; 0 if all are where they were."""
    for index in range(table[at.N_GUARDS]):
        guard = words(table[at.GUARDS] + index * (8 * at.GUARD_WORDS))
        fields = words(guard[at.GUARDED_FIELDS])
        if fields[at.DATA] != guard[at.GUARDED_DATA]:
            return index + 1
        nbytes = guard[at.GUARDED_ITEMSIZE]
        for axis in range(halves(guard[at.GUARDED_FIELDS] + 8 * at.NDIM)[0]):
            nbytes *= words(fields[at.DIMENSIONS])[axis]
        if nbytes != guard[at.GUARDED_BYTES]:
            return index + 1
    return 0


@inline
def is_written(table, begin, end):
    """Whether a step writes to memory in [begin, end)."""
    low, high = 0, table[at.N_WRITTEN]
    while low < high:  # the first span that ends after `begin`
        middle = (low + high) >> 1
        if words(table[at.WRITTEN] + 16 * middle)[1] > begin:
            high = middle
        else:
            low = middle + 1
    return low < table[at.N_WRITTEN] and words(table[at.WRITTEN] + 16 * low)[0] < end


@inline
def is_usable(table, segment, item):
    """Whether an object is an array that can be read as the gradient of a segment."""
    head = words(item)
    if head[at.HEAD_WORDS - 1] != table[at.ARRAY_TYPE]:
        return False
    gradient = item + 8 * at.HEAD_WORDS
    fields, param = words(gradient), words(segment[at.PARAM_FIELDS])
    ndim = halves(gradient + 8 * at.NDIM)[0]
    flags = table[at.GRADIENT_FLAGS]
    if (
        fields[at.DESCRIPTION] != table[at.DTYPE]
        or (fields[at.FLAGS] & flags) != flags
        or ndim != halves(segment[at.PARAM_FIELDS] + 8 * at.NDIM)[0]
    ):
        return False
    for axis in range(ndim):
        if words(fields[at.DIMENSIONS])[axis] != words(param[at.DIMENSIONS])[axis]:
            return False
    nbytes = segment[at.SIZE] * table[at.ITEMSIZE]
    return nbytes == 0 or not is_written(table, fields[at.DATA], fields[at.DATA] + nbytes)


@inline
def take(table):
    """Use the given gradients, if all can be used as they are."""
    for index in range(table[at.N_SEGMENTS]):
        segment = words(table[at.SEGMENTS] + index * (8 * at.SEGMENT_WORDS))
        item = words(table[at.GIVEN])[index]
        if item == table[at.NONE]:
            segment[at.OPERANDS + GRAD] = 0
        elif is_usable(table, segment, item):
            segment[at.OPERANDS + GRAD] = words(item + 8 * at.HEAD_WORDS)[at.DATA]
        else:
            return False
    return True


# --- coefficients -----------------------------------------------------------------------------------------------------


@inline
def carry_alike(table, first, second):
    """Whether two segments carry the same numbers."""
    n = table[at.N_CARRIED]
    carried = doubles(table[at.CARRIED])
    alike = True
    for k in range(n):
        alike = alike and carried[first * n + k] == carried[second * n + k]
    return alike


@inline
def compute(table, group_address, index, shared, clip_coefficient):
    """Compute the coefficients of a segment, and the numbers that it carries to the next step."""
    group = words(group_address)
    n = table[at.N_CARRIED]
    carried = doubles(table[at.CARRIED] + 8 * n * index)
    results = doubles(table[at.RESULTS])
    lr = pinned(pinned(doubles(group_address)[at.LR]) * doubles(table[at.LR_SCALE])[index])
    weight_decay = doubles(table[at.WEIGHT_DECAY])[index]
    for k in range(group[at.N_STAGES]):
        row = group[at.STAGES] + k * (8 * at.STAGE_WORDS)
        stage, arguments = words(row), doubles(row + 8 * at.ARGUMENTS)
        step_position, lr_position = stage[at.POSITIONS], stage[at.POSITIONS + 1]
        decay_position, clip_position = stage[at.POSITIONS + 2], stage[at.POSITIONS + 3]
        if step_position >= 0:
            arguments[step_position] = float(words(table[at.STEPS])[index] + 1)
        if lr_position >= 0:
            arguments[lr_position] = lr
        if clip_position >= 0:
            arguments[clip_position] = clip_coefficient
        for each in range(n):
            if stage[at.STAGE_CARRIED + each] >= 0:
                arguments[stage[at.STAGE_CARRIED + each]] = carried[each]
        own = decay_position >= 0 and weight_decay == weight_decay  # in place of the group's
        kept = arguments[decay_position] if own else 0.0
        if own:
            arguments[decay_position] = weight_decay
        call_coefficients(stage[at.FUNCTION], (row + 8 * at.ARGUMENTS, table[at.RESULTS] + 8 * MAX_RESULTS * k))
        if own:
            arguments[decay_position] = kept
    for each in range(n):
        doubles(table[at.NEXT_CARRIED])[shared * n + each] = results[words(group[at.NEXT])[each]]
    block = table[at.COEFFICIENTS] + shared * (8 * MAX_COEFFICIENTS)
    pick = words(group[at.PICK])
    for k in range(group[at.N_PICK]):
        if table[at.SINGLE]:
            singles(block)[k] = float32(results[pick[k]])
        else:
            doubles(block)[k] = results[pick[k]]


@inline
def list_active(table):
    """List what this step updates."""
    total = 0
    for index in range(table[at.N_SEGMENTS]):
        segment = words(table[at.SEGMENTS] + index * (8 * at.SEGMENT_WORDS))
        segment[at.ACTIVE] = small(table[at.FROZEN])[index] == 0 and segment[at.OPERANDS + GRAD] != 0
        segment[at.OFFSET] = total
        if segment[at.ACTIVE]:
            total += segment[at.SIZE]
    table[at.TOTAL] = total


@inline
def add_up(table):
    """Add up the gradients, each in blocks, one after the other; whether all can be used."""
    lanes = table[at.LANES_OF_SUM]
    usable = True
    for index in range(table[at.N_SEGMENTS]):
        row = table[at.SEGMENTS] + index * (8 * at.SEGMENT_WORDS)
        segment = words(row)
        group = words(table[at.GROUPS] + segment[at.GROUP] * (8 * at.GROUP_WORDS))
        if not segment[at.ACTIVE] or not group[at.SUM]:
            continue
        total, start = 0.0, 0
        while start < segment[at.SIZE]:
            elements = segment[at.OPERANDS + GRAD] + start * table[at.ITEMSIZE]
            size = min(SUM_BLOCK, segment[at.SIZE] - start)
            call_sum(group[at.SUM], (elements, size, group[at.LIMIT], lanes))
            total += doubles(lanes)[0]
            start += SUM_BLOCK
        doubles(row)[at.SUM_TOTAL] = total
        usable = usable and (total - total == 0.0 if group[at.OF_SQUARES] else not total > 0.0)
    return usable


@inline
def clip_coefficient_of(address, total, norm):
    """The factor for a gradient, by the sum of its squares and the largest norm."""
    table = words(address)
    lanes = doubles(table[at.LANES_OF_SUM])
    lanes[0], lanes[1], lanes[2] = total, doubles(address)[at.DIVISOR], norm
    call_coefficients(table[at.CLIPPING], (table[at.LANES_OF_SUM], table[at.LANES_OF_SUM] + 8 * 8))
    return lanes[8]


@inline
def prepare(address):
    """Compute the coefficients of this step; segments with equal ones share them."""
    table = words(address)
    largest = doubles(address)[at.MAX_GRAD_NORM]
    clip, all_clip = 1.0, 1.0
    if largest > 0.0:
        total = 0.0
        for index in range(table[at.N_SEGMENTS]):
            row = table[at.SEGMENTS] + index * (8 * at.SEGMENT_WORDS)
            if words(row)[at.ACTIVE]:
                total += doubles(row)[at.SUM_TOTAL]
        doubles(address)[at.NORM] = math.sqrt(total) / doubles(address)[at.DIVISOR]
        all_clip = clip_coefficient_of(address, total, largest)
    shared = last = 0
    last_group = last_count = -1
    last_clip = 1.0
    for index in range(table[at.N_SEGMENTS]):
        row = table[at.SEGMENTS] + index * (8 * at.SEGMENT_WORDS)
        segment = words(row)
        if not segment[at.ACTIVE]:
            continue
        group = table[at.GROUPS] + segment[at.GROUP] * (8 * at.GROUP_WORDS)
        clip = all_clip
        if not largest > 0.0 and doubles(group)[at.CLIP_NORM] > 0.0:
            clip = clip_coefficient_of(address, doubles(row)[at.SUM_TOTAL], doubles(group)[at.CLIP_NORM])
        count = words(table[at.STEPS])[index]
        if (
            segment[at.GROUP] != last_group
            or count != last_count
            or clip != last_clip
            or not table[at.UNIFORM]
            or not carry_alike(table, index, last)
        ):
            last_group, last_count, last, last_clip = segment[at.GROUP], count, index, clip
            compute(table, group, index, shared, clip)
            shared += 1
        segment[at.SHARED] = shared - 1


# --- elements ---------------------------------------------------------------------------------------------------------


@inline
def run_operation(table, segment, operation, coefficients, start, size, scratch):
    """Call the loop of an operation on elements [start, start + size) of a segment."""
    operands = words(scratch + 8 * BLOCK)
    for k in range(operation[at.N_OPERANDS]):
        operand = operation[at.OPERATION_OPERANDS + k]
        if operand < 0:  # the only block that these plans use: the gradient with its values clipped
            operands[k] = scratch
        else:
            operands[k] = segment[at.OPERANDS + operand] + start * table[at.ITEMSIZE]
    own = coefficients + operation[at.FIRST_COEFFICIENT] * table[at.ITEMSIZE]
    call_loop(operation[at.LOOP], (scratch + 8 * BLOCK, size, own, 0))


@inline
def run_elements(table, start, stop, scratch):
    """Work on elements [start, stop) of all active segments laid end to end; both ends are moved to a boundary."""
    for index in range(table[at.N_SEGMENTS]):
        segment = words(table[at.SEGMENTS] + index * (8 * at.SEGMENT_WORDS))
        offset, size = segment[at.OFFSET], segment[at.SIZE]
        if not segment[at.ACTIVE] or offset + size <= start:
            continue
        if offset >= stop:
            break
        first, last = 0, size
        if start > offset:
            first = (start - offset) & -BOUNDARY
        if stop < offset + size:
            last = (stop - offset) & -BOUNDARY
        if first >= last:
            continue
        group = words(table[at.GROUPS] + segment[at.GROUP] * (8 * at.GROUP_WORDS))
        coefficients = table[at.COEFFICIENTS] + segment[at.SHARED] * (8 * MAX_COEFFICIENTS)
        block = last - first if group[at.PLAIN] else BLOCK
        while first < last:
            for k in range(group[at.N_OPERATIONS]):
                operation = words(group[at.OPERATIONS] + k * (8 * at.OPERATION_WORDS))
                run_operation(table, segment, operation, coefficients, first, min(block, last - first), scratch)
            first += block


@inline
def take_pieces(table, address, participant):
    """Work on pieces that no other thread has taken, until there are none left."""
    scratch = table[at.SCRATCH] + participant * (8 * at.SCRATCH_WORDS)
    mode = mode_of(table)
    before = set_mode(mode)
    start = add_atomically(address + 8 * at.NEXT_PIECE, PIECE)
    while start < table[at.TOTAL]:
        run_elements(table, start, min(start + PIECE, table[at.TOTAL]), scratch)
        start = add_atomically(address + 8 * at.NEXT_PIECE, PIECE)
    leave_mode(before, mode)


@inline
def count(address):
    """Count, after the last write."""
    table = words(address)
    if doubles(address)[at.MAX_GRAD_NORM] > 0.0:
        doubles(table[at.GRAD_NORM])[0] = doubles(address)[at.NORM]
    n = table[at.N_CARRIED]
    for index in range(table[at.N_SEGMENTS]):
        segment = words(table[at.SEGMENTS] + index * (8 * at.SEGMENT_WORDS))
        if segment[at.ACTIVE]:
            words(table[at.STEPS])[index] += 1
            for k in range(n):
                new = doubles(table[at.NEXT_CARRIED])[segment[at.SHARED] * n + k]
                doubles(table[at.CARRIED])[index * n + k] = new
    words(table[at.ITERATIONS])[0] += 1
    words(table[at.CALLS])[0] += 1
    words(table[at.ACCUMULATED])[0] = 0


# --- the function that the engine calls -------------------------------------------------------------------------------


def step(address, what):
    """Do `what` is asked, with the table at this address."""
    table = words(address)
    if what & at.HELP:
        add_atomically(address + 8 * at.WORKING, 1)  # from now on no step ends
        if add_atomically(address + 8 * at.OPEN, 0):
            participant = add_atomically(address + 8 * at.ARRIVED, 1)
            if participant < table[at.N_PARTICIPANTS]:
                take_pieces(table, address, participant)
        add_atomically(address + 8 * at.WORKING, -1)
        return at.DONE
    if what & at.BEGIN:
        if small(table[at.SWAPPED])[0]:
            return at.IS_SWAPPED
        if what & at.TAKE and not take(table):
            return at.UNUSABLE
        found = moved(table)
        if found:
            return at.MOVED - 1 + found
    if what & at.PREPARE:
        mode = mode_of(table)
        before = set_mode(mode)
        list_active(table)
        usable = add_up(table) if table[at.ADDS] else True
        if usable or not table[at.CHECKS]:
            prepare(address)
        leave_mode(before, mode)
        if table[at.CHECKS] and not usable:
            return at.DECLINED
    if what & at.RUN:
        if what & at.BEGIN:  # by itself
            mode = mode_of(table)
            before = set_mode(mode)
            run_elements(table, 0, table[at.TOTAL], table[at.SCRATCH])
            leave_mode(before, mode)
        else:
            table[at.ARRIVED] = 1
            table[at.NEXT_PIECE] = 0
            add_atomically(address + 8 * at.OPEN, 1)
            take_pieces(table, address, 0)
            add_atomically(address + 8 * at.OPEN, -1)
            while add_atomically(address + 8 * at.WORKING, 0):
                pass
        count(address)
    return at.DONE

"""The table that a compiled step of the Numba backend works on, in words of 64 bits: its format, and how it is written.

Without the compiled module, `python.compiled_engine` steps with one call of a function that Numba has compiled
(`numba.whole_step`). That function reads this table, through addresses: numbers of the plan, segments, and the NumPy
arrays that must stay where they are. The table has its own memory; the arrays that it points to are kept by the engine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..constants import (
    BLOCK,
    CLIPPED,
    ENGINE_ARGUMENTS,
    GRAD,
    LANES,
    MAX_ARGUMENTS,
    MAX_CARRIED,
    MAX_COEFFICIENTS,
    MAX_LOOP_OPERANDS,
    MAX_OPERANDS,
    MAX_OPERATIONS,
    MAX_RESULTS,
    MAX_STAGES,
    PARAM,
)
from .contract import EngineInputs
from .host_memory import address, as_plain, owners, with_owners
from .plan import GroupPlan, Operation, StepPlan

# --- format: the position of each word --------------------------------------------------------------------------------

(
    N_SEGMENTS,
    SEGMENTS,  # addresses of rows, as are all names without a number or an array below
    GROUPS,
    GUARDS,
    N_GUARDS,
    WRITTEN,  # spans (begin, end) of all memory that a step writes, sorted
    N_WRITTEN,
    GIVEN,  # addresses of Python objects: the gradients that `step` was given
    ARRAY_TYPE,  # addresses of numpy.ndarray, of the dtype and of None
    DTYPE,
    NONE,
    CHECKS,  # whether gradients that cannot be used stop the step
    ADDS,  # whether gradients are added up
    MAX_GRAD_NORM,  # float64, as are the next two
    DIVISOR,
    NORM,  # of the step under way
    CLIPPING,  # of the coefficient function
    GRAD_NORM,
    LANES_OF_SUM,
    GRADIENT_FLAGS,  # what NumPy's flags of a gradient must have
    STEPS,
    CARRIED,
    N_CARRIED,
    NEXT_CARRIED,
    CALLS,
    ITERATIONS,
    ACCUMULATED,
    SWAPPED,
    FROZEN,
    LR_SCALE,
    WEIGHT_DECAY,
    UNIFORM,
    COEFFICIENTS,
    RESULTS,
    SCRATCH,
    SINGLE,  # whether elements are float32
    ITEMSIZE,
    FLUSH,
    TOTAL,  # elements that the step under way updates
    N_PARTICIPANTS,  # threads that may take part, each with its own scratch
    ARRIVED,  # the last three are atomic
    NEXT_PIECE,
    WORKING,
    OPEN,
    HEADER_WORDS,
) = range(45)

SIZE, GROUP, ACTIVE, OFFSET, SHARED, PARAM_FIELDS, SUM_TOTAL, OPERANDS = range(8)
SEGMENT_WORDS = OPERANDS + MAX_OPERANDS

LR, N_STAGES, STAGES, N_OPERATIONS, OPERATIONS, N_PICK, PICK, NEXT, PLAIN = range(9)
SUM, OF_SQUARES, LIMIT, CLIP_NORM, GROUP_WORDS = range(9, 14)

FUNCTION, POSITIONS = range(2)
STAGE_CARRIED = POSITIONS + len(ENGINE_ARGUMENTS)
ARGUMENTS = STAGE_CARRIED + MAX_CARRIED
STAGE_WORDS = ARGUMENTS + MAX_ARGUMENTS

LOOP, N_OPERANDS, FIRST_COEFFICIENT, OPERATION_OPERANDS = range(4)
OPERATION_WORDS = OPERATION_OPERANDS + MAX_LOOP_OPERANDS

GUARDED_FIELDS, GUARDED_DATA, GUARDED_BYTES, GUARDED_ITEMSIZE, GUARD_WORDS = range(5)

SCRATCH_WORDS = BLOCK + MAX_LOOP_OPERANDS
"""A block of elements and the operands of a loop, for each thread that takes part."""

DATA, NDIM, DIMENSIONS, _STRIDES, _BASE, DESCRIPTION, FLAGS = range(7)
"""Words of a NumPy array, behind the head of a Python object; `NDIM` and `FLAGS` are 32 bits long. NumPy promises this
layout to extension modules."""

HEAD_WORDS = object.__basicsize__ // 8
"""Words of the head of a Python object, the last of which is the address of its type."""

CONTIGUOUS, ALIGNED, WRITABLE = 0x1, 0x100, 0x400

# --- what the function is asked to do, and says ----------------------------------------------------------------------

BEGIN, RUN, TAKE, HELP, PREPARE = 1, 2, 4, 8, 16
"""Check arrays; write elements and count; with `BEGIN`, use the gradients in `GIVEN`; help another thread's `RUN`; add
up gradients and compute coefficients."""

DONE, IS_SWAPPED, UNUSABLE, DECLINED, MOVED = range(5)
"""`MOVED` and above: the guard with this number less `MOVED` has moved. `UNUSABLE`: a given gradient may not be read.
`DECLINED`: an element of a gradient is not finite or too large."""


def fields_of(array: np.ndarray) -> int | None:
    """The address of the fields of a NumPy array; None if they are not laid out as expected."""
    found = id(array) + 8 * HEAD_WORDS
    words = (ctypes.c_int64 * 7).from_address(found)
    plain = as_plain(array)
    if words[DATA] != address(plain) or (words[NDIM] & 0xFFFFFFFF) != plain.ndim:
        return None
    shape = tuple((ctypes.c_int64 * plain.ndim).from_address(words[DIMENSIONS])) if plain.ndim else ()
    is_as_expected = words[DESCRIPTION] == id(plain.dtype) and bool(words[FLAGS] & WRITABLE) == plain.flags.writeable
    return found if shape == plain.shape and is_as_expected else None


def covers(inputs: EngineInputs, plans: Sequence[GroupPlan], plan: StepPlan) -> bool:
    """Whether the compiled step does all that these plans say: no rows, no accumulation, no codecs."""
    return (
        ctypes.sizeof(ctypes.c_void_p) == 8
        and plan.accumulate_steps == 1
        and all(_covers_group(each) for each in plans)
        and all(2 + len(segment.states) <= MAX_OPERANDS for segment in inputs.segments)
        and all(segment.forms is None for segment in inputs.segments)
        and inputs.records.carried.shape[1] <= MAX_CARRIED
    )


def _covers_group(plan: GroupPlan) -> bool:
    operations = plan.programs["update"]
    return (
        not plan.rows
        and not plan.sums
        and plan.accumulator < 0
        and len(plan.stages) <= MAX_STAGES
        and all(len(stage.arguments) <= MAX_ARGUMENTS for stage in plan.stages)
        and len(operations) <= MAX_OPERATIONS
        and all(len(each.operands) <= MAX_LOOP_OPERANDS for each in operations)
        and sum(len(each.pick) for each in operations) <= MAX_COEFFICIENTS
    )


class StepTable:
    """The table of one engine.

    Loops and coefficient functions of plans have the attribute `address`.

    Attributes
    ----------
    header: the table itself, `HEADER_WORDS` long.
    given: where the addresses of given gradients are written.
    """

    def __init__(self, inputs: EngineInputs, plans: Sequence[GroupPlan], n_participants: int) -> None:
        self.inputs = inputs
        self.alive: list[Any] = []
        n = len(inputs.segments)
        self.header = np.zeros(HEADER_WORDS, np.int64)
        self.groups = self.rows(GROUPS, len(plans), GROUP_WORDS)
        self.segments = self.rows(SEGMENTS, n, SEGMENT_WORDS)
        self.given = (ctypes.c_int64 * n)()
        self.stages = [self.write_group(index, plan) for index, plan in enumerate(plans)]
        self.guarded: list[np.ndarray] = []
        kept = with_owners(segment.param for segment in inputs.segments)
        self.kept = kept + owners([state for segment in inputs.segments for state in segment.states])
        self.is_usable = all(fields_of(each) is not None for each in (segment.param for segment in inputs.segments))
        if not self.is_usable:
            return
        for row, segment in zip(self.segments, inputs.segments, strict=True):
            row[[SIZE, GROUP, PARAM_FIELDS]] = segment.param.size, segment.group, fields_of(segment.param)
            row[OPERANDS + PARAM] = address(as_plain(segment.param))
            row[OPERANDS + 2 : OPERANDS + 2 + len(segment.states)] = [address(each) for each in segment.states]
        self.write_header(n, n_participants)
        self.settings_changed()
        self.watch(())

    def own(self, array: np.ndarray) -> int:
        """The address of an array, which is kept as long as this table."""
        self.alive.append(array)
        return address(array)

    def rows(self, word: int, n: int, width: int, dtype: Any = np.int64) -> np.ndarray:
        """New rows, whose address stands in a word of the header."""
        found = np.zeros((max(n, 1), width), dtype)
        self.header[word] = self.own(found)
        return found[:n]

    def write_header(self, n: int, n_participants: int) -> None:
        inputs, header = self.inputs, self.header
        records, progress, settings = inputs.records, inputs.progress, inputs.settings
        pointed = {
            STEPS: records.steps,
            CARRIED: records.carried,
            CALLS: progress.calls,
            ITERATIONS: progress.iterations,
            ACCUMULATED: progress.accumulated,
            SWAPPED: progress.swapped,
            FROZEN: settings.frozen,
            LR_SCALE: settings.lr_scale,
            WEIGHT_DECAY: settings.weight_decay,
        }
        for word, array in pointed.items():
            header[word] = self.own(array)
        header[N_SEGMENTS], header[N_CARRIED] = n, records.carried.shape[1]
        header[GIVEN] = ctypes.addressof(self.given)
        header[ARRAY_TYPE], header[DTYPE], header[NONE] = id(np.ndarray), id(np.dtype(inputs.dtype.type)), id(None)
        header[GRADIENT_FLAGS] = CONTIGUOUS | ALIGNED | (WRITABLE if inputs.plan.clears else 0)
        header[SINGLE], header[ITEMSIZE] = inputs.dtype.itemsize == 4, inputs.dtype.itemsize
        header[GRAD_NORM], header[CHECKS] = self.own(progress.grad_norm), inputs.plan.checks
        header[CLIPPING] = inputs.plan.clipping.address if header[ADDS] else 0
        self.rows(LANES_OF_SUM, 1, LANES, np.float64)
        header[FLUSH], header[N_PARTICIPANTS] = inputs.plan.flush_denormals, n_participants
        self.rows(NEXT_CARRIED, n, max(records.carried.shape[1], 1), np.float64)
        self.rows(COEFFICIENTS, n, MAX_COEFFICIENTS, np.float64)
        self.rows(RESULTS, MAX_STAGES, MAX_RESULTS, np.float64)
        self.rows(SCRATCH, n_participants, SCRATCH_WORDS)
        spans = sorted(
            (address(array), address(array) + array.nbytes)
            for segment in inputs.segments
            for array in (as_plain(segment.param), *segment.states)
            if array.nbytes
        )
        header[N_WRITTEN] = len(spans)
        self.rows(WRITTEN, len(spans), 2)[:] = np.array(spans, np.int64).reshape(-1, 2)

    def write_group(self, index: int, plan: GroupPlan) -> np.ndarray:
        """Write a group; returns the rows of its stages."""
        operations = plan.programs["update"]
        stages = np.zeros((max(len(plan.stages), 1), STAGE_WORDS), np.int64)
        for row, stage in zip(stages, plan.stages, strict=False):
            row[FUNCTION] = stage.function.address
            row[POSITIONS:STAGE_CARRIED] = stage.positions
            row[STAGE_CARRIED:ARGUMENTS] = -1
            row[STAGE_CARRIED : STAGE_CARRIED + len(stage.carried)] = stage.carried
        written = np.zeros((max(len(operations), 1), OPERATION_WORDS), np.int64)
        picked: list[tuple[int, int]] = []
        for row, operation in zip(written, operations, strict=False):
            row[[LOOP, N_OPERANDS, FIRST_COEFFICIENT]] = operation.loop.address, len(operation.operands), len(picked)
            row[OPERATION_OPERANDS : OPERATION_OPERANDS + len(operation.operands)] = operation.operands
            picked += operation.pick
        group = self.groups[index]
        group[[N_STAGES, STAGES, N_OPERATIONS, OPERATIONS]] = (
            len(plan.stages),
            self.own(stages),
            len(operations),
            self.own(written),
        )
        group[[N_PICK, PICK, NEXT]] = len(picked), self.own(_places(picked)), self.own(_places(plan.carried))
        group[SUM] = 0 if plan.sum is None else plan.sum.address
        group[OF_SQUARES] = plan.sum_of_squares
        self.header[ADDS] |= plan.sum is not None
        group[PLAIN] = len(operations) == 1 and _is_plain(operations[0])
        self.stages_of_group(group, stages, plan)
        return stages

    @staticmethod
    def stages_of_group(group: np.ndarray, stages: np.ndarray, plan: GroupPlan) -> None:
        """Write the numbers that can change without a new engine."""
        group.view(np.float64)[[LR, LIMIT, CLIP_NORM]] = plan.lr, plan.limit, plan.clip_norm
        numbers = stages.view(np.float64)
        for row, stage in zip(numbers, plan.stages, strict=False):
            row[ARGUMENTS : ARGUMENTS + len(stage.arguments)] = stage.arguments

    # --- changes ------------------------------------------------------------------------------------------------------

    def set_hyperparameters(self, index: int, plan: GroupPlan) -> None:
        self.stages_of_group(self.groups[index], self.stages[index], plan)

    def set_lr(self, index: int, lr: float) -> None:
        self.groups.view(np.float64)[index, LR] = lr

    def set_scale(self, plan: StepPlan) -> None:
        self.header.view(np.float64)[[MAX_GRAD_NORM, DIVISOR]] = plan.max_grad_norm, plan.divisor

    def settings_changed(self) -> None:
        settings = self.inputs.settings
        self.header[UNIFORM] = bool((settings.lr_scale == 1).all() and np.isnan(settings.weight_decay).all())

    def use(self, gradients: Sequence[np.ndarray | None]) -> None:
        """Use these gradients, which have been checked."""
        for row, gradient in zip(self.segments, gradients, strict=True):
            row[OPERANDS + GRAD] = 0 if gradient is None else address(as_plain(gradient))

    def watch(self, gradients: Sequence[np.ndarray | None]) -> None:
        """Have steps check that these arrays, all that the engine keeps, and those that own their memory stay."""
        guarded = self.kept + with_owners(gradients)
        fields = [fields_of(each) for each in guarded]
        self.is_usable = self.is_usable and None not in fields
        if self.is_usable:
            rows = self.rows(GUARDS, len(guarded), GUARD_WORDS)
            for row, each, where in zip(rows, map(as_plain, guarded), fields, strict=True):
                row[:] = where, address(each), each.nbytes, each.itemsize
            self.guarded = guarded
            self.header[N_GUARDS] = len(guarded)


def _places(results: Sequence[tuple[int, int]]) -> np.ndarray:
    """The positions of results among those of all stages."""
    return np.array([stage * MAX_RESULTS + position for stage, position in results] or [0], np.int64)


def _is_plain(operation: Operation) -> bool:
    """Whether a loop works on the segment's own operands in their order."""
    return operation.operands == tuple(range(len(operation.operands)))


assert CLIPPED < 0 <= PARAM

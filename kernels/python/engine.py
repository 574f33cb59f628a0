"""The step in plain Python, for the reference, and for loops of Numba if the compiled module was not built.

It gives the guarantees of `contract.Engine` (one step at a time, all checks before any write, everything written or
nothing) but is slower: it computes into copies, and writes them all in one call of C code.
"""

from __future__ import annotations

import collections
import contextvars
import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .. import cpu
from ..constants import (
    BLOCK,
    BOUNDARY,
    CLIPPED,
    ENGINE_ARGUMENTS,
    FIRST_TERM,
    GRAD,
    MAX_ROW_OPERATIONS,
    PARAM,
    PREPARED,
)
from ..engine.base import EngineBase, check_apart
from ..engine.contract import EngineInputs
from ..engine.host_memory import address, as_plain, owners, resized_message, with_owners
from ..engine.plan import OperandForm, Operation, RowOperation, Segment
from ..floating_point import with_denormals
from ..formulas.storage import BLOCK as CODEC_BLOCK
from ..formulas.storage import FORMATS
from . import codecs
from .reference import add_up


class Work:
    """A segment in a step: its arrays, including the gradient, before the step (`old`) and after it (`new`).

    It works on copies alone: other code that runs meanwhile may resize an array.

    Attributes
    ----------
    operands: the new elements, in the dtype that loops compute in; what loops write to is in `touched`.
    keys: for each operand, the key of its random bits in this step.
    sums: those of the rule, as soon as they are known.
    """

    def __init__(
        self, index: int, segment: Segment, forms: Sequence[OperandForm], gradient: Any, keys: Sequence[int]
    ) -> None:
        self.index = index
        self.segment = segment
        self.forms = list(forms)
        self.keys = keys
        self.touched: set[int] = set()
        self.sums: tuple[float, ...] = ()
        self.old = [segment.param, gradient, *segment.states]
        if gradient is not None and gradient.dtype == np.float32:  # read directly, whatever the form says
            self.forms[GRAD] = OperandForm(forms[GRAD].name, gradient.dtype)
        self.new: list[Any] = [
            None if array is None else np.array(array).reshape(-1) for array in map(_plain_codes, self.old)
        ]
        pairs = zip(self.forms, self.new, strict=True)
        self.operands: list[Any] = [
            array if form.codec is None or array is None else form.codec.decode(*self.codes(form, array))
            for form, array in pairs
        ]

    def codes(self, form: OperandForm, array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The codes in the new array of an operand, and what else holds its elements."""
        if form.rest >= 0:
            return array, self.new[form.rest]
        size = self.segment.param.size
        if form.codec is not None and FORMATS[form.codec.name].has_base:
            return array[:size], array[-(-size // CODEC_BLOCK) * CODEC_BLOCK :]
        return array, None

    def encode(self, operand: int, start: int = 0, stop: int | None = None, again: int = 0) -> None:
        """Store what was computed; `again` is 0 for the first time in a step, and then 1, 2...: other random bits."""
        form, elements = self.forms[operand], self.operands[operand]
        if form.codec is not None:
            codes, more = self.codes(form, self.new[operand])
            key = codecs.derived_key(self.keys[operand], again) if again else self.keys[operand]
            part = slice(start, stop)
            more = more if more is None or FORMATS[form.codec.name].has_base else more[part]
            form.codec.encode(elements[part], codes[part], more, key, self.segment.offset + start)
            elements[part] = form.codec.decode(codes[part], more)

    def encode_all(self, again: int = 0) -> None:
        """Store all that loops have written since the last time."""
        for operand in sorted(self.touched):
            self.encode(operand, again=again)
        self.touched.clear()

    def written(self, clears: bool) -> list[tuple[Any, Any]]:
        """Pairs of arrays: what is to be written to, and what."""
        return [
            (_plain_codes(old), new.reshape(old.shape))
            for position, (old, new) in enumerate(zip(self.old, self.new, strict=True))
            if old is not None and (position != GRAD or clears)
        ]


def _plain_codes(array: Any) -> Any:
    """An array of codes as one of whole numbers; other arrays as they are."""
    is_plain = array is None or array.dtype.char in "fdBH"
    return array if is_plain else as_plain(array).view(f"u{array.dtype.itemsize}")


Place = tuple[np.ndarray, int, int]
"""An array, and the address and the bytes that it has."""


def places(arrays: Sequence[np.ndarray]) -> list[Place]:
    return [(array, address(view := as_plain(array)), view.nbytes) for array in arrays]


def elements(operand: Any, start: int, stop: int) -> Any:
    """These elements of an operand; None if the operand is missing."""
    return None if operand is None else operand[start:stop]


class PythonEngine(EngineBase):
    """See `contract.Engine`; loops, sums and coefficient functions are callables."""

    def __init__(self, inputs: EngineInputs) -> None:
        super().__init__(inputs)
        kept = with_owners(segment.param for segment in self.segments)
        kept += owners([state for segment in self.segments for state in segment.states])
        self.watched = places(kept)
        self.watched_gradients: list[Place] = []  # those of the step under way, or those that are bound

    def check_watched(self) -> None:
        watched = self.watched + self.watched_gradients
        for (array, *_), now, before in zip(watched, places([each[0] for each in watched]), watched, strict=True):
            if now[1:] != before[1:]:
                raise RuntimeError(resized_message(array))

    def accept_gradients(self, gradients: list[Any]) -> None:
        if len(gradients) != len(self.segments):
            raise ValueError(f"expected {len(self.segments)} gradients, got {len(gradients)}")
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                gradients[index] = self.reject(index, gradient)
        if self.plan.clears:
            check_apart((each[1], each[2]) for each in places([each for each in gradients if each is not None]))

    def bind(self, gradients: list[Any], /) -> None:
        self.watched_gradients = places(with_owners(gradients))
        super().bind(gradients)

    def run_step(self, gradients: list[Any] | None, prepare: Callable[[], None] | None) -> None:
        # The step runs in its own context, so the caller's NumPy error state is unchanged however the step ends.
        contextvars.copy_context().run(self.step_in_context, gradients, prepare)

    def step_in_context(self, gradients: list[Any] | None, prepare: Callable[[], None] | None) -> None:
        self.check_not_swapped()
        if prepare is not None:
            prepare()
        if gradients is None:
            gradients = self.gradients
        else:
            self.watched_gradients = places(with_owners(gradients))
        self.check_watched()  # `commit` does so again
        self.accept_gradients(gradients)
        plain = [None if gradient is None else as_plain(gradient) for gradient in gradients]
        with np.errstate(all="ignore"):
            with_denormals(self.plan.flush_denormals, lambda: self.advance(plain))

    def run_swap(self) -> None:
        contextvars.copy_context().run(self.swap_in_context)  # as a step

    def swap_in_context(self) -> None:
        self.check_watched()
        work = [self.work_on(index, None) for index in range(len(self.segments))]
        with np.errstate(all="ignore"):  # a rule's coefficients, from sums of 0
            for each in work:
                self.run("swap", each, 1.0)
        self.commit(work, [(self.progress.swapped, ~self.progress.swapped)])

    def commit(self, work: list[Work], more: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Write everything, unless other code has resized an array meanwhile.

        One call of C code makes all assignments. They run no Python, so no signal handler can run between two of them.
        """
        pairs = [*(pair for each in work for pair in each.written(self.plan.clears)), *more]
        targets, values = zip(*pairs, strict=True) if pairs else ((), ())
        writes = map(operator.setitem, targets, itertools.repeat(...), values)
        write_all = collections.deque[None](maxlen=0).extend
        self.check_watched()
        write_all(writes)

    def work_on(self, index: int, gradient: Any) -> Work:
        segment = self.segments[index]
        forms = segment.forms or self.plans[segment.group].operands
        update = int(self.records.steps[index]) + 1
        rounds = [form.codec is not None and form.codec.stochastic for form in forms]
        keys = [
            codecs.rounding_key(self.plan.seed, update, segment.number, operand) if each else 0
            for operand, each in enumerate(rounds)
        ]
        return Work(index, segment, forms, gradient, keys)

    # --- a step -----------------------------------------------------------------------------------------------------

    def advance(self, gradients: list[Any]) -> None:
        accumulated = int(self.progress.accumulated[0]) + 1
        final = accumulated >= self.plan.accumulate_steps
        program = "update" if final else "gather"
        work = [
            self.work_on(index, gradient)
            for index, gradient in enumerate(gradients)
            if not self.settings.frozen[index]
            and (gradient is not None or (final and bool(self.records.pending[index])))
        ]
        totals = {}
        if final or self.plan.checks:
            totals = {each.index: self.add_up_gradient(program, each) for each in work}
        unusable = [index for index, total in totals.items() if not self.is_usable(index, total)]
        total = functools.reduce(float.__add__, totals.values(), 0.0)
        declined = self.plan.checks and bool(unusable)
        if self.exchange is not None:
            added = self.exchange(list(totals.items()), not declined)
            declined = added is None
            if added is not None:
                totals, total = dict(zip(totals, added[0], strict=True)), added[1]
        if declined:
            self.decline(program, work)
            return
        clip, norm = self.clip_coefficients(totals, total) if final else ({}, math.nan)
        if final and not self.add_up_terms(work, clip):
            self.decline(program, work)
            return
        records = self.records
        steps, pending, carried = records.steps.copy(), records.pending.copy(), records.carried.copy()
        common = self.progress.common
        for each in work:
            self.run(program, each, clip.get(each.index, 1.0))
            plan = self.plans[each.segment.group]
            if final and (plan.carried or plan.common):
                results = self.results(each.index, 1.0, each.sums)
                carried[each.index] = [results[stage][position] for stage, position in plan.carried]
                common = np.array([results[stage][position] for stage, position in plan.common])
            steps[each.index] += final
            pending[each.index] = not final
        more = [
            (records.steps, steps),
            (records.pending, pending),
            (records.carried, carried),
            (self.progress.accumulated, np.array([0 if final else accumulated])),
            (self.progress.calls, self.progress.calls + 1),
            (self.progress.iterations, self.progress.iterations + final),
            (self.progress.common, common),
        ]
        if final and self.plan.max_grad_norm > 0:
            more.append((self.progress.grad_norm, np.array([norm])))
        self.commit(work, more)

    def add_up_gradient(self, program: str, work: Work, counting: bool = False) -> float:
        """The sum over the gradient, or over its total with the gradients of earlier calls if gradients accumulate."""
        plan = self.plans[work.segment.group]
        sum_over = self.plan.unusable if counting else plan.sum
        if sum_over is None:
            return 0.0
        gradient = work.operands[GRAD]
        if plan.accumulator >= 0:
            if gradient is None:
                gradient = work.operands[plan.accumulator]
            else:
                gradient = np.empty_like(gradient)
                scalars = self.coefficients(program, work.index, 1.0, ())
                self.run_operations(plan.programs[program][:1], work.operands, scalars, gradient, gradient)
        return add_up(sum_over, gradient, plan.limit)[0]

    def add_up_terms(self, work: list[Work], clip: dict[int, float]) -> bool:
        """Compute the sums that the coefficients of rules depend on; False if other processes decline the step."""
        over_all: list[float] = []
        for each in work:
            plan = self.plans[each.segment.group]
            if plan.sums:
                terms = self.run_terms(each, clip.get(each.index, 1.0))
                each.sums = tuple(
                    add_up(of.function, term, 0.0, BLOCK)[0] for of, term in zip(plan.sums, terms, strict=True)
                )
                over_all = list(
                    itertools.starmap(operator.add, itertools.zip_longest(over_all, each.sums, fillvalue=0.0))
                )
        if self.exchange_sums is not None:
            added = self.exchange_sums([(each.index, list(each.sums)) for each in work])
            if added is None:
                return False
            over_all = added[1]
            for each, found in zip(work, added[0], strict=True):
                each.sums = tuple(found)
        for each in work:
            sums = self.plans[each.segment.group].sums
            each.sums = tuple(over_all[k] if of.over_all else each.sums[k] for k, of in enumerate(sums))
        return True

    def run_terms(self, work: Work, clip_coefficient: float) -> list[np.ndarray]:
        """The terms of each sum of a segment's rule; nothing else is written."""
        plan, operands = self.plans[work.segment.group], work.operands
        scalars = self.coefficients("terms", work.index, clip_coefficient, ())
        terms = [np.empty(work.segment.param.size, self.dtype) for _ in plan.sums]
        for start in range(0, work.segment.param.size, BLOCK):
            part = [elements(each, start, start + BLOCK) for each in operands]
            own = np.empty((2, part[PARAM].size), self.dtype)
            gathered = part[plan.accumulator] if operands[GRAD] is None else own[0]
            found = [each[start : start + BLOCK] for each in terms]
            self.run_operations(plan.programs["terms"], part, scalars, gathered, own[1], found)
        return terms

    def is_usable(self, index: int, total: float) -> bool:
        plan = self.plans[self.segments[index].group]
        return math.isfinite(total) if plan.sum_of_squares else not total > 0

    def decline(self, program: str, work: list[Work]) -> None:
        """Report the gradients that cannot be used (which may raise), and change nothing except gradients."""
        counts = [(each.index, int(self.add_up_gradient(program, each, counting=True))) for each in work]
        self.report([(index, count) for index, count in counts if count], int(self.progress.calls[0]))
        if self.plan.clears:
            for each in work:
                self.run("clear", each, 1.0)
            self.commit(work, [])

    def clip_coefficients(self, totals: dict[int, float], total: float) -> tuple[dict[int, float], float]:
        """The factor for the gradient of each segment, and the norm of all gradients."""
        divisor = self.plan.divisor
        clip = {}
        for index, own in totals.items():
            clip_norm = self.plans[self.segments[index].group].clip_norm
            if self.plan.max_grad_norm > 0:
                clip[index] = float(self.plan.clipping(np.float64(total), divisor, self.plan.max_grad_norm))
            elif clip_norm > 0:
                clip[index] = float(self.plan.clipping(np.float64(own), divisor, clip_norm))
        return clip, math.sqrt(total) / divisor

    def rate(self, index: int) -> float:
        return float(self.plans[self.segments[index].group].lr * self.settings.lr_scale[index])

    def results(self, index: int, clip_coefficient: float, sums: Sequence[float] = ()) -> list[list[float]]:
        """The results of the coefficient functions of all stages of a segment, given the sums of its rule."""
        plan, records = self.plans[self.segments[index].group], self.records
        known = (records.steps[index] + 1, self.rate(index), self.settings.weight_decay[index], clip_coefficient)
        results = []
        for stage in plan.stages:
            arguments = [np.float64(value) for value in stage.arguments]  # float64 of NumPy divides by zero as C does
            for name, position, value in zip(ENGINE_ARGUMENTS, stage.positions, known, strict=True):
                if position >= 0 and not (name == "weight_decay" and math.isnan(value)):
                    arguments[position] = np.float64(value)
            for position, value in zip(stage.carried, records.carried[index], strict=True):
                if position >= 0:
                    arguments[position] = value
            for position, value in zip(stage.common, self.progress.common, strict=True):
                if position >= 0:
                    arguments[position] = value
            # Without its sums, a rule can compute the coefficients of their terms.
            known_sums = (*(sums or (0.0,) * len(plan.sums)), self.segments[index].whole_size)
            for position, value in zip(stage.sums, known_sums if stage.sums else (), strict=True):
                if position >= 0:
                    arguments[position] = np.float64(value)
            values = stage.function(*arguments)
            results.append([float(value) for value in (values if isinstance(values, tuple) else (values,))])
        return results

    def coefficients(self, program: str, index: int, clip_coefficient: float, sums: Sequence[float]) -> list[list[Any]]:
        """The coefficients of each operation of a program for this segment."""
        plan, results = self.plans[self.segments[index].group], self.results(index, clip_coefficient, sums)
        return [
            [self.dtype.type(results[stage][position]) for stage, position in operation.pick]
            for operation in plan.programs[program]
        ]

    def run(self, program: str, work: Work, clip_coefficient: float) -> None:
        """Run a program on a whole segment."""
        segment, operands = work.segment, work.operands
        plan = self.plans[segment.group]
        operations = plan.programs[program]
        scalars = self.coefficients(program, work.index, clip_coefficient, work.sums)
        # Without a gradient in this call, the gradients gathered earlier are the entire gradient.
        was_gathered = operands[GRAD] is None and plan.accumulator >= 0
        with_rows = program == "update" and segment.row > 0
        before_rows = plan.rows_after if with_rows else len(operations)
        size = segment.param.size
        block = max(size, 1) if len(operations) == 1 else BLOCK
        for start in range(0, size, block):
            part = [elements(each, start, start + block) for each in operands]
            own = np.empty((2, 0 if len(operations) == 1 else min(block, size - start)), self.dtype)
            gathered = part[plan.accumulator] if was_gathered else own[0]
            work.touched |= self.run_operations(operations[:before_rows], part, scalars, gathered, own[1])
        work.encode_all()
        if with_rows:
            for start in range(0, size, segment.row):
                row = elements(operands[PARAM], start, start + segment.row)
                for again, row_operation in enumerate(plan.rows, 1):
                    self.run_row(row_operation, row, self.rate(work.index))
                    work.encode(PARAM, start, start + segment.row, again)
            last = scalars[before_rows:]
            work.touched |= self.run_operations(operations[before_rows:], operands, last, operands[0], operands[0])
            work.encode_all(MAX_ROW_OPERATIONS + 1)

    def run_operations(
        self,
        operations: Sequence[Operation],
        operands: Sequence[Any],
        scalars: list[list[Any]],
        prepared: np.ndarray,
        clipped: np.ndarray,
        terms: Sequence[np.ndarray] = (),
    ) -> set[int]:
        """Run operations on arrays; returns the operands that they wrote to."""
        own = {PREPARED: prepared, CLIPPED: clipped, **{FIRST_TERM - k: each for k, each in enumerate(terms)}}
        written: set[int] = set()
        for operation, values in zip(operations, scalars, strict=False):
            arrays = [own[index] if index < 0 else operands[index] for index in operation.operands]
            missing = [array for array in arrays if array is None]  # a generator would be left to an interrupt
            if not missing:
                self.run_loop(operation, arrays, values)
                written.update(index for index in operation.writes if index >= 0)
        return written

    def run_loop(self, operation: Operation, arrays: list[np.ndarray], scalars: list[Any]) -> None:
        operation.loop(arrays, scalars)

    def run_row(self, operation: RowOperation, row: np.ndarray, lr: float) -> None:
        coefficient, count = operation.start, row.size + 1.0
        while True:
            total, new_count = add_up(operation.sum, row, coefficient)
            argument = operation.argument
            coefficient = float(operation.function(np.float64(total), np.float64(new_count), argument, lr))
            if not operation.iterates or new_count >= count or new_count == 0:
                break
            count = new_count
        operation.loop([row], [self.dtype.type(coefficient)])


class ThreadedPythonEngine(PythonEngine):
    """A `PythonEngine` that splits long loops over Python threads, for loops that release the GIL."""

    def run_loop(self, operation: Operation, arrays: list[np.ndarray], scalars: list[Any]) -> None:
        n_threads = self.n_threads or cpu.default_threads()
        size = math.ceil(arrays[0].size / n_threads / BOUNDARY) * BOUNDARY
        if n_threads == 1 or arrays[0].size < 100_000:
            operation.loop(arrays, scalars)
            return

        def run_part(part: list[np.ndarray]) -> None:
            with_denormals(self.plan.flush_denormals, lambda: operation.loop(part, scalars))

        with ThreadPoolExecutor(n_threads) as pool:
            starts = range(0, arrays[0].size, size)
            parts = [[array[start : start + size] for array in arrays] for start in starts]
            for future in [pool.submit(run_part, part) for part in parts]:
                future.result()

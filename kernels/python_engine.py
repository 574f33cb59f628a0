"""The step in plain Python: for the reference, and for Numba's loops where the compiled module was not built.

It promises what `engine.Engine` promises (one step at a time, everything checked before anything is written), without
the speed.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from . import cpu
from .floating_point import denormals
from .plan import (
    BUSY,
    CLIPPED,
    ENGINE_ARGUMENTS,
    GRAD,
    PREPARED,
    GroupPlan,
    Operation,
    Reject,
    Report,
    RowOperation,
    Segment,
    SegmentSettings,
    StepPlan,
    resized_message,
    with_owners,
)

BOUNDARY = 64  # as in table.pxi
BLOCK = 1024
SUM_BLOCK = 4096

Streams = list[Any]
"""A segment's arrays, flat, the gradient (or None) included, and how the elements are divided among calls."""


class PythonEngine:
    """Takes what `engine.Engine` takes; loops, sums and coefficient functions are callables."""

    def __init__(
        self,
        dtype: np.dtype,
        plans: list[GroupPlan],
        segments: list[Segment],
        steps: np.ndarray,
        settings: SegmentSettings,
        plan: StepPlan,
        reject: Reject,
        report: Report,
    ) -> None:
        self.dtype = dtype
        self.plans = list(plans)
        self.segments = segments
        self.steps = steps
        self.settings = settings
        self.plan = plan
        self.reject = reject
        self.report = report
        self.n_threads = plan.n_threads
        self.bound = False
        self.accumulated = 0
        self.calls = 0
        self.grad_norm = math.nan
        self.gradients: list[Any] = [None] * len(segments)
        self.watched: list[tuple[np.ndarray, int, int]] = []
        self.watch()
        self.lock = threading.Lock()

    def claim(self) -> None:
        """Keep other threads' steps out until `release`; an error when one is under way."""
        if not self.lock.acquire(blocking=False):
            raise RuntimeError(BUSY)

    def release(self) -> None:
        self.lock.release()

    def watch(self) -> None:
        arrays = with_owners([*(segment.param for segment in self.segments), *self.gradients])
        self.watched = [(array, array.ctypes.data, array.nbytes) for array in arrays]

    def check_watched(self) -> None:
        for array, data, nbytes in self.watched:
            if (array.ctypes.data, array.nbytes) != (data, nbytes):
                raise RuntimeError(resized_message(array))

    def set_hyperparameters(self, index: int, plan: GroupPlan) -> None:
        self.plans[index] = plan

    def set_scale(self, plan: StepPlan) -> None:
        self.plan = plan

    def accept(self, gradients: list[Any]) -> None:
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                self.reject(index, gradient)
        if self.plan.clears:
            spans = sorted((each.ctypes.data, each.nbytes) for each in gradients if each is not None and each.nbytes)
            for (begin, nbytes), (other, _) in itertools.pairwise(spans):
                if other < begin + nbytes:
                    raise ValueError("gradients that zero_grads=True is to zero share memory; each needs its own")

    def bind(self, gradients: list[Any]) -> None:
        self.accept(gradients)
        self.gradients = list(gradients)
        self.watch()
        self.bound = True

    def step(self, gradients: list[Any] | None = None) -> None:
        self.claim()
        try:
            self.check_watched()
            if gradients is None:
                gradients = self.gradients
            self.accept(gradients)
            self.advance(gradients)
        finally:
            self.release()

    def swap(self) -> None:
        """Exchange every parameter with its average."""
        self.check_watched()
        for index in range(len(self.segments)):
            self.run("swap", index, self.streams(index, None), [[]])

    # --- a step -----------------------------------------------------------------------------------------------------

    def advance(self, gradients: list[Any]) -> None:
        final = self.accumulated + 1 >= self.plan.accumulate_steps
        program = "update" if final else "gather"
        active = [
            (index, self.streams(index, gradient))
            for index, gradient in enumerate(gradients)
            if not self.settings.frozen[index]
            and (gradient is not None or (final and bool(self.settings.pending[index])))
        ]
        totals = {}
        if final or self.plan.checks:
            totals = {index: self.add_up_gradient(program, index, streams) for index, streams in active}
        if self.plan.checks and not all(self.is_usable(index, total) for index, total in totals.items()):
            self.decline(program, active)
            return
        clip = self.clip_coefficients(totals) if final else {}
        work = [(*each, self.coefficients(program, each[0], clip.get(each[0], 1.0))) for each in active]
        for index, streams, scalars in work:
            self.run(program, index, streams, scalars)
            self.steps[index] += final
            self.settings.pending[index] = not final
        self.accumulated = 0 if final else self.accumulated + 1
        self.calls += 1

    def streams(self, index: int, gradient: Any) -> Streams:
        segment = self.segments[index]
        return [None if each is None else each.reshape(-1) for each in (segment.param, gradient, *segment.states)]

    def add_up_gradient(self, program: str, index: int, streams: Streams, counting: bool = False) -> float:
        """The sum over the gradient, or over what it comes to with those of calls before."""
        plan = self.plans[self.segments[index].group]
        sum_over = self.plan.unusable if counting else plan.sum
        if sum_over is None:
            return 0.0
        gradient = streams[GRAD]
        scalars = self.coefficients(program, index, 1.0) if plan.accumulator >= 0 else []
        with np.errstate(all="ignore"), denormals(flush=self.plan.flush_denormals):
            if plan.accumulator >= 0:
                gradient = np.empty_like(streams[0])
                self.run_operations(plan.programs[program][:1], streams, scalars, gradient, gradient)
                if streams[GRAD] is None:
                    gradient = streams[plan.accumulator]
            return add_up(sum_over, gradient, plan.limit)[0]

    def is_usable(self, index: int, total: float) -> bool:
        plan = self.plans[self.segments[index].group]
        return math.isfinite(total) if plan.sum_of_squares else not total > 0

    def decline(self, program: str, active: list[tuple[int, Streams]]) -> None:
        """Say which gradients cannot be used (which may raise), and leave everything but gradients as it is."""
        counts = [
            (index, int(self.add_up_gradient(program, index, streams, counting=True))) for index, streams in active
        ]
        self.report([(index, count) for index, count in counts if count], self.calls)
        if self.plan.clears:
            for index, streams in active:
                self.run("clear", index, streams, [[]])

    def clip_coefficients(self, totals: dict[int, float]) -> dict[int, float]:
        total, divisor = 0.0, self.plan.divisor
        for each in totals.values():
            total += each
        if self.plan.max_grad_norm > 0:
            self.grad_norm = math.sqrt(total) / divisor
        clip = {}
        for index, own in totals.items():
            clip_norm = self.plans[self.segments[index].group].clip_norm
            with np.errstate(all="ignore"):
                if self.plan.max_grad_norm > 0:
                    clip[index] = float(self.plan.clipping(np.float64(total), divisor, self.plan.max_grad_norm))
                elif clip_norm > 0:
                    clip[index] = float(self.plan.clipping(np.float64(own), divisor, clip_norm))
        return clip

    def rate(self, index: int) -> float:
        return float(self.plans[self.segments[index].group].lr * self.settings.lr_scale[index])

    def coefficients(self, program: str, index: int, clip_coefficient: float) -> list[list[Any]]:
        """What each operation of a program takes for this segment."""
        plan = self.plans[self.segments[index].group]
        weight_decay = float(self.settings.weight_decay[index])
        known = (float(self.steps[index] + 1), self.rate(index), weight_decay, clip_coefficient)
        results = []
        with np.errstate(all="ignore"):
            for stage in plan.stages:
                arguments = list(stage.arguments)
                for name, position, value in zip(ENGINE_ARGUMENTS, stage.positions, known, strict=True):
                    if position >= 0 and not (name == "weight_decay" and math.isnan(value)):
                        arguments[position] = value
                values = stage.function(*arguments)
                results.append([float(value) for value in (values if isinstance(values, tuple) else (values,))])
            return [
                [self.dtype.type(results[stage][position]) for stage, position in operation.pick]
                for operation in plan.programs[program]
            ]

    def run(self, program: str, index: int, streams: Streams, scalars: list[list[Any]]) -> None:
        """A program on a whole segment."""
        segment = self.segments[index]
        plan = self.plans[segment.group]
        # Without a gradient in this call, what was gathered before is all of it.
        prepared = streams[plan.accumulator] if streams[GRAD] is None and plan.accumulator >= 0 else None
        size = streams[0].size
        if size == 0:
            return
        with_rows = program == "update" and segment.row > 0
        before_rows = plan.rows_after if with_rows else len(plan.programs[program])
        with np.errstate(all="ignore"), denormals(flush=self.plan.flush_denormals):
            plain = len(plan.programs[program]) == 1
            for start in range(0, size, size if plain else BLOCK):
                stop = size if plain else min(start + BLOCK, size)
                part = [None if stream is None else stream[start:stop] for stream in streams]
                own = np.empty((2, 0 if plain else stop - start), self.dtype)
                gathered = own[0] if prepared is None else prepared[start:stop]
                self.run_operations(plan.programs[program][:before_rows], part, scalars, gathered, own[1])
            if with_rows:
                for start in range(0, size, segment.row):
                    for row_operation in plan.rows:
                        self.run_row(row_operation, streams[0][start : start + segment.row], self.rate(index))
                after = plan.programs[program][before_rows:]
                self.run_operations(after, streams, scalars[before_rows:], streams[0], streams[0])

    def run_operations(
        self,
        operations: Sequence[Operation],
        streams: Streams,
        scalars: list[list[Any]],
        prepared: np.ndarray,
        clipped: np.ndarray,
    ) -> None:
        own = {PREPARED: prepared, CLIPPED: clipped}
        for operation, values in zip(operations, scalars, strict=False):
            arrays = [own[index] if index < 0 else streams[index] for index in operation.streams]
            if all(array is not None for array in arrays):
                self.run_loop(operation, arrays, values)

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
    """The same, with long loops split over Python threads: for loops that release the GIL."""

    def run_loop(self, operation: Operation, arrays: list[np.ndarray], scalars: list[Any]) -> None:
        n_threads = self.n_threads or cpu.default_threads()
        size = math.ceil(arrays[0].size / n_threads / BOUNDARY) * BOUNDARY
        if n_threads == 1 or arrays[0].size < 100_000:
            operation.loop(arrays, scalars)
            return

        def run_part(part: list[np.ndarray]) -> None:
            with denormals(flush=self.plan.flush_denormals):
                operation.loop(part, scalars)

        with ThreadPoolExecutor(n_threads) as pool:
            starts = range(0, arrays[0].size, size)
            parts = [[array[start : start + size] for array in arrays] for start in starts]
            for future in [pool.submit(run_part, part) for part in parts]:
                future.result()


def add_up(sum_over: Any, elements: np.ndarray, coefficient: float) -> tuple[float, float]:
    """Both results of a sum over many elements: blocks, one after the other."""
    first = second = 0.0
    for start in range(0, elements.size, SUM_BLOCK):
        results = sum_over(elements[start : start + SUM_BLOCK], coefficient)
        first += results[0]
        second += results[1]
    return first, second


def callable_loop(address: int) -> Callable[[Sequence[np.ndarray], Sequence[Any]], None]:
    """A compiled loop as a function of arrays; ctypes releases the GIL while it runs."""
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_ssize_t)(address)

    def run(streams: Sequence[np.ndarray], scalars: Sequence[Any]) -> None:
        addresses = (ctypes.c_void_p * len(streams))(*(stream.ctypes.data for stream in streams))
        coefficients = np.array(scalars)
        function(ctypes.addressof(addresses), streams[0].size, coefficients.ctypes.data, 0)

    return run

"""The engine of the Numba backend where the compiled module was not built.

Numba compiles a whole step into one function (see `engine.step_table`), which is called once for each step. What that
function does not do (constraints on rows, accumulation, swaps), `ThreadedPythonEngine` does.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import cpu
from ..engine.contract import BUSY, REPLACED, SWAPPED, EngineInputs, Replaced
from ..engine.host_memory import address, resized_message
from ..engine.plan import GroupPlan, StepPlan
from ..engine.step_table import (
    BEGIN,
    DECLINED,
    DONE,
    IS_SWAPPED,
    MOVED,
    PREPARE,
    RUN,
    TAKE,
    UNUSABLE,
    WORKING,
    StepTable,
    covers,
)
from . import helpers
from .engine import ThreadedPythonEngine

PATIENCE = 200
"""The steps that a process does in Python before it compiles the whole step, which takes a few seconds: not for a few
steps. What is kept on disk is used at once."""

NANOSECONDS_TO_RELEASE = 5_000.0
"""The least work for which a step lets other Python threads run."""

NANOSECONDS_PER_THREAD = 100_000.0
"""The least work for which waking a Python thread makes a step faster."""


class CompiledLoop:
    """A compiled loop, also as a function of arrays; ctypes releases the GIL while it runs."""

    def __init__(self, address: int) -> None:
        self.address = address
        self.function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_ssize_t)(
            address
        )

    def __call__(self, operands: Sequence[np.ndarray], scalars: Sequence[Any]) -> None:
        addresses = (ctypes.c_void_p * len(operands))(*map(address, operands))
        coefficients = np.array(scalars)
        self.function(ctypes.addressof(addresses), operands[0].size, coefficients.ctypes.data, 0)


class WithAddress:
    """A coefficient function or a sum in Python, and the address of the same, compiled when it is first asked for."""

    def __init__(self, function: Callable[..., Any], compiled: Callable[[], int]) -> None:
        self.function = function
        self.compiled = compiled

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    @functools.cached_property
    def address(self) -> int:
        return self.compiled()


_steps_in_python = 0


class CompiledEngine(ThreadedPythonEngine):
    """See `contract.Engine`.

    `whole_step()` is the address of the compiled step, and `is_kept()` says whether it need not be compiled.
    """

    def __init__(self, inputs: EngineInputs, whole_step: Callable[[], int], is_kept: Callable[[], bool]) -> None:
        super().__init__(inputs)
        self.inputs = inputs
        self.whole_step = whole_step
        self.nanoseconds = sum(segment.param.size * self.plans[segment.group].cost for segment in self.segments)
        self.is_small = self.nanoseconds < NANOSECONDS_TO_RELEASE
        self.table: StepTable | None = None
        self.is_waiting = inputs.exchange is None and covers(inputs, self.plans, self.plan)
        if self.is_waiting and (_steps_in_python >= PATIENCE or is_kept()):
            self.make_table()

    def make_table(self) -> None:
        """Go over to the compiled step, if arrays are laid out as it expects."""
        n_participants = min(max(self.n_threads, cpu.default_threads()), MOST_THREADS)
        table = StepTable(self.inputs, self.plans, n_participants)
        table.set_scale(self.plan)
        if self.bound and table.is_usable:
            table.use(self.gradients)
            table.watch([each for each in self.gradients if each is not None])
        if table.is_usable:
            function = self.whole_step()
            self.at = address(table.header)
            self.holding, self.releasing = _holding(function), _releasing(function)
            self.process = os.getpid()
            self.table = table
        self.is_waiting = False

    def bind(self, gradients: list[Any], /) -> None:
        super().bind(gradients)
        if self.table is not None:
            self.table = None
            self.make_table()

    def step_in_python(self, gradients: list[Any] | None, prepare: Callable[[], None] | None) -> None:
        global _steps_in_python
        super().step(gradients, prepare)
        if self.is_waiting:
            _steps_in_python += 1
            if _steps_in_python >= PATIENCE and not self.lock.locked():
                with self.lock:
                    self.make_table()

    def step(self, gradients: list[Any] | None = None, prepare: Callable[[], None] | None = None) -> None:
        table = self.table
        if table is None:
            self.step_in_python(gradients, prepare)
            return
        if self.lock.locked():
            raise RuntimeError(BUSY)
        with self.lock:
            if self.replaced:
                raise Replaced(REPLACED)
            if prepare is not None:
                self.check_not_swapped()
                prepare()
            if gradients is not None:
                self.take(table, gradients)
                return
            self.conclude(table, self.run_whole(table, BEGIN), None)

    def run_whole(self, table: StepTable, begin: int) -> int:
        found: int = self.holding(self.at, begin | PREPARE | RUN) if self.is_small else self.run_released(table, begin)
        return found

    def run_released(self, table: StepTable, begin: int) -> int:
        """A step during which other Python threads can run, and help."""
        found: int = self.holding(self.at, begin)
        if found == DONE:
            found = self.releasing(self.at, PREPARE)
        if found == DONE:
            limit = self.n_threads or cpu.default_threads()
            n_threads = min(limit, int(self.nanoseconds / NANOSECONDS_PER_THREAD), MOST_THREADS)
            if self.process != os.getpid():  # forked: no thread that was working then is here
                table.header[WORKING], self.process = 0, os.getpid()
            if n_threads > 1:
                helpers.call_for_help(n_threads - 1, self.releasing, table.header, self.at)
            self.releasing(self.at, RUN)
        return found

    def take(self, table: StepTable, gradients: list[Any]) -> None:
        """A step with gradients that are passed to it, which are checked in compiled code or, in doubt, in Python."""
        if self.plan.clears or len(gradients) != len(self.segments):
            found = UNUSABLE
        else:
            table.given[:] = [*map(id, gradients)]
            found = self.run_whole(table, BEGIN | TAKE)
        if found == UNUSABLE:
            self.check_not_swapped()
            self.accept_gradients(gradients)
            table.use(gradients)
            found = self.run_whole(table, BEGIN)
        self.conclude(table, found, gradients)

    def conclude(self, table: StepTable, found: int, gradients: list[Any] | None) -> None:
        """Act on what the compiled step has found before it wrote anything."""
        if found == DECLINED:
            self.run_step(gradients, None)
        elif found == IS_SWAPPED:
            raise RuntimeError(SWAPPED)
        elif found != DONE:
            raise RuntimeError(resized_message(table.guarded[found - MOVED]))

    # --- changes ------------------------------------------------------------------------------------------------------

    def set_hyperparameters(self, index: int, plan: GroupPlan, /) -> None:
        super().set_hyperparameters(index, plan)
        if self.table is not None:
            self.table.set_hyperparameters(index, plan)

    def set_lr(self, index: int, lr: float, /) -> None:
        super().set_lr(index, lr)
        if self.table is not None:
            self.table.set_lr(index, lr)

    def set_scale(self, plan: StepPlan, /) -> None:
        super().set_scale(plan)
        if self.table is not None:
            self.table.set_scale(plan)

    def settings_changed(self) -> None:
        if self.table is not None:
            self.table.settings_changed()


MOST_THREADS = 64
"""More Python threads than this are not worth starting."""


@functools.cache
def _holding(function: int) -> Any:
    """The compiled step, as a function that holds the GIL."""
    return ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(function)


@functools.cache
def _releasing(function: int) -> Any:
    """The compiled step, as a function that releases the GIL."""
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(function)

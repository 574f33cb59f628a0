"""Sums over arrays and changes of arrays beside any optimizer, on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.contract import SegmentSettings
from ..engine.plan import Segment, StepPlan
from ..formulas.registry import Loop
from . import memory
from .kernels import kernel
from .launches import LAUNCH_SHAPE
from .render_sums import sums_source
from .render_update import update_source
from .structures import Structure
from .tables import Tables
from .words import machine


def _tables(structure: Structure, arrays: list[Any], chunk: int) -> Tables:
    segments = [Segment(0, array, []) for array in arrays]
    return Tables(arrays[0].dtype, [structure], [0], segments, SegmentSettings.of(len(segments)), StepPlan(), chunk)


def _run(source: str, name: str, arrays: list[Any], tables: Tables, blocks: int) -> None:
    launch = machine.configured(
        kernel(source, name, arrays[0].dtype.name), max(1, blocks), LAUNCH_SHAPE.threads, machine.as_stream(0)
    )
    launch(tables.header)


def add_up_arrays(arrays: list[Any], sum_over: Any, n_threads: int) -> float:
    """The sum over all elements of device arrays, with the bits of every other backend; waits for it."""
    if not arrays:
        return 0.0
    structure = Structure((), (), sum_over, sum_over[-1].name == "square", -1, ())
    tables = _tables(structure, arrays, LAUNCH_SHAPE.chunk)
    tables.gradients[:] = [memory.address(array) for array in arrays]
    memory.copy(tables.alive["gradients"], tables.gradients)
    memory.fill(tables.counters, 0)
    source = sums_source([structure], arrays[0].dtype.name, LAUNCH_SHAPE.threads)
    _run(source, "sums", arrays, tables, min(tables.n_sum_blocks, 1024))
    partials = memory.to_host(tables.alive["partials"])[: tables.n_sum_blocks]
    total = 0.0
    for begin, end in zip(tables.first_sum_block, tables.first_sum_block[1:], strict=False):
        own = 0.0
        for partial in partials[begin:end].tolist():
            own += partial
        total += own
    return total


def change_arrays(arrays: list[Any], loop: Loop, coefficients: tuple[float, ...], n_threads: int) -> None:
    """Calls an operation of one stream on each of these device arrays."""
    if not arrays:
        return
    operation = (loop, (0,), tuple((0, index) for index in range(len(coefficients))))
    structure = Structure((), (("swap", (operation,)),), (), False, -1, ())
    tables = _tables(structure, arrays, LAUNCH_SHAPE.chunk)
    values = np.tile(np.array(coefficients or (0.0,), arrays[0].dtype), len(arrays))
    memory.copy(tables.alive["coefficients"], values)
    source = update_source([structure], arrays[0].dtype.name, ("swap",), LAUNCH_SHAPE.chunk)
    _run(source, "update", arrays, tables, min(tables.n_chunks, 1 << 20))

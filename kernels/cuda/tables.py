"""The tables that an engine keeps on the device: addresses, the plan of a step, and progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..constants import SUM_BLOCK
from ..engine.contract import SegmentSettings
from ..engine.plan import GroupPlan, Segment, StepPlan
from . import memory
from .structures import (
    STEP,
    Structure,
    coefficient_width,
    n_carried,
    n_operands,
    numbered_variants,
    value_width,
)
from .table_format import COUNTERS, GROUP, HEADER, NUMBERS, PLAN, SCALER, SEGMENT, SETTINGS, VALUES


class Tables:
    """The tables on the device, and host copies of the tables that change between steps.

    `rows` has the group and the structure of each row of the table of groups, and `row_of` the row of each segment.

    `header` is the address that kernels receive. `alive` holds the device arrays by name; `host` holds, by the same
    names, the host arrays of the tables that `engine` uploads when they change.
    """

    def __init__(
        self,
        dtype: np.dtype,
        structures: Sequence[Structure],
        rows: Sequence[tuple[int, int]],
        row_of: Sequence[int],
        segments: Sequence[Segment],
        settings: SegmentSettings,
        plan: StepPlan,
        chunk: int,
    ) -> None:
        self.structures = structures
        self.rows = rows
        self.n_segments = len(segments)
        self.alive: dict[str, Any] = {}
        sizes = [int(segment.param.size) for segment in segments]
        chunks, sum_blocks = pieces(sizes, chunk), pieces(sizes, SUM_BLOCK)
        self.n_chunks, self.n_sum_blocks = len(chunks), len(sum_blocks)
        self.first_sum_block = np.searchsorted(sum_blocks[:, 0], np.arange(len(sizes) + 1))
        counters = len(COUNTERS)
        self.counters = memory.empty(counters + 2 * self.n_segments, np.int64)
        self.numbers = memory.empty(len(NUMBERS) + self.n_segments * n_carried(structures), np.float64)
        addresses = {
            "counters": memory.address(self.counters),
            "steps": memory.address(self.counters) + 8 * counters,
            "pending": memory.address(self.counters) + 8 * (counters + self.n_segments),
            "numbers": memory.address(self.numbers),
            "carried": memory.address(self.numbers) + 8 * len(NUMBERS),
        }
        self.gradients = np.zeros(self.n_segments, np.int64)
        self.values = np.zeros((len(rows), value_width(structures)))
        self.plan = np.zeros(len(PLAN))
        self.scaler = np.zeros(len(SCALER), np.int64)
        self.segments = self.segment_rows(segments, row_of)
        self.set_step_plan(plan)
        self.settings = np.zeros((self.n_segments, len(SETTINGS)))
        self.set_settings(settings)
        self.host = {
            "gradients": self.gradients,
            "values": self.values,
            "plan": self.plan,
            "scaler": self.scaler,
            "segments": self.segments,
            "settings": self.settings,
        }
        tables = {
            **self.host,
            "groups": self.group_rows(),
            "chunks": chunks,
            "sum_blocks": sum_blocks,
            "variants": np.zeros(self.n_segments, np.int64),
            "coefficients": np.zeros(self.n_segments * coefficient_width(structures), dtype),
            "partials": np.zeros(self.n_sum_blocks),
            "unusable": np.zeros(self.n_sum_blocks),
            "totals": np.zeros(self.n_segments),
        }
        for name, table in tables.items():
            self.alive[name] = memory.empty(max(table.size, 1), table.dtype)
            memory.copy(self.alive[name][: table.size], table.reshape(-1))
            addresses[name] = memory.address(self.alive[name])
        numbers = {"n_segments": self.n_segments, "n_chunks": self.n_chunks, "n_sum_blocks": self.n_sum_blocks}
        header = np.array([{**addresses, **numbers}[name] for name in HEADER], np.int64)
        self.alive["header"] = memory.empty(header.size, np.int64)
        memory.copy(self.alive["header"], header)
        self.header = memory.address(self.alive["header"])

    def segment_rows(self, segments: Sequence[Segment], row_of: Sequence[int]) -> np.ndarray:
        width = n_operands(self.structures)
        rows = np.zeros((self.n_segments, len(SEGMENT) - 1 + width), np.int64)
        for index, (row, segment) in enumerate(zip(rows, segments, strict=True)):
            first = int(self.first_sum_block[index])
            addresses = [memory.address(segment.param), 0, *map(memory.address, segment.states)]
            known = {
                "group": row_of[index],
                "size": int(segment.param.size),
                "first_sum_block": first,
                "n_sum_blocks": int(self.first_sum_block[index + 1]) - first,
                "frozen": 0,
                "seed": 0,
                "number": segment.number,
            }
            row[: len(known)] = [known[name] for name in SEGMENT[:-1]]
            row[len(known) : len(known) + len(addresses)] = addresses[:width]
        return rows

    def group_rows(self) -> np.ndarray:
        rows = np.zeros((len(self.rows), len(GROUP)), np.int64)
        numbers = {**numbered_variants(self.structures, STEP), **numbered_variants(self.structures, ("swap",))}
        for row, (_, index) in zip(rows, self.rows, strict=True):
            known = {"structure": index, "sum_kind": self.structures[index].sum_kind}
            row[:] = [known[name] if name in known else numbers.get((index, name), 0) for name in GROUP]
        return rows

    # --- changes between steps, made on the host; `engine` uploads them ---------------------------------------------

    def set_step_plan(self, plan: StepPlan) -> None:
        known = {
            "max_grad_norm": plan.max_grad_norm,
            "divisor": plan.divisor,
            "accumulate_steps": plan.accumulate_steps,
            "checks": plan.checks,
        }
        self.plan[:] = [float(known[name]) for name in PLAN]
        self.segments[:, SEGMENT.index("seed")] = np.uint64(plan.seed).astype(np.int64)

    def set_row(self, segment: int, row: int) -> bool:
        """Let a segment have this row of the table of groups; whether it had another one."""
        column = SEGMENT.index("group")
        had = self.segments[segment, column]
        self.segments[segment, column] = row
        return bool(had != row)

    def set_settings(self, settings: SegmentSettings) -> None:
        for column, name in enumerate(SETTINGS):
            self.settings[:, column] = getattr(settings, name)
        self.segments[:, SEGMENT.index("frozen")] = settings.frozen

    def set_group(self, index: int, plan: GroupPlan) -> None:
        known = {"lr": plan.lr, "clip_norm": plan.clip_norm, "limit": plan.limit}
        arguments = [value for stage in plan.stages for value in stage.arguments]
        row = [*(known[name] for name in VALUES[:-1]), *arguments]
        for own in self.rows_of(index):
            self.values[own, : len(row)] = row

    def set_lr(self, index: int, lr: float) -> None:
        for own in self.rows_of(index):
            self.values[own, VALUES.index("lr")] = lr

    def rows_of(self, group: int) -> list[int]:
        """The rows of a group in the table of groups."""
        return [row for row, (each, _) in enumerate(self.rows) if each == group]


def pieces(sizes: Sequence[int], length: int) -> np.ndarray:
    """(segment, start) of each piece when segments are cut into pieces of at most `length` elements, in order."""
    counts = np.array([-(-size // length) for size in sizes], np.int64)
    segments = np.repeat(np.arange(len(sizes), dtype=np.int64), counts)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    starts = (np.arange(len(segments), dtype=np.int64) - firsts) * length
    return np.stack([segments, starts], axis=1)

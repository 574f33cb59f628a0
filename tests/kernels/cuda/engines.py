"""An engine on the device beside the reference optimizer that it must agree with, bit by bit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from agreement import assert_agrees, is_exact
from cases import Case, equal_bits

from fastopt.kernels import backends
from fastopt.kernels.cuda import memory
from fastopt.kernels.cuda.engine import CudaEngine
from fastopt.kernels.engine.contract import EngineInputs, Progress
from fastopt.kernels.engine.plan import Segment
from fastopt.step.operations import extra_states
from fastopt.step.planning import Planner
from fastopt.step.rates import rate_at

SHAPES: tuple[tuple[int, ...], ...] = ((150,), (3, 5), (), (0, 2), (13,))
"""Several chunks; odd sizes; no dimensions; no elements; and the last starts where no vector can."""


def on_device(array: np.ndarray, offset: int = 0) -> Any:
    """A copy on the device, which starts so many elements behind an aligned address."""
    buffer = memory.empty(array.size + offset, array.dtype)
    flat = buffer[offset : offset + array.size]
    memory.copy(flat, array.reshape(-1))
    return flat if array.ndim == 1 else flat.reshape(array.shape)


def copied(arrays: Any) -> Any:
    """Settings or records of their own."""
    return type(arrays)(*(getattr(arrays, each.name).copy() for each in dataclasses.fields(arrays)))


class Reported:
    """A report that keeps what it hears, and raises an error where it is given one."""

    def __init__(self) -> None:
        self.skipped = 0
        self.error: Exception | None = None
        self.heard: list[Any] = []

    def __call__(self, counts: list[tuple[int, int]], calls: int) -> None:
        self.heard.append((counts, calls))
        if self.error is not None:
            raise self.error

    def consecutive_after(self, calls: int) -> int:
        return 0

    def fetched(self, skipped: int, consecutive: int, calls: int, counts: list[tuple[int, int]]) -> None:
        pass


class Pair:
    """A reference optimizer, and an engine on the device that starts with the same.

    On a device, what is computed from powers of hyperparameters may differ in the last bits; all else is the same.
    """

    def __init__(self, case: Case, params: Any, offsets: Sequence[int] = (), **more: Any) -> None:
        self.opt = case.make(params, backend="reference", flush_denormals=False, **more)
        opt: Any = self.opt
        self.exact = is_exact(opt.spec.coefficients)
        self.report = Reported()
        offsets = [*offsets, *[0] * (len(opt._contents.params.arrays) - len(offsets))]
        backend = backends.load("cuda")
        self.planner = Planner(opt.spec, backend, opt._contents.params.arrays[0].dtype, opt._contents.options)
        segments, position = [], 0
        for index, group in enumerate(opt._contents.groups):
            names = (*opt.spec.states(group), *extra_states(opt._contents.options))
            for param in group["params"]:
                own, offset = opt._contents.states[position], offsets[position]
                states = [on_device(own[name], offset) for name in names]
                segments.append(Segment(index, on_device(param, offset), states))
                position += 1
        self.names = [tuple(state) for state in opt._contents.states]
        self.engine: CudaEngine = backend.engine(
            EngineInputs(
                dtype=opt._contents.params.arrays[0].dtype,
                plans=self.group_plans(),
                segments=segments,
                settings=copied(opt._contents.settings),
                records=copied(opt._contents.records),
                progress=Progress.new(),
                plan=self.planner.step_plan(),
                reject=self.reject,
                report=self.report,
            )
        )

    def group_plans(self) -> list[Any]:
        opt: Any = self.opt
        return [self.planner.group_plan(group, rate_at(group, opt.iterations)) for group in opt._contents.groups]

    def reject(self, index: int, gradient: object) -> None:
        """The engine then raises its own error."""

    def step(self, gradients: Sequence[np.ndarray | None], offsets: Sequence[int] = ()) -> None:
        """Steps both, and compares what becomes of the gradients."""
        opt: Any = self.opt
        for index, group in enumerate(opt._contents.groups):
            lr = rate_at(group, opt.iterations)
            if lr != self.engine.plans[index].lr:
                self.engine.set_lr(index, lr)
        given = [None if each is None else each.copy() for each in gradients]
        offsets = [*offsets, *[0] * (len(gradients) - len(offsets))]
        there = [None if each is None else on_device(each, offsets[index]) for index, each in enumerate(gradients)]
        nested: list[Any] = given
        if len(opt._contents.groups) > 1:
            parts = iter(given)
            nested = [list(itertools.islice(parts, len(group["params"]))) for group in opt._contents.groups]
        opt.step(nested)
        self.engine.step(there)
        for mine, other in zip(given, there, strict=True):
            assert mine is None or equal_bits(mine, memory.to_host(other))

    def check(self) -> None:
        opt: Any = self.opt
        self.engine.fetch()
        for index, (param, segment) in enumerate(zip(opt._contents.params.arrays, self.engine.segments, strict=True)):
            states = [opt._contents.states[index][name] for name in self.names[index]]
            for expected, actual in zip((param, *states), (segment.param, *segment.states), strict=True):
                assert_agrees(np.asarray(expected), memory.to_host(actual), self.exact)
        assert self.engine.records.steps.tolist() == opt._contents.records.steps.tolist()
        assert self.engine.records.pending.tolist() == opt._contents.records.pending.tolist()
        tolerance = 0.0 if self.exact else 1e-13
        np.testing.assert_allclose(self.engine.records.carried, opt._contents.records.carried, rtol=tolerance)
        for name in ("accumulated", "calls", "iterations", "swapped", "grad_norm"):
            assert np.array_equal(
                getattr(self.engine.progress, name), getattr(opt._contents.progress, name), equal_nan=True
            ), name


def random_arrays(
    rng: np.random.Generator, dtype: Any, make: Callable[..., np.ndarray] | None = None
) -> list[np.ndarray]:
    """One of each of SHAPES."""
    if make is not None:
        return [make(rng, shape, dtype) for shape in SHAPES]
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]

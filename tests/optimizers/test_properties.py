"""Hypothesis: any parameters, groups, gradients and sequences of operations; native backends against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import BACKENDS, CASES, Case, equal_bits, random_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt

shapes = st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), min_size=1, max_size=6)
operations = st.lists(
    st.sampled_from(["step", "step", "step", "skip one", "change lr", "save", "load", "add group"]), max_size=12
)


class Run:
    """One backend going through a sequence of operations."""

    def __init__(self, case: Case, backend: str, shapes: list[Any], dtype: Any, n_threads: int) -> None:
        random = np.random.default_rng(1)
        self.dtype = dtype
        self.params = [np.array(random.standard_normal(shape), dtype) for shape in shapes]
        self.optimizer = case.make([{"params": self.params}], backend=backend, n_threads=n_threads)
        self.sizes = [len(self.params)]
        self.saved: Any = None
        self.random = random

    def do(self, operation: str) -> None:
        if operation in ("step", "skip one"):
            gradients: list[Any] = [
                np.array(random_gradient(self.random, param.shape, self.dtype)) for param in self.params
            ]
            if operation == "skip one":
                gradients[int(self.random.integers(len(gradients)))] = None
            grouped, start = [], 0
            for size in self.sizes:
                grouped.append(gradients[start : start + size])
                start += size
            self.optimizer.step(grouped)
        elif operation == "change lr":
            self.optimizer.param_groups[-1]["lr"] = float(self.random.random())
        elif operation == "save":
            self.saved = self.optimizer.state_dict()
        elif operation == "load":
            if self.saved is not None and len(self.saved["param_groups"]) == len(self.sizes):
                self.optimizer.load_state_dict(self.saved)
        elif operation == "add group":
            new = np.array(self.random.standard_normal(5), self.dtype)
            self.params.append(new)
            self.sizes.append(1)
            self.optimizer.add_param_group({"params": [new], "lr": 0.5})


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(CASES),
    shapes=shapes,
    operations=operations,
    dtype=st.sampled_from([np.float32, np.float64]),
    n_threads=st.integers(1, 4),
)
def test_any_sequence_of_operations(
    case: Case, shapes: list[Any], operations: list[str], dtype: Any, n_threads: int
) -> None:
    runs = [Run(case, backend, shapes, dtype, n_threads) for backend in BACKENDS]
    for operation in operations:
        for each in runs:
            each.do(operation)
    first, *others = runs
    for other in others:
        assert all(equal_bits(a, b) for a, b in zip(first.params, other.params, strict=True))
        for index in first.optimizer.state:
            for name, value in first.optimizer.state[index].items():
                theirs = other.optimizer.state[index][name]
                assert value == theirs if isinstance(value, (int, float)) else equal_bits(value, theirs)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6))
def test_pack_keeps_everything(shapes: list[Any]) -> None:
    random = np.random.default_rng(2)
    arrays = {f"p{index}": np.array(random.standard_normal(shape)) for index, shape in enumerate(shapes)}
    flat, views = fastopt.pack(arrays)
    assert flat.size == sum(array.size for array in arrays.values())
    assert all(np.array_equal(views[name], array) for name, array in arrays.items())
    assert np.array_equal(flat, np.concatenate([array.ravel() for array in arrays.values()]))


@settings(max_examples=60, deadline=None)
@given(
    lr=st.floats(1e-30, 1e3),
    beta1=st.floats(0, 1, exclude_max=True),
    beta2=st.floats(0, 1, exclude_max=True),
    eps=st.floats(0, 1),
    weight_decay=st.floats(0, 10),
    decoupled=st.booleans(),
)
def test_any_hyperparameters_of_adam(**values: Any) -> None:
    random = np.random.default_rng(3)
    start, gradient = random.standard_normal((2, 99)).astype(np.float32)
    options = {
        "lr": values["lr"],
        "betas": (values["beta1"], values["beta2"]),
        "eps": values["eps"],
        "weight_decay": values["weight_decay"],
        "decoupled_weight_decay": values["decoupled"],
    }
    results = []
    for backend in BACKENDS:
        param = start.copy()
        optimizer = fastopt.Adam(param, backend=backend, **options)
        for _ in range(3):
            optimizer.step(gradient)
        results.append(param)
    assert equal_bits(results[0], results[1])
    assert equal_bits(results[0], results[2])

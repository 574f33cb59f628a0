"""What tests compare: runs of two optimizers bit by bit, and all that an optimizer holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from arrays import at_offset
from cases import Case, equal_bits

import fastopt


def assert_same(case: Case, expected: tuple[list[Any], Any], actual: tuple[list[Any], Any], label: str) -> None:
    for index, (mine, theirs) in enumerate(zip(expected[0], actual[0], strict=True)):
        assert equal_bits(mine, theirs), f"{case} {label}: parameter {index} of {mine.size} elements differs"
        for name, state in expected[1][index].items():
            other = actual[1][index][name]
            same = state == other if isinstance(state, (int, float)) else equal_bits(state, other)
            assert same, f"{case} {label}: {name} of parameter {index} differs"


def run(case: Case, starts: list[np.ndarray], gradients: list[list[np.ndarray]], **options: Any) -> tuple[Any, Any]:
    params = [at_offset(start, index % 16) for index, start in enumerate(starts)]
    optimizer = case.make(params, **options)
    for step in gradients:
        optimizer.step(step)
    return params, optimizer.state


def snapshot(optimizer: fastopt.Optimizer) -> list[bytes]:
    values = [param.tobytes() for group in optimizer.param_groups for param in group["params"]]
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        values += [np.asarray(value).tobytes() for value in state.values()]
    return [*values, repr(saved["param_groups"]).encode()]


def stepped(case: Case, params: list[np.ndarray], gradients: list[list[Any]], **options: Any) -> tuple[Any, Any]:
    """Copies of the parameters after these steps, and the optimizer's states."""
    params = [param.copy() for param in params]
    optimizer = case.make(params, **options)
    for step in gradients:
        optimizer.step([None if gradient is None else gradient.copy() for gradient in step])
    return params, optimizer.state

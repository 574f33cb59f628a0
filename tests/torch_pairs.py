"""Do the same with an optimizer of fastopt.torch and with torch.optim's own, and compare what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from cases import VARIANTS, Case
from torch import Tensor
from torch.nn import Parameter
from torch_peers import IN_TORCH, TORCH, rounding, torch_options

import fastopt.torch
from fastopt.definitions.specs import SPECS

# Relative to the largest element: see test_torch_agreement.py.
TOLERANCE = {torch.float32: 4e-6, torch.float64: 1e-12}
MODULES = (fastopt.torch, TORCH)
CLASSES = tuple(SPECS)

Situation = Callable[[torch.optim.Optimizer, list[Parameter]], Any]

_fullest = {case.optimizer: case for case in VARIANTS if case in IN_TORCH}
MAIN = [case for case in VARIANTS if not case.spec.counts_steps or case is _fullest[case.optimizer]]
"""Every class with all that it can do switched on, and all variants of those that may have no state."""

by_case = pytest.mark.parametrize("case", MAIN, ids=str)

APART = [case for case in MAIN if not case.spec.has_sums_over_all]
"""Those whose parameters can be stepped one at a time, or some on their own."""

by_case_apart = pytest.mark.parametrize("case", APART, ids=str)
by_class = pytest.mark.parametrize("name", CLASSES)


def parameters(*shapes: Any, dtype: torch.dtype = torch.float32) -> list[Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes = shapes or ((37,), (5, 7), (), (3, 0), (2, 3, 4))
    return [Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def set_gradients(params: Iterable[Tensor], seed: int) -> None:
    """New gradient tensors, the same ones for a seed."""
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        gradient = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        param.grad = gradient.to(param.dtype)


def train(optimizer: torch.optim.Optimizer, params: Iterable[Tensor], steps: Iterable[int] = range(3)) -> None:
    params = list(params)
    for seed in steps:
        set_gradients(params, seed)
        optimizer.step()


def make(module: Any, case: Case, params: Any, **more: Any) -> torch.optim.Optimizer:
    options = {**torch_options(case.options, case.optimizer), **more}
    optimizer: torch.optim.Optimizer = getattr(module, case.optimizer)(params, **options)
    return optimizer


def check_same(
    case: Case,
    situation: Situation,
    make_params: Callable[[], list[Any]] = parameters,
    tolerance: float = 0,
    **more: Any,
) -> tuple[Any, Any]:
    """Run a situation with both; parameters, gradients and states must agree. What it returned, for both."""
    runs = []
    for module in MODULES:
        params = make_params()
        optimizer = make(module, case, params, **more)
        runs.append((situation(optimizer, params), params, optimizer))
    (mine, my_params, my_optimizer), (theirs, their_params, their_optimizer) = runs
    tolerance = max(tolerance, *(least_tolerance(case.optimizer, param) for param in my_params))
    check_tensors(my_params, their_params, tolerance)
    check_tensors([param.grad for param in my_params], [param.grad for param in their_params])
    check_states(my_optimizer, their_optimizer, tolerance)
    return mine, theirs


def least_tolerance(optimizer: str, param: Tensor) -> float:
    """0, or what makes up for the rounding errors of an optimizer."""
    factor = rounding(optimizer, param.dtype)
    return factor * TOLERANCE[param.dtype] if factor > 1 else 0.0


def check_tensors(mine: Sequence[Any], theirs: Sequence[Any], tolerance: float = 0) -> None:
    assert len(mine) == len(theirs)
    for index, (my, their) in enumerate(zip(mine, theirs, strict=True)):
        check_tensor(my, their, f"tensor {index}", tolerance)
        assert my is None or my.stride() == their.stride(), f"tensor {index}"


def check_tensor(mine: Any, theirs: Any, label: str, tolerance: float = 0) -> None:
    """`tolerance` is the least, for what was of a smaller dtype before."""
    if theirs is None or mine is None:
        assert mine is theirs, label
        return
    assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), label
    mine, theirs = mine.detach(), theirs.detach()
    if theirs.numel():
        # A few elements may all be near zero, with none beside them that is as large as what they came from.
        scale = 1.0 if theirs.numel() < 8 else 0.0
        scale = max(scale, float(theirs[theirs.isfinite()].abs().max()) if theirs.isfinite().any() else 0.0)
        tolerance = max(TOLERANCE[theirs.dtype], tolerance)
        torch.testing.assert_close(
            mine, theirs, rtol=0, atol=tolerance * scale, equal_nan=True, msg=lambda text: f"{label}: {text}"
        )


def check_states(mine: torch.optim.Optimizer, theirs: torch.optim.Optimizer, tolerance: float = 0) -> None:
    my_state, their_state = mine.state_dict()["state"], theirs.state_dict()["state"]
    assert {key for key, state in my_state.items() if state} == {key for key, state in their_state.items() if state}
    for key, state in their_state.items():
        assert {name for name in state if state[name] is not None} == set(my_state.get(key, ()))
        for name, value in state.items():
            if isinstance(value, Tensor):
                check_tensor(my_state[key][name], value, f"{name} of parameter {key}", tolerance)


def snapshot(optimizer: torch.optim.Optimizer) -> list[Any]:
    """All that a step could change, to be compared with `==`."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return [
        [param.detach().tolist() if param.device.type == "cpu" else None for param in params],
        {
            index: {name: value.tolist() if isinstance(value, Tensor) else value for name, value in own.items()}
            for index, param in enumerate(params)
            if (own := optimizer.state.get(param))
        },
        [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups],
    ]

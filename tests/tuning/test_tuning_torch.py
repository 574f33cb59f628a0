"""The range test of torch's optimizers: it restores every bit, in the same memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import equal_bits, own_rate
from torch import Tensor
from torch.nn import Parameter

import fastopt.torch
from fastopt.definitions.specs import SPECS
from fastopt.tuning import range_test, sweep

WITH_RATE = [name for name, spec in SPECS.items() if spec.uses_lr]
TARGET = torch.linspace(-1, 1, 40)

MADE: dict[str, Callable[..., Any]] = {
    **{name: getattr(fastopt.torch, name) for name in WITH_RATE},
    "SGD with momentum": lambda params, **options: fastopt.torch.SGD(params, momentum=0.9, **options),
    "flattened": lambda params, **options: fastopt.torch.Adam(params, flatten=True, **options),
    "skipping": lambda params, **options: fastopt.torch.Adam(params, nonfinite="skip", max_grad_norm=1.0, **options),
    "torch's Adam": torch.optim.Adam,
    "torch's SGD": lambda params, **options: torch.optim.SGD(params, momentum=0.9, **options),
    "rates in tensors": lambda params, lr: torch.optim.Adam(params, lr=torch.tensor(lr)),
}


def problem(make: Callable[..., Any], earlier_steps: int) -> tuple[list[Parameter], Any]:
    params = [Parameter(torch.zeros(40)), Parameter(torch.ones(3))]
    rate = own_rate(make.__name__, 0.3) if make.__name__ in SPECS else {"lr": 0.3}
    optimizer = make([{"params": params[:1]}, {"params": params[1:], **rate}], lr=0.1)
    for _ in range(earlier_steps):
        compute(params, optimizer).step()
    return params, optimizer


def compute(params: list[Parameter], optimizer: Any) -> Any:
    optimizer.zero_grad()
    loss(params).backward()  # type: ignore[no-untyped-call]
    return optimizer


def loss(params: list[Parameter]) -> Tensor:
    return (params[0] - TARGET).square().sum() + params[1].square().sum()


def everything(params: list[Parameter], optimizer: Any) -> list[tuple[Any, np.ndarray]]:
    """The memory of everything, and copies of its values."""
    tensors = [param.detach() for param in params] + [param.grad for param in params if param.grad is not None]
    for param in params:
        tensors += [each for each in optimizer.state.get(param, {}).values() if isinstance(each, Tensor)]
    numbers = [float(group["lr"]) for group in optimizer.param_groups]
    numbers += [getattr(optimizer, "skipped_steps", 0), getattr(optimizer, "grad_norm", math.nan)]
    found: list[tuple[Any, np.ndarray]] = [(each.data_ptr(), each.numpy().copy()) for each in tensors]
    return [*found, (sorted(map(id, optimizer.state)), np.array(numbers))]


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.parametrize("earlier_steps", [0, 3])
def test_everything_is_put_back(make: Callable[..., Any], earlier_steps: int) -> None:
    params, optimizer = problem(make, earlier_steps)
    before, moved = everything(params, optimizer), []

    def closure(step: int) -> Tensor:
        compute(params, optimizer)
        moved.append(not equal_bits(params[0].detach().numpy(), before[0][1]))
        if step == 4 and getattr(optimizer, "nonfinite", "") == "skip":
            params[0].grad[7] = math.nan  # type: ignore[index]
        return loss(params)

    found = range_test(optimizer, closure, min_lr=1e-4, max_lr=1e3, points=30)
    assert any(moved)
    assert found.optimizer == type(optimizer).__name__
    for (where, was), (there, now) in zip(before, everything(params, optimizer), strict=True):
        assert where == there
        assert equal_bits(was, now)
    others, untested = problem(make, earlier_steps)
    for _ in range(4):
        compute(params, optimizer).step()
        compute(others, untested).step()
    for mine, theirs in zip(everything(params, optimizer)[:-1], everything(others, untested)[:-1], strict=True):
        assert equal_bits(mine[1], theirs[1])


def test_it_is_put_back_where_the_closure_raises() -> None:
    params, optimizer = problem(fastopt.torch.Adam, 2)
    before = everything(params, optimizer)

    def closure(step: int) -> Tensor:
        if step == 5:
            raise KeyError("no more data")
        return loss(compute(params, optimizer) and params)

    with pytest.raises(KeyError, match="no more data"):
        range_test(optimizer, closure)
    for (where, was), (there, now) in zip(before, everything(params, optimizer), strict=True):
        assert where == there
        assert equal_bits(was, now)


def test_the_suggestion_is_that_of_arrays() -> None:
    """The same training with NumPy gives the same rates and losses, but for the rounding of the loss."""
    params, optimizer = problem(fastopt.torch.SGD, 0)
    torch_test = range_test(optimizer, lambda step: loss(compute(params, optimizer) and params), max_lr=100.0)
    w, b, target = np.zeros(40, np.float32), np.ones(3, np.float32), TARGET.numpy()
    arrays = fastopt.SGD([{"params": w}, {"params": b, "lr": 0.3}], lr=0.1)

    def closure(step: int) -> tuple[float, list[np.ndarray]]:
        return float(np.square(w - target).sum() + np.square(b).sum()), [2 * (w - target), 2 * b]

    array_test = range_test(arrays, closure, max_lr=100.0)
    assert torch_test.rates == array_test.rates
    np.testing.assert_allclose(torch_test.losses, array_test.losses, rtol=1e-5)
    assert torch_test.suggestion == array_test.suggestion
    assert torch_test.suggestion is not None


@pytest.mark.parametrize(
    ("make", "closure", "error", "match"),
    [
        (fastopt.torch.Adam, None, TypeError, "an optimizer of your own needs closure"),
        (fastopt.torch.Adam, 3, TypeError, "closure must be a function of the step, got 3"),
        (fastopt.torch.Adam, lambda step: (1.0, []), TypeError, "closure must return the loss alone; gradients are in"),
        (fastopt.torch.Rprop, lambda step: 1.0, ValueError, "lr is not used in the steps of Rprop: sweep it instead"),
        (torch.optim.Rprop, lambda step: 1.0, ValueError, "lr is not used in the steps of Rprop: sweep it instead"),
    ],
)
def test_bad_range_tests(make: Any, closure: Any, error: type[Exception], match: str) -> None:
    optimizer = make([Parameter(torch.ones(3))])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=match):
        range_test(optimizer, closure)
    assert optimizer.state_dict() == before


@pytest.mark.parametrize("make", [fastopt.torch.Adam, torch.optim.Adam, fastopt.Adam])
def test_a_sweep_of_an_optimizer_says_what_it_needs(make: Any) -> None:
    params = np.ones(3) if make is fastopt.Adam else [Parameter(torch.ones(3))]
    with pytest.raises(TypeError, match="Problem"):
        sweep(make(params))


@pytest.mark.parametrize("optimizer", [fastopt.torch.Adam, torch.optim.SGD])
def test_a_class_for_tensors_has_no_problems(optimizer: Any) -> None:
    for call in (sweep, range_test):
        with pytest.raises(TypeError, match=r"optimizer must be for NumPy arrays.*write a training function"):
            call("diabetes", optimizer=optimizer)

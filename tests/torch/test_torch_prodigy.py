"""What is particular to `fastopt.torch.Prodigy`: numbers in its groups that steps write."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter
from torch_pairs import parameters, set_gradients

import fastopt
import fastopt.torch

COMMON = ("d", "d_max", "d_numerator", "k")


def make(params: list[Parameter], **options: Any) -> Any:
    """In two groups."""
    return fastopt.torch.Prodigy([{"params": params[:2]}, {"params": params[2:]}], d0=1e-3, **options)


def train(optimizer: Any, params: list[Parameter], steps: range) -> None:
    for number in steps:
        set_gradients(params, number)
        for param in params:
            assert param.grad is not None
            param.grad.mul_(0.1).add_(param.detach())
        optimizer.step()


def numbers(optimizer: Any) -> list[float]:
    groups = optimizer.param_groups
    assert all([group[name] for name in COMMON] == [groups[0][name] for name in COMMON] for group in groups)
    return [groups[0][name] for name in COMMON]


OPTIONS: dict[str, dict[str, Any]] = {
    "alone": {},
    "reference": {"backend": "reference"},
    "flat": {"flatten": True},
    "clipped": {"max_grad_norm": 100.0},
    "checked": {"nonfinite": "skip"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_groups_show_what_steps_find(options: dict[str, Any], dtype: torch.dtype) -> None:
    """With the bits of NumPy's class, whichever way steps take."""
    params = parameters(dtype=dtype)
    arrays = [param.detach().numpy().copy() for param in params]
    optimizer, expected = make(params, **options), fastopt.Prodigy(arrays, d0=1e-3)
    assert numbers(optimizer) == [1e-3, 1e-3, 0.0, 0]
    for number in range(12):
        train(optimizer, params, range(number, number + 1))
        expected.step([param.grad.numpy() for param in params])  # type: ignore[union-attr]
        assert numbers(optimizer)[0] == expected.d
    assert numbers(optimizer)[3] == 12
    assert expected.d > 1e-2
    for param, array in zip(params, arrays, strict=True):
        assert np.array_equal(param.detach().numpy(), array)


def test_what_is_assigned_counts_from_the_next_step() -> None:
    """As in the authors' class: the first group's."""
    mine, others = parameters(), parameters()
    optimizer, twin = make(mine), make(others)
    for each, params in ((optimizer, mine), (twin, others)):
        train(each, params, range(4))
    optimizer.param_groups[1]["d"] = 123.0
    for each, params in ((optimizer, mine), (twin, others)):
        train(each, params, range(4, 6))
    assert numbers(optimizer) == numbers(twin)
    optimizer.param_groups[0].update(d=0.5, d_max=0.5)
    train(optimizer, mine, range(6, 7))
    assert optimizer.param_groups[1]["d"] >= 0.5
    assert not torch.equal(mine[0], others[0])


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("d", 0.0, ValueError, "Prodigy: param_groups[0]['d'] must be at least 2.22507e-308"),
        ("d", "x", TypeError, "Prodigy: param_groups[0]['d'] must be a real number"),
        ("k", -1, ValueError, "Prodigy: param_groups[0]['k'] must be at least 0"),
    ],
)
def test_what_cannot_be_assigned_is_an_error_before_anything_is_written(
    name: str, value: Any, error: type[Exception], message: str
) -> None:
    params = parameters()
    optimizer = make(params)
    train(optimizer, params, range(2))
    before = [param.detach().clone() for param in params]
    known = numbers(optimizer)
    optimizer.param_groups[0][name] = value
    with pytest.raises(error, match=re.escape(message)):
        train(optimizer, params, range(2, 3))
    assert all(map(torch.equal, params, before))
    optimizer.param_groups[0].update(zip(COMMON, known, strict=True))
    train(optimizer, params, range(2, 3))
    assert not torch.equal(params[0], before[0])


def test_a_group_that_is_added_goes_on_with_the_numbers_of_the_others() -> None:
    params = parameters()
    optimizer = fastopt.torch.Prodigy(params[:2], d0=1e-3)
    train(optimizer, params[:2], range(6))
    found = numbers(optimizer)
    optimizer.add_param_group({"params": params[2:], "weight_decay": 0.1})
    assert numbers(optimizer) == found
    train(optimizer, params, range(6, 8))
    with pytest.raises(ValueError, match=r"so lr must be the same in all groups, or 0, got 1\.0 .* and 0\.5"):
        optimizer.add_param_group({"params": [Parameter(torch.ones(2))], "lr": 0.5})
    assert len(optimizer.param_groups) == 2


def through_state_dict(optimizer: Any, params: list[Parameter]) -> tuple[Any, list[Parameter]]:
    copies = [Parameter(param.detach().clone()) for param in params]
    twin = make(copies)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return twin, copies


COPIES: dict[str, Callable[..., Any]] = {
    "state dict": through_state_dict,
    "pickle": lambda *both: pickle.loads(pickle.dumps(both)),
    "deepcopy": lambda *both: copy.deepcopy(both),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("steps", [0, 5])
def test_a_copy_goes_on(copied: Callable[..., Any], steps: int) -> None:
    params = parameters()
    optimizer = make(params, growth_rate=1.5)
    train(optimizer, params, range(steps))
    twin, copies = copied(optimizer, params)
    assert numbers(twin) == numbers(optimizer)
    for each, own in ((optimizer, params), (twin, copies)):
        train(each, own, range(steps, steps + 4))
    assert numbers(twin) == numbers(optimizer)
    assert all(map(torch.equal, params, copies))


def test_state_dicts_of_numpy_and_torch() -> None:
    params = parameters()
    arrays = [param.detach().numpy().copy() for param in params]
    optimizer, numpy_optimizer = fastopt.torch.Prodigy(params, d0=1e-3), fastopt.Prodigy(arrays)
    train(optimizer, params, range(5))
    for param, array in zip(params, arrays, strict=True):
        array[...] = param.detach().numpy()
    numpy_optimizer.load_state_dict(optimizer.state_dict())
    others = [Parameter(torch.tensor(array)) for array in arrays]
    twin = fastopt.torch.Prodigy(others)
    twin.load_state_dict(numpy_optimizer.state_dict())
    assert numbers(twin) == numbers(optimizer)
    assert numpy_optimizer.d == numbers(optimizer)[0]
    for number in range(5, 9):
        train(optimizer, params, range(number, number + 1))
        train(twin, others, range(number, number + 1))
        numpy_optimizer.step([param.grad.numpy() for param in params])  # type: ignore[union-attr]
    assert all(map(torch.equal, params, others))
    assert all(np.array_equal(param.detach().numpy(), array) for param, array in zip(params, arrays, strict=True))


def test_a_skipped_step_leaves_the_numbers() -> None:
    params = parameters()
    optimizer = make(params, nonfinite="skip")
    train(optimizer, params, range(3))
    before = numbers(optimizer)
    assert params[0].grad is not None
    params[0].grad[0] = float("nan")
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert numbers(optimizer) == before
    train(optimizer, params, range(3, 4))
    assert numbers(optimizer)[3] == 4


def test_groups_that_do_not_agree_are_refused_at_construction_and_later() -> None:
    params = parameters()
    with pytest.raises(
        ValueError, match=r"fastopt\.torch\.Prodigy estimates .* so betas must be the same in all groups"
    ):
        fastopt.torch.Prodigy([{"params": params[:1]}, {"params": params[1:], "betas": (0.9, 0.99)}])
    optimizer = make(params)
    train(optimizer, params, range(2))
    before = [param.detach().clone() for param in params]
    optimizer.param_groups[1]["lr"] = 0.5
    with pytest.raises(ValueError, match="so lr must be the same in all groups, or 0"):
        train(optimizer, params, range(2, 3))
    assert all(map(torch.equal, params, before))
    optimizer.param_groups[1]["lr"] = 0.0
    train(optimizer, params, range(2, 3))
    assert not torch.equal(params[0], before[0])
    assert torch.equal(params[2], before[2])


def test_schedulers_of_torch() -> None:
    params = parameters()
    optimizer = make(params)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for number in range(10):
        train(optimizer, params, range(number, number + 1))
        scheduler.step()
    before = [param.detach().clone() for param in params]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-15)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.0
    known = numbers(optimizer)
    train(optimizer, params, range(10, 11))
    assert all(map(torch.equal, params, before))
    assert numbers(optimizer) == known


def test_parameters_of_two_dtypes_are_refused() -> None:
    params = [Parameter(torch.ones(3)), Parameter(torch.ones(3, dtype=torch.float64))]
    optimizer = fastopt.torch.Prodigy(params)
    set_gradients(params, 0)
    with pytest.raises(ValueError, match="adding up over all parameters needs all parameters to be of one dtype"):
        optimizer.step()
    assert all(bool((param == 1).all()) for param in params)
    params[1].grad = None
    optimizer.step()


def vector_of(state: dict[str, Any], name: str) -> torch.Tensor:
    value: torch.Tensor = state[name]
    return value.flatten()


@pytest.mark.parametrize("to_torch", [True, False], ids=["fastopt.torch", "fastopt"])
def test_states_that_the_authors_keep_as_vectors(to_torch: bool) -> None:
    """Or as a number, for the first value of a parameter of zeros."""
    params = [Parameter(torch.linspace(-1, 1, 12).reshape(3, 4)), Parameter(torch.zeros(2, 3))]
    optimizer = fastopt.torch.Prodigy(params, d0=1e-3)
    train(optimizer, params, range(4))
    saved = copy.deepcopy(optimizer.state_dict())
    for index, state in saved["state"].items():
        state.update(s=vector_of(state, "s"), p0=vector_of(state, "p0") if index == 0 else torch.tensor(0.0))
        state["step"] = int(state["step"])
    for group in saved["param_groups"]:
        group.update(d_denom=1.0, d_hat=0.5, fsdp_in_use=False, slice_p=1)
        del group["foreach"], group["maximize"]
    if to_torch:
        others = [Parameter(param.detach().clone()) for param in params]
        twin = fastopt.torch.Prodigy(others)
        twin.load_state_dict(saved)
        train(twin, others, range(4, 7))
        train(optimizer, params, range(4, 7))
        assert all(map(torch.equal, params, others))
        return
    arrays = [param.detach().numpy().copy() for param in params]
    numpy_optimizer = fastopt.Prodigy(arrays)
    numpy_optimizer.load_state_dict(saved)
    for number in range(4, 7):
        train(optimizer, params, range(number, number + 1))
        numpy_optimizer.step([param.grad.numpy() for param in params])  # type: ignore[union-attr]
    assert all(np.array_equal(param.detach().numpy(), array) for param, array in zip(params, arrays, strict=True))

"""What is particular to `fastopt.torch.NAdam`: `mu_product`, a number that it carries from step to step."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from rounding import ROUNDING, needs_rounding, rounding
from torch import Tensor
from torch.nn import Parameter
from torch_pairs import parameters, set_gradients, train

import fastopt.torch


def products(optimizer: Any, params: list[Parameter]) -> list[Tensor]:
    return [optimizer.state[param]["mu_product"] for param in params]


@pytest.mark.parametrize("options", [{}, {"backend": "reference"}, {"flatten": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_mu_product_is_torchs_whoever_steps(dtype: torch.dtype, options: dict[str, Any]) -> None:
    """Steps of both in turns, over the same tensors, give what torch's alone give, up to rounding."""
    mine, theirs = parameters(dtype=dtype), parameters(dtype=dtype)
    expected = torch.optim.NAdam(theirs, momentum_decay=0.5)
    ours = fastopt.torch.NAdam(mine, momentum_decay=0.5, **options)
    torchs = torch.optim.NAdam(mine, momentum_decay=0.5)
    torchs.state = ours.state
    for seed in range(8):
        set_gradients(mine, seed)
        train(expected, theirs, [seed])
        (ours, torchs)[seed % 3 == 2].step()
        for own, others in zip(products(ours, mine), products(expected, theirs), strict=True):
            assert own.dtype == others.dtype == torch.float32
            assert own.shape == others.shape == ()
            torch.testing.assert_close(own, others, rtol=4e-7, atol=0)
    for param, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(param, other, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("options", [{}, {"backend": "reference"}, {"flatten": True}], ids=str)
def test_each_parameter_has_a_product_of_its_own(options: dict[str, Any]) -> None:
    """Of parameters with as many steps, too: torch computes with what is in the state."""
    mine, theirs = (parameters((3,), (4,), dtype=torch.float64) for _ in range(2))
    for made_by, params in ((fastopt.torch.NAdam, mine), (torch.optim.NAdam, theirs)):
        optimizer = made_by(params, lr=0.1, **(options if params is mine else {}))
        train(optimizer, params, [0])
        optimizer.state[params[1]]["mu_product"] = torch.tensor(0.75, dtype=torch.float64)
        optimizer.state[params[0]]["mu_product"].fill_(0.25)
        train(optimizer, params, [1, 2])
    for param, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(param, other, rtol=0, atol=1e-7)


@pytest.mark.parametrize("differ", [False, True])
def test_parameters_in_a_buffer_have_products_of_their_own(differ: bool) -> None:
    """They are stepped as one only while their products are the same."""
    mine, theirs = (parameters((3,), (4,), dtype=torch.float64) for _ in range(2))
    flat = fastopt.torch.NAdam(mine, lr=0.1, flatten=True)
    plain = fastopt.torch.NAdam(theirs, lr=0.1)
    for seed in range(4):
        set_gradients(theirs, seed)
        for param, other in zip(mine, theirs, strict=True):
            param.grad.copy_(other.grad)  # type: ignore[union-attr,arg-type]
        flat.step()
        plain.step()
        if differ and seed == 1:
            for optimizer, params in ((flat, mine), (plain, theirs)):
                products(optimizer, params)[1].fill_(0.75)
    (round_,) = flat._stepper.update.rounds  # type: ignore[union-attr]
    assert int(round_.engines[1].records.steps[0]) == (2 if differ else 4)
    assert all(map(torch.equal, mine, theirs))
    assert products(flat, mine) == products(plain, theirs)


def test_a_declined_step_leaves_mu_product() -> None:
    params = parameters()
    optimizer = fastopt.torch.NAdam(params, nonfinite="skip")
    train(optimizer, params, [0])
    before = [each.clone() for each in products(optimizer, params)]
    params[0].grad = torch.full_like(params[0], float("nan"))
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert products(optimizer, params) == before


def test_only_what_has_a_gradient_gets_another_mu_product() -> None:
    params = parameters((3,), (4,))
    optimizer = fastopt.torch.NAdam(params)
    train(optimizer, params, [0])
    params[1].grad = None
    before = [float(each) for each in products(optimizer, params)]
    optimizer.step()
    after = [float(each) for each in products(optimizer, params)]
    assert after[0] < before[0]
    assert after[1] == before[1]


def test_moved_memory_of_mu_product_is_noticed() -> None:
    params, others = parameters((3,)), parameters((3,))
    mine, theirs = fastopt.torch.NAdam(params), torch.optim.NAdam(others)
    for optimizer, own in ((mine, params), (theirs, others)):
        train(optimizer, own, [0])
        state = optimizer.state[own[0]]
        state["mu_product"].data = torch.tensor(0.125)
        train(optimizer, own, [1])
        assert float(state["mu_product"]) < 0.125
    torch.testing.assert_close(params[0], others[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrong", [0.5, None, torch.ones(2), torch.tensor(1)], ids=str)
def test_a_wrong_mu_product_is_named_before_anything_changes(wrong: Any) -> None:
    params = parameters((3,), (4,))
    optimizer = fastopt.torch.NAdam(params)
    train(optimizer, params, [0])
    optimizer.state[params[1]]["mu_product"] = wrong
    before = copy.deepcopy([param.detach() for param in params])
    with pytest.raises(
        TypeError, match=r"'mu_product' in the state of params\[1\] must be a float32 or float64 tensor"
    ):
        optimizer.step()
    assert all(map(torch.equal, params, before))


@needs_rounding
@pytest.mark.parametrize("mode", ROUNDING)
@pytest.mark.parametrize("options", [{}, {"backend": "reference"}, {"flatten": True}], ids=str)
def test_the_callers_rounding_mode_does_not_count(options: dict[str, Any], mode: str) -> None:
    """A step rounds the float32 products to nearest, too."""
    found = []
    for context in (contextlib.nullcontext, lambda: rounding(mode)):
        params = parameters((3,), (4,), dtype=torch.float32)
        optimizer = fastopt.torch.NAdam(params, lr=0.1, momentum_decay=0.3, **options)
        for seed in range(6):
            set_gradients(params, seed)
            with context():
                optimizer.step()
        found.append([*params, *products(optimizer, params)])
    for value, expected in zip(*reversed(found), strict=True):
        assert torch.equal(value, expected)

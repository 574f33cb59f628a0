"""`convert_state_dict`: from NumPy optimizers to torch's classes and ours beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, random_gradient
from torch import nn
from torch_peers import IN_TORCH, TORCH, CarryIn, torch_options

import fastopt.torch


@pytest.mark.parametrize("case", IN_TORCH, ids=str)
@pytest.mark.parametrize("steps_before", [0, 3])
def test_steps_go_on_with_the_same_bits(case: Case, steps_before: int, carry_in: CarryIn) -> None:
    carry_in(case.optimizer, torch.float64)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 4)), rng.standard_normal(5)]
    numpy_optimizer = case.make(arrays)
    for _ in range(steps_before):
        numpy_optimizer.step([random_gradient(rng, array.shape, array.dtype) for array in arrays])
    params = [nn.Parameter(torch.tensor(array)) for array in arrays]
    optimizer = getattr(fastopt.torch, case.optimizer)(params, **torch_options(case.options, case.optimizer))
    optimizer.load_state_dict(fastopt.torch.convert_state_dict(numpy_optimizer.state_dict()))
    for _ in range(3):
        gradients = [random_gradient(rng, array.shape, array.dtype) for array in arrays]
        numpy_optimizer.step(gradients)
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = torch.tensor(gradient)
        optimizer.step()
    for array, param in zip(arrays, params, strict=True):
        assert np.array_equal(array, param.detach().numpy())


@pytest.mark.parametrize("case", IN_TORCH, ids=str)
def test_torchs_own_class_loads_it(case: Case) -> None:
    array = np.ones(4)
    numpy_optimizer = case.make(array)
    numpy_optimizer.step(np.full(4, 0.5))
    param = nn.Parameter(torch.tensor(array))
    optimizer = getattr(TORCH, case.optimizer)([param], **torch_options(case.options, case.optimizer))
    optimizer.load_state_dict(fastopt.torch.convert_state_dict(numpy_optimizer.state_dict()))
    numpy_optimizer.step(np.full(4, 0.25))
    param.grad = torch.full((4,), 0.25, dtype=torch.float64)
    optimizer.step()
    assert np.allclose(array, param.detach().numpy(), rtol=1e-12)


def test_the_tensors_are_copies() -> None:
    array = np.ones(4)
    optimizer = fastopt.Adam(array)
    optimizer.step(np.ones(4))
    saved = optimizer.state_dict()
    converted = fastopt.torch.convert_state_dict(saved)
    converted["state"][0]["exp_avg"].zero_()
    assert saved["state"][0]["exp_avg"].any()


@pytest.mark.parametrize("bad", [None, {}, {"state": {}}, [1]], ids=str)
def test_something_else_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="state_dict must be a dict with 'state' and 'param_groups'"):
        fastopt.torch.convert_state_dict(bad)

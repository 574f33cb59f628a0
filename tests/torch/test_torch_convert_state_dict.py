"""State dicts of NumPy optimizers in torch's classes and in ours beside them, as they are and converted; and back."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, each_pair, random_gradient
from torch import nn
from torch_peers import IN_TORCH, TORCH, CarryIn, torch_options

import fastopt.torch

WAYS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda saved: saved,
    "converted": fastopt.torch.convert_state_dict,
    "pickled": lambda saved: pickle.loads(pickle.dumps(saved)),
    "copied": copy.deepcopy,
    "copied twice": lambda saved: copy.copy(saved.copy()),
    "a plain dict, converted": lambda saved: fastopt.torch.convert_state_dict(dict(saved)),
}


def problem() -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 4)), rng.standard_normal(5)]
    return arrays, [[random_gradient(rng, array.shape, array.dtype) for array in arrays] for _ in range(6)]


def step(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], gradients: list[np.ndarray]) -> None:
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = torch.tensor(gradient)
    optimizer.step()


@each_pair(case=IN_TORCH, steps_before=[0, 3], way=["as it is", "converted"])
def test_steps_go_on_with_the_same_bits(way: str, case: Case, steps_before: int, carry_in: CarryIn) -> None:
    carry_in(case.optimizer, torch.float64)
    arrays, gradients = problem()
    numpy_optimizer = case.make(arrays)
    for each in gradients[:steps_before]:
        numpy_optimizer.step(each)
    params = [nn.Parameter(torch.tensor(array)) for array in arrays]
    optimizer = getattr(fastopt.torch, case.optimizer)(params, **torch_options(case.options, case.optimizer))
    optimizer.load_state_dict(WAYS[way](numpy_optimizer.state_dict()))
    for each in gradients[3:]:
        numpy_optimizer.step(each)
        step(optimizer, params, each)
    for array, param in zip(arrays, params, strict=True):
        assert np.array_equal(array, param.detach().numpy())
    # And back.
    back_arrays = [array.copy() for array in arrays]
    back = case.make(back_arrays)
    back.load_state_dict(optimizer.state_dict())
    numpy_optimizer.step(gradients[0])
    back.step(gradients[0])
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(back_arrays, arrays, strict=True))


@pytest.mark.parametrize("case", IN_TORCH, ids=str)
def test_torchs_own_class_loads_it(case: Case) -> None:
    for way, change in WAYS.items():
        array = np.ones(4)
        numpy_optimizer = case.make({"W": array})
        numpy_optimizer.step({"W": np.full(4, 0.5)})
        param = nn.Parameter(torch.tensor(array))
        optimizer = getattr(TORCH, case.optimizer)([param], **torch_options(case.options, case.optimizer))
        optimizer.load_state_dict(change(numpy_optimizer.state_dict()))
        for number in range(3):
            numpy_optimizer.step({"W": np.full(4, 0.25 + number)})
            step(optimizer, [param], [np.full(4, 0.25 + number)])
        assert np.allclose(array, param.detach().numpy(), rtol=1e-12), way
        # And back, with torch's states.
        back_array = array.copy()
        back = case.make({"W": back_array})
        back.load_state_dict(optimizer.state_dict())
        numpy_optimizer.step({"W": np.full(4, 0.5)})
        back.step({"W": np.full(4, 0.5)})
        assert np.allclose(array, back_array, rtol=1e-12), way


def test_the_tensors_are_copies() -> None:
    for change in (fastopt.torch.convert_state_dict, lambda saved: saved):
        array = np.ones(4)
        optimizer = fastopt.Adam(array)
        optimizer.step(np.ones(4))
        saved = optimizer.state_dict()
        twin = torch.optim.Adam([param := nn.Parameter(torch.tensor(array))])
        twin.load_state_dict(change(saved))
        twin.state[param]["exp_avg"].zero_()
        assert saved["state"][0]["exp_avg"].any()


def test_copies_elsewhere_have_arrays() -> None:
    optimizer = fastopt.Adam(np.ones(4))
    optimizer.step(np.ones(4))
    saved = optimizer.state_dict()
    for copied in (saved.copy(), copy.copy(saved), copy.deepcopy(saved), pickle.loads(pickle.dumps(saved))):
        assert type(copied) is type(saved)
        assert isinstance(copied["state"][0]["exp_avg"], np.ndarray)
        assert copied["param_groups"] == saved["param_groups"]


def test_nothing_imports_torch() -> None:
    code = (
        "import copy, sys, numpy, fastopt; o = fastopt.Adam(numpy.ones(3)); o.step(numpy.ones(3)); s = o.state_dict();"
        "o.load_state_dict(s.copy()); o.load_state_dict(copy.deepcopy(s)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torchs_groups_have_names_and_no_key_of_ours() -> None:
    schedule = fastopt.schedules.ExponentialDecay(0.5, 10, 0.5)
    numpy_optimizer = fastopt.SGD({("layer", 0): np.ones(3), ("layer", 1): np.ones(2)}, lr=schedule)
    numpy_optimizer.param_groups[0]["lr"] = schedule * 0.5
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))])
    optimizer.load_state_dict(numpy_optimizer.state_dict())
    group = optimizer.param_groups[0]
    assert group["param_names"] == ["('layer', 0)", "('layer', 1)"]
    assert group["lr"] == 0.25
    assert not {"lr_factor", "lr_schedule"} & set(group)


@pytest.mark.parametrize("way", ["as it is", "converted"])
def test_the_middle_of_an_accumulation_is_refused(way: str) -> None:
    optimizer = fastopt.SGD(np.zeros(2), lr=1.0, accumulate_steps=4)
    params = [nn.Parameter(torch.zeros(2, dtype=torch.float64))]
    for _ in range(2):
        optimizer.step(np.ones(2))
    for target in (torch.optim.SGD(params, lr=1.0), fastopt.torch.SGD(params, lr=1.0)):
        with pytest.raises(ValueError, match="between accumulated steps, after 2 calls; torch's optimizers cannot"):
            target.load_state_dict(WAYS[way](optimizer.state_dict()))
        orphan = {key: value for key, value in optimizer.state_dict().items() if key != "accumulated"}
        with pytest.raises(ValueError, match=r"state\[0\] has gradients in 'grad_accumulator', which 'accumulated'"):
            target.load_state_dict(fastopt.torch.convert_state_dict(orphan))
    for _ in range(2):
        optimizer.step(np.ones(2))
    torch.optim.SGD(params, lr=1.0).load_state_dict(WAYS[way](optimizer.state_dict()))


@pytest.mark.parametrize("bad", [None, {}, {"state": {}}, [1]], ids=str)
def test_something_else_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="state_dict must be a dict with 'state' and 'param_groups'"):
        fastopt.torch.convert_state_dict(bad)

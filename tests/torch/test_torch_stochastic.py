"""`stochastic_rounding=True`: unbiased, and the same bits however a step is run."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case
from custom_momentum import Momentum
from torch.nn import Parameter
from torch_cases import make, parameters, set_values, train
from torch_halves import HALVES, by_half, same_bits
from torch_pairs import by_case, by_class
from torch_peers import TORCH

import fastopt
import fastopt.torch
from fastopt.torch import step_in_backward


@by_case
@by_half
@pytest.mark.usefixtures("threads_always")
def test_the_same_bits_from_every_backend_and_number_of_threads(case: Case, dtype: torch.dtype) -> None:
    runs = []
    for backend, n_threads in (("cython", 1), ("cython", 2), ("reference", 1)):
        params = parameters(dtype)
        optimizer = make(
            fastopt.torch, case, params, backend=backend, n_threads=n_threads, stochastic_rounding=True, seed=2**63 + 5
        )
        train(optimizer, params, range(3))
        runs.append((params, optimizer))
    params, optimizer = runs[0]
    for others, other in runs[1:]:
        for name, param in params.items():
            assert same_bits(param, others[name]), name
            for key, value in optimizer.state.get(param, {}).items():
                assert same_bits(value, other.state[others[name]][key]), f"{key} of {name}"


@by_half
def test_own_rules(dtype: torch.dtype) -> None:
    runs = []
    for backend in ("numba", "reference"):
        params = parameters(dtype)
        optimizer = Momentum.torch(list(params.values()), backend=backend, stochastic_rounding=True)
        train(optimizer, params, range(2))
        runs.append(params)
    assert all(same_bits(param, runs[1][name]) for name, param in runs[0].items())


def test_the_bits_of_numpy_optimizers() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.linspace(-2, 2, 5000, dtype=np.float32)
    array = values.astype(ml_dtypes.bfloat16)
    param = Parameter(torch.tensor(values).bfloat16())
    states = {"exp_avg": "bfloat16", "exp_avg_sq": "bfloat16"}
    theirs = fastopt.Adam(array, state_dtype=states, stochastic_rounding=True, seed=3)
    mine = fastopt.torch.Adam([param], stochastic_rounding=True, seed=3)
    for step in range(3):
        gradient = np.cos(values * (step + 1)).astype(np.float32)
        theirs.step(gradient.astype(ml_dtypes.bfloat16))
        param.grad = torch.tensor(gradient).bfloat16()
        mine.step()
    assert np.array_equal(param.detach().view(torch.int16).numpy(), array.view(np.int16))
    assert np.array_equal(mine.state[param]["exp_avg_sq"].float().numpy(), theirs.state[0]["exp_avg_sq"])


@by_half
def test_it_is_unbiased(dtype: torch.dtype) -> None:
    """Updates far below half the distance between numbers, which rounding to the nearest loses."""
    change, steps, size = torch.finfo(dtype).eps / 32, 64, 40_000
    moved = {}
    for stochastic in (True, False):
        param = Parameter(torch.full((size,), 1.5, dtype=dtype))
        optimizer = fastopt.torch.SGD([param], lr=change, stochastic_rounding=stochastic)
        for _ in range(steps):
            param.grad = torch.ones_like(param)
            optimizer.step()
        moved[stochastic] = float(param.detach().double().sub(1.5).neg().mean()) / (change * steps)
    assert moved[False] == 0
    # The variance of the sum of `steps` roundings by eps, each with probability 1/32, is steps * eps^2 * 31 / 32^2.
    deviation = (31 / 32**2 * steps) ** 0.5 / (steps / 32) / size**0.5
    assert abs(moved[True] - 1) < 5 * deviation


def test_a_second_moment_follows_gradients_down() -> None:
    """Rounded to the nearest, an average that falls by 0.1 % a step stays where it is."""
    ratios = {}
    for stochastic in (True, False):
        half, single = Parameter(torch.zeros(2000, dtype=torch.bfloat16)), Parameter(torch.zeros(2000))
        mine = fastopt.torch.Adam([half], lr=0.0, stochastic_rounding=stochastic)
        theirs = fastopt.torch.Adam([single], lr=0.0)
        for step in range(3000):
            generator = torch.Generator().manual_seed(step % 50)
            half.grad = (torch.randn(2000, generator=generator) * (1 if step < 1000 else 0.1)).bfloat16()
            single.grad = half.grad.float()
            mine.step()
            theirs.step()
        ratio = (mine.state[half]["exp_avg_sq"].float() / theirs.state[single]["exp_avg_sq"]).sqrt()
        ratios[stochastic] = float(ratio.median())
    assert 0.97 < ratios[True] < 1.03
    assert ratios[False] > 1.5


@by_case
@pytest.mark.parametrize("way", ["file", "deepcopy", "pickle"])
def test_training_goes_on_with_the_same_bits(case: Case, way: str) -> None:
    options = {"stochastic_rounding": True, "seed": 11}
    (params, mine), (others, theirs) = (
        (each, make(fastopt.torch, case, each, **options)) for each in (parameters(torch.bfloat16) for _ in range(2))
    )
    train(mine, params, range(3))
    train(theirs, others, range(3))
    if way == "file":
        file = io.BytesIO()
        torch.save(mine.state_dict(), file)
        mine = make(fastopt.torch, case, params, stochastic_rounding=True)
        mine.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    elif way == "deepcopy":
        params, mine = copy.deepcopy((params, mine))
    else:
        params, mine = pickle.loads(pickle.dumps((params, mine)))
    assert mine.seed == 11
    train(mine, params, range(3, 5))
    train(theirs, others, range(3, 5))
    assert all(same_bits(param, others[name]) for name, param in params.items())


@by_case
def test_torchs_class_goes_on_from_there(case: Case) -> None:
    params, others = parameters(torch.bfloat16), parameters(torch.bfloat16)
    if not case.spec.in_torch:
        return
    mine = make(fastopt.torch, case, params, stochastic_rounding=True)
    train(mine, params, range(3))
    set_values(others, params)
    theirs = make(TORCH, case, others)
    theirs.load_state_dict(mine.state_dict())
    train(theirs, others, range(3, 5))
    again = make(fastopt.torch, case, others, stochastic_rounding=True)
    again.load_state_dict(theirs.state_dict())
    train(again, others, range(5, 6))


HOW: dict[str, Callable[[list[Parameter]], Any]] = {
    "flatten": lambda params: fastopt.torch.Adam(params, stochastic_rounding=True, flatten=True),
    "backward": lambda params: step_in_backward(params, fastopt.torch.Adam, stochastic_rounding=True),
}


@pytest.mark.parametrize("how", HOW)
@by_half
def test_the_same_bits_in_a_buffer_and_in_the_backward_pass(how: str, dtype: torch.dtype) -> None:
    params, others = ([Parameter(torch.ones(size, dtype=dtype)) for size in (700, 5)] for _ in range(2))
    mine = HOW[how](params)
    theirs = fastopt.torch.Adam(others, stochastic_rounding=True)
    for seed in range(3):
        for each, optimizer in ((params, mine), (others, theirs)):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(seed)
            sum((param * torch.randn(param.shape, generator=generator)).sum() for param in each).backward()
            optimizer.step()
    assert all(same_bits(param, other) for param, other in zip(params, others, strict=True))


@by_class
def test_seeds_differ_and_float32_does_not_care(name: str) -> None:
    found = []
    for seed in (0, 1):
        params = parameters(torch.bfloat16)
        singles = parameters(torch.float32)
        for each in (params, singles):
            optimizer = getattr(fastopt.torch, name)(list(each.values()), stochastic_rounding=True, seed=seed)
            train(optimizer, each, range(3))
        found.append((params, singles))
    (params, singles), (others, other_singles) = found
    assert not same_bits(params["vector"], others["vector"])
    assert all(same_bits(single, other_singles[key]) for key, single in singles.items())


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"stochastic_rounding": 1}, TypeError, "stochastic_rounding must be True or False"),
    ({"stochastic_rounding": True, "seed": -1}, ValueError, "seed must be at least 0"),
    ({"stochastic_rounding": True, "seed": 2**64}, ValueError, "seed"),
    ({"stochastic_rounding": True, "seed": 0.5}, TypeError, "seed"),
    ({"seed": 3}, ValueError, "seed needs stochastic_rounding=True"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=[str(each[0]) for each in WRONG])
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastopt.torch.Adam([Parameter(torch.ones(3, dtype=HALVES[0]))], **options)


def test_a_bad_seed_in_a_state_dict_changes_nothing() -> None:
    param = Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = fastopt.torch.Adam([param], stochastic_rounding=True, seed=4)
    saved = {**optimizer.state_dict(), "seed": -1}
    with pytest.raises(ValueError, match=r"state_dict\['seed'\] must be at least 0"):
        optimizer.load_state_dict(saved)
    assert optimizer.seed == 4


def test_momentum_that_is_turned_on_later_begins_undampened() -> None:
    """As in torch, although steps were counted before; the count begins anew with it."""
    found = []
    for options in ({}, {"stochastic_rounding": True}):
        param = Parameter(torch.linspace(-1, 1, 50))
        module = fastopt.torch if options else torch.optim
        optimizer = module.SGD([param], lr=0.1, dampening=0.5, **options)
        for step in range(5):
            optimizer.param_groups[0]["momentum"] = 0.9 if step > 1 else 0.0
            param.grad = torch.full_like(param, step + 1.0)
            optimizer.step()
        found.append((param.detach(), optimizer.state[param]))
    (theirs, their_state), (mine, state) = found
    assert torch.equal(state["momentum_buffer"], their_state["momentum_buffer"])
    torch.testing.assert_close(mine, theirs)
    assert int(state["step"]) == 3


def test_it_changes_nothing_where_all_is_float32() -> None:
    """It is no error: a group that is added later may use it."""
    params, others = parameters(torch.float32), parameters(torch.float32)
    mine = fastopt.torch.Adam(params.values(), stochastic_rounding=True)
    theirs = fastopt.torch.Adam(others.values())
    train(mine, params, range(3))
    train(theirs, others, range(3))
    assert all(same_bits(param, others[name]) for name, param in params.items())
    half = Parameter(torch.full((10_000,), 1.0, dtype=torch.bfloat16))
    mine.add_param_group({"params": [half], "lr": 1e-4})
    half.grad = torch.ones_like(half)
    mine.step()
    assert 0 < int((half != 1).sum()) < 10_000

"""Arguments, defaults and what they make: torch's, and ours on top."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn import Parameter
from torch_cases import (
    DTYPES,
    SINGLE_CARRIED,
    STEPS,
    TOLERANCE,
    assert_alike,
    assert_same_groups,
    by_name,
    by_name_apart,
    parameters,
    train,
)
from torch_peers import TORCH, default_dtype

import fastopt
import fastopt.torch
from fastopt.definitions.specs import CAUTION, SPECS
from fastopt.torch.plain import PlainOptimizer

ADDED = {
    "max_grad_norm": None,
    "clip_norm": None,
    "clip_value": None,
    "nonfinite": "propagate",
    "max_consecutive_skips": None,
    "zero_grads": False,
    "state_dtype": None,
    "stochastic_rounding": False,
    "seed": 0,
    "master_weights": False,
    "backend": "auto",
    "n_threads": None,
    "flush_denormals": True,
    "flatten": False,
}
"""What ours take beside torch's arguments."""


@by_name
def test_the_signature_is_torchs_and_more_by_keyword(name: str) -> None:
    mine = list(inspect.signature(getattr(fastopt.torch, name)).parameters.values())
    theirs = list(inspect.signature(getattr(TORCH, name)).parameters.values())
    assert mine[: len(theirs)] == theirs  # names, order, kinds, defaults, annotations
    added = mine[len(theirs) :]
    assert {each.kind for each in added} == {inspect.Parameter.KEYWORD_ONLY}
    has = [each for each in CAUTION if each in SPECS[name].defaults and SPECS[name].in_torch]
    assert {each.name: each.default for each in added} == {**dict.fromkeys(has, False), **ADDED}


@by_name
def test_what_is_positional_for_torch_is_positional(name: str) -> None:
    theirs = getattr(TORCH, name)
    positional = [
        each.default
        for each in list(inspect.signature(theirs).parameters.values())[1:]
        if each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    param = Parameter(torch.ones(1))
    assert_same_groups(getattr(fastopt.torch, name)([param], *positional), theirs([param], *positional))
    with pytest.raises(TypeError, match="positional argument"):
        getattr(fastopt.torch, name)([param], *positional, *[None] * 10)


@by_name
def test_default_construction(name: str) -> None:
    param = Parameter(torch.ones(3))
    mine, theirs = (getattr(module, name)([param]) for module in (fastopt.torch, TORCH))
    assert isinstance(mine, getattr(TORCH, name) if SPECS[name].in_torch else PlainOptimizer)
    assert mine.defaults == theirs.defaults
    assert list(mine.defaults) == list(theirs.defaults)
    assert_same_groups(mine, theirs)
    assert [list(group) for group in mine.param_groups] == [list(group) for group in theirs.param_groups]
    assert repr(mine) == repr(theirs)
    assert repr(mine.state_dict()) == repr(theirs.state_dict())


@by_name
@pytest.mark.parametrize("default", DTYPES, ids=str)
def test_the_default_dtype_makes_the_same_states(name: str, default: torch.dtype) -> None:
    """Torch's counts of steps are of the default dtype, whatever the parameters'."""
    with default_dtype(default):
        for dtype in DTYPES:
            params, others = parameters(dtype), parameters(dtype)
            mine, theirs = (
                getattr(module, name)(list(own.values()), foreach=False)
                for module, own in ((fastopt.torch, params), (TORCH, others))
            )
            train(mine, params, range(3))
            train(theirs, others, range(3))
            is_single = bool(SPECS[name].carried) and default == torch.float32
            tolerance = max(TOLERANCE[dtype], SINGLE_CARRIED if is_single else 0)
            assert_alike(mine, theirs, params, others, tolerance)


@by_name_apart
def test_both_dtypes_in_one_optimizer(name: str) -> None:
    trained = []
    for module in (fastopt.torch, TORCH):
        params = {
            f"{key} {dtype}": param for dtype in DTYPES for key, param in parameters(dtype).items() if key != "never"
        }
        optimizer = getattr(module, name)(list(params.values()), lr=0.01, foreach=False)
        train(optimizer, params, range(STEPS))
        trained.append((optimizer, params))
    (mine, params), (theirs, others) = trained
    assert_alike(mine, theirs, params, others, TOLERANCE[torch.float32])

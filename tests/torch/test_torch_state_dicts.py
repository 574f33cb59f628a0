"""State dicts and copies: to torch, from torch, through files, at any moment."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, each_pair, equal_bits
from torch.nn import Parameter
from torch_cases import (
    AFTER,
    BEFORE,
    DTYPES,
    INFOS,
    TOLERANCE,
    as_arrays,
    assert_alike,
    assert_same_bits,
    by_case,
    by_name,
    equal_in_any_layout,
    in_two_groups,
    make,
    numpy_groups,
    parameters,
    set_values,
    torch_options,
    train,
    train_numpy,
)
from torch_peers import IN_TORCH, TORCH, CarryIn

import fastopt
import fastopt.torch


def through_a_file(saved: dict[str, Any], path: Path) -> Any:
    torch.save(saved, path / "optimizer.pt")
    return torch.load(path / "optimizer.pt", weights_only=True)


WAYS = {
    "ours to torch's": (fastopt.torch, TORCH),
    "torch's to ours": (TORCH, fastopt.torch),
    "ours to ours": (fastopt.torch, fastopt.torch),
}


@each_pair(case=IN_TORCH, dtype=DTYPES, way=WAYS)
def test_training_goes_on_from_a_state_dict(
    case: Case, dtype: torch.dtype, way: tuple[Any, Any], tmp_path: Path, carry_in: CarryIn
) -> None:
    first, second = way
    exact = first is second
    carry_in(case.optimizer, dtype)
    params, others = parameters(dtype), parameters(dtype)
    one = make(first, case, params)
    train(one, params, BEFORE)
    set_values(others, params)
    # With the defaults: options are loaded, too.
    other = getattr(second, case.optimizer)(in_two_groups(others, case.optimizer))
    other.load_state_dict(through_a_file(one.state_dict(), tmp_path))
    assert_alike(other, one, others, params, 0)
    train(one, params, AFTER)
    train(other, others, AFTER)
    assert_alike(other, one, others, params, 0 if exact else TOLERANCE[dtype])


def deep_copy(optimizer: Any, params: dict[str, Parameter]) -> Any:
    return copy.deepcopy((optimizer, params))


def pickled(optimizer: Any, params: dict[str, Parameter]) -> Any:
    return pickle.loads(pickle.dumps((optimizer, params)))


def saved_whole(optimizer: Any, params: dict[str, Parameter]) -> Any:
    file = io.BytesIO()
    torch.save((optimizer, params), file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@each_pair(case=IN_TORCH, dtype=DTYPES, duplicate=[deep_copy, pickled, saved_whole], steps=[0, 4])
def test_a_copy_goes_on_alike(case: Case, dtype: torch.dtype, duplicate: Any, steps: int, carry_in: CarryIn) -> None:
    carry_in(case.optimizer, dtype)
    params = parameters(dtype)
    if duplicate is deep_copy:  # torch closes the gaps
        del params["gapped"]
    optimizer = make(fastopt.torch, case, params, clip_value=0.4)
    train(optimizer, params, range(steps))
    copied, others = duplicate(optimizer, params)
    assert type(copied) is type(optimizer)
    assert_alike(copied, optimizer, others, params, 0)
    train(optimizer, params, AFTER)
    train(copied, others, AFTER)
    assert_alike(copied, optimizer, others, params, 0)


@each_pair(case=IN_TORCH, dtype=DTYPES, direction=["to NumPy", "from NumPy"])
def test_state_dicts_and_numpy(case: Case, dtype: torch.dtype, direction: str, carry_in: CarryIn) -> None:
    """Between `fastopt.torch` and `fastopt` over NumPy arrays: the same bits as without the change."""
    carry_in(case.optimizer, torch.float64)
    params = parameters(dtype)
    optimizer = make(fastopt.torch, case, params)
    train(optimizer, params, BEFORE)
    arrays = as_arrays(params)
    numpy_optimizer = case.make(numpy_groups(arrays, case.optimizer))
    numpy_optimizer.load_state_dict(optimizer.state_dict())
    if direction == "to NumPy":
        train(optimizer, params, AFTER)
        train_numpy(numpy_optimizer, arrays, params, AFTER)
        assert_same_bits(optimizer, params, numpy_optimizer, arrays)
        return
    others = parameters(dtype)
    set_values(others, params)
    saved = numpy_optimizer.state_dict()
    for state in saved["state"].values():
        state.update({name: torch.tensor(value) for name, value in state.items() if isinstance(value, np.ndarray)})
    again = make(fastopt.torch, case, others)
    again.load_state_dict(saved)
    train(optimizer, params, AFTER)
    train(again, others, AFTER)
    for name, param in params.items():
        assert equal_bits(param.detach().numpy(), others[name].detach().numpy()), name


@by_name
def test_older_state_dicts_load(name: str, carry_in: CarryIn) -> None:
    """Those from before an option or a tensor as count of steps was there load as into torch's class."""
    carry_in(name, torch.float64)
    dtype = torch.float64
    loaded = []
    for module in (fastopt.torch, TORCH):
        params = parameters(dtype)
        optimizer = getattr(module, name)(list(params.values()), lr=0.01)
        train(optimizer, params, BEFORE)
        saved = copy.deepcopy(optimizer.state_dict())
        for group in saved["param_groups"]:
            for flag in INFOS[name].not_og_supported_flags:
                group.pop(flag, None)
        for state in saved["state"].values():
            if "step" in state:
                state["step"] = int(state["step"])
        optimizer.load_state_dict(saved)
        train(optimizer, params, AFTER)
        loaded.append((optimizer, params))
    (mine, params), (theirs, others) = loaded
    assert_alike(mine, theirs, params, others, TOLERANCE[dtype])


@by_name
@pytest.mark.parametrize("names", [(True, False), (False, True), (True, True)], ids=str)
def test_names_of_parameters_are_kept_in_state_dicts(name: str, names: tuple[bool, bool]) -> None:
    loaded = []
    for module in (fastopt.torch, TORCH):
        params = parameters(torch.float32)
        first, second = (
            getattr(module, name)(params.items() if named else params.values(), lr=0.01) for named in names
        )
        train(first, params, BEFORE)
        second.load_state_dict(first.state_dict())
        train(second, params, AFTER)
        loaded.append((second, params))
    (mine, params), (theirs, others) = loaded
    assert_alike(mine, theirs, params, others, TOLERANCE[torch.float32])


@by_case
def test_a_state_dict_from_another_layout(case: Case, carry_in: CarryIn) -> None:
    """A state is laid out like its parameter, whatever it was saved with."""
    carry_in(case.optimizer, torch.float64)
    dtype = torch.float64
    params = parameters(dtype)
    others = {
        name: Parameter(param.detach().clone(memory_format=torch.contiguous_format)) for name, param in params.items()
    }
    optimizer, other = make(fastopt.torch, case, params), make(fastopt.torch, case, others)
    train(optimizer, params, BEFORE)
    set_values(others, params)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, params, AFTER)
    train(other, others, AFTER)
    for name, param in params.items():
        assert equal_in_any_layout(case.spec, param.detach().numpy(), others[name].detach().numpy()), name


def skip_a_step(optimizer: Any, params: dict[str, Parameter]) -> None:
    for param in params.values():
        param.grad = torch.full_like(param, float("inf"))
    optimizer.step()
    assert optimizer.skipped_steps == 1


def prepare_for_backward(optimizer: Any, params: dict[str, Parameter]) -> None:
    optimizer.step_in_backward()


@by_case
@pytest.mark.parametrize("prepare", [skip_a_step, prepare_for_backward])
def test_a_first_step_that_is_still_to_come_is_saved_as_that(case: Case, prepare: Any, carry_in: CarryIn) -> None:
    """Where states are made early, a first step from what is saved is a first step: SGD's has no dampening."""
    carry_in(case.optimizer, torch.float64)
    dtype = torch.float64
    params = parameters(dtype)
    del params["gapped"]  # copy.deepcopy closes the gaps
    optimizer = make(fastopt.torch, case, params, nonfinite="skip" if prepare is skip_a_step else "propagate")
    prepare(optimizer, params)
    expected = parameters(dtype)
    train(make(fastopt.torch, case, expected), expected, AFTER)
    copies = [deep_copy(optimizer, params), pickled(optimizer, params)]
    # torch's SGD takes a momentum that is there, as it is for the backward pass, for one that has begun.
    begun = prepare is prepare_for_backward and case.options.get("momentum") and case.options.get("dampening")
    for module in (fastopt.torch, *([] if begun else [TORCH])):
        others = parameters(dtype)
        del others["gapped"]
        copies.append((make(module, case, others), others))
        copies[-1][0].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for other, others in copies:
        train(other, others, AFTER)
        for name, param in others.items():
            torch.testing.assert_close(param, expected[name], rtol=0, atol=1e-12)


@by_case
def test_a_state_dict_loads_before_the_first_step_in_backward(case: Case, carry_in: CarryIn) -> None:
    carry_in(case.optimizer, torch.float64)
    params, others = ({"vector": Parameter(torch.linspace(1, 2, 5, dtype=torch.float64))} for _ in range(2))
    options = torch_options(case)
    optimizer, other = (getattr(fastopt.torch, case.optimizer)(own.values(), **options) for own in (params, others))
    train(optimizer, params, BEFORE)
    set_values(others, params)
    other.step_in_backward()
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in AFTER:
        params["vector"].grad = torch.ones(5, dtype=torch.float64)
        optimizer.step()
        others["vector"].sum().backward()
        assert_alike(other, optimizer, others, params, 0)

"""What changes between two steps of `fastopt.torch` is noticed, as torch notices it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import own_rate
from torch.nn import Parameter
from torch_cases import (
    AFTER,
    BEFORE,
    TOLERANCE,
    assert_alike,
    by_name,
    in_two_groups,
    parameters,
    train,
)
from torch_peers import TORCH, CarryIn, makes_states_early

import fastopt
import fastopt.torch
from fastopt.definitions.specs import SPECS

MORE_CHANGES_IN_PLACE = {"SGD": ("weight_decay",), "Adam": ("betas",), "AdamW": ("betas",)}
"""Which hyperparameters beside lr torch takes as tensors, which can change without being replaced."""

CHANGES_IN_PLACE = {name: ("lr", *MORE_CHANGES_IN_PLACE.get(name, ())) for name, spec in SPECS.items() if spec.uses_lr}


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, keys in CHANGES_IN_PLACE.items() for key in keys], ids=str
)
def test_a_tensor_that_is_changed_in_place_is_noticed(name: str, key: str, carry_in: CarryIn) -> None:
    carry_in(name, torch.float64)
    trained = []
    for module in (fastopt.torch, TORCH):
        value = torch.tensor(0.25, dtype=torch.float64)
        params = {"vector": Parameter(torch.linspace(1, 2, 5, dtype=torch.float64))}
        given = (value, torch.tensor(0.75, dtype=torch.float64)) if key == "betas" else value
        optimizer = getattr(module, name)(list(params.values()), **{key: given}, foreach=False)
        params["vector"].grad = torch.ones(5, dtype=torch.float64)
        for _ in range(4):
            optimizer.step()
            value.mul_(0.5)
            params["vector"].grad.mul_(-1.5)
        trained.append((optimizer, params))
    (mine, params), (theirs, others) = trained
    assert_alike(mine, theirs, params, others, TOLERANCE[torch.float64])


def add_a_group(optimizer: Any, param: Parameter) -> None:
    optimizer.add_param_group({"params": [param], **own_rate(type(optimizer).__name__, 0.003), "maximize": True})


def add_to_a_group(optimizer: Any, param: Parameter) -> None:
    optimizer.param_groups[0]["params"].append(param)


def remove_a_group(optimizer: Any, param: Parameter) -> None:
    del optimizer.param_groups[0]


def remove_from_a_group(optimizer: Any, param: Parameter) -> None:
    del optimizer.param_groups[1]["params"][1]


def swap_groups(optimizer: Any, param: Parameter) -> None:
    optimizer.param_groups.reverse()


def replace_a_group(optimizer: Any, param: Parameter) -> None:
    optimizer.param_groups[1] = {**optimizer.param_groups[1], **own_rate(type(optimizer).__name__, 0.02)}


def replace_a_parameter(optimizer: Any, param: Parameter) -> None:
    optimizer.param_groups[1]["params"][2] = param


def move_a_parameter(optimizer: Any, param: Parameter) -> None:
    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop(0))


def clear_the_states(optimizer: Any, param: Parameter) -> None:
    optimizer.state.clear()


def forget_a_state(optimizer: Any, param: Parameter) -> None:
    optimizer.state.pop(optimizer.param_groups[0]["params"][0], None)


def replace_the_states(optimizer: Any, param: Parameter) -> None:
    for state in optimizer.state.values():
        state.update({key: value.clone() for key, value in state.items()})


def change_the_states(optimizer: Any, param: Parameter) -> None:
    for state in optimizer.state.values():
        for value in state.values():
            value.mul_(2)


def move_the_memory(optimizer: Any, param: Parameter) -> None:
    for group in optimizer.param_groups:
        for each in group["params"]:
            each.data = each.data.clone()


CHANGES = [
    add_a_group,
    add_to_a_group,
    remove_a_group,
    remove_from_a_group,
    swap_groups,
    replace_a_group,
    replace_a_parameter,
    move_a_parameter,
    clear_the_states,
    forget_a_state,
    replace_the_states,
    change_the_states,
    move_the_memory,
]
"""What a program may do to an optimizer between two steps."""


@by_name
@pytest.mark.parametrize("change", CHANGES)
def test_changes_between_steps(name: str, change: Callable[[Any, Parameter], None], carry_in: CarryIn) -> None:
    carry_in(name, torch.float64)
    dtype = torch.float64
    trained = []
    for module in (fastopt.torch, TORCH):
        params = parameters(dtype)
        options = {"momentum": 0.9} if "momentum" in SPECS[name].defaults else {}
        optimizer = getattr(module, name)(in_two_groups(params, name), **options, foreach=False)
        params["new"] = Parameter(torch.ones(3, 2, dtype=dtype))
        train(optimizer, params, BEFORE)
        change(optimizer, params["new"])
        if makes_states_early(name):  # and not later
            for group in optimizer.param_groups:
                for param in group["params"]:
                    zeros = {state: torch.zeros_like(param) for state in SPECS[name].all_states}
                    optimizer.state[param] = optimizer.state.get(param) or {"step": torch.tensor(0.0), **zeros}
        train(optimizer, params, AFTER)
        trained.append((optimizer, params))
    (mine, params), (theirs, others) = trained
    assert_alike(mine, theirs, params, others, TOLERANCE[dtype])

"""Schedule-Free optimizers over tensors: the average that `eval` shows, and the way back."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import BACKENDS, equal_bits
from torch import Tensor
from torch.nn import Parameter
from torch_cases import AFTER, BEFORE, gradient, parameters, train
from torch_shards import assert_same_shards, mesh_of, sharded, train_shards, world

import fastopt
import fastopt.torch
from fastopt.definitions.specs import SPECS
from fastopt.torch.stepping import evaluation

NAMES = [name for name, spec in SPECS.items() if spec.average is not None]
by_name = pytest.mark.parametrize("name", NAMES)
by_backend = pytest.mark.parametrize("backend", BACKENDS)
STORED: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "float64": (torch.float64, {}),
    "flat": (torch.float32, {"flatten": True}),
    "bfloat16": (torch.bfloat16, {}),
    "float16": (torch.float16, {"stochastic_rounding": True}),
    "float32 states": (torch.bfloat16, {"state_dtype": "float32"}),
    "master weights": (torch.bfloat16, {"master_weights": True}),
    "float8 states": (torch.float32, {"state_dtype": "float8"}),
}
by_storage = pytest.mark.parametrize(("dtype", "options"), STORED.values(), ids=STORED)
HYPERPARAMETERS: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.01, "warmup_steps": 3, "r": 0.5}


def make(name: str, params: dict[str, Parameter], **options: Any) -> Any:
    return getattr(fastopt.torch, name)(params.values(), **{**HYPERPARAMETERS, **options})


def trained(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, dict[str, Parameter]]:
    """An optimizer of parameters of every layout, one of which never has a gradient."""
    params = parameters(dtype)
    if options.get("flatten"):
        del params["gapped"]
    optimizer = make(name, params, **options)
    train(optimizer, params, BEFORE)
    return optimizer, params


def values(params: dict[str, Parameter], optimizer: Any) -> list[Tensor]:
    """Copies of parameters, with all that master weights keep of them."""
    rests = [optimizer.state.get(param, {}).get("param_rest") for param in params.values()]
    return [each.detach().clone() for each in (*params.values(), *rests) if each is not None]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


@by_name
@by_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_averages_are_those_of_arrays(name: str, backend: str, dtype: torch.dtype) -> None:
    optimizer, params = trained(name, dtype, backend=backend)
    arrays = [param.detach().numpy().copy("C") for param in parameters(dtype).values()]
    other = getattr(fastopt, name)(arrays, **HYPERPARAMETERS)
    for step in BEFORE:
        found = [gradient(name, param, step) for name, param in params.items()]
        other.step([None if each is None else each.numpy().copy("C") for each in found])
    with optimizer.averaged_params(), other.averaged_params():
        assert all(map(equal_bits, [param.detach().numpy().copy("C") for param in params.values()], arrays))


@by_name
@by_storage
@by_backend
def test_train_restores_every_bit(name: str, dtype: torch.dtype, options: dict[str, Any], backend: str) -> None:
    optimizer, params = trained(name, dtype, backend=backend, **options)
    before = values(params, optimizer)
    for _ in range(2):
        optimizer.eval()
        shown = values(params, optimizer)
        assert not same(shown, before)
        optimizer.eval()
        assert same(values(params, optimizer), shown)
        optimizer.train()
        assert same(values(params, optimizer), before)
        assert not any("y" in state for state in optimizer.state.values())


@by_name
@by_storage
def test_evaluating_does_not_change_training(name: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
    (one, params), (other, others) = (trained(name, dtype, **options) for _ in range(2))
    for step in AFTER:
        with other.averaged_params():
            pass
        train(one, params, [step])
        train(other, others, [step])
    assert same(values(params, one), values(others, other))


@by_name
def test_nothing_is_stepped_meanwhile(name: str) -> None:
    optimizer, params = trained(name)
    optimizer.eval()
    before = values(params, optimizer)
    with pytest.raises(RuntimeError, match=rf"fastopt.torch.{name}: the averages are swapped in, .*train\(\)"):
        train(optimizer, params, AFTER)
    fresh = make(name, params)
    fresh.load_state_dict(optimizer.state_dict())
    with pytest.raises(RuntimeError, match="the averages are swapped in"):
        train(fresh, params, AFTER)
    assert same(values(params, optimizer), before)
    optimizer.train()
    train(optimizer, params, AFTER)


@by_name
def test_backward_passes_step_nothing_meanwhile(name: str) -> None:
    param = Parameter(torch.ones(4))
    optimizer: Any = fastopt.torch.step_in_backward([param], getattr(fastopt.torch, name), lr=0.1)
    for _ in range(2):
        (param**2).sum().backward()
    with optimizer.averaged_params():
        before = param.detach().clone()
        with pytest.raises(RuntimeError, match="the averages are swapped in"):
            (param**2).sum().backward()
        assert torch.equal(param, before)
    param.grad = None
    (param**2).sum().backward()


@by_name
def test_a_group_that_is_added_is_in_the_mode_of_the_others(name: str) -> None:
    optimizer, _ = trained(name)
    optimizer.eval()
    added = Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [added]})
    assert [group["train_mode"] for group in optimizer.param_groups] == [False, False]
    optimizer.train()
    assert [group["train_mode"] for group in optimizer.param_groups] == [True, True]
    added.grad = torch.ones(3)
    optimizer.step()


def through_state_dict(optimizer: Any, params: dict[str, Parameter]) -> tuple[Any, dict[str, Parameter]]:
    others = {name: Parameter(param.detach().clone()) for name, param in params.items()}
    other = make(optimizer.spec.name, others, **optimizer._given)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict(encoded=True)))
    return other, others


def through_a_file(optimizer: Any, params: dict[str, Parameter]) -> tuple[Any, dict[str, Parameter]]:
    file = io.BytesIO()
    torch.save((optimizer, params), file)
    made: tuple[Any, dict[str, Parameter]] = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    return made


def deep_copied(optimizer: Any, params: dict[str, Parameter]) -> tuple[Any, dict[str, Parameter]]:
    made: tuple[Any, dict[str, Parameter]] = copy.deepcopy((optimizer, params))
    return made


@by_name
@by_storage
@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("way", [through_state_dict, through_a_file, deep_copied])
def test_training_goes_on_with_the_same_bits_from_either_mode(
    name: str, dtype: torch.dtype, options: dict[str, Any], shown: bool, way: Callable[..., Any]
) -> None:
    optimizer, params = trained(name, dtype, **options)
    if shown:
        optimizer.eval()
    other, others = way(optimizer, params)
    assert optimizer.averages_swapped_in == other.averages_swapped_in == shown
    assert same(values(others, other), values(params, optimizer))
    optimizer.train()
    other.train()
    assert same(values(others, other), values(params, optimizer))
    train(optimizer, params, AFTER)
    train(other, others, AFTER)
    assert same(values(others, other), values(params, optimizer))


@by_name
@pytest.mark.parametrize("shown", [False, True])
def test_state_dicts_of_arrays_load_and_back(name: str, shown: bool) -> None:
    optimizer, params = trained(name, torch.float64)
    if shown:
        optimizer.eval()
    arrays = [param.detach().numpy().copy("C") for param in params.values()]
    other = getattr(fastopt, name)(arrays)
    other.load_state_dict(optimizer.state_dict())
    back = make(name, params)
    back.load_state_dict(other.state_dict())
    for each in (optimizer, other, back):
        assert each.averages_swapped_in == shown
    for each in (other, back):
        each.train()
    assert all(map(equal_bits, [param.detach().numpy().copy("C") for param in params.values()], arrays))


@by_name
def test_what_was_changed_meanwhile_counts_as_the_average(name: str) -> None:
    optimizer, params = trained(name, torch.float64)
    before = values(params, optimizer)
    with optimizer.averaged_params(), torch.no_grad():
        params["matrix"].fill_(2.0)
    after = values(params, optimizer)
    changed = list(params).index("matrix")
    assert same([*after[:changed], *after[changed + 1 :]], [*before[:changed], *before[changed + 1 :]])
    torch.testing.assert_close(after[changed], 0.1 * optimizer.state[params["matrix"]]["z"] + 0.9 * 2)


@by_name
def test_autograd_notices_that_parameters_were_exchanged(name: str) -> None:
    optimizer, params = trained(name)
    loss = (params["matrix"] ** 2).sum()
    optimizer.eval()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    optimizer.train()


@by_name
def test_inference_mode(name: str) -> None:
    optimizer, params = trained(name)
    before = values(params, optimizer)
    with torch.inference_mode():
        optimizer.eval()
    optimizer.train()
    with optimizer.averaged_params(), torch.inference_mode():
        pass
    assert same(values(params, optimizer), before)
    train(optimizer, params, AFTER)


def mixed() -> list[Parameter]:
    """Parameters that are stepped one after the other: of several dtypes, and some that share memory."""
    whole = torch.linspace(-1, 1, 40)
    return [Parameter(torch.ones(5, dtype=torch.float64)), Parameter(whole[:25]), Parameter(whole[20:])]


def step_mixed(optimizer: Any, params: list[Parameter]) -> None:
    for param in params:
        param.grad = torch.cos(param.detach())
    optimizer.step()


@by_name
def test_several_engines(name: str) -> None:
    params = mixed()
    optimizer = getattr(fastopt.torch, name)(params, **HYPERPARAMETERS)
    for _ in range(3):
        step_mixed(optimizer, params)
    before = [param.detach().clone() for param in params]
    optimizer.eval()
    assert not same([param.detach() for param in params], before)
    optimizer.train()
    assert same([param.detach() for param in params], before)
    step_mixed(optimizer, params)


@by_name
@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("failing", range(3))
def test_all_of_them_or_none(name: str, shown: bool, failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    params = mixed()
    optimizer = getattr(fastopt.torch, name)(params, **HYPERPARAMETERS)
    for _ in range(3):
        step_mixed(optimizer, params)
    if shown:
        optimizer.eval()
    before, calls, swap = [param.detach().clone() for param in params], [0], evaluation._swap

    def failing_swap(entries: Any, engine: Any) -> None:
        if calls[0] == failing:
            calls[0] = -10  # those that undo are not to fail
            raise KeyboardInterrupt
        calls[0] += 1
        swap(entries, engine)

    to_other = optimizer.train if shown else optimizer.eval
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "_swap", failing_swap)
        with pytest.raises(KeyboardInterrupt):
            to_other()
    assert same([param.detach() for param in params], before)
    assert optimizer.averages_swapped_in == shown == (not optimizer.param_groups[0]["train_mode"])
    assert all(("y" in state) == shown for state in optimizer.state.values())
    (optimizer.train if shown else optimizer.eval)()
    assert optimizer.averages_swapped_in != shown


@by_name
def test_a_state_that_is_not_usable_changes_nothing(name: str) -> None:
    optimizer, params = trained(name)
    before = values(params, optimizer)
    optimizer.state[params["matrix"]]["z"] = torch.ones(3)
    with pytest.raises(ValueError, match=r"'z' in the state of params\[1\] must be of its parameter's dtype and shape"):
        optimizer.eval()
    assert same(values(params, optimizer), before)
    assert not optimizer.averages_swapped_in


@by_name
@by_backend
def test_shards(name: str, backend: str) -> None:
    with world(3, 1):
        plain = parameters(torch.float32)
        params = sharded(plain, mesh_of(3))
        mine, other = (make(name, each, backend=backend) for each in (params, plain))
        for steps in (BEFORE, AFTER):
            train_shards(mine, params, steps)
            train(other, plain, steps)
            for each in (mine, other):
                each.eval()
            assert_same_shards(mine, params, other, plain)
            for each in (mine, other):
                each.train()
            assert_same_shards(mine, params, other, plain)


@by_name
def test_schedulers_of_torch_and_its_averages_go_along(name: str) -> None:
    """Nobody needs them, but `torch.optim.lr_scheduler` sets rates, as it does anywhere."""
    param = Parameter(torch.ones(3))
    optimizer = getattr(fastopt.torch, name)([param], lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(2):
        param.grad = torch.ones(3)
        optimizer.step()
        with warnings.catch_warnings(), optimizer.averaged_params():
            scheduler.step()
    assert optimizer.state[param]["lr_max"].item() == 0.5
    assert np.isclose(optimizer.state[param]["weight_sum"].item(), 2 * 0.5**2)

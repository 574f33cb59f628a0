"""Models, optimizers and states are freed with the last reference to them, as with torch's own optimizers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import BACKENDS
from lifetimes import Watched, without_garbage_collection
from torch import nn
from torch_pairs import by_class

import fastopt.torch

Situation = Callable[[nn.Module, Any, Watched], Any]

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    **{f"backend={name}": {"backend": name} for name in BACKENDS},
    "flatten": {"flatten": True},
    "max_grad_norm": {"max_grad_norm": 1.0},
    "clip_norm": {"clip_norm": 1.0},
    "clip_value": {"clip_value": 1.0},
    "nonfinite": {"nonfinite": "skip"},
    "zero_grads": {"zero_grads": True},
}


@pytest.fixture(autouse=True, scope="module")
def _first_optimizer() -> None:
    """The first optimizer of a process, torch's too, imports torch._dynamo in a frame that only the collector frees."""
    torch.optim.SGD([nn.Parameter(torch.ones(1))])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def in_two_dtypes() -> nn.Module:
    return nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2).double()])


def train(model: nn.Module, optimizer: Any, watched: Watched | None = None) -> None:
    for _ in range(2):
        for param in model.parameters():
            param.grad = torch.ones_like(param)
        optimizer.step()


def a_closure(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    def closure() -> float:
        for param in model.parameters():
            param.grad = torch.ones_like(param)
        return 1.0

    optimizer.step(closure)


def backward(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        sum(param.square().sum() for param in model.parameters()).backward()  # type: ignore[union-attr]
        optimizer.step()


def an_error(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    first = next(model.parameters())
    for _ in range(2):
        first.grad = torch.ones_like(first).to_sparse()
        with pytest.raises(RuntimeError, match="sparse"):
            optimizer.step()
        train(model, optimizer)


def step_hooks(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    optimizer.register_step_pre_hook(lambda *arguments: None)
    optimizer.register_step_post_hook(lambda *arguments: None)
    train(model, optimizer)


def a_scheduler(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    for scheduler in (
        torch.optim.lr_scheduler.StepLR(optimizer, 1),
        torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
    ):
        watched.add("scheduler", scheduler)
        train(model, optimizer)
        scheduler.step(*(1.0,) * isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau))
        train(model, optimizer)


def state_dicts(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    train(model, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    train(model, optimizer)


def copies(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    train(model, optimizer)
    for other, other_optimizer in (
        copy.deepcopy((model, optimizer)),
        pickle.loads(pickle.dumps((model, optimizer))),
    ):
        train(other, other_optimizer)
        watched.add_all("parameter of a copy", other.parameters())


def a_new_group(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    train(model, optimizer)
    new = nn.Parameter(torch.ones(3))
    watched.add("parameter", new)
    optimizer.add_param_group({"params": [new]})
    new.grad = torch.ones(3)
    train(model, optimizer)


def a_changed_rate(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    for rate in (0.1, torch.tensor(0.2)):
        optimizer.param_groups[0]["lr"] = rate
        train(model, optimizer)


def a_scaler(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    scaler = torch.amp.GradScaler("cpu")
    watched.add("scaler", scaler)
    scaler.scale(sum(param.square().sum() for param in model.parameters())).backward()  # type: ignore[union-attr]
    scaler.step(optimizer)
    scaler.update()


def other_strides(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    first = next(model.parameters())
    for _ in range(2):
        first.grad = torch.ones(first.shape[::-1]).t()
        optimizer.step()


def stepping_in_backward_for_a_while(model: nn.Module, optimizer: Any, watched: Watched) -> None:
    optimizer.step_in_backward()
    sum(param.square().sum() for param in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step_after_backward()
    train(model, optimizer)


SITUATIONS: tuple[Situation, ...] = (
    train,
    a_closure,
    backward,
    an_error,
    step_hooks,
    a_scheduler,
    state_dicts,
    copies,
    a_new_group,
    a_changed_rate,
    a_scaler,
    other_strides,
    stepping_in_backward_for_a_while,
)


def check(situation: Situation, make_model: Callable[[], nn.Module], name: str, **options: Any) -> None:
    with without_garbage_collection() as watched:
        model = make_model()
        optimizer = getattr(fastopt.torch, name)(model.parameters(), **options)
        situation(model, optimizer, watched)
        watched.add("optimizer", optimizer)
        watched.add_all("parameter", model.parameters())
        watched.add_all("gradient", (each.grad for each in model.parameters() if each.grad is not None))
        watched.add_all("state", (each for own in optimizer.state.values() for each in own.values()))
        del model, optimizer


@by_class
@pytest.mark.parametrize("flatten", [False, True])
def test_each_class(name: str, flatten: bool) -> None:
    check(train, network, name, flatten=flatten)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_each_option(options: dict[str, Any]) -> None:
    check(train, network, "Adam", **options)


@pytest.mark.parametrize("options", [{}, {"flatten": True}, {"backend": "reference"}], ids=str)
@pytest.mark.parametrize("make_model", [network, in_two_dtypes], ids=lambda each: each.__name__)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.__name__)
def test_each_situation(situation: Situation, make_model: Callable[[], nn.Module], options: dict[str, Any]) -> None:
    check(situation, make_model, "Adam", **options)


def test_a_guard() -> None:
    with without_garbage_collection() as watched:
        model = network()
        optimizer = fastopt.torch.Adam(model.parameters())
        guard = fastopt.DivergenceGuard(optimizer)
        for _ in range(3):
            for param in model.parameters():
                param.grad = torch.ones_like(param)
            guard.step(1.0)
        watched.add("guard", guard)
        watched.add("optimizer", optimizer)
        watched.add_all("parameter", model.parameters())
        del model, optimizer, guard, param

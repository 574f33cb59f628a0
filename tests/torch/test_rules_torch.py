"""Custom rules for PyTorch's parameters: `Rule.torch`."""

from __future__ import annotations

import copy
import io
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from cases import equal_bits

import fastopt
from fastopt.rules import sqrt


def corrections(step, lr, beta2, eps):  # type: ignore[no-untyped-def]
    lr = lr * sqrt(1 - beta2**step)
    return lr, beta2, eps


@fastopt.rule(
    state={"exp_avg_sq": 0.0, "shift": "start"},
    hyper=dict(lr=1e-2, beta2=0.9, eps=1e-8, start=0.5),
    coefficients=corrections,
    domain={"beta2": "[0, 1)"},
)
def Custom(param, grad, exp_avg_sq, shift, lr, beta2, eps):  # type: ignore[no-untyped-def]
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    shift = shift + grad
    return param - lr * shift / (sqrt(exp_avg_sq) + eps), exp_avg_sq, shift


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    torch.manual_seed(3)
    return [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((40, 30), (7,), ())]


def give_gradients(params: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


@pytest.mark.parametrize("backend", ["auto", "numba", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1, "maximize": True}, {"max_grad_norm": 0.5, "decoupled_weight_decay": True}],
    ids=str,
)
def test_steps_are_those_over_numpy_arrays(dtype: torch.dtype, options: dict[str, Any], backend: str) -> None:
    params = parameters(dtype)
    arrays = [param.detach().numpy().copy() for param in params]
    theirs = Custom.torch(params, lr=0.05, start=2.0, backend=backend, **options)
    ours = Custom(arrays, lr=0.05, start=2.0, **options)
    for step in range(5):
        give_gradients(params, step)
        ours.step([param.grad.numpy() for param in params])  # type: ignore[union-attr]
        theirs.step()
    assert all(equal_bits(param.detach().numpy(), array) for param, array in zip(params, arrays, strict=True))
    assert float(theirs.state[params[0]]["step"]) == 5
    assert theirs.state.keys() == set(params)
    assert list(theirs.state[params[0]]) == ["step", "exp_avg_sq", "shift"]


def test_groups_schedulers_state_dicts_copies() -> None:
    def make(params: list[torch.nn.Parameter]) -> tuple[Any, Any]:
        groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5, "beta2": 0.5}]
        optimizer = Custom.torch(groups, weight_decay=0.01)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)

    def train(params: list[torch.nn.Parameter], optimizer: Any, scheduler: Any, steps: range) -> None:
        for step in steps:
            give_gradients(params, step)
            optimizer.step()
            scheduler.step()

    expected, params = parameters(), parameters()
    train(expected, *make(expected), range(6))
    first = make(params)
    train(params, *first, range(3))
    file = io.BytesIO()
    torch.save([each.state_dict() for each in first], file)
    file.seek(0)
    again = make(params)
    for each, saved in zip(again, torch.load(file, weights_only=True), strict=True):
        each.load_state_dict(saved)
    train(params, *again, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(params, expected, strict=True))


def test_copies_go_on_with_the_same_bits() -> None:
    params = parameters()
    optimizer = Custom.torch(params)
    give_gradients(params, 0)
    optimizer.step()
    for made in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(made) is Custom.torch
        own = made.param_groups[0]["params"]
        give_gradients(own, 1)
        made.step()
    give_gradients(params, 1)
    optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(own, params, strict=True))


def test_it_is_a_torch_optimizer_of_its_own_name() -> None:
    assert issubclass(Custom.torch, torch.optim.Optimizer)
    assert Custom.torch is Custom.torch
    assert Custom.torch.__qualname__ == "Custom.torch"
    assert repr(Custom.torch(parameters())).startswith("Custom (")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    params = parameters()
    give_gradients(params, 0)
    optimizer = Custom.torch(params, flatten=True)
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad.mul_(float("inf"))  # type: ignore[union-attr]
    scaler.scale(torch.ones(()))
    scaler.step(optimizer)
    assert all(torch.equal(param, old) for param, old in zip(params, before, strict=True))


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"gamma": 1}, TypeError, "Custom.torch(): got an unexpected keyword argument 'gamma'"),
    ({"beta2": 1.0}, ValueError, "Invalid beta2 value: 1 (expected beta2 in [0, 1))"),
    ({"lr": -1.0}, ValueError, "Invalid learning rate: -1"),
    ({"lr": torch.tensor(-1.0)}, ValueError, "Invalid learning rate: -1"),
    ({"lr": lambda step: 1.0}, TypeError, "lr must be a number; use torch.optim.lr_scheduler"),
    ({"backend": "cython"}, ValueError, "backend='cython' has loops for built-in rules only"),
    ({"clip_value": 1.0, "clip_norm": 1.0}, ValueError, "at most one of"),
    ({"convention": "keras"}, ValueError, "convention"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=[each[2] for each in WRONG])
def test_wrong_use_is_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Custom.torch(parameters(), **options)


def test_a_tensor_as_rate() -> None:
    params, others = parameters(), parameters()
    rate = torch.tensor(0.25)
    one, other = Custom.torch(params, lr=rate), Custom.torch(others, lr=0.25)
    for each, optimizer in ((params, one), (others, other)):
        give_gradients(each, 0)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))
    assert np.isfinite(params[0].detach().numpy()).all()

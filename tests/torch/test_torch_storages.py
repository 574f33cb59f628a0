"""Storages that are resized between steps, as those do that move tensors out of memory for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch_pairs import by_class, parameters, set_gradients, snapshot, train

import fastopt.torch

BACKENDS = ("cython", "reference")
SHAPES = ((40,), (5, 7), ())


def without_gaps(**options: Any) -> tuple[Any, list[Parameter]]:
    params = parameters(*SHAPES)
    return fastopt.torch.Adam(params, **options), params


def with_gaps(**options: Any) -> tuple[Any, list[Parameter]]:
    params = [Parameter(torch.linspace(1, 2, 24).reshape(4, 6)[:, ::2]), *parameters((3,))]
    return fastopt.torch.Adam(params, **options), params


MAKERS: dict[str, tuple[Callable[..., tuple[Any, list[Parameter]]], dict[str, Any]]] = {
    **{backend: (without_gaps, {"backend": backend}) for backend in BACKENDS},
    "flatten": (without_gaps, {"flatten": True}),
    "gaps": (with_gaps, {}),
}
by_maker = pytest.mark.parametrize(("make", "options"), MAKERS.values(), ids=MAKERS)

TENSORS: dict[str, Callable[[Any, Parameter], Tensor]] = {
    "parameter": lambda optimizer, param: param,
    "gradient": lambda optimizer, param: param.grad,  # type: ignore[dict-item,return-value]
    "state": lambda optimizer, param: optimizer.state[param]["exp_avg"],
    "count": lambda optimizer, param: optimizer.state[param]["step"],
}
by_tensor = pytest.mark.parametrize("which", TENSORS.values(), ids=TENSORS)


class Offloaded:
    """A storage without memory, and what was in it."""

    def __init__(self, tensor: Tensor) -> None:
        self.storage = tensor.untyped_storage()
        self.copy = self.storage.clone()
        self.storage.resize_(0)

    def bring_back(self) -> None:
        self.storage.resize_(self.copy.nbytes())
        self.storage.copy_(self.copy)


@by_tensor
@by_maker
def test_a_step_without_memory_is_refused_and_later_ones_are_right(
    make: Any, options: dict[str, Any], which: Callable[[Any, Parameter], Tensor]
) -> None:
    (optimizer, params), (other, others) = make(**options), make(**options)
    for each, its_params in ((optimizer, params), (other, others)):
        train(each, its_params)
    for seed in (5, 6):  # the second one finds what the first one left
        set_gradients(params, seed)
        set_gradients(others, seed)
        before = snapshot(optimizer)
        offloaded = Offloaded(which(optimizer, params[0]))
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"params\[0\] has \d+ elements, but its storage has 0 bytes"):
                optimizer.step()
        blocks = [torch.full((size,), 7.0) for size in (10, 40, 35, 24) for _ in range(20)]  # where it may have been
        offloaded.bring_back()
        assert snapshot(optimizer) == before
        optimizer.step()
        other.step()
        assert snapshot(optimizer) == snapshot(other)
        assert all(bool((block == 7).all()) for block in blocks)


def views(tensor: Tensor) -> Any:
    return tensor.view(-1)


def storages(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


def aliases(tensor: Tensor) -> Any:
    return tensor.detach()


def tensors(tensor: Tensor) -> Any:
    return tensor


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("hold", [tensors, aliases, views, storages], ids=lambda each: each.__name__)
def test_a_state_that_was_held_since_long_ago_is_looked_at(hold: Callable[[Tensor], Any], flatten: bool) -> None:
    optimizer, params = without_gaps(flatten=flatten)
    train(optimizer, params)
    held = hold(optimizer.state[params[1]]["exp_avg"])
    train(optimizer, params)
    before = snapshot(optimizer)
    train(optimizer, params)  # `snapshot` has read the states
    train(optimizer, params)
    storage = held if isinstance(held, torch.UntypedStorage) else held.untyped_storage()
    copy = storage.clone()
    storage.resize_(0)
    with pytest.raises(RuntimeError, match=r"'exp_avg' in the state of params\[\d\] has \d+ elements, but its storage"):
        optimizer.step()
    storage.resize_(copy.nbytes())
    storage.copy_(copy)
    assert snapshot(optimizer) != before
    optimizer.step()


@pytest.mark.parametrize("flatten", [False, True])
def test_states_that_nobody_holds_are_not_looked_at(flatten: bool) -> None:
    """Looking at each one would make a step of many small tensors half as slow again."""
    optimizer, params = without_gaps(flatten=flatten)
    train(optimizer, params)
    assert not optimizer.states_seen
    optimizer.state_dict()
    assert optimizer.states_seen
    train(optimizer, params)
    assert not optimizer.states_seen
    for read in (lambda: optimizer.state, lambda: optimizer.state[params[0]], optimizer.state_dict):
        held = read()
        train(optimizer, params)
        assert optimizer.states_seen
        del held
        optimizer.state_dict()
        train(optimizer, params)
        assert not optimizer.states_seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_held_state_that_gets_other_memory_is_noticed(backend: str) -> None:
    optimizer, params = without_gaps(backend=backend)
    train(optimizer, params)
    held = optimizer.state[params[0]]["exp_avg"]
    train(optimizer, params)
    held.data = torch.zeros_like(held)
    set_gradients(params, 3)
    optimizer.step()
    torch.testing.assert_close(held, params[0].grad * 0.1)  # type: ignore[operator]


@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_without_gradients_need_no_memory(backend: str) -> None:
    optimizer, params = without_gaps(backend=backend)
    train(optimizer, params)
    params[0].grad = None
    for tensor in (params[0], *optimizer.state[params[0]].values()):
        tensor.untyped_storage().resize_(0)
    before = params[1].tolist()
    optimizer.step()
    optimizer.param_groups[0]["params"].append(added := Parameter(torch.ones(2)))  # so that engines are made
    added.grad = torch.ones(2)
    optimizer.step()
    assert params[1].tolist() != before


@by_class
def test_optimizers_are_made_before_parameters_have_memory(name: str) -> None:
    params, others = parameters(*SHAPES), parameters(*SHAPES)
    offloaded = [Offloaded(param) for param in params] if fastopt.definitions.specs.SPECS[name].counts_steps else []
    optimizer = getattr(fastopt.torch, name)(params)
    for each in offloaded:
        each.bring_back()
    train(optimizer, params)
    other = getattr(fastopt.torch, name)(others)
    train(other, others)
    assert snapshot(optimizer) == snapshot(other)


def freed(tensor: Tensor) -> Tensor:
    """A part of a larger tensor without memory, so that its address is not 0."""
    buffer = torch.ones(1000 + tensor.numel())
    part = buffer[1000:].view_as(tensor)
    buffer.untyped_storage().resize_(0)
    return part


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_of_buffers_without_memory(backend: str) -> None:
    optimizer, params = without_gaps(backend=backend)
    train(optimizer, params)
    params[1].grad = freed(params[1].detach())
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"the gradient of params\[1\] has 35 elements, but its storage has 0 bytes"):
        optimizer.step()
    for clip in (fastopt.torch.clip_grad_norm_, fastopt.torch.clip_grad_value_):
        with pytest.raises(RuntimeError, match="its storage has 0 bytes"):
            clip(params, 0.1)  # type: ignore[operator]
    assert snapshot(optimizer) == before


@by_class
@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_tensors_are_gradients_of_zeros(name: str, backend: str) -> None:
    runs = []
    for zeros in (torch._efficientzerotensor, torch.zeros):
        params = parameters(*SHAPES)
        optimizer = getattr(fastopt.torch, name)(params, backend=backend)
        for make in (torch.ones, zeros, zeros):
            for param in params:
                param.grad = make(param.shape)
            optimizer.step()
        runs.append(snapshot(optimizer))
    assert runs[0] == runs[1]


def test_clipping_leaves_zero_tensors_as_they_are() -> None:
    params = parameters((2,), (2,))
    params[0].grad, params[1].grad = torch._efficientzerotensor(2), torch.tensor([3.0, 4.0])
    assert float(fastopt.torch.clip_grad_norm_(params, 1.0)) == 5.0
    fastopt.torch.clip_grad_value_(params, 0.7)
    assert params[0].grad._is_zerotensor()
    torch.testing.assert_close(params[1].grad, torch.tensor([0.6, 0.7]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_guard_leaves_storages_resizable(dtype: torch.dtype) -> None:
    params = parameters((40,), dtype=dtype)
    guard = fastopt.DivergenceGuard(fastopt.torch.SGD(params, lr=0.1))
    for seed in range(3):
        set_gradients(params, seed)
        guard.step(1.0)
        for tensor in (params[0].grad, params[0]):
            assert tensor is not None
            Offloaded(tensor).bring_back()

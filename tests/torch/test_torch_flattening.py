"""`flatten=True`: the same steps as without, in one buffer; what that changes, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Case
from torch import Tensor, nn
from torch_peers import IN_TORCH, torch_options

import fastopt.torch
from fastopt.definitions.specs import SPECS

by_case = pytest.mark.parametrize("case", IN_TORCH, ids=str)


def network() -> nn.Sequential:
    """Of matrices, vectors, a channels-last kernel, a single number and nothing at all."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    layers.register_parameter("kernel", nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)))
    layers.register_parameter("number", nn.Parameter(torch.randn(())))
    layers.register_parameter("nothing", nn.Parameter(torch.empty(0, 3)))
    return layers


def make(case: Case, module: nn.Module, **options: Any) -> Any:
    return getattr(fastopt.torch, case.optimizer)(
        module.parameters(), **torch_options(case.options, case.optimizer), **options
    )


def backward(module: nn.Sequential, number: int) -> None:
    torch.manual_seed(number)
    others = module.kernel.square().mean() + module.number * 0.5 + module.nothing.sum()  # type: ignore[operator,union-attr]
    (module(torch.randn(4, 7)).square().mean() + others).backward()


def states(optimizer: Any) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values()]


def assert_same(mine: nn.Module, my_optimizer: Any, theirs: nn.Module, their_optimizer: Any) -> None:
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(states(my_optimizer)) == len(states(their_optimizer))
    for a, b in zip(states(my_optimizer), states(their_optimizer), strict=True):
        assert torch.equal(a, b)
        assert a.shape == b.shape


def is_stepped_as_one(optimizer: Any) -> bool:
    """Whether the last step was one run over a buffer: then the other engine counted no steps of its own."""
    (round_,) = optimizer._stepper.update.rounds
    return len(round_.engines) == 2 and int(round_.engines[1].records.steps[0]) > 0


@by_case
def test_the_same_bits_as_without(case: Case) -> None:
    mine, theirs = network(), network()
    flat, plain = make(case, mine, flatten=True), make(case, theirs)
    for number in range(5):
        for module, optimizer in ((mine, flat), (theirs, plain)):
            optimizer.zero_grad()
            backward(module, number)
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 0.9
    assert_same(mine, flat, theirs, plain)
    assert is_stepped_as_one(flat) == (not case.has_sums)


CHANGES: dict[str, Callable[[nn.Sequential, Any], None]] = {
    "the model's zero_grad": lambda module, optimizer: module.zero_grad(),
    "another gradient": lambda module, optimizer: setattr(module[0].weight, "grad", torch.ones_like(module[0].weight)),
    "memory of a gradient": lambda module, optimizer: setattr(module[0].bias.grad, "data", torch.ones(5)),
    "memory of a parameter": lambda module, optimizer: setattr(module[0].bias, "data", torch.ones(5)),
    "states cleared": lambda module, optimizer: optimizer.state.clear(),
    "a state replaced": lambda module, optimizer: (
        [
            state.update({name: torch.zeros_like(value) for name, value in state.items() if name != "step"})
            for state in list(optimizer.state.values())[:1]
        ]
        and None
    ),
    "a state dict loaded": lambda module, optimizer: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict())),
    "one count of steps": lambda module, optimizer: (
        [state["step"].fill_(7) for state in list(optimizer.state.values())[:1] if "step" in state] and None
    ),
    "the rate": lambda module, optimizer: optimizer.param_groups[0].update(lr=0.5),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Adagrad", "Rprop"])
def test_what_changes_between_steps_is_followed(name: str, change: str) -> None:
    mine, theirs = network(), network()
    case = Case(name, {"momentum": 0.9} if "momentum" in SPECS[name].defaults else {})
    flat, plain = make(case, mine, flatten=True), make(case, theirs)
    for number in range(6):
        for module, optimizer in ((mine, flat), (theirs, plain)):
            if number != 4:
                optimizer.zero_grad()
            backward(module, number)
            if number == 3:
                CHANGES[change](module, optimizer)
                if change == "the model's zero_grad":
                    backward(module, number)
            optimizer.step()
    assert_same(mine, flat, theirs, plain)


@pytest.mark.parametrize("options", [{"zero_grads": True}, {"clip_value": 0.1}, {"clip_norm": 0.1}], ids=str)
def test_other_options_go_with_it(options: dict[str, Any]) -> None:
    mine, theirs = network(), network()
    case = Case("Adam", options)
    flat, plain = make(case, mine, flatten=True), make(case, theirs)
    for number in range(3):
        for module, optimizer in ((mine, flat), (theirs, plain)):
            optimizer.zero_grad()
            backward(module, number)
            optimizer.step()
    assert_same(mine, flat, theirs, plain)
    if options.get("zero_grads"):
        assert all(not param.grad.any() for param in mine.parameters() if param.grad is not None)


def test_a_common_norm_is_the_same_but_for_the_order_of_its_sum() -> None:
    mine, theirs = network(), network()
    case = Case("Adam", {"max_grad_norm": 0.1})
    flat, plain = make(case, mine, flatten=True), make(case, theirs)
    for module, optimizer in ((mine, flat), (theirs, plain)):
        optimizer.zero_grad()
        backward(module, 0)
        optimizer.step()
    assert flat.grad_norm == pytest.approx(plain.grad_norm, rel=1e-15)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_nonfinite_gradients_are_found_and_named() -> None:
    module = network()
    optimizer = fastopt.torch.Adam(module.named_parameters(), flatten=True, nonfinite="skip")
    optimizer.zero_grad()
    backward(module, 0)
    module[1].bias.grad[0] = torch.nan  # type: ignore[index]
    before = [param.clone() for param in module.parameters()]
    optimizer.step()
    assert optimizer.nonfinite_counts == {"parameter '1.bias'": 1}
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_one_buffer_for_each_group_and_dtype() -> None:
    params = [
        nn.Parameter(torch.ones(3)),
        nn.Parameter(torch.ones(4, dtype=torch.float64)),
        nn.Parameter(torch.ones(5)),
    ]
    other = nn.Parameter(torch.ones(6))
    optimizer = fastopt.torch.Adam([{"params": params}, {"params": [other], "lr": 0.5}], flatten=True)
    storages = [each.untyped_storage().data_ptr() for each in (*params, other)]
    assert storages[0] == storages[2]
    assert len(set(storages)) == 3
    assert all(each.grad is not None and each.data_ptr() % 64 == 0 for each in params)
    for each in (*params, other):
        each.grad.fill_(1)  # type: ignore[union-attr]
    optimizer.step()
    assert [round(float(each.detach()[0]), 3) for each in (*params, other)] == [0.999, 0.999, 0.999, 0.5]
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(7))]})
    assert len(optimizer._host.buffers) == 4


def test_gradients_stay_and_are_zeroed() -> None:
    module = network()
    optimizer = fastopt.torch.Adam(module.parameters(), flatten=True)
    gradients = [param.grad for param in module.parameters()]
    backward(module, 0)
    assert all(param.grad is grad for param, grad in zip(module.parameters(), gradients, strict=True))
    module.zero_grad()
    optimizer.zero_grad(set_to_none=True)
    assert all(param.grad is grad for param, grad in zip(module.parameters(), gradients, strict=True))
    assert all(grad is not None and not grad.any() for grad in gradients)


def test_gradients_that_were_there_are_kept() -> None:
    module = network()
    backward(module, 0)
    expected = [param.grad.clone() for param in module.parameters()]  # type: ignore[union-attr]
    fastopt.torch.Adam(module.parameters(), flatten=True)
    assert all(torch.equal(a, b.grad) for a, b in zip(expected, module.parameters(), strict=True))  # type: ignore[arg-type]


def through_pickle(both: Any) -> Any:
    return pickle.loads(pickle.dumps(both))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_copies_have_buffers_of_their_own(duplicate: Callable[[Any], Any]) -> None:
    module = network()
    optimizer = fastopt.torch.Adam(module.parameters(), flatten=True)
    backward(module, 0)
    optimizer.step()
    twin, twin_optimizer = duplicate((module, optimizer))
    for each, its in ((module, optimizer), (twin, twin_optimizer)):
        its.zero_grad()
        backward(each, 1)
        its.step()
    assert_same(module, optimizer, twin, twin_optimizer)
    assert twin[0].weight.data_ptr() != module[0].weight.data_ptr()
    assert twin_optimizer._host.buffers


def test_frozen_parameters_are_left_where_they_are() -> None:
    module = network()
    module[0].weight.requires_grad_(False)
    address = module[0].weight.data_ptr()
    optimizer = fastopt.torch.Adam(module.parameters(), flatten=True)
    assert module[0].weight.data_ptr() == address
    assert module[0].weight.grad is None
    backward(module, 0)
    optimizer.step()
    assert is_stepped_as_one(optimizer)


WHOLE = torch.arange(8.0)
BAD: dict[str, tuple[list[Any], dict[str, Any], type[Exception], str]] = {
    "gaps": ([nn.Parameter(WHOLE[::2])], {}, ValueError, r"params\[0\] has shape \(4,\) and strides \(2,\)"),
    "shared": ([nn.Parameter(WHOLE[:5]), nn.Parameter(WHOLE[4:])], {}, ValueError, r"params\[0\] and params\[1\] do"),
    "no flag": ([nn.Parameter(torch.ones(2))], {"flatten": "yes"}, TypeError, "flatten"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_flattened(name: str) -> None:
    params, options, error, message = BAD[name]
    before = [param.data_ptr() for param in params]
    with pytest.raises(error, match=message):
        fastopt.torch.SGD(params, **{"flatten": True, **options})
    assert [param.data_ptr() for param in params] == before
    assert all(param.grad is None for param in params)

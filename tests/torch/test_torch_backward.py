"""Steps in the backward pass, and what autograd notices of steps: version counters, memory that stays where it is."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Case
from torch import Tensor
from torch.nn import Parameter
from torch_pairs import APART, by_case_apart, make, parameters, set_gradients, train
from torch_peers import torch_options

import fastopt.torch
from fastopt.torch import step_in_backward

# --- versions and addresses -----------------------------------------------------------------------------------------


@by_case_apart
def test_a_parameter_that_changed_before_backward_is_an_error_of_torchs(case: Case) -> None:
    params = parameters((3, 3), (3, 3))
    optimizer = make(fastopt.torch, case, params)
    for _ in range(2):
        product = (params[0] @ params[1]).sum()
        set_gradients(params, 0)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()


@by_case_apart
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("gaps", [False, True])
def test_only_what_is_stepped_counts_as_changed(case: Case, backend: str, gaps: bool) -> None:
    params = parameters((3,), (4,), (5,))
    if gaps:
        params = [Parameter(torch.ones(2, 6)[:, ::2]), *params]
    optimizer = make(fastopt.torch, case, params, backend=backend)
    train(optimizer, params)
    addresses = [param.data_ptr() for param in params]
    for seed in range(3):
        set_gradients(params, seed)
        params[seed].grad = None
        before = [param._version for param in params]
        optimizer.step()
        for index, (param, version) in enumerate(zip(params, before, strict=True)):
            assert (param._version > version) == (index != seed)
        assert all(param.grad is None or param.grad._version == 0 for param in params)
    assert [param.data_ptr() for param in params] == addresses


@by_case_apart
def test_gradients_that_are_zeroed_count_as_changed(case: Case) -> None:
    params = parameters((3,), (4,))
    optimizer = make(fastopt.torch, case, params, zero_grads=True)
    for seed in range(3):
        set_gradients(params, seed)
        square = (params[0].grad.requires_grad_() ** 2).sum()  # type: ignore[union-attr]
        optimizer.step()
        assert params[0].grad.tolist() == [0, 0, 0]  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            square.backward()


def test_a_skipped_step_changes_no_version() -> None:
    params = parameters((3,))
    optimizer = fastopt.torch.Adam(params, nonfinite="skip")
    train(optimizer, params)
    params[0].grad = torch.full((3,), torch.nan)
    before = params[0]._version
    optimizer.step()
    assert params[0]._version == before


# --- the optimizer in the backward pass -----------------------------------------------------------------------------


class Network(torch.nn.Module):
    """With weights that are used twice, and some that are never."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 3)
        self.unused = torch.nn.Linear(2, 2)
        self.frozen = torch.nn.Linear(3, 3).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for param in self.parameters():
                param.copy_(torch.randn(param.shape, generator=generator))

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.frozen(self.second(torch.tanh(self.first(torch.tanh(self.first(inputs))))))
        return result


def backward(network: Network, seed: int) -> None:
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    network(inputs).square().mean().backward()


def pair(case: Case, **more: Any) -> tuple[Network, Any, Network, Any]:
    """One that steps in the backward pass, and one that steps after it."""
    cls, options = getattr(fastopt.torch, case.optimizer), {**torch_options(case.options, case.optimizer), **more}
    mine, theirs = Network(), Network()
    my_optimizer = step_in_backward(mine, cls, **options)
    their_optimizer = cls([param for param in theirs.parameters() if param.requires_grad], **options)
    return mine, my_optimizer, theirs, their_optimizer


def step_both(mine: Network, theirs: Network, their_optimizer: Any, seeds: Any) -> None:
    for seed in seeds:
        backward(mine, seed)
        assert all(param.grad is None for param in mine.parameters())
        theirs.zero_grad()
        backward(theirs, seed)
        their_optimizer.step()


def check_equal(mine: Network, theirs: Network) -> None:
    for my, their in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(my, their)


@by_case_apart
@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.1}, {"clip_value": 0.01}, {"backend": "reference"}], ids=str)
def test_the_same_bits_as_a_step_after_backward(case: Case, more: dict[str, Any]) -> None:
    mine, my_optimizer, theirs, their_optimizer = pair(case, **more)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(each, 0.7) for each in (my_optimizer, their_optimizer)]
    for seed in range(5):
        step_both(mine, theirs, their_optimizer, [seed])
        my_optimizer.step()  # nothing is left to do
        my_optimizer.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
    check_equal(mine, theirs)
    for my, their in zip(mine.parameters(), theirs.parameters(), strict=True):
        for name, value in their_optimizer.state.get(their, {}).items():
            if isinstance(value, Tensor):
                assert torch.equal(my_optimizer.state[my][name], value)


@pytest.mark.parametrize("name", dict.fromkeys(case.optimizer for case in APART))
def test_there_is_one_gradient_at_a_time(name: str) -> None:
    params = parameters(*[(50,)] * 8)
    alive: list[weakref.ref[Tensor]] = []
    counts: list[int] = []

    def count(param: Tensor) -> None:
        assert param.grad is not None
        alive.append(weakref.ref(param.grad))
        counts.append(sum(each() is not None for each in alive))

    for param in params:
        param.register_post_accumulate_grad_hook(count)
    optimizer = step_in_backward(params, getattr(fastopt.torch, name))
    result = torch.ones(50)
    for param in params:
        result = torch.sin(result * param)
    for _ in range(2):
        result.sum().backward(retain_graph=False)
        assert counts == [1] * len(counts)
        result = torch.ones(50)
        for param in params:
            result = torch.sin(result * param)
    assert len(counts) == 16
    assert optimizer is not None


@by_case_apart
def test_a_group_added_later_is_stepped_too(case: Case) -> None:
    mine, my_optimizer, theirs, their_optimizer = pair(case)
    step_both(mine, theirs, their_optimizer, range(2))
    for network, optimizer in ((mine, my_optimizer), (theirs, their_optimizer)):
        network.frozen.requires_grad_()
        optimizer.add_param_group({"params": network.frozen.parameters(), "lr": 0.3})
    step_both(mine, theirs, their_optimizer, range(2, 5))
    check_equal(mine, theirs)


@by_case_apart
def test_a_parameter_taken_out_of_its_group_is_not_stepped(case: Case) -> None:
    mine, my_optimizer, theirs, their_optimizer = pair(case)
    step_both(mine, theirs, their_optimizer, range(2))
    for network, optimizer in ((mine, my_optimizer), (theirs, their_optimizer)):
        params = optimizer.param_groups[0]["params"]
        optimizer.state.pop(params[0], None)
        del params[0]
        for seed in range(2, 5):
            optimizer.zero_grad()
            backward(network, seed)
            optimizer.step()
    check_equal(mine, theirs)
    assert mine.first.weight.grad is not None
    assert mine.first.bias.grad is None


@by_case_apart
def test_loading_a_state_dict_in_the_middle(case: Case) -> None:
    mine, my_optimizer, theirs, their_optimizer = pair(case)
    # Without the parameters that have no gradients: states of theirs are made at once in the backward pass.
    step_both(mine, theirs, their_optimizer, range(2))
    saved = copy.deepcopy(my_optimizer.state_dict()), copy.deepcopy(their_optimizer.state_dict())
    step_both(mine, theirs, their_optimizer, range(2, 4))
    my_optimizer.load_state_dict(saved[0])
    their_optimizer.load_state_dict(saved[1])
    step_both(mine, theirs, their_optimizer, range(4, 6))
    check_equal(mine, theirs)


@by_case_apart
def test_states_that_are_replaced_are_used(case: Case) -> None:
    mine, my_optimizer, theirs, their_optimizer = pair(case)
    step_both(mine, theirs, their_optimizer, range(2))
    for optimizer in (my_optimizer, their_optimizer):
        for param, state in list(optimizer.state.items()):
            optimizer.state[param] = {
                name: value * 0.5 if isinstance(value, Tensor) and name != "step" else value
                for name, value in state.items()
            }
    step_both(mine, theirs, their_optimizer, range(2, 4))
    check_equal(mine, theirs)


def through_pickle(both: Any) -> Any:
    return pickle.loads(pickle.dumps(both))


@by_case_apart
@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_copies_step_in_their_own_backward_pass(case: Case, duplicate: Callable[[Any], Any]) -> None:
    mine, my_optimizer, theirs, their_optimizer = pair(case)
    step_both(mine, theirs, their_optimizer, range(2))
    before = [param.tolist() for param in mine.parameters()]
    other, other_optimizer = duplicate((mine, my_optimizer))
    step_both(other, theirs, their_optimizer, range(2, 4))
    check_equal(other, theirs)
    assert [param.tolist() for param in mine.parameters()] == before
    assert other_optimizer.in_backward


def test_the_parameters_keep_the_optimizer() -> None:
    network = Network()
    reference = weakref.ref(step_in_backward(network, fastopt.torch.Adam))
    gc.collect()
    before = network.first.weight.tolist()
    backward(network, 0)
    assert network.first.weight.tolist() != before
    del network
    gc.collect()
    assert reference() is None


def test_steps_after_the_backward_pass_again() -> None:
    network = Network()
    optimizer = step_in_backward(network, fastopt.torch.Adam)
    backward(network, 0)
    optimizer.step_after_backward()
    before = network.first.weight.tolist()
    backward(network, 1)
    assert network.first.weight.tolist() == before
    optimizer.step()
    assert network.first.weight.tolist() != before


def test_a_saved_parameter_does_not_bring_the_optimizer(tmp_path: Path) -> None:
    network = Network()
    step_in_backward(network, fastopt.torch.Adam)
    torch.save(network.first.weight, tmp_path / "weight.pt")
    loaded = torch.load(tmp_path / "weight.pt", weights_only=True)
    assert torch.equal(loaded, network.first.weight)


BAD: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "torch's class": (lambda: step_in_backward(Network(), torch.optim.Adam), TypeError, "optimizer_class must be"),  # type: ignore[type-var]
    "no class": (lambda: step_in_backward(Network(), "Adam"), TypeError, "optimizer_class must be"),  # type: ignore[arg-type]
    "max_grad_norm": (
        lambda: step_in_backward(Network(), fastopt.torch.Adam, max_grad_norm=1.0),
        ValueError,
        "max_grad_norm=1.0 needs all gradients at once",
    ),
    "nonfinite": (
        lambda: step_in_backward(Network(), fastopt.torch.Adam, nonfinite="skip"),
        ValueError,
        "nonfinite='skip' needs all gradients at once",
    ),
    "zero_grads": (
        lambda: step_in_backward(Network(), fastopt.torch.Adam, zero_grads=True),
        ValueError,
        "zero_grads=True needs all gradients at once",
    ),
    "frozen": (
        lambda: step_in_backward(Network().parameters(), fastopt.torch.Adam),
        ValueError,
        r"params\[6\] does not require gradients",
    ),
    "nothing": (lambda: step_in_backward([], fastopt.torch.Adam), ValueError, "empty parameter list"),
}


@pytest.mark.parametrize(("attempt", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(attempt: Callable[[], Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()


def test_a_frozen_group_is_not_added() -> None:
    network = Network()
    optimizer = step_in_backward(network, fastopt.torch.Adam)
    with pytest.raises(ValueError, match="does not require gradients"):
        optimizer.add_param_group({"params": network.frozen.parameters()})
    assert len(optimizer.param_groups) == 1
    backward(network, 0)


@pytest.mark.parametrize("backend", ["cython", "reference"])
def test_parameters_that_are_not_stepped_keep_their_version(backend: str) -> None:
    single, double = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    step_in_backward([single, double], fastopt.torch.SGD, backend=backend)
    double.grad = torch.ones_like(double)
    before = single._version, double._version
    single.sum().backward()
    assert (single._version, double._version) == (before[0] + 1, before[1])
    assert double.tolist() == [1.0, 1.0]


def test_an_error_comes_out_of_backward() -> None:
    network = Network()
    optimizer = step_in_backward(network, fastopt.torch.Adam)
    backward(network, 0)
    optimizer.state[network.first.weight]["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"'exp_avg' in the state of params\[0\]"):
        backward(network, 1)

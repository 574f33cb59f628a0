"""`master_weights=True`: bfloat16 parameters that are trained with the bits of float32."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from cases import Case, dealt
from torch import Tensor
from torch.nn import Parameter
from torch_cases import by_case, gradient, make, parameters, set_values, train
from torch_halves import same_bits
from torch_pairs import APART
from torch_pairs import by_case as by_main_case
from torch_peers import TORCH

import fastopt.torch
from fastopt.torch import step_in_backward


class Twins:
    """Bfloat16 parameters with master weights, and float32 ones that begin where they do."""

    def __init__(self, case: Case, **options: Any) -> None:
        self.params, self.singles = parameters(torch.bfloat16), parameters(torch.float32)
        set_values(self.singles, self.params)
        self.optimizer = make(fastopt.torch, case, self.params, master_weights=True, **options)
        self.single = make(fastopt.torch, case, self.singles)

    def step(self, number: int) -> None:
        for name, param in self.params.items():
            param.grad = gradient(name, param, number)
            self.singles[name].grad = None if param.grad is None else param.grad.float()
        self.optimizer.step()
        self.single.step()

    def check(self) -> None:
        for (name, single), master in zip(self.singles.items(), self.optimizer.master_params(), strict=True):
            assert same_bits(master, single), name
            assert near(self.params[name], single), name
            for key, value in self.single.state.get(single, {}).items():
                assert same_bits(self.optimizer.state[self.params[name]][key], value), f"{key} of {name}"


def near(param: Tensor, single: Tensor) -> bool:
    """Whether these are the nearest numbers of bfloat16; of two that are as near, either."""
    error = (param.double() - single.double()).abs()
    return bool((error <= (single.bfloat16().double() - single.double()).abs()).all())


@by_case
def test_steps_have_the_bits_of_float32(case: Case) -> None:
    twins = Twins(case)
    for number in range(6):
        twins.step(number)
    twins.check()


@pytest.mark.parametrize("options", [{"stochastic_rounding": True}, {"backend": "reference"}], ids=str)
@by_main_case
def test_with_options_too(case: Case, options: dict[str, Any]) -> None:
    twins = Twins(case, **options)
    for number in range(3):
        twins.step(number)
    if "stochastic_rounding" in options:
        for state in twins.optimizer.state.values():
            assert state["step"].dtype == torch.float32
            if not case.spec.counts_steps:
                del state["step"]
    twins.check()


def test_a_thousand_steps() -> None:
    torch.manual_seed(0)
    half = Parameter(torch.randn(300).bfloat16())
    single = Parameter(half.detach().float())
    mine, theirs = fastopt.torch.AdamW([half], lr=1e-4, master_weights=True), fastopt.torch.AdamW([single], lr=1e-4)
    for _ in range(1000):
        half.grad = torch.randn_like(half)
        single.grad = half.grad.float()
        mine.step()
        theirs.step()
    assert same_bits(mine.master_params()[0], single)


@by_main_case
@pytest.mark.parametrize("way", ["file", "deepcopy", "pickle", "torch's class"])
def test_training_goes_on(case: Case, way: str) -> None:
    twins = Twins(case)
    for number in range(3):
        twins.step(number)
    if way == "file":
        file = io.BytesIO()
        torch.save(twins.optimizer.state_dict(), file)
        twins.optimizer = make(fastopt.torch, case, twins.params, master_weights=True)
        twins.optimizer.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    elif way == "deepcopy":
        twins.params, twins.optimizer = copy.deepcopy((twins.params, twins.optimizer))
    elif way == "pickle":
        twins.params, twins.optimizer = pickle.loads(pickle.dumps((twins.params, twins.optimizer)))
    elif case.spec.in_torch:  # It takes the state dict; the rest is then out of date, and begins anew.
        others = parameters(torch.bfloat16)
        set_values(others, twins.params)
        theirs = make(TORCH, case, others)
        theirs.load_state_dict(twins.optimizer.state_dict())
        train(theirs, others, range(3, 4))
        again = make(fastopt.torch, case, others, master_weights=True)
        again.load_state_dict(theirs.state_dict())
        assert all(map(torch.equal, again.master_params(), (other.float() for other in others.values())))
        train(again, others, range(4, 5))
        return
    for number in range(3, 5):
        twins.step(number)
    twins.check()


@pytest.mark.parametrize("case", dealt(APART, 0, 3), ids=str)
@pytest.mark.parametrize("how", ["flatten", "backward"])
def test_in_a_buffer_and_in_the_backward_pass(case: Case, how: str) -> None:
    cls = getattr(fastopt.torch, case.optimizer)
    params = [Parameter(torch.ones(size, dtype=torch.bfloat16)) for size in (700, 5)]
    singles = [Parameter(param.detach().float()) for param in params]
    if how == "flatten":
        mine = cls(params, master_weights=True, flatten=True)
    else:
        mine = step_in_backward(params, cls, master_weights=True)
    theirs = cls(singles)
    for seed in range(3):
        for each, optimizer in ((params, mine), (singles, theirs)):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(seed)
            for param in each:
                (param * torch.randn(param.shape, generator=generator).bfloat16().to(param.dtype)).sum().backward()
            optimizer.step()
    assert all(map(same_bits, mine.master_params(), singles))
    if how == "flatten":
        assert len(mine._stepper.update.rounds[0].engines) == (1 if case.spec.has_sums else 2)


def test_a_parameter_that_others_change_keeps_its_rest() -> None:
    """The weight is then the new value and the rest, at most half the distance between neighbouring numbers."""
    param = Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = fastopt.torch.SGD([param], lr=2.0**-12, master_weights=True)
    param.grad = torch.ones_like(param)
    optimizer.step()
    with torch.no_grad():
        param.fill_(1.5)
    assert optimizer.master_params()[0].tolist() == [1.5 - 2.0**-11]  # below 1, numbers of float32 are as near again


def test_a_parameter_that_others_set_to_zero() -> None:
    """Its master weights are those of NumPy's classes, and what the next step starts from: never NaN."""
    param = Parameter(torch.linspace(-2.0, 2.0, 64).to(torch.bfloat16).reshape(8, 8).t())
    optimizer = fastopt.torch.SGD([param], lr=1.0, master_weights=True, flush_denormals=False)
    param.grad = torch.linspace(0.001, 0.01, 64).reshape(8, 8).to(torch.bfloat16).t()
    optimizer.step()
    assert (optimizer.state[param]["param_rest"] < 0).any()
    with torch.no_grad():
        param.zero_()
    param.grad.zero_()
    (before,) = optimizer.master_params()
    optimizer.step()
    (after,) = optimizer.master_params()
    assert before.isfinite().all()
    assert torch.equal(before, after)
    assert before.stride() == param.stride()


def test_other_dtypes() -> None:
    single, double = Parameter(torch.ones(2)), Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = fastopt.torch.SGD([single, double], master_weights=True)
    copies = optimizer.master_params()
    assert [each.dtype for each in copies] == [torch.float32, torch.float64]
    assert copies[0].data_ptr() != single.data_ptr()
    frozen = Parameter(torch.ones(2, dtype=torch.float16), requires_grad=False)
    fastopt.torch.SGD([single, frozen], master_weights=True)
    with pytest.raises(TypeError, match=r"master_weights=True is for bfloat16 parameters: params\[1\] is float16"):
        fastopt.torch.SGD([single, Parameter(torch.ones(2, dtype=torch.float16))], master_weights=True)
    with pytest.raises(RuntimeError, match="SGD has no master weights; make it with master_weights=True"):
        fastopt.torch.SGD([single]).master_params()


def test_a_rest_of_another_shape_is_refused() -> None:
    param = Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = fastopt.torch.Adam([param], master_weights=True)
    param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.state[param]["param_rest"] = torch.zeros(2, dtype=torch.int16)
    before = param.detach().clone()
    with pytest.raises(ValueError, match=r"'param_rest' in the state of params\[0\] must be a torch.int16 tensor"):
        optimizer.step()
    assert torch.equal(param, before)

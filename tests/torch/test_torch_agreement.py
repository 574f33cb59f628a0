"""Parameters, states and state dicts agree with PyTorch's own (`foreach=False, fused=False`), live."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from cases import DTYPES, Case, each_pair, own_rate
from torch_peers import IN_TORCH, TORCH, CarryIn, rounding, torch_options

import fastopt

# Relative to the largest element of each array: an element that happens to be near zero is the difference of large
# ones, and carries their rounding (torch's loops use fused multiply-add, ours do not).
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-12}
SHAPES = ((37,), (5, 7), (), (3, 0), (2, 3, 4))
STEPS = 50

by_case = pytest.mark.parametrize("case", IN_TORCH, ids=str)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def torch_optimizer(case: Case, groups: Any) -> torch.optim.Optimizer:
    options = {**torch_options(case.options, case.optimizer), "foreach": False}
    if "fused" in inspect.signature(getattr(TORCH, case.optimizer)).parameters:
        options["fused"] = False
    optimizer: torch.optim.Optimizer = getattr(TORCH, case.optimizer)(groups, **options)
    return optimizer


class Pair:
    """The same parameters under fastopt and under torch, in two groups with rates of their own."""

    def __init__(self, case: Case, dtype: Any, seed: int = 0) -> None:
        self.dtype = dtype
        self.rng = np.random.default_rng(seed)
        self.params = [np.asarray(self.rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]
        self.params = [np.array(param) for param in self.params]
        self.tensors = [torch.tensor(param, requires_grad=True) for param in self.params]
        self.mine = case.make(self.groups(case, self.params))
        self.theirs = torch_optimizer(case, self.groups(case, self.tensors))

    @staticmethod
    def groups(case: Case, params: list[Any]) -> list[dict[str, Any]]:
        return [{"params": params[:2]}, {"params": params[2:], **own_rate(case.optimizer, 0.005)}]

    def step(self, number: int) -> None:
        gradients: list[Any] = [np.array(self.rng.standard_normal(shape), self.dtype) for shape in SHAPES]
        if number % 5 == 3:
            gradients[1] = None
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            tensor.grad = None if gradient is None else torch.tensor(gradient)
        if number == STEPS // 2:
            for optimizer in (self.mine, self.theirs):
                for group in optimizer.param_groups[: 2 if self.mine.spec.common else 1]:
                    group["lr"] = 0.007
        self.mine.step([gradients[:2], gradients[2:]])
        self.theirs.step()

    def check(self) -> None:
        for index, (param, tensor) in enumerate(zip(self.params, self.tensors, strict=True)):
            self.check_array(param, tensor.detach().numpy(), f"parameter {index}")
            state = dict(self.mine.state[index])
            theirs = self.theirs.state[tensor]
            if "step" in theirs:
                assert state["step"] == int(theirs["step"])
            del state["step"]
            assert set(state) == {name for name, value in theirs.items() if name != "step" and value is not None}
            for name, value in state.items():
                expected = theirs[name].numpy()
                mine = np.array(value, expected.dtype) if np.isscalar(value) else value
                self.check_array(mine, expected, f"{name} of parameter {index}")

    def check_array(self, mine: np.ndarray, theirs: np.ndarray, label: str) -> None:
        assert mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype
        if mine.size:
            error = np.max(np.abs(mine - theirs)) / max(np.max(np.abs(theirs)), np.finfo(self.dtype).tiny)
            limit = TOLERANCE[self.dtype] * rounding(self.mine.spec.name, self.tensors[0].dtype)
            assert error <= limit, f"{label}: relative error {error:.2e}"


@by_case
@by_dtype
def test_fifty_steps(case: Case, dtype: Any, carry_in: CarryIn) -> None:
    carry_in(case.optimizer, torch.float64 if dtype is np.float64 else torch.float32)
    pair = Pair(case, dtype)
    for number in range(STEPS):
        pair.step(number)
    pair.check()


@each_pair(case=IN_TORCH, dtype=DTYPES, direction=["to torch", "from torch"], steps_before=[0, 7])
def test_state_dicts_load_both_ways(
    case: Case, dtype: Any, direction: str, steps_before: int, carry_in: CarryIn
) -> None:
    carry_in(case.optimizer, torch.float64 if dtype is np.float64 else torch.float32)
    pair = Pair(case, dtype)
    for number in range(steps_before):
        pair.step(number)
    fresh = Pair(case, dtype, seed=1)
    for param, tensor, start in zip(fresh.params, fresh.tensors, pair.params, strict=True):
        param[...] = start
        tensor.data.copy_(torch.tensor(start))
    if direction == "to torch":
        saved = pair.mine.state_dict()
        for state in saved["state"].values():
            for name, value in state.items():
                state[name] = torch.tensor(value) if isinstance(value, np.ndarray) else value
        fresh.theirs.load_state_dict(saved)
        fresh.mine.load_state_dict(pair.mine.state_dict())
    else:
        fresh.mine.load_state_dict(pair.theirs.state_dict())
        fresh.theirs.load_state_dict(pair.theirs.state_dict())
    for number in range(10):
        fresh.step(number)
    fresh.check()


def test_torch_optimizers_that_we_claim_to_follow_have_our_defaults() -> None:
    for name, spec in fastopt.definitions.specs.SPECS.items():
        defaults = getattr(TORCH, name)([torch.zeros(1)]).defaults
        for key, value in spec.defaults.items():
            if key in defaults:
                assert defaults[key] == value, f"{name}.{key}"


def test_positional_order_is_torchs() -> None:
    import inspect

    for name in fastopt.definitions.specs.SPECS:
        mine = inspect.signature(getattr(fastopt, name)).parameters.values()
        positional = [each.name for each in mine if each.kind is each.POSITIONAL_OR_KEYWORD]
        theirs = list(inspect.signature(getattr(TORCH, name)).parameters)
        assert positional == theirs[: len(positional)]

"""Parameters of bfloat16 and float16, and what their steps are compared with: the step in float32, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Case
from torch import Tensor
from torch.nn import Parameter
from torch_cases import gradient, make, parameters

import fastopt.torch

HALVES = (torch.bfloat16, torch.float16)
by_half = pytest.mark.parametrize("dtype", HALVES, ids=str)

FRACTION_BITS = {torch.bfloat16: 8, torch.float16: 11}
"""The bits of a number's significand, the leading one included."""


def same_bits(mine: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors have the same bits, but for those of NaNs."""
    assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
    return torch.equal(mine.isnan(), theirs.isnan()) and torch.equal(bits(mine), bits(theirs))


def bits(tensor: Tensor) -> Tensor:
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().masked_fill(tensor.isnan(), 0).contiguous().view(kinds[tensor.element_size()])


def spacing(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbouring numbers of this dtype, at these values."""
    exponent = torch.frexp(values.double().abs()).exponent - FRACTION_BITS[dtype]
    info = torch.finfo(dtype)
    return torch.exp2(exponent.double()).clamp_min(info.smallest_normal * info.eps)


class Doubled:
    """An optimizer of halves, and the same one of float32, which begins each step from what the halves are then."""

    def __init__(self, dtype: torch.dtype, make_optimizer: Callable[[dict[str, Parameter]], Any]) -> None:
        self.params, self.singles = parameters(dtype), parameters(torch.float32)
        self.optimizer, self.single = make_optimizer(self.params), make_optimizer(self.singles)
        for group in (*self.optimizer.param_groups, *self.single.param_groups):
            group["lr"] = float(torch.tensor(group["lr"], dtype=dtype))  # Rprop's step sizes begin with it

    @classmethod
    def of(cls, case: Case, dtype: torch.dtype, **options: Any) -> Doubled:
        return cls(dtype, lambda params: make(fastopt.torch, case, params, **options))

    def copy_to_single(self) -> None:
        with torch.no_grad():
            for name, param in self.params.items():
                self.singles[name].copy_(param)
                for key, value in self.single.state.get(self.singles[name], {}).items():
                    value.copy_(self.optimizer.state[param][key])

    def step(self, number: int, change: Callable[[Tensor], Tensor] = lambda gradient: gradient) -> None:
        self.copy_to_single()
        for name, param in self.params.items():
            found = gradient(name, param, number)
            param.grad = None if found is None else change(found)
            self.singles[name].grad = None if found is None else param.grad.float()  # type: ignore[union-attr]
        self.optimizer.step()
        self.single.step()

    def check(self) -> None:
        """Parameters and states are those of float32, rounded to nearest."""
        for name, param in self.params.items():
            assert same_bits(param, self.singles[name].to(param.dtype)), name
            states = self.single.state.get(self.singles[name], {})
            assert self.optimizer.state.get(param, {}).keys() == states.keys()
            for key, value in states.items():
                mine = self.optimizer.state[param][key]
                if key in self.optimizer.spec.all_states:
                    assert mine.dtype == param.dtype, f"{key} of {name}"
                assert same_bits(mine, value.to(mine.dtype)), f"{key} of {name}"

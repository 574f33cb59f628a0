"""Tensors of PyTorch's where arrays are expected: the message names `fastopt.torch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastopt
from fastopt.definitions.specs import SPECS


class Net(torch.nn.Module):
    """A user's module, of a class that is not torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)


FORMS: dict[str, Callable[[Net], Any]] = {
    "generator": lambda net: net.parameters(),
    "list": lambda net: list(net.parameters()),
    "tuple": lambda net: tuple(net.parameters()),
    "module": lambda net: net,
    "torch's module": lambda net: net.layer,
    "parameter": lambda net: net.layer.weight,
    "tensor": lambda net: torch.zeros(3),
    "names": lambda net: net.named_parameters(),
    "dict": lambda net: dict(net.named_parameters()),
    "state dict": lambda net: net.state_dict(),
    "parameter list": lambda net: torch.nn.ParameterList(net.parameters()),
    "nested": lambda net: {"layers": [{"W": net.layer.weight}]},
    "group": lambda net: [{"params": net.parameters()}],
    "beside an array": lambda net: [np.zeros(3), net.layer.bias],
}


@pytest.mark.parametrize("form", FORMS)
def test_parameters_of_torch_need_fastopt_torch(form: str) -> None:
    for name in SPECS if form == "generator" else ("Adam",):
        with pytest.raises(TypeError, match=r"fastopt\.torch\.Adam\(model\.parameters\(\)\)") as caught:
            getattr(fastopt, name)(FORMS[form](Net()))
        assert "CUDA" not in str(caught.value)


def test_a_later_group_of_torchs_parameters() -> None:
    optimizer = fastopt.Adam(np.zeros(3))
    with pytest.raises(TypeError, match=r"fastopt\.torch"):
        optimizer.add_param_group({"params": list(Net().parameters())})
    assert len(optimizer.param_groups) == 1


def test_gradients_of_torch_share_their_memory_with_numpy() -> None:
    with pytest.raises(TypeError, match=r"tensor\.detach\(\)\.numpy\(\) shares its memory"):
        fastopt.Adam(np.zeros(3)).step(torch.zeros(3))

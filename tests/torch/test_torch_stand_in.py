"""`from fastopt import torch as optim` in place of `from torch import optim`."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.nn import Parameter

from fastopt import torch as optim
from fastopt.definitions.specs import SPECS


def test_every_name_of_torch_optim_is_there() -> None:
    for name in torch.optim.__all__:
        mine, theirs = getattr(optim, name), getattr(torch.optim, name)
        assert name in dir(optim)
        if name in optim.NATIVE:
            assert mine is not theirs
            assert issubclass(mine, theirs)
        else:
            assert mine is theirs


def test_the_native_ones_are_those_of_the_table() -> None:
    assert sorted(optim.NATIVE) == sorted(SPECS)
    for name in optim.NATIVE:
        assert getattr(optim, name).__module__.startswith("fastopt.")


def test_names_can_be_imported_from_it() -> None:
    from fastopt.torch import LBFGS, lr_scheduler

    param = Parameter(torch.ones(2))
    optimizer = optim.Adam([param], lr=0.5)
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    param.grad = torch.ones(2)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.05]
    assert pickle.loads(pickle.dumps(LBFGS)) is torch.optim.LBFGS


@pytest.mark.parametrize("name", ["Adamm", "adam", "_multi_tensor"])
def test_other_names_are_nowhere(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'fastopt.torch' has no attribute '{name}', and neither has torch.optim"):
        getattr(optim, name)
    with pytest.raises(ImportError):
        exec(f"from fastopt.torch import {name}")

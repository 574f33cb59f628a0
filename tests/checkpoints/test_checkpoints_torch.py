"""PyTorch's modules and optimizers in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastopt

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "fastopt": lambda params: fastopt.torch.AdamW(params, lr=0.01),
    "fastopt, flat": lambda params: fastopt.torch.AdamW(params, lr=0.01, flatten=True),
    "fastopt, momentum": lambda params: fastopt.torch.SGD(params, lr=0.01, momentum=0.5, nonfinite="skip"),
    "torch": lambda params: torch.optim.AdamW(params, lr=0.01, foreach=False),
    "torch, names": lambda params: torch.optim.RAdam([(f"p{i}", each) for i, each in enumerate(params)], foreach=False),
}


class Training:
    """A model, an optimizer, and a scheduler."""

    def __init__(self, make: Callable[[Any], torch.optim.Optimizer]) -> None:
        torch.manual_seed(1)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
        self.optimizer = make(list(self.model.parameters()))
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)

    def steps(self, count: int) -> Training:
        for _ in range(count):
            self.optimizer.zero_grad()
            self.model(torch.linspace(-1, 1, 15).reshape(5, 3)).square().sum().backward()
            self.optimizer.step()
            self.scheduler.step()
        return self

    @property
    def others(self) -> dict[str, Any]:
        return {"model": self.model, "scheduler": self.scheduler}

    def all(self) -> list[Any]:
        states = [value for state in self.optimizer.state_dict()["state"].values() for value in state.values()]
        tensors = [*self.model.state_dict().values(), *states]
        groups = [dict(each) for each in self.optimizer.state_dict()["param_groups"]]
        return [*(tensor.numpy().tobytes() for tensor in tensors), groups, self.scheduler.state_dict()]


@pytest.mark.parametrize("params", [True, False])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_with_the_same_bits(make: Any, params: bool, folder: Path) -> None:
    path, training = folder / "run.safetensors", Training(make).steps(3)
    fastopt.save(path, training.optimizer, params=params, **training.others)
    saved, expected = training.all(), training.steps(4).all()
    for other in (training, Training(make), Training(make).steps(1)):  # with states, and without
        fastopt.load(path, other.optimizer, params=params, **other.others)
        assert other.all() == saved
        assert other.steps(4).all() == expected


def test_states_and_parameters_keep_their_memory(folder: Path) -> None:
    path, training = folder / "run.safetensors", Training(OPTIMIZERS["fastopt"]).steps(3)
    fastopt.save(path, training.optimizer, **training.others)
    training.steps(1)

    def pointers() -> list[int]:
        states = [each for state in training.optimizer.state.values() for each in state.values()]
        return [each.data_ptr() for each in (*training.model.state_dict().values(), *states)]

    before = pointers()
    fastopt.load(path, training.optimizer, **training.others)
    assert pointers() == before


def test_weights_of_a_model_are_saved_once(folder: Path) -> None:
    model = torch.nn.Linear(100, 100)
    optimizer = fastopt.torch.SGD(model.parameters(), lr=0.1)
    fastopt.save(folder / "run.safetensors", optimizer, model=model)
    assert (folder / "run.safetensors").stat().st_size < 1.5 * 4 * 101 * 100


def test_autograd_notices_what_is_loaded(folder: Path) -> None:
    model = torch.nn.Linear(3, 3)
    optimizer = fastopt.torch.SGD(model.parameters(), lr=0.1)
    fastopt.save(folder / "run.safetensors", optimizer, model=model)
    loss = model(model(torch.ones(2, 3))).sum()
    fastopt.load(folder / "run.safetensors", optimizer, model=model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.bool, torch.int64], ids=str)
def test_tensors_of_every_kind_are_held(dtype: torch.dtype, folder: Path) -> None:
    path, optimizer = folder / "run.safetensors", fastopt.Adam(np.ones(2))
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    given: dict[str, Any] = {
        "a": tensor,
        "t": tensor.t(),
        "none": torch.empty(0, 2, dtype=dtype),
        "list": [tensor[0].clone()],
    }
    expected = {name: value.clone() for name, value in given.items() if name != "list"}
    fastopt.save(path, optimizer, x=given)
    given = {name: value.clone().zero_() for name, value in expected.items()} | {"list": [torch.zeros(3, dtype=dtype)]}
    fastopt.load(path, optimizer, x=given)
    for name, value in expected.items():
        assert torch.equal(given[name], value), name
    assert torch.equal(given["list"][0], tensor[0])
    with pytest.raises(TypeError, match=r"x\['a'\] is a tensor of dtype .*sparse.* which a file cannot hold"):
        fastopt.save(path, optimizer, x={"a": tensor.to_sparse()})


class WithExtra(torch.nn.Linear):
    """A module with a state that is no tensor."""

    count = 0

    def get_extra_state(self) -> Any:
        return {"count": self.count}

    def set_extra_state(self, state: Any) -> None:
        self.count = state["count"]


def test_a_module_with_an_extra_state_is_loaded_by_itself(folder: Path) -> None:
    path, optimizer, model, other = (
        folder / "run.safetensors",
        fastopt.Adam(np.ones(2)),
        *(WithExtra(2, 2) for _ in "ab"),
    )
    model.count = 3
    fastopt.save(path, optimizer, model=model)
    fastopt.load(path, optimizer, model=other)
    assert other.count == 3
    assert torch.equal(other.weight, model.weight)


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "keys": (
        lambda: {"model": torch.nn.Linear(3, 2, bias=False)},
        r"model: the module has other keys: not in the file: \[\], only in the file: \['bias'\]",
    ),
    "shape": (
        lambda: {"model": torch.nn.Linear(2, 3)},
        r"model\.state_dict\(\)\['weight'\] is float32 of shape \(3, 2\) here, and float32 of shape \(2, 3\)",
    ),
    "dtype": (
        lambda: {"model": torch.nn.Linear(3, 2).to(torch.bfloat16)},
        r"model\.state_dict\(\)\['weight'\] is bfloat16 of shape \(2, 3\) here, and float32",
    ),
    "class": (
        lambda: {"optimizer": fastopt.torch.Adam(torch.nn.Linear(3, 2).parameters())},
        "optimizer: .*the optimizer is 'SGD' in the file and 'Adam' here",
    ),
    "parameters": (
        lambda: {"optimizer": fastopt.torch.SGD(torch.nn.Linear(2, 3).parameters(), lr=0.1)},
        r"parameter 0 of group 0 has the shape \(2, 3\) in the file and \(3, 2\) here",
    ),
    "options": (
        lambda: {"optimizer": fastopt.torch.SGD(torch.nn.Linear(3, 2).parameters(), lr=0.1, nonfinite="skip")},
        "nonfinite is 'propagate' in the file and 'skip' here",
    ),
    "NumPy": (
        lambda: {"optimizer": fastopt.SGD([np.ones((2, 3), np.float32), np.ones(2, np.float32)], lr=0.1)},
        "optimizer is a torch optimizer in the file and a optimizer here; fastopt.torch.convert_state_dict",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_with_what_differs(
    make: Callable[[], dict[str, Any]], message: str, folder: Path
) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = fastopt.torch.SGD(model.parameters(), lr=0.1)
    fastopt.save(folder / "run.safetensors", optimizer, model=model)
    others = {"optimizer": optimizer, "model": model, **make()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict({name: value + 1 for name, value in before.items()})
    with pytest.raises(ValueError, match=message):
        fastopt.load(folder / "run.safetensors", others.pop("optimizer"), **others)
    assert all(torch.equal(value, before[name] + 1) for name, value in model.state_dict().items())


def test_torchs_class_and_fastopts_load_each_others_files(folder: Path) -> None:
    path, training, other = (
        folder / "run.safetensors",
        Training(OPTIMIZERS["torch"]).steps(3),
        Training(OPTIMIZERS["fastopt"]),
    )
    fastopt.save(path, training.optimizer, **training.others)
    fastopt.load(path, other.optimizer, **other.others)
    assert other.all()[:-2] == training.all()[:-2]
    other.steps(1)

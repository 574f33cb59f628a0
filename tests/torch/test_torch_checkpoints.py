"""`torch.distributed.checkpoint`: training goes on with the same bits, for every class and world size."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, equal_bits
from checkpoint_workers import DAMPED, SHARED, Model, backward, load, make, resume_as_two, save, train
from torch import nn
from torch_cases import torch_options
from torch_pairs import MAIN
from torch_peers import TORCH

import fastopt.torch

by_case = pytest.mark.parametrize("case", MAIN, ids=str)
MODES: dict[str, dict[str, Any]] = {"plain": {}, "flat": {"flatten": True}, "in backward": {"in_backward": True}}
BY_CASE_AND_MODE = [
    (case, mode) for case in MAIN for mode in MODES if mode != "in backward" or not case.spec.has_sums_over_all
]
by_mode = pytest.mark.parametrize("mode", MODES)


def start(case: Case, mode: str, **more: Any) -> tuple[Model, Any]:
    return make(case.optimizer, {**torch_options(case), **more}, **MODES[mode])


def assert_equal(mine: nn.Module, my_optimizer: Any, theirs: nn.Module, their_optimizer: Any) -> None:
    saved, others = my_optimizer.state_dict()["state"], their_optimizer.state_dict()["state"]
    assert saved.keys() == others.keys()
    for (name, param), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(param, other), name
    for index, state in others.items():
        assert saved[index].keys() == state.keys()
        for name, value in state.items():
            assert torch.equal(saved[index][name], value), f"{name} of {index}"


@pytest.mark.parametrize(("case", "mode"), BY_CASE_AND_MODE, ids=str)
def test_training_goes_on(case: Case, mode: str, tmp_path: Path) -> None:
    model, optimizer = start(case, mode)
    train(model, optimizer, range(3))
    save(model, optimizer, tmp_path)
    again, its_optimizer = start(case, mode)
    load(again, its_optimizer, tmp_path)
    for each, its in ((model, optimizer), (again, its_optimizer)):
        train(each, its, range(3, 6))
    assert_equal(again, its_optimizer, model, optimizer)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
@pytest.mark.parametrize(
    "how", [{"flatten_optimizer_state_dict": True}, {"full_state_dict": True}, {"cpu_offload": True}], ids=str
)
def test_torchs_ways_of_saving(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    options = DAMPED if name == "SGD" else {}
    model, optimizer = make(name, options, flatten=True)
    train(model, optimizer, range(3))
    save(model, optimizer, tmp_path, **how)
    again, its_optimizer = make(name, options, flatten=True)
    load(again, its_optimizer, tmp_path, **how)
    for each, its in ((model, optimizer), (again, its_optimizer)):
        train(each, its, range(3, 6))
    assert_equal(again, its_optimizer, model, optimizer)


OPTIONS: list[dict[str, Any]] = [
    {"max_grad_norm": 0.1},
    {"clip_norm": 0.1},
    {"clip_value": 0.01},
    {"nonfinite": "skip", "max_consecutive_skips": 1},
    {"nonfinite": "raise"},
    {"zero_grads": True},
    {"backend": "reference"},
    {"n_threads": 1, "flush_denormals": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("flatten", [False, True])
def test_options_go_with_it(options: dict[str, Any], flatten: bool, tmp_path: Path) -> None:
    model, optimizer = make("SGD", {**DAMPED, **options}, flatten=flatten)
    train(model, optimizer, range(3))
    save(model, optimizer, tmp_path)
    again, its_optimizer = make("SGD", {**DAMPED, **options}, flatten=flatten)
    load(again, its_optimizer, tmp_path)
    for each, its in ((model, optimizer), (again, its_optimizer)):
        train(each, its, range(3, 6))
    assert_equal(again, its_optimizer, model, optimizer)


@pytest.mark.parametrize("flatten", [False, True])
def test_parameters_in_another_order(flatten: bool, tmp_path: Path) -> None:
    """torch has matched them by their names in the model; the names in groups are still in the order of before."""
    runs = []
    for order in (1, -1):
        model = Model()
        named = list(model.named_parameters())[::order]
        optimizer = fastopt.torch.Adam(named, flatten=flatten)
        if runs:
            load(model, optimizer, tmp_path)
            assert optimizer.param_groups[0]["param_names"] == [name for name, _ in named]
        else:
            train(model, optimizer, range(3))
            save(model, optimizer, tmp_path)
        runs.append((model, optimizer))
    for model, optimizer in runs:
        train(model, optimizer, range(3, 6))
    for param, other in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True):
        assert torch.equal(param, other)


@pytest.mark.parametrize("flatten", [False, True])
def test_from_torchs_own_class_and_back(flatten: bool, tmp_path: Path) -> None:
    """A checkpoint does not say whose class wrote it."""
    for theirs, mine in ((True, False), (False, True)):
        model, optimizer = make("Adam", {}, torchs=theirs, **({} if theirs else {"flatten": flatten}))
        train(model, optimizer, range(3))
        save(model, optimizer, tmp_path)
        again, its_optimizer = make("Adam", {}, torchs=mine, **({} if mine else {"flatten": flatten}))
        load(again, its_optimizer, tmp_path)
        for each, its in ((model, optimizer), (again, its_optimizer)):
            train(each, its, range(3, 6))
        for param, other in zip(model.parameters(), again.parameters(), strict=True):
            torch.testing.assert_close(param, other)


@pytest.mark.slow
def test_two_processes_and_one(tmp_path: Path) -> None:
    """Saved by two processes and loaded by one, and the other way round. Slow, because both import torch."""
    expected = {}
    for name, options in SHARED.items():
        model, optimizer = make(name, options, flatten=True)
        train(model, optimizer, range(3))
        save(model, optimizer, tmp_path / name / "one")
        train(model, optimizer, range(3, 6))
        expected[name] = model, optimizer
    torch.multiprocessing.spawn(resume_as_two, (str(tmp_path), 2), 2)
    for name, (model, optimizer) in expected.items():
        for rank in range(2):
            values = torch.load(tmp_path / name / f"{rank}.pt", weights_only=True)
            for param, value in zip(model.parameters(), values, strict=True):
                assert torch.equal(param, value), name
        again, its_optimizer = make(name, SHARED[name], flatten=True)
        load(again, its_optimizer, tmp_path / name / "two")
        train(again, its_optimizer, range(3, 6))
        assert_equal(again, its_optimizer, model, optimizer)


# --- states that exist before the first step --------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "mode"), [each for each in BY_CASE_AND_MODE if each[1] != "plain"], ids=str)
def test_a_first_step_from_what_was_saved_before_it_is_a_first_step(case: Case, mode: str) -> None:
    plain, its_optimizer = start(case, "plain")
    train(plain, its_optimizer, range(3))
    _, optimizer = start(case, mode)
    saved = optimizer.state_dict()
    mine, my_optimizer = start(case, "plain")
    my_optimizer.load_state_dict(copy.deepcopy(saved))
    train(mine, my_optimizer, range(3))
    assert_equal(mine, my_optimizer, plain, its_optimizer)
    if case.options.get("dampening"):
        return  # To torch, the momentum that is there has begun.
    theirs = Model()
    their_optimizer = getattr(TORCH, case.optimizer)(theirs.parameters(), **torch_options(case))
    their_optimizer.load_state_dict(saved)
    train(theirs, their_optimizer, range(3))
    for param, other in zip(theirs.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=0, atol=1e-5)


@by_case
def test_a_numpy_optimizer_knows_a_first_step_too(case: Case) -> None:
    model, optimizer = start(case, "flat")
    rng = np.random.default_rng(0)
    arrays, others = ([param.detach().numpy().copy() for param in model.parameters()] for _ in range(2))
    mine, expected = case.make(arrays), case.make(others)
    mine.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        gradients = [rng.standard_normal(array.shape).astype(array.dtype) for array in map(np.asarray, arrays)]
        mine.step(gradients)
        expected.step(gradients)
    for array, other in zip(arrays, others, strict=True):
        assert equal_bits(array, other)


@pytest.mark.parametrize(
    ("mode", "when"),
    [
        ("flat", "before"),
        ("in backward", "before"),
        ("in backward", "between two parameters"),
    ],
)
def test_rprop_begins_with_the_rate_of_the_first_step(mode: str, when: str) -> None:
    runs = []
    for each in (mode, "plain"):
        model, optimizer = start(Case("Rprop", {}), each)
        if when == "between two parameters":  # One has no gradient in the first step.
            model.number.requires_grad_(False)
            train(model, optimizer, range(1))
            model.number.requires_grad_(True)
        optimizer.param_groups[0]["lr"] = 0.3
        train(model, optimizer, range(1, 4))
        runs.append((model, optimizer))
    assert_equal(*runs[0], *runs[1])


def test_a_step_size_that_somebody_set_before_the_first_step_is_kept() -> None:
    model, optimizer = make("Rprop", {}, flatten=True)
    optimizer.state[model.number]["step_size"].fill_(0.5)
    optimizer.param_groups[0]["lr"] = 0.3
    train(model, optimizer, range(1))
    assert float(optimizer.state[model.number]["step_size"]) == 0.5
    assert float(optimizer.state[model.first.bias]["step_size"][0]) == pytest.approx(0.3)


def test_states_of_a_buffer_that_a_state_dict_has_not_exist() -> None:
    model, optimizer = make("Adam", {}, flatten=True)
    optimizer.load_state_dict(fastopt.torch.Adam(Model().parameters()).state_dict())
    assert len(optimizer.state_dict()["state"]) == len(list(model.parameters()))
    backward(model, 0)
    optimizer.step()
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}

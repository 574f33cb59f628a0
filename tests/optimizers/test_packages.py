"""Optimizers that PyTorch does not have, beside the packages that they follow: trajectories in float64."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import fastopt
import fastopt.torch

pytestmark = pytest.mark.peers

STEPS = 60
SHAPES = ((30,), (4, 5), (), (3,))


@dataclass(frozen=True)
class Pair:
    """An optimizer and a class of a package that does the same, with arguments for both, and for the other's alone.

    `skips` says whether parameters without a gradient count no step there; `called` is its class, if not of this name.
    """

    name: str
    package: str
    shared: dict[str, Any] = field(default_factory=dict, hash=False)
    theirs: dict[str, Any] = field(default_factory=dict, hash=False)
    skips: bool = True
    called: str | None = None

    def __str__(self) -> str:
        given = (f"{name}={value}" for name, value in {**self.shared, **self.theirs}.items())
        return "-".join([self.called or self.name, self.package, *given])

    def make(self, params: list[Parameter]) -> Any:
        package = pytest.importorskip(self.package)
        with contextlib.redirect_stdout(io.StringIO()):  # prodigyopt prints
            made = getattr(package, self.called or self.name)(params, **self.shared, **self.theirs)
        if hasattr(made, "train"):
            made.train()
        return made


PRODIGY: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"use_bias_correction": True},
    {"safeguard_warmup": True, "d0": 1e-3},
    {"growth_rate": 1.02, "d0": 1e-2},
    {"betas": (0.0, 0.99)},
    {"beta3": 0.9, "d_coef": 2.0},
    {"weight_decay": 0.1, "decouple": False, "lr": 0.3},
]

ADAMW: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6}
SGD: dict[str, Any] = {"lr": 0.05, "momentum": 0.8}
DECAY: dict[str, Any] = {"weight_decay": 0.1}
WEIGHTS: dict[str, Any] = {"warmup_steps": 7, "r": 0.5, "weight_lr_power": 1.5}


def schedule_free(kind: str, shared: dict[str, Any], called: str = "", **theirs: Any) -> Pair:
    """Counts of the authors' class are those of a group."""
    return Pair(
        f"ScheduleFree{kind}", "schedulefree", shared, theirs, skips=False, called=f"{kind}ScheduleFree{called}"
    )


PAIRS = [
    Pair(
        "StableAdamW", "pytorch_optimizer", {"lr": 0.05, "weight_decay": 0.01}, theirs={"kahan_sum": False}, skips=False
    ),
    *(Pair("Prodigy", "prodigyopt", options) for options in PRODIGY),
    schedule_free("AdamW", {"lr": 0.02}),
    schedule_free("AdamW", {**ADAMW, **DECAY}, foreach=False),
    schedule_free("AdamW", {**ADAMW, **WEIGHTS}),
    schedule_free("AdamW", {**ADAMW, **DECAY, **WEIGHTS}, "Reference"),
    schedule_free("SGD", {"lr": 0.05}),
    schedule_free("SGD", {**SGD, **DECAY}, foreach=False),
    schedule_free("SGD", {**SGD, **WEIGHTS}),
    schedule_free("SGD", {**SGD, **DECAY, **WEIGHTS}, "Reference"),
    # Its ScheduleFreeAdamW adds 1e-15 under the root.
    Pair("ScheduleFreeSGD", "pytorch_optimizer", {**SGD, **DECAY, **WEIGHTS}, skips=False),
]
by_pair = pytest.mark.parametrize("pair", PAIRS, ids=str)


def start() -> list[np.ndarray]:
    """Parameters, of which one is zero: prodigyopt stores that one's first value as a single number."""
    rng = np.random.default_rng(0)
    return [np.array(rng.standard_normal(shape) * (shape != (3,))) for shape in SHAPES]


def gradients(params: list[np.ndarray], step: int, skips: bool = True) -> list[np.ndarray | None]:
    """Of squares around other values, with noise; zeros at first, and with `skips` some are missing now and then."""
    rng = np.random.default_rng(step + 1)
    found: list[np.ndarray | None] = [
        np.asarray(5 * (param - 1) + 0.1 * rng.standard_normal(param.shape)) * (step > 1) for param in params
    ]
    if skips and step % 7 == 3:
        found[1] = None
    return found


def rate(lr: float, step: int) -> float:
    """It falls, and is 0 now and then."""
    return 0.0 if step in (20, 21) else lr * (1 - step / 100)


def close(mine: Any, theirs: Any) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@contextlib.contextmanager
def shown(*optimizers: Any) -> Iterator[None]:
    """A block in which the parameters of optimizers that have an average show it."""
    able = [each for each in optimizers if hasattr(each, "eval")]
    for each in able:
        each.eval()
    yield
    for each in able:
        each.train()


@by_pair
def test_trajectories(pair: Pair) -> None:
    """To 1e-12; the largest difference that was seen is 5.2e-15. fastopt.torch has the bits of NumPy's class."""
    arrays = start()
    mine, theirs = ([Parameter(torch.tensor(array)) for array in arrays] for _ in range(2))
    optimizer = getattr(fastopt, pair.name)(arrays, **pair.shared)
    in_torch = getattr(fastopt.torch, pair.name)(mine, **pair.shared)
    expected = pair.make(theirs)
    lr = optimizer.param_groups[0]["lr"]
    for step in range(STEPS):
        for each in (optimizer, in_torch, expected):
            each.param_groups[0]["lr"] = rate(lr, step)
        found = gradients(arrays, step, pair.skips)
        for params in (mine, theirs):
            for param, gradient in zip(params, found, strict=True):
                param.grad = None if gradient is None else torch.tensor(gradient)
        optimizer.step(found)
        in_torch.step()
        expected.step()
        with shown(optimizer, in_torch, expected) if step % 8 == 7 else contextlib.nullcontext():
            for array, param, other in zip(arrays, mine, theirs, strict=True):
                assert np.array_equal(array, param.detach().numpy())
                close(array, other.detach().numpy())
    assert not any(np.array_equal(array, before) for array, before in zip(arrays, start(), strict=True))
    for name in optimizer.spec.common:
        assert in_torch.param_groups[0][name] == pytest.approx(expected.param_groups[0][name], rel=1e-11, abs=1e-25)


SAVING = ("AdamWScheduleFree", "SGDScheduleFree")  # the reference classes save x, too
SAVED = [
    *((each, False) for each in PAIRS if each.package == "prodigyopt" and each.shared.get("betas") is None),
    *((each, mode) for each in PAIRS if each.called in SAVING for mode in (False, True)),
]
"""Packages of the authors, and whether the average is shown meanwhile; with no momentum, prodigyopt saves none."""


@pytest.mark.parametrize(("pair", "is_shown"), SAVED, ids=str)
@pytest.mark.parametrize("to_torch", [True, False], ids=["fastopt.torch", "fastopt"])
def test_what_a_package_has_saved_goes_on_here(pair: Pair, is_shown: bool, to_torch: bool) -> None:
    theirs = [Parameter(torch.tensor(array)) for array in start()]
    expected = pair.make(theirs)

    def step(number: int) -> list[np.ndarray | None]:
        found = gradients([param.detach().numpy() for param in theirs], number, pair.skips)
        for param, gradient in zip(theirs, found, strict=True):
            param.grad = None if gradient is None else torch.tensor(gradient)
        expected.step()
        return found

    for number in range(12):
        step(number)
    if is_shown:
        expected.eval()
    saved = copy.deepcopy(expected.state_dict())
    params = [param.detach().numpy().copy() for param in theirs]
    tensors = [Parameter(torch.tensor(param)) for param in params]
    optimizer = getattr(fastopt.torch if to_torch else fastopt, pair.name)(tensors if to_torch else params)
    optimizer.load_state_dict(saved)
    if is_shown:
        assert optimizer.averages_swapped_in
        optimizer.train()
        expected.train()
    for number in range(12, 24):
        found = step(number)
        if to_torch:
            for tensor, gradient in zip(tensors, found, strict=True):
                tensor.grad = None if gradient is None else torch.tensor(gradient)
            optimizer.step()
        else:
            optimizer.step(found)
        with shown(optimizer, expected) if number % 2 else contextlib.nullcontext():
            for index, other in enumerate(theirs):
                close(tensors[index].detach().numpy() if to_torch else params[index], other.detach().numpy())

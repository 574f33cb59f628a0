"""Optimizers that torch.optim does not have: their arguments are checked, and their authors' state dicts load."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch_pairs import parameters, train
from torch_peers import NOT_IN_TORCH

import fastopt.torch
from fastopt.definitions.specs import Spec

by_spec = pytest.mark.parametrize("spec", NOT_IN_TORCH, ids=lambda spec: spec.name)

BAD_VALUES: list[tuple[str, Any, type[Exception], str]] = [
    ("lr", -1.0, ValueError, "Invalid learning rate: -1"),
    ("lr", float("nan"), ValueError, "Invalid learning rate: nan"),
    ("lr", torch.ones(2), ValueError, "Tensor lr must be 1-element"),
    ("lr", lambda step: 0.1, TypeError, "lr must be a number; use torch.optim.lr_scheduler"),
    ("eps", -1.0, ValueError, "Invalid epsilon value: -1"),
    ("weight_decay", -1.0, ValueError, "Invalid weight_decay value: -1"),
    ("alpha_warmup", -1.0, ValueError, "Invalid alpha_warmup value: -1"),
    ("no_prox", 1, TypeError, "no_prox must be True or False"),
    ("foreach", 1, TypeError, "foreach must be True or False"),
    ("maximize", None, TypeError, "maximize must be True or False"),
    ("amsgrad", True, TypeError, "got an unexpected keyword argument 'amsgrad'"),
]


@by_spec
@pytest.mark.parametrize(("name", "value", "error", "message"), BAD_VALUES, ids=lambda each: str(each)[:20])
def test_arguments_are_checked(spec: Spec, name: str, value: Any, error: type[Exception], message: str) -> None:
    if name in ("eps", "alpha_warmup", "no_prox") and name not in spec.arguments:
        error, message = TypeError, f"got an unexpected keyword argument '{name}'"
    with pytest.raises(error, match=re.escape(message)):
        getattr(fastopt.torch, spec.name)(parameters(), **{name: value})


@pytest.mark.parametrize(
    "spec", [spec for spec in NOT_IN_TORCH if "betas" in spec.defaults], ids=lambda spec: spec.name
)
def test_betas_are_checked(spec: Spec) -> None:
    make = getattr(fastopt.torch, spec.name)
    betas = spec.defaults["betas"]
    for index in range(len(betas)):
        with pytest.raises(ValueError, match=f"Invalid beta parameter at index {index}: 1.0"):
            make(parameters(), betas=(*betas[:index], 1.0, *betas[index + 1 :]))
    with pytest.raises(TypeError, match=f"betas must be a tuple of {len(betas)} numbers"):
        make(parameters(), betas=(*betas, 0.5))


@by_spec
@pytest.mark.parametrize("counted_in", ["state", "group", "nothing"])
def test_state_dicts_of_the_authors_classes_load(spec: Spec, counted_in: str) -> None:
    """They know neither of torch's options, and count in plain numbers: in the state, in the group, or not at all."""
    params, others = parameters((5,)), parameters((5,))
    trained = getattr(fastopt.torch, spec.name)(params)
    train(trained, params, range(3))
    saved = copy.deepcopy(trained.state_dict())
    for state in saved["state"].values():
        steps = state.pop("step")
        if counted_in == "state":
            state["step"] = int(steps)
    (group,) = saved["param_groups"]
    del group["foreach"], group["maximize"]
    if counted_in == "group":
        group["step"] = 3
    with torch.no_grad():
        others[0].copy_(params[0])
    twin = getattr(fastopt.torch, spec.name)(others)
    twin.load_state_dict(saved)
    assert twin.param_groups[0].keys() == trained.param_groups[0].keys()
    assert twin.state[others[0]]["step"] == (0 if counted_in == "nothing" else 3)
    if counted_in != "nothing":
        for optimizer, own in ((trained, params), (twin, others)):
            train(optimizer, own, range(3, 6))
        assert torch.equal(params[0], others[0])


@by_spec
def test_sparse_gradients_are_refused(spec: Spec) -> None:
    (param,) = parameters((3,))
    param.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        getattr(fastopt.torch, spec.name)([param]).step()


def test_specs_say_what_torch_has() -> None:
    assert {spec.name for spec in NOT_IN_TORCH} == {
        name for name in fastopt.torch.optimizers.__all__ if not hasattr(torch.optim, name)
    }

"""What is particular to ASGD: the average of the parameters, and a rate that the step before has computed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter
from torch_pairs import parameters, set_gradients

import fastopt
import fastopt.torch

SETTINGS = {"lr": 0.3, "lambd": 0.5, "t0": 2}


@pytest.mark.parametrize("made_by", [fastopt.torch.ASGD, torch.optim.ASGD], ids=["fastopt", "torch"])
def test_the_average_is_the_mean_of_the_parameter_since_step_t0_and_2(made_by: Any) -> None:
    """Torch's class does what the docstring of ours says."""
    (param,) = parameters((5,), dtype=torch.float64)
    optimizer, values = made_by([param], **SETTINGS), []
    for seed in range(9):
        set_gradients([param], seed)
        optimizer.step()
        values.append(param.detach().clone())
        average = optimizer.state[param]["ax"]
        first = SETTINGS["t0"] + 2 - 1
        expected = torch.stack(values[int(first) :]).mean(0) if seed >= first else param.detach()
        torch.testing.assert_close(average, expected, rtol=1e-6, atol=0)  # where `mu` is float32


def rates(params: list[Parameter], made_by: Any, **options: Any) -> list[float]:
    """Of four steps, before which the rate changes: how far a gradient of 1 moves a parameter that is then set to 0."""
    optimizer, found = made_by(params, **SETTINGS, **options), []
    for lr in (0.2, 0.1, 0.1, 0.4):
        optimizer.param_groups[0]["lr"] = lr
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        found.append(-float(params[0].detach()[0]))
        with torch.no_grad():
            for param in params:
                param.zero_()
    return found


@pytest.mark.parametrize("options", [{}, {"backend": "reference"}, {"flatten": True}], ids=str)
def test_a_new_rate_has_its_effect_one_step_later_and_in_the_first_at_once(options: dict[str, Any]) -> None:
    """As in torch; also where states were made early, with the rate of the construction."""
    params, others = ([Parameter(torch.zeros(size, dtype=torch.float64)) for size in (3, 4)] for _ in range(2))
    mine, theirs = rates(params, fastopt.torch.ASGD, **options), rates(others, torch.optim.ASGD)
    np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    np.testing.assert_allclose(mine[0], 0.2, rtol=1e-7)
    np.testing.assert_allclose(mine[1], 0.2 / (1 + 0.5 * 0.2) ** 0.75, rtol=1e-7)

    param, found = np.zeros(3), []
    optimizer = fastopt.ASGD(param, **SETTINGS)  # type: ignore[arg-type]
    for lr in (0.2, 0.1, 0.1, 0.4):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step(np.ones(3))
        found.append(-param[0])
        param[:] = 0
    np.testing.assert_allclose(found, theirs, rtol=1e-7)


@pytest.mark.parametrize("eta", [-0.5, float("nan"), float("inf")])
def test_numpys_class_refuses_a_rate_that_no_step_computes(eta: float) -> None:
    param = np.zeros(3)
    optimizer = fastopt.ASGD(param)
    optimizer.step(np.ones(3))
    saved, before = copy.deepcopy(optimizer.state_dict()), param.copy()
    saved["state"][0]["eta"] = eta
    with pytest.raises(ValueError, match=r"state\[0\]\['eta'\] must be at least 0"):
        optimizer.load_state_dict(saved)
    assert np.array_equal(param, before)

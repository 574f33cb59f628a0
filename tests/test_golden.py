"""Trajectories recorded from TensorFlow 1 and Keras 3 (tests/golden): what is done around an update is what they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS

import fastopt
from fastopt.constraints import ElasticNet


def read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
    return data


TF1, KERAS = read("tf1"), read("keras3")
by_backend = pytest.mark.parametrize("backend", BACKENDS)


def trajectory(optimizer: fastopt.Optimizer, gradients: list[list[float]], before_step: Any = None) -> np.ndarray:
    param = optimizer.param_groups[0]["params"][0]
    values = []
    for gradient in gradients:
        if before_step:
            before_step(optimizer)
        optimizer.step(np.array(gradient))
        values.append(param.copy())
    return np.array(values)


PROXIMAL = [case for case in TF1["cases"] if case["optimizer"].startswith("Proximal")]


@by_backend
@pytest.mark.parametrize("case", PROXIMAL, ids=lambda case: f"{case['optimizer']}-{case['config']}")
def test_proximal_steps_of_tensorflow_1(case: dict[str, Any], backend: str) -> None:
    config = case["config"]
    lr = config["learning_rate"]
    prox = ElasticNet(config.get("l1_regularization_strength", 0.0), config.get("l2_regularization_strength", 0.0))
    param = np.array(TF1["params0"])
    if case["optimizer"] == "ProximalAdagradOptimizer":
        start = config.get("initial_accumulator_value", 0.1)
        optimizer: Any = fastopt.Adagrad(
            param, lr=lr, eps=0, initial_accumulator_value=start, prox=prox, backend=backend
        )
    else:
        optimizer = fastopt.SGD(param, lr=lr, prox=prox, backend=backend)
    expected = np.array(case["trajectory"])
    actual = trajectory(optimizer, TF1["grads"])
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)
    assert np.array_equal(actual == 0, expected == 0), "exact zeros where TensorFlow has them"


def test_both_proximal_optimizers_are_in_the_record() -> None:
    assert {case["optimizer"] for case in PROXIMAL} == {"ProximalGradientDescentOptimizer", "ProximalAdagradOptimizer"}


# --- Keras 3: Adam with something around it -------------------------------------------------------------------------

AROUND = {
    "clipvalue": "clip_value",
    "use_ema": None,
    "ema_momentum": "ema_decay",
    "ema_overwrite_frequency": "ema_overwrite_frequency",
    "gradient_accumulation_steps": "accumulate_steps",
    "clipnorm": "clip_norm",
    "global_clipnorm": "max_grad_norm",
}
PIPELINE = [case for case in KERAS["cases"] if case["optimizer"] == "Adam" and set(case["config"]) & set(AROUND)]


@by_backend
@pytest.mark.parametrize("case", PIPELINE, ids=lambda case: ", ".join(set(case["config"]) & set(AROUND)))
def test_the_pipeline_of_keras_3(case: dict[str, Any], backend: str) -> None:
    config = case["config"]
    options = {mine: config[theirs] for theirs, mine in AROUND.items() if theirs in config and mine}
    beta2 = config["beta_2"]
    optimizer = fastopt.Adam(
        np.array(KERAS["params0"]),
        lr=config["learning_rate"],
        betas=(config["beta_1"], beta2),
        backend=backend,
        **options,
    )

    def set_eps(optimizer: fastopt.Optimizer) -> None:
        """Keras adds epsilon to the root before its correction, torch after."""
        step = optimizer.state[0]["step"] + 1
        optimizer.param_groups[0]["eps"] = config["epsilon"] / np.sqrt(1 - beta2**step)

    actual = trajectory(optimizer, KERAS["grads"], set_eps)
    # Keras divides by the norm, torch by the norm + 1e-6.
    tolerance = 2e-6 if {"clipnorm", "global_clipnorm"} & set(config) else 1e-12
    np.testing.assert_allclose(actual, case["trajectory"], rtol=tolerance, atol=1e-14)


def test_every_part_of_the_pipeline_is_in_the_record() -> None:
    found = {name for case in PIPELINE for name in case["config"]} & set(AROUND)
    assert found == set(AROUND)

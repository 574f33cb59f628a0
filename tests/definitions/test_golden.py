"""Trajectories recorded from Keras 3, TensorFlow 1, legacy Keras, optax and timm (tests/golden): the same call, the
same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BACKENDS
from golden_cases import CONVENTIONS, arguments, class_name, optimizer_cases, read, trajectory

import fastopt
from fastopt.definitions.conventions import DIFFERENCES

CASES = [(file, case) for file in CONVENTIONS for case in optimizer_cases(file)]

NOT_RECORDED = {"optax": {"ADOPT", "AdEMAMix", "AdaBelief", "Adan", "RAdam"}}
"""By file, the rows that the recordings do not have; test_frameworks compares them with optax itself."""


def tolerance(file: str, case: dict[str, Any]) -> dict[str, float]:
    # TensorFlow 1 keeps the powers of beta1 and beta2 in float32.
    rounded = (file, case["optimizer"]) == ("tf1", "AdamOptimizer")
    return {"rtol": 0, "atol": 1e-7} if rounded else {"rtol": 1e-12, "atol": 1e-14}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("file", "case"), CASES, ids=[f"{file}-{case['optimizer']}-{case['config']}" for file, case in CASES]
)
def test_the_same_call_gives_the_same_numbers(file: str, case: dict[str, Any], backend: str) -> None:
    create = getattr(fastopt, class_name(case))
    optimizer = create(
        np.array(read(file)["params0"]), convention=CONVENTIONS[file], backend=backend, **arguments(case, file)
    )
    actual, expected = trajectory(optimizer, read(file)["grads"]), np.array(case["trajectory"])
    np.testing.assert_allclose(actual, expected, **tolerance(file, case))
    if "Proximal" in case["optimizer"]:
        assert np.array_equal(actual == 0, expected == 0), "exact zeros where TensorFlow has them"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", read("timm")["cases"], ids=lambda case: f"{case['optimizer']}-{case['config']}")
def test_timms_optimizers(case: dict[str, Any], backend: str) -> None:
    """AdamWLegacy(caution=True), also without weight decay, and Lion; Lamb and Lars."""
    config = {name: tuple(value) if name == "betas" else value for name, value in case["config"].items()}
    optimizer = getattr(fastopt, case["optimizer"])(np.array(read("timm")["params0"]), backend=backend, **config)
    actual = trajectory(optimizer, read("timm")["grads"])
    np.testing.assert_allclose(actual, case["trajectory"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("file", CONVENTIONS)
def test_records_cover_the_optimizers_of_a_convention(file: str) -> None:
    recorded = {class_name(case) for case in optimizer_cases(file)}
    assert DIFFERENCES[CONVENTIONS[file]].keys() - recorded == NOT_RECORDED.get(file, set())


def test_every_part_of_the_pipeline_of_keras_is_in_the_record() -> None:
    parts = {"clipnorm", "global_clipnorm", "clipvalue", "use_ema", "ema_overwrite_frequency"}
    found = {name for case in optimizer_cases("keras3") for name in case["config"]}
    assert parts | {"gradient_accumulation_steps", "weight_decay"} <= found

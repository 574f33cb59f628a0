"""Parameters of every layout, their gradients, training and comparison: for the tests of `fastopt.torch`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torch_peers
from cases import Case, equal_bits, own_rate
from torch import Tensor
from torch.nn import Parameter
from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db

import fastopt.torch
from fastopt.definitions.specs import SPECS, Spec

DTYPES = (torch.float32, torch.float64)
STEPS = 8
BEFORE, AFTER = range(4), range(4, 7)
"""Steps before something happens, and after it."""

INFOS: dict[str, OptimizerInfo] = {info.name: info for info in optim_db if info.name in fastopt.torch.NATIVE}
"""Those of torch's optimizers that are ours too, as PyTorch's own tests know them."""

INFOS |= {spec.name: torch_peers.info_of(spec) for spec in torch_peers.NOT_IN_TORCH}
"""Torch has none of them; this is as it would be."""

by_case = pytest.mark.parametrize("case", torch_peers.IN_TORCH, ids=str)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_name = pytest.mark.parametrize("name", INFOS)
by_name_apart = pytest.mark.parametrize("name", [spec.name for spec in SPECS.values() if not spec.has_sums_over_all])
"""Those whose parameters can be stepped some on their own."""

# Relative to the largest element of each tensor, as in test_torch_agreement.py: an element near zero is the difference
# of large ones and carries their rounding. Torch's loops use fused multiply-add and reorder some operations, and
# `foreach=True` and `fused=True` do so differently; ours do neither.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}

SINGLE_CARRIED = 2e-7
"""Of NAdam and ASGD, where what they carry is float32: torch's steps go by it as it is rounded, some of ours do not."""


def parameters(dtype: torch.dtype, plain: bool = False) -> dict[str, Parameter]:
    """The same ones each time: every layout that a step treats differently, and two that miss gradients.

    `plain` leaves out those that torch's `fused=True` gets wrong on the CPU: it walks over the memory of a parameter
    and its gradient as if both were without gaps and in one order, and SGD's momentum must begin everywhere at once.
    """
    made = {
        "vector": torch.empty(1037, dtype=dtype),
        "matrix": torch.empty(5, 7, dtype=dtype),
        "scalar": torch.empty((), dtype=dtype),
        "empty": torch.empty(3, 0, dtype=dtype),
        "convolution": torch.empty(4, 3, 2, 2, dtype=dtype).contiguous(memory_format=torch.channels_last),
        "transposed": torch.empty(6, 4, dtype=dtype).t(),
        "gapped": torch.empty(6, 8, dtype=dtype)[:, 1::2],
        "late": torch.empty(3, 3, dtype=dtype),
        "never": torch.empty(2, dtype=dtype),
    }
    for index, tensor in enumerate(made.values()):
        fill(tensor, 99, index)
    made["scalar"].fill_(
        10
    )  # it and its states stay far from 0: there is no larger element that errors could be relative to
    if plain:
        del made["gapped"], made["transposed"], made["late"]
    return {name: Parameter(tensor) for name, tensor in made.items()}


def fill(tensor: Tensor, *seed: int) -> Tensor:
    """Random elements that depend on the position and the seed alone, not on strides or dtype."""
    values = np.random.default_rng(seed).standard_normal(tuple(tensor.shape))
    return tensor.copy_(torch.from_numpy(np.asarray(values)))


def gradient(name: str, param: Tensor, step: int) -> Tensor | None:
    """That of a parameter in a step; some come late, are missing now and then, or lie in memory like nothing else."""
    if name == "never" or (name == "late" and step < 2) or (name == "matrix" and step % 3 == 2):
        return None
    like = torch.empty_like(param, requires_grad=False)
    if name == "transposed" and step % 2:
        like = torch.empty(param.shape, dtype=param.dtype)
    values = fill(like, step, *name.encode())
    return values.abs_().add_(1) if name == "scalar" else values


def train(optimizer: torch.optim.Optimizer, params: dict[str, Parameter], steps: Iterable[int]) -> None:
    for step in steps:
        for name, param in params.items():
            param.grad = gradient(name, param, step)
        optimizer.step()


def set_values(params: dict[str, Parameter], others: dict[str, Parameter]) -> None:
    with torch.no_grad():
        for name, param in params.items():
            param.copy_(others[name])


def torch_options(case: Case) -> dict[str, Any]:
    """Torch's arguments for one of `cases.CASES`."""
    return torch_peers.torch_options(case.options, case.optimizer)


def assert_alike(mine: Any, theirs: Any, params: Any, their_params: Any, tolerance: float) -> None:
    """Two optimizers' parameters, states and groups agree; with a tolerance of 0, bit by bit."""
    for name, param in params.items():
        limit = tolerance * torch_peers.rounding(type(mine).__name__, param.dtype)
        other = their_params[name]
        assert_close(name, param.detach(), other.detach(), limit)
        assert (param in mine.state) == (other in theirs.state), f"only one has a state of {name}"
        state, others = mine.state.get(param, {}), theirs.state.get(other, {})
        assert set(state) == set(others)
        for key, value in state.items():
            if isinstance(others[key], Tensor):
                assert_close(f"{key} of {name}", value, others[key], 0 if key == "step" else limit)
            else:
                assert value == others[key]
                assert type(value) is type(others[key])
    assert_same_groups(mine, theirs, 1e3 * tolerance)


def assert_close(label: str, mine: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert (mine.dtype, mine.shape, mine.stride()) == (theirs.dtype, theirs.shape, theirs.stride()), label
    if tolerance == 0:
        assert equal_bits(mine.numpy(), theirs.numpy()), f"{label} differs"
    elif theirs.numel():
        error = float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(torch.finfo(theirs.dtype).tiny))
        assert error <= tolerance, f"{label}: relative error {error:.2e}"


def assert_same_groups(mine: Any, theirs: Any, tolerance: float = 0.0) -> None:
    """Everything in the groups but the parameters themselves: exactly, but for numbers that steps compute there.

    Those are sums of small differences, which may cancel.
    """
    assert len(mine.param_groups) == len(theirs.param_groups)
    common = next((each.spec.common for each in (mine, theirs) if hasattr(each, "spec")), ())
    for group, other in zip(mine.param_groups, theirs.param_groups, strict=True):
        assert set(group) == set(other)
        assert len(group["params"]) == len(other["params"])
        for key in group.keys() - {"params"}:
            assert type(group[key]) is type(other[key]), key
            if key in common:
                assert group[key] == pytest.approx(other[key], rel=tolerance, abs=tolerance), key
            else:
                assert group[key] == other[key], key


def in_two_groups(params: dict[str, Parameter], optimizer: str) -> list[dict[str, Any]]:
    tensors = list(params.values())
    return [{"params": tensors[:4]}, {"params": tensors[4:], **own_rate(optimizer, 0.004)}]


def make(module: Any, case: Case, params: dict[str, Parameter], **more: Any) -> Any:
    return getattr(module, case.optimizer)(in_two_groups(params, case.optimizer), **torch_options(case), **more)


def as_arrays(params: dict[str, Parameter]) -> dict[str, np.ndarray]:
    return {name: param.detach().numpy().copy("C") for name, param in params.items()}


def numpy_groups(arrays: dict[str, np.ndarray], optimizer: str) -> list[dict[str, Any]]:
    return [{"params": group["params"], **rest(group)} for group in in_two_groups(arrays, optimizer)]  # type: ignore[arg-type]


def rest(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def train_numpy(optimizer: Any, arrays: dict[str, np.ndarray], params: dict[str, Parameter], steps: Any) -> None:
    for step in steps:
        found = [gradient(name, param, step) for name, param in params.items()]
        gradients = [None if each is None else each.numpy().copy("C") for each in found]
        optimizer.step([gradients[:4], gradients[4:]])


IN_ANOTHER_ORDER = 2e-15
"""Of sums over the elements of float64 tensors, which are added up as they lie in memory: 1.2e-16 measured."""


def equal_in_any_layout(spec: Spec, one: np.ndarray, other: np.ndarray) -> bool:
    """The same bits; of rules with sums, which layouts change, nearly so where a layout is not the usual one."""
    if spec.has_sums and not (one.flags.c_contiguous and other.flags.c_contiguous):
        return bool((abs(one - other) <= IN_ANOTHER_ORDER * abs(other).max(initial=1.0)).all())
    return equal_bits(one, other)


def assert_same_bits(optimizer: Any, params: dict[str, Parameter], other: Any, arrays: dict[str, np.ndarray]) -> None:
    for index, (name, param) in enumerate(params.items()):
        assert equal_in_any_layout(optimizer.spec, param.detach().numpy(), arrays[name]), name
        for key, value in optimizer.state.get(param, {}).items():
            if key != "step":
                theirs = np.asarray(other.state[index][key])
                assert equal_in_any_layout(optimizer.spec, value.numpy(), theirs), f"{key} of {name}"

"""States that start as a copy of the parameter: as it is before its first update, however it and the state are kept."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from cases import equal_bits
from custom_momentum import Anchored

import fastopt
from fastopt import jit
from fastopt.rules import sqrt
from fastopt.state import coded
from fastopt.step.storage import REST


def distance(anchor, param):  # type: ignore[no-untyped-def]
    way = param - anchor
    square_sum = way * way
    return square_sum


def shrunk(lr, square_sum):  # type: ignore[no-untyped-def]
    step = lr / (1 + sqrt(square_sum))  # hides the number of the step, which the first update is known by
    return step


@fastopt.rule(state={"anchor": "param"}, hyper={"lr": 0.1}, coefficients=shrunk, sums=distance)
def Shorter(param, grad, anchor, step):  # type: ignore[no-untyped-def]
    """A step that is shorter the further the parameter is from where it started."""
    param = param - step * grad
    return param, anchor


class AnchoredInNumpy:
    def __init__(self, param: np.ndarray, lr: float = 0.1, pull: float = 0.25) -> None:
        self.param, self.lr, self.pull = param, lr, pull
        self.exp_avg, self.anchor = np.zeros_like(param), param.copy()

    def step(self, grad: np.ndarray) -> None:
        self.exp_avg[...] = 0.5 * self.exp_avg + grad
        self.param -= self.lr * (self.exp_avg + self.pull * (self.param - self.anchor))
        self.anchor += 0.125 * (self.param - self.anchor)


class ShorterInNumpy:
    def __init__(self, param: np.ndarray) -> None:
        self.param, self.anchor = param, param.copy()

    def step(self, grad: np.ndarray) -> None:
        self.param -= 0.1 / (1 + np.sqrt(((self.param - self.anchor) ** 2).sum())) * grad


RULES: list[tuple[Any, Any]] = [(Anchored, AnchoredInNumpy), (Shorter, ShorterInNumpy)]
by_rule = pytest.mark.parametrize(("rule", "in_numpy"), RULES, ids=["Anchored", "Shorter"])
SHAPES = ((5001,), (3, 7), ())
LARGE = 4096
HALVES = [np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)]


def normal(rng: np.random.Generator, dtype: Any = np.float64) -> list[np.ndarray]:
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def assert_close(mine: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """Twenty steps differ by up to 2e-15 of the largest element."""
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-14 * max(1.0, abs(other).max(initial=0.0)))


@by_rule
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_the_state_is_the_parameter_before_its_first_update(
    rule: Any, in_numpy: Any, backend: str, rng: np.random.Generator
) -> None:
    """Also if the parameter was changed since the optimizer was made, or gets its first gradient late."""
    mine = normal(rng)
    optimizer = rule(mine, backend=backend)
    for index, param in enumerate(mine):
        assert not optimizer.state[index]["anchor"].any()
        param *= 2
    theirs = [param.copy() for param in mine]
    expected = [in_numpy(param) for param in theirs]
    for step in range(20):
        gradients: list[Any] = normal(rng)
        if step < 5:
            gradients[1] = None
        if step == 4:
            mine[1][...] = theirs[1][...] = 3.0
            expected[1] = in_numpy(theirs[1])
        optimizer.step(gradients)
        for each, gradient in zip(expected, gradients, strict=True):
            if gradient is not None:
                each.step(gradient)
    assert_close(mine, theirs)
    assert_close([optimizer.state[index]["anchor"] for index in range(3)], [each.anchor for each in expected])


@by_rule
def test_a_group_that_is_added_later_starts_with_its_own_parameters(
    rule: Any, in_numpy: Any, rng: np.random.Generator
) -> None:
    mine = normal(rng)
    theirs = [param.copy() for param in mine]
    optimizer, expected = rule(mine[:2]), [in_numpy(param) for param in theirs]
    for step in range(20):
        gradients = normal(rng)
        if step == 7:
            optimizer.add_param_group({"params": mine[2:]})
        count = 2 if step < 7 else 3
        optimizer.step(gradients[:2] if step < 7 else [gradients[:2], gradients[2:]])
        for each, gradient in zip(expected[:count], gradients, strict=False):
            each.step(gradient)
    assert_close(mine, theirs)


@by_rule
def test_the_rule_sees_the_parameter_after_decoupled_weight_decay(
    rule: Any, in_numpy: Any, rng: np.random.Generator
) -> None:
    mine = normal(rng)
    theirs = [np.array(param * (1 - 0.1 * 0.5)) for param in mine]
    optimizer, expected = rule(mine, weight_decay=0.5, decoupled_weight_decay=True), [in_numpy(each) for each in theirs]
    gradients = normal(rng)
    optimizer.step(gradients)
    for each, gradient in zip(expected, gradients, strict=True):
        each.step(gradient)
    assert_close(mine, theirs)


@by_rule
@pytest.mark.parametrize("n_steps", [0, 4])
def test_training_goes_on_from_a_state_dict(rule: Any, in_numpy: Any, n_steps: int, rng: np.random.Generator) -> None:
    one = normal(rng)
    first = rule(one)
    for _ in range(n_steps):
        first.step(normal(rng))
    other = [param.copy() for param in one]
    second = rule([np.zeros_like(param) for param in one])
    second.load_state_dict(first.state_dict())
    for param, loaded in zip(second.param_groups[0]["params"], other, strict=True):
        param[...] = loaded
    for _ in range(3):
        gradients = normal(rng)
        first.step(gradients)
        second.step(gradients)
    assert all(map(equal_bits, one, second.param_groups[0]["params"]))


@by_rule
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_parameters_of_16_bits_start_it_with_the_number_they_stand_for(
    rule: Any, in_numpy: Any, dtype: Any, backend: str, rng: np.random.Generator
) -> None:
    mine = normal(rng, dtype)
    wide = [param.astype(np.float32) for param in mine]
    optimizer, expected = rule(mine, backend=backend, lr=0.0), rule(wide, backend=backend, lr=0.0)
    gradients = normal(rng, dtype)
    optimizer.step(gradients)
    expected.step([gradient.astype(np.float32) for gradient in gradients])
    for index, param in enumerate(wide):
        assert equal_bits(optimizer.state[index]["anchor"], param)


@by_rule
def test_master_weights_start_it_with_all_their_bits(rule: Any, in_numpy: Any, rng: np.random.Generator) -> None:
    wide = normal(rng, np.float32)
    mine, rests = zip(*map(coded.split, wide), strict=True)
    optimizer, expected = rule([each.view(ml_dtypes.bfloat16) for each in mine], master_weights=True), rule(wide)
    for index, rest in enumerate(rests):
        optimizer.state[index][REST][...] = rest
    for _ in range(3):
        gradients = normal(rng, ml_dtypes.bfloat16)
        optimizer.step(gradients)
        expected.step([gradient.astype(np.float32) for gradient in gradients])
    for index in range(3):
        assert equal_bits(optimizer.state[index]["anchor"], expected.state[index]["anchor"])


@by_rule
@pytest.mark.parametrize("format_name", ["bfloat16", "float8"])
def test_a_state_in_fewer_bits_is_rounded_after_the_first_update(
    rule: Any, in_numpy: Any, format_name: str, rng: np.random.Generator
) -> None:
    param = rng.standard_normal(LARGE).astype(np.float32)
    exact = param.copy()
    optimizer, expected = rule(param, state_dtype={"anchor": format_name}), rule(exact)
    gradient = rng.standard_normal(LARGE).astype(np.float32)
    optimizer.step(gradient)
    expected.step(gradient)
    assert equal_bits(param, exact)


def test_numba_updates_start_it_themselves(rng: np.random.Generator) -> None:
    param = rng.standard_normal(100)
    other = param.copy()
    anchored, optimizer = jit.functions(Anchored), Anchored(other)
    state = anchored.state(param)
    param += 1
    other += 1
    for _ in range(3):
        gradient = rng.standard_normal(100)
        anchored.step(param, gradient, state)
        optimizer.step(gradient)
    assert equal_bits(param, other)
    assert equal_bits(state.anchor, optimizer.state[0]["anchor"])


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def tensors(arrays: list[np.ndarray]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.from_numpy(array.copy())) for array in arrays]


def step(optimizer: Any, params: list[torch.nn.Parameter], gradients: list[Any]) -> None:
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = None if gradient is None else torch.tensor(gradient).to(param.dtype)
    optimizer.step()


@by_rule
@pytest.mark.parametrize("options", [{}, {"flatten": True}], ids=str)
def test_tensors(rule: Any, in_numpy: Any, options: dict[str, Any], rng: np.random.Generator) -> None:
    """With states that the first step makes, and with those that the constructor made, for `flatten=True`."""
    arrays = normal(rng)
    params = tensors(arrays)
    optimizer = rule.torch(params, **options)
    assert bool(optimizer.state) == bool(options)
    with torch.no_grad():
        for param in params:
            param.mul_(2)
    mine = [np.array(2 * array) for array in arrays]
    expected = rule(mine)
    for number in range(5):
        gradients: list[Any] = normal(rng)
        if number < 2:
            gradients[0] = None
        step(optimizer, params, gradients)
        expected.step(gradients)
    for index, param in enumerate(params):
        assert equal_bits(param.detach().numpy(), mine[index])
        assert equal_bits(optimizer.state[param]["anchor"].numpy(), expected.state[index]["anchor"])


@by_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("state_dtype", [None, "float32"])
def test_half_precision_tensors(
    rule: Any, in_numpy: Any, dtype: torch.dtype, state_dtype: str | None, rng: np.random.Generator
) -> None:
    params = [torch.nn.Parameter(param.detach().to(dtype)) for param in tensors(normal(rng))]
    before = [param.detach().float() for param in params]
    optimizer = rule.torch(params, lr=0.0, state_dtype=state_dtype)
    step(optimizer, params, normal(rng))
    for param, start in zip(params, before, strict=True):
        assert optimizer.state[param]["anchor"].dtype is (dtype if state_dtype is None else torch.float32)
        assert torch.equal(optimizer.state[param]["anchor"].float(), start)


@by_rule
@pytest.mark.parametrize("format_name", ["bfloat16", "float8"])
def test_tensors_with_a_state_in_fewer_bits(
    rule: Any, in_numpy: Any, format_name: str, rng: np.random.Generator
) -> None:
    array, gradients = rng.standard_normal((64, 64)), rng.standard_normal((3, 64, 64)).astype(np.float32)
    mine = array.astype(np.float32)
    param = torch.nn.Parameter(torch.from_numpy(mine.copy()).t())
    optimizer, expected = rule.torch([param], state_dtype=format_name), rule(mine, state_dtype=format_name)
    for gradient in gradients:
        step(optimizer, [param], [gradient.T])
        expected.step(gradient)
    assert equal_bits(param.detach().numpy().T, mine)

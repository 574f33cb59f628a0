"""Rules with sums: over a parameter, over all, with every option, in every backend, and what is refused."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, CASES, DTYPES, Case, equal_bits, extra_options, random_gradient
from custom_sums import ByRoot

import fastopt
from fastopt import jit
from fastopt.definitions.specs import SPECS
from fastopt.examples.textbook import TEXTBOOK
from fastopt.kernels.constants import BYTES_IN_CACHE
from fastopt.rules import DialectError

WITH_SUMS = [case for case in CASES if case.has_sums]
by_case = pytest.mark.parametrize("case", WITH_SUMS, ids=str)
IN_TEXTBOOK = {
    str(each): each
    for case in WITH_SUMS
    if not case.spec.has_sums_over_all
    for taken in [inspect.signature(TEXTBOOK[case.optimizer]).parameters]
    for each in [
        Case(case.optimizer, {name: case.options[name] for name in case.options if name in (*taken, "maximize")})
    ]
}
by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


class ByRootInNumpy:
    def __init__(self, params: list[np.ndarray], lr: float = 0.1, beta: float = 0.5) -> None:
        self.params, self.lr, self.beta = params, lr, beta
        self.buffers = [np.zeros_like(param) for param in params]

    def step(self, gradients: list[np.ndarray]) -> None:
        inner = sum(float((param * grad).sum()) for param, grad in zip(self.params, gradients, strict=True))
        shift = self.lr * inner / sum(param.size for param in self.params)
        for param, grad, buffer in zip(self.params, gradients, self.buffers, strict=True):
            buffer[:] = self.beta * buffer + grad
            param -= self.lr / max(np.sqrt((buffer**2).mean()), 0.001) * buffer + shift


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", IN_TEXTBOOK.values(), ids=IN_TEXTBOOK)
def test_each_parameter_has_sums_of_its_own(case: Case, rng: np.random.Generator) -> None:
    """In lists, and as views of one buffer, as the textbook does with each array by itself."""
    shapes = {"matrix": (30, 50), "vector": (7,), "large": (5001,), "none": (0,)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    _, views = fastopt.pack(arrays)
    listed, expected = ([array.copy() for array in arrays.values()] for _ in range(2))
    options = {name: value for name, value in case.options.items() if name != "maximize"}
    textbook = [TEXTBOOK[case.optimizer](each.reshape(-1), **options) for each in expected]
    sign = -1 if case.options.get("maximize") else 1
    one, other = case.make(views), case.make(listed)
    for _ in range(6):
        gradients = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        one.step(gradients)
        other.step(list(gradients.values()))
        for each, gradient in zip(textbook, gradients.values(), strict=True):
            each.step(sign * gradient.reshape(-1))
    for name, mine, theirs in zip(shapes, listed, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-13)
        assert equal_bits(views[name], mine)


def mixed(params: list[np.ndarray], **options: Any) -> fastopt.Optimizer:
    """A group with sums between two without."""
    shares = (params[:2], params[2:4], params[4:])
    groups = [{"params": share, "cautious": index == 1} for index, share in enumerate(shares)]
    return fastopt.AdamW(groups, **options)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0, "zero_grads": True}], ids=["plain", "clipped"])
@pytest.mark.parametrize("make", [fastopt.LAMB, fastopt.StableAdamW, mixed])
def test_more_parameters_than_a_cache_holds(make: Any, options: dict[str, Any], rng: np.random.Generator) -> None:
    """Those that fit into it together are updated before the next are added up: here in three rounds."""
    sizes = (300_000, 5, 600_000, 1, 1_200_000, 40_000, 0)
    starts = [rng.standard_normal(size, np.float32) for size in sizes]
    assert sum(map(np.size, starts)) * 16 > 2 * BYTES_IN_CACHE
    gradients = [[rng.standard_normal(size, np.float32) for size in sizes] for _ in range(2)]
    found = []
    for backend, n_threads in (("reference", 1), ("cython", 1), ("cython", 2), ("numba", 2)):
        params = [start.copy() for start in starts]
        optimizer = make(params, backend=backend, n_threads=n_threads, **options)
        for each in gradients:
            own = [gradient.copy() for gradient in each]
            optimizer.step([own[:2], own[2:4], own[4:]] if make is mixed else own)
        found.append([*params, *(state["exp_avg_sq"] for state in optimizer.state.values())])
    for other in found[1:]:
        assert all(equal_bits(mine, theirs) for mine, theirs in zip(found[0], other, strict=True))


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_a_rule_with_both_kinds_of_sums(backend: str, rng: np.random.Generator) -> None:
    mine = [rng.standard_normal(shape) for shape in ((3, 4), (2001,), (5,))]
    theirs = [param.copy() for param in mine]
    optimizer, expected = ByRoot(mine, backend=backend), ByRootInNumpy(theirs)
    for _ in range(8):
        gradients = [rng.standard_normal(param.shape) for param in mine]
        optimizer.step(gradients)
        expected.step(gradients)
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@by_dtype
@pytest.mark.parametrize("options", extra_options().values(), ids=extra_options())
def test_the_same_bits_with_every_option(dtype: Any, options: dict[str, Any], rng: np.random.Generator) -> None:
    if any(getattr(each, "row", 0) is None for each in options.values()) and "prox" in options:
        pytest.skip("rules of one's own have no proximal step of elements")
    starts = [rng.standard_normal(shape).astype(dtype) for shape in ((65, 63), (1023,), (3,))]
    gradients = [[random_gradient(rng, start.shape, dtype) for start in starts] for _ in range(5)]
    found = []
    for backend, n_threads in (("reference", 1), ("numba", 1), ("numba", 3)):
        params = [start.copy() for start in starts]
        optimizer = ByRoot(params, backend=backend, n_threads=n_threads, **options)
        for step in gradients:
            optimizer.step([gradient.copy() for gradient in step])
        found.append((params, optimizer.state))
    for params, state in found[1:]:
        for index, param in enumerate(params):
            assert equal_bits(param, found[0][0][index])
            assert equal_bits(state[index]["exp_avg"], found[0][1][index]["exp_avg"])


@by_backend
def test_squares_neither_overflow_nor_vanish(backend: str) -> None:
    """Norms beyond what float32 squares can hold."""
    for scale in (1e25, 1e-25):
        param = np.full(4, 2 * scale, np.float32)
        fastopt.LARS(param, lr=1.0, trust_coeff=0.5, eps=0.0, always_adapt=True, backend=backend).step(
            np.full(4, scale, np.float32)
        )
        np.testing.assert_allclose(param, scale, rtol=1e-6)


@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_what_is_not_adapted(name: str, rng: np.random.Generator) -> None:
    """Parameters without weight decay, unless always_adapt; and those whose norm is 0."""
    cls: Any = getattr(fastopt, name)
    gradient = rng.standard_normal(6)
    results = {}
    for adapt in (False, True):
        for start in (0.0, 3.0):
            param = np.full(6, start)
            cls(param, lr=0.1, weight_decay=0.0, always_adapt=adapt).step(gradient)
            results[adapt, start] = param - start
    np.testing.assert_allclose(results[False, 0.0], results[False, 3.0], rtol=1e-12)
    assert equal_bits(results[False, 0.0], results[True, 0.0])
    assert abs(results[True, 3.0] / results[False, 3.0] - 1).min() > 0.5


@pytest.mark.parametrize("case", [case for case in WITH_SUMS if not case.spec.has_sums_over_all], ids=str)
def test_a_weight_decay_of_its_own_for_one_parameter(case: Case, rng: np.random.Generator) -> None:
    starts = [rng.standard_normal(5), rng.standard_normal(7)]
    gradients = [rng.standard_normal(start.shape) for start in starts]
    params, singles = ([start.copy() for start in starts] for _ in range(2))
    optimizer = case.make({"first": params[0], "second": params[1]})
    optimizer.set_segments("second", weight_decay=0.0, lr_scale=0.5)
    optimizer.step({"first": gradients[0], "second": gradients[1]})
    other = Case(case.optimizer, {**case.options, "weight_decay": 0.0, "lr": 0.5 * case.options["lr"]})
    for each, single, gradient in zip((case, other), singles, gradients, strict=True):
        each.make(single).step(gradient)
    assert all(map(equal_bits, params, singles))


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_averages_are_exchanged_without_sums(backend: str) -> None:
    """By which a rule's coefficients divide; NumPy does not warn of that."""
    param = np.full(3, 2.0)
    optimizer = ByRoot(param, ema_decay=0.5, backend=backend)
    optimizer.step(np.ones(3))
    optimizer.step(np.ones(3))
    before = param.copy()
    optimizer.swap_averages()
    assert not equal_bits(param, before)
    optimizer.swap_averages()
    assert equal_bits(param, before)


@pytest.mark.parametrize("name", ["LAMB", "Prodigy"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_without_any_gradient(name: str, backend: str) -> None:
    param = np.ones(3)
    optimizer = getattr(fastopt, name)([param], max_grad_norm=1.0, backend=backend)
    optimizer.step([np.full(3, 2.0)])
    before, state, groups = param.copy(), optimizer.state_dict()["state"], repr(optimizer.state_dict()["param_groups"])
    assert optimizer.grad_norm == np.sqrt(12.0)
    optimizer.step([None])
    assert optimizer.grad_norm == 0
    assert optimizer.iterations == 2
    assert equal_bits(param, before)
    assert repr(optimizer.state_dict()["state"]) == repr(state)
    assert repr(optimizer.state_dict()["param_groups"]) == groups


def test_parameters_without_a_gradient_are_in_no_sum(rng: np.random.Generator) -> None:
    params, single = [np.ones(3), np.full(4, 2.0)], np.ones(3)
    ByRoot(params).step([np.ones(3), None])
    ByRoot([single]).step([np.ones(3)])
    assert equal_bits(params[0], single)
    assert (params[1] == 2.0).all()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))], ids=["copy", "pickle"])
def test_copies_have_the_sums(how: Any, rng: np.random.Generator) -> None:
    optimizer = ByRoot([rng.standard_normal(5)])
    gradients = [[rng.standard_normal(5)] for _ in range(3)]
    optimizer.step(gradients[0])
    other = how(optimizer)
    for each in (optimizer, other):
        for gradient in gradients[1:]:
            each.step(gradient)
    assert equal_bits(optimizer.param_groups[0]["params"][0], other.param_groups[0]["params"][0])


def test_one_unusable_gradient_changes_nothing(rng: np.random.Generator) -> None:
    param = rng.standard_normal(5000)
    optimizer = fastopt.LAMB([param], nonfinite="raise")
    before = param.copy()
    gradient = np.ones(5000)
    gradient[4999] = np.nan
    with pytest.raises(FloatingPointError):
        optimizer.step([gradient])
    assert equal_bits(param, before)


# --- in PyTorch -------------------------------------------------------------------------------------------------------


def test_a_rule_of_ones_own_for_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    arrays = [rng.standard_normal(shape) for shape in ((3, 4), (2001,))]
    params = [torch.nn.Parameter(torch.tensor(array)) for array in arrays]
    optimizer, other = ByRoot.torch(params), ByRoot(arrays)
    for _ in range(4):
        gradients = [rng.standard_normal(array.shape) for array in arrays]
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = torch.tensor(gradient)
        optimizer.step()
        other.step(gradients)
    assert all(equal_bits(param.detach().numpy(), array) for param, array in zip(params, arrays, strict=True))


def test_sums_over_all_need_all_gradients() -> None:
    torch = pytest.importorskip("torch")
    from fastopt.torch import step_in_backward

    with pytest.raises(ValueError, match="ByRoot adds something up over all parameters; in the backward pass"):
        step_in_backward([torch.nn.Parameter(torch.ones(3))], ByRoot.torch)
    params = [torch.nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
    optimizer = ByRoot.torch(params)
    for param in params:
        param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match=r"ByRoot.torch: adding up over all parameters needs .* dtype .*params\[1\]"):
        optimizer.step()
    assert all(param.eq(1).all() for param in params)


def test_parts_of_parameters_are_refused() -> None:
    torch = pytest.importorskip("torch")
    from fastopt.torch import LAMB

    param = torch.nn.Parameter(torch.ones(3))
    param._fsdp_flattened = True
    with pytest.raises(ValueError, match="LAMB adds up whole parameters, but under FullyShardedDataParallel"):
        LAMB([param])


# --- what is refused --------------------------------------------------------------------------------------------------


def two_terms(grad: Any) -> Any:
    first = grad * grad
    second = first + grad
    third = first - grad
    fourth = 2 * grad
    return first, second, third, fourth


def unnamed(grad: Any) -> Any:
    return grad * grad


def of_the_gradient(grad: Any) -> Any:
    grad = grad * grad
    return grad


def of_a_sum(grad: Any, factor: Any) -> Any:
    total = factor * grad
    return total


def factor_of_sum(total: Any, lr: Any) -> Any:
    factor = lr * total
    return factor


def as_lr(grad: Any) -> Any:
    lr = grad * grad
    return lr


def plain(param: Any, grad: Any, lr: Any) -> Any:
    param = param - lr * grad
    return param


def with_factor(param: Any, grad: Any, factor: Any) -> Any:
    param = param - factor * grad
    return param


REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no function": (plain, {"sums": "grad"}, TypeError, "sums must be a function of one element"),
    "four sums": (plain, {"sums": two_terms}, ValueError, "at most 3 sums in a rule, got 4: first, second"),
    "no names": (plain, {"sums": unnamed}, DialectError, "must return variables that it assigns"),
    "an array's name": (plain, {"sums": of_the_gradient}, DialectError, "must return variables that it assigns"),
    "a number's name": (plain, {"sums": as_lr}, DialectError, "there are two numbers called 'lr'"),
    "in a circle": (
        with_factor,
        {"sums": of_a_sum, "coefficients": factor_of_sum},
        DialectError,
        "takes 'factor', which depends on a sum",
    ),
    "numel": (plain, {"sums": two_terms, "hyper": {"lr": 1.0, "numel": 1.0}}, ValueError, "'numel' is the number of"),
}


@pytest.mark.parametrize(("function", "given", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(function: Any, given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastopt.rule(**{"state": (), "hyper": {"lr": 0.1}, **given})(function)


@pytest.mark.parametrize("cls", [*(getattr(fastopt, name) for name, spec in SPECS.items() if spec.has_sums), ByRoot])
def test_single_updates_have_no_sums(cls: Any) -> None:
    with pytest.raises(ValueError, match=f"{cls.__name__} adds up whole parameters before it updates them"):
        jit.functions(cls)
    if cls is not ByRoot:
        with pytest.raises(AttributeError, match="adds up whole parameters"):
            getattr(jit, cls.__name__.lower())

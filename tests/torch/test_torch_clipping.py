"""Clipping: `clip_grad_norm_` and `clip_grad_value_` are torch.nn.utils' own; the optimizers' options do the same."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import Case, each_pair
from torch import Tensor
from torch.nn import Parameter
from torch_pairs import TOLERANCE, by_case, by_class, check_tensor, make, parameters, set_gradients
from torch_peers import TORCH

import fastopt
import fastopt.torch

UTILS = (fastopt.torch, torch.nn.utils)
INF, NAN = math.inf, math.nan


def with_gradients(scale: float = 1.0) -> list[Parameter]:
    params = parameters()
    set_gradients(params, 5)
    for param in params:
        param.grad = param.grad * scale  # type: ignore[operator]
    return params


def with_one(value: float) -> Callable[[], list[Parameter]]:
    def make_params() -> list[Parameter]:
        params = with_gradients()
        params[1].grad[2, 3] = value  # type: ignore[index]
        return params

    return make_params


def some_without() -> list[Parameter]:
    params = with_gradients()
    params[0].grad = params[3].grad = None
    return params


def none_with() -> list[Parameter]:
    return parameters()


def mixed_dtypes() -> list[Parameter]:
    params = [*parameters((40,), (3, 3)), *parameters((7,), (2, 2), dtype=torch.float64)]
    set_gradients(params, 5)
    return params


def not_contiguous() -> list[Parameter]:
    params = parameters((6, 5), (4, 4), (8,))
    set_gradients(params, 5)
    params[0].grad = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).t()
    params[1].grad = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))[:, ::2]
    return params


def of_a_graph() -> list[Parameter]:
    params = parameters((6, 5))
    params[0].grad = params[0] * 3
    return params


def negated() -> list[Parameter]:
    params = parameters((2,), (4,))
    params[0].grad = torch.tensor([1 - 2j, 3 + 1j]).conj().imag
    params[1].grad = torch._neg_view(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return params


def one_twice() -> list[Parameter]:
    params = with_gradients()
    return [*params, params[1]]


MADE: dict[str, Callable[[], list[Parameter]]] = {
    "some": with_gradients,
    "small": lambda: with_gradients(1e-8),
    "large": lambda: with_gradients(1e17),
    "zero": lambda: with_gradients(0.0),
    "some without": some_without,
    "none with": none_with,
    "mixed dtypes": mixed_dtypes,
    "not contiguous": not_contiguous,
    "of a graph": of_a_graph,
    "one twice": one_twice,
    "NaN": with_one(NAN),
    "inf": with_one(INF),
    "minus inf": with_one(-INF),
    "no list": list,
}
by_params = pytest.mark.parametrize("make_params", MADE.values(), ids=MADE)


def check_gradients(mine: list[Parameter], theirs: list[Parameter]) -> None:
    """The norm of mixed dtypes, and so all that it scales, is only as good in torch as float32."""
    for index, (my, their) in enumerate(zip(mine, theirs, strict=True)):
        check_tensor(my.grad, their.grad, f"gradient {index}", TOLERANCE[torch.float32])


@each_pair(make_params=MADE, max_norm=[0, 0.1, 3.0, 1e20, INF], norm_type=[2, 2.0, 1, 3.5, 0, INF])
def test_norms_are_clipped_as_by_torch(
    make_params: Callable[[], list[Parameter]], max_norm: float, norm_type: Any
) -> None:
    lists = [make_params() for _ in UTILS]
    if norm_type == INF:  # torch has none for the empty one
        lists = [[param for param in params if param.numel()] for params in lists]
    norms = [utils.clip_grad_norm_(params, max_norm, norm_type) for utils, params in zip(UTILS, lists, strict=True)]
    check_tensor(*norms, "norm", TOLERANCE[torch.float32])
    assert not norms[0].requires_grad
    check_gradients(*lists)


@by_params
@pytest.mark.parametrize("limit", [0, 0.5, 1e20, INF])
def test_values_are_clipped_as_by_torch(make_params: Callable[[], list[Parameter]], limit: float) -> None:
    lists = [make_params() for _ in UTILS]
    for utils, params in zip(UTILS, lists, strict=True):
        if utils is fastopt.torch or any(param.grad is not None for param in params):  # torch fails where there is none
            assert utils.clip_grad_value_(params, limit) is None
    check_gradients(*lists)


def test_views_that_negate() -> None:
    """torch has no foreach loops for them."""
    mine, theirs = negated(), negated()
    for param in theirs:
        param.grad = param.grad.resolve_neg()  # type: ignore[union-attr]
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        for utils, params in zip(UTILS, (mine, theirs), strict=True):
            getattr(utils, name)(params, 0.7)
        for my, their in zip(mine, theirs, strict=True):
            assert my.grad.is_neg()  # type: ignore[union-attr]
            torch.testing.assert_close(my.grad, their.grad)


def as_generator(params: list[Parameter]) -> Iterator[Parameter]:
    yield from params


@pytest.mark.parametrize("given_as", [list, tuple, iter, as_generator, lambda params: params[1]])
@pytest.mark.parametrize("limit", [torch.tensor(0.5), 0.5])
@pytest.mark.parametrize("foreach", [None, False, True])
def test_how_parameters_and_limits_are_given(given_as: Any, limit: Any, foreach: bool | None) -> None:
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        lists = [with_gradients() for _ in UTILS]
        for utils, params in zip(UTILS, lists, strict=True):
            getattr(utils, name)(given_as(params), limit, foreach=foreach)
        check_gradients(*lists)


@pytest.mark.parametrize("utils", UTILS)
def test_a_generator_that_was_used_up_is_warned_of(utils: Any) -> None:
    with pytest.warns(UserWarning, match="empty generator") as caught:
        assert utils.clip_grad_norm_(as_generator([]), 1.0) == 0
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        utils.clip_grad_norm_([], 1.0)


@pytest.mark.parametrize("utils", UTILS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_error_where_the_norm_is_not_finite(utils: Any, value: float) -> None:
    params = with_one(value)()
    before = [param.grad.clone() for param in params]  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match=r"total norm of order 2\.0 for gradients from `parameters` is non-finite"):
        utils.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    for param, gradient in zip(params, before, strict=True):
        torch.testing.assert_close(param.grad, gradient, rtol=0, atol=0, equal_nan=True)


def test_a_finite_norm_is_no_error() -> None:
    assert fastopt.torch.clip_grad_norm_(with_gradients(), 1.0, error_if_nonfinite=True) > 1


BAD: dict[str, tuple[Callable[[Parameter], Any], Any, str]] = {
    "float8": (
        lambda p: p.data.to(torch.float8_e5m2),
        TypeError,
        r"the gradient of parameters\[1\] is torch.float8_e5m2",
    ),
    "sparse": (lambda p: p.data.to_sparse(), RuntimeError, r"sparse.*the gradient of parameters\[1\]"),
    "complex": (lambda p: p.data.to(torch.complex64), TypeError, r"the gradient of parameters\[1\] is torch.complex64"),
    "meta": (lambda p: p.data.to("meta"), ValueError, r"the gradient of parameters\[1\] is on meta"),
    "expanded": (lambda p: torch.ones(1).expand(9), RuntimeError, r"the gradient of parameters\[1\] is expanded"),
}


class Holder:
    """What clipping asks of a parameter, and no check of what is assigned."""

    def __init__(self, grad: Tensor | None) -> None:
        self.grad = grad
        self.dtype = None if grad is None else grad.dtype
        self.shape = None if grad is None else grad.shape


@pytest.mark.parametrize(("bad", "error", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("clip", [fastopt.torch.clip_grad_norm_, fastopt.torch.clip_grad_value_])
def test_unusable_gradients_change_nothing(bad: Any, error: Any, message: str, clip: Any) -> None:
    good = torch.full((9,), 10.0)
    with pytest.raises(error, match=message):
        clip([Holder(good), Holder(bad(Parameter(torch.ones(9))))], 1.0)
    assert good.tolist() == [10.0] * 9


def test_a_gradient_without_memory_of_its_own_is_refused() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    with pytest.raises(TypeError, match=r"the gradient of parameters\[0\] is a TwoTensor"):
        fastopt.torch.clip_grad_norm_([Holder(TwoTensor(torch.ones(5), torch.ones(5)))], 1.0)  # type: ignore[list-item]


@pytest.mark.parametrize("limit", [-1, NAN, "1", None, True, 1j])
@pytest.mark.parametrize("clip", [fastopt.torch.clip_grad_norm_, fastopt.torch.clip_grad_value_])
def test_bad_limits(clip: Any, limit: Any) -> None:
    params = with_gradients()
    with pytest.raises((TypeError, ValueError), match="must be"):
        clip(params, limit)
    check_gradients(params, with_gradients())


@pytest.mark.parametrize("clip", [fastopt.torch.clip_grad_norm_, fastopt.torch.clip_grad_value_])
def test_versions_count_changes(clip: Any) -> None:
    params = not_contiguous()
    before = [param.grad._version for param in params]  # type: ignore[union-attr]
    clip(params, 0.01)
    assert all(
        param.grad._version > version  # type: ignore[union-attr]
        for param, version in zip(params, before, strict=True)
    )


@pytest.mark.usefixtures("threads_always")
@pytest.mark.parametrize("make_params", [with_gradients, mixed_dtypes, not_contiguous, one_twice])
def test_the_same_bits_with_any_number_of_threads(make_params: Callable[[], list[Parameter]]) -> None:
    results = []
    for n_threads in (1, 2, 3):
        fastopt.set_num_threads(n_threads)
        params = make_params()
        norm = fastopt.torch.clip_grad_norm_(params, 0.5)
        results.append((float(norm), [None if each.grad is None else each.grad.tolist() for each in params]))
    assert results[0] == results[1] == results[2]


@pytest.mark.usefixtures("threads_always")
def test_a_gradient_that_is_there_twice_is_scaled_twice() -> None:
    """By threads too: none scales it while another does."""
    fastopt.set_num_threads(2)
    for _ in range(20):
        param = Parameter(torch.zeros(100_000))
        param.grad = torch.ones(100_000)
        norm = fastopt.torch.clip_grad_norm_([param, param], 1.0)
        assert param.grad.unique().numel() == 1
        assert float(param.grad[0]) == pytest.approx(1 / float(norm) ** 2, rel=1e-5)


# --- as options of the optimizers -----------------------------------------------------------------------------------

LIMITS: dict[str, tuple[dict[str, Any], Callable[[list[Parameter]], Any]]] = {
    "max_grad_norm": ({"max_grad_norm": 0.5}, lambda params: torch.nn.utils.clip_grad_norm_(params, 0.5)),
    "clip_value": ({"clip_value": 0.3}, lambda params: torch.nn.utils.clip_grad_value_(params, 0.3)),
    "clip_norm": (
        {"clip_norm": 0.4},
        lambda params: [torch.nn.utils.clip_grad_norm_([param], 0.4) for param in params],
    ),
}


@by_case
@pytest.mark.parametrize(("options", "clip"), LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("zero_grads", [False, True])
def test_options_do_what_torchs_calls_do(case: Case, options: dict[str, Any], clip: Any, zero_grads: bool) -> None:
    mine, theirs = parameters(), parameters()
    my_optimizer = make(fastopt.torch, case, mine, zero_grads=zero_grads, **options)
    their_optimizer = make(TORCH, case, theirs)
    for seed in range(4):
        set_gradients(mine, seed)
        set_gradients(theirs, seed)
        if seed == 2:
            mine[1].grad = theirs[1].grad = None
        before = [None if param.grad is None else param.grad.clone() for param in mine]
        norm = clip(theirs)
        my_optimizer.step()
        their_optimizer.step()
        for param, gradient in zip(mine, before, strict=True):
            expected = gradient if gradient is None or not zero_grads else torch.zeros_like(gradient)
            assert (param.grad is None) == (expected is None)
            assert expected is None or torch.equal(param.grad, expected)
        if "max_grad_norm" in options:
            assert my_optimizer.grad_norm == pytest.approx(float(norm), rel=1e-6)
    for my, their in zip(mine, theirs, strict=True):
        torch.testing.assert_close(my, their, rtol=1e-4, atol=10 * TOLERANCE[torch.float32])


def test_there_is_no_norm_before_the_first_step() -> None:
    assert math.isnan(fastopt.torch.Adam(parameters(), max_grad_norm=1.0).grad_norm)


@by_class
def test_steps_with_nonfinite_gradients_are_skipped(name: str) -> None:
    params = parameters((4,), (2, 3))
    optimizer = getattr(fastopt.torch, name)([("first", params[0]), ("second", params[1])], lr=0.1, nonfinite="skip")
    set_gradients(params, 0)
    optimizer.step()
    before = [param.tolist() for param in params], [dict(optimizer.state[param]) for param in params]
    counts = [float(state["step"]) for state in before[1] if "step" in state]
    params[1].grad[0, 1] = NAN
    params[1].grad[1, 1] = -INF
    optimizer.step()
    assert [param.tolist() for param in params] == before[0]
    assert [float(optimizer.state[param]["step"]) for param in params if "step" in optimizer.state[param]] == counts
    assert optimizer.skipped_steps == 1
    assert optimizer.nonfinite_counts == {"parameter 'second'": 2}
    set_gradients(params, 1)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert params[0].tolist() != before[0][0]


@by_class
def test_nonfinite_gradients_are_an_error_that_names_them(name: str) -> None:
    params = parameters((4,), (2, 3))
    optimizer = getattr(fastopt.torch, name)(params, lr=0.1, nonfinite="raise")
    set_gradients(params, 0)
    params[1].grad[0, 1] = INF
    before = [param.tolist() for param in params]
    with pytest.raises(FloatingPointError, match=r"1 of 6 in params\[1\]"):
        optimizer.step()
    assert [param.tolist() for param in params] == before
    assert all(float(state.get("step", 0)) == 0 for state in optimizer.state.values())


def test_too_many_skipped_steps_are_an_error() -> None:
    params = parameters((4,))
    optimizer = fastopt.torch.Adam(params, nonfinite="skip", max_consecutive_skips=2)
    params[0].grad = torch.full((4,), NAN)
    optimizer.step()
    optimizer.step()
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        optimizer.step()


def test_options_are_kept_by_copies() -> None:
    import copy
    import pickle

    params = parameters((4,))
    optimizer = fastopt.torch.Adam(params, max_grad_norm=0.5, zero_grads=True)
    for duplicate in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (param,) = duplicate.param_groups[0]["params"]
        param.grad = torch.tensor([3.0, 4.0, 0.0, 0.0])
        duplicate.step()
        assert duplicate.grad_norm == 5
        assert param.grad.tolist() == [0.0] * 4

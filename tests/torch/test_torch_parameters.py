"""Parameters, gradients and states in every shape and place: stepped as torch.optim steps them."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Case, own_rate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter
from torch_pairs import (
    APART,
    MAIN,
    TOLERANCE,
    by_case,
    by_case_apart,
    by_class,
    check_same,
    make,
    parameters,
    set_gradients,
    train,
)
from torch_peers import TORCH, CarryIn, carrying_in, default_dtype

import fastopt.torch
from fastopt.definitions.specs import SPECS
from fastopt.torch.stepping.tensors import Memory, flat_array

ADAM = next(case for case in MAIN if case.optimizer == "Adam")
SGD = next(case for case in MAIN if case.options.get("nesterov"))

# --- how tensors lie in memory --------------------------------------------------------------------------------------


def base() -> Tensor:
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(3))


def two_views() -> list[Parameter]:
    whole = base()
    return [Parameter(whole[:3]), Parameter(whole[3:])]


LAYOUTS: dict[str, Callable[[], list[Any]]] = {
    "contiguous": lambda: [Parameter(base())],
    "transposed": lambda: [Parameter(base().t())],
    "with gaps": lambda: [Parameter(base()[:, ::2])],
    "with gaps, transposed": lambda: [Parameter(base().t()[1:5])],
    "one column": lambda: [Parameter(base()[:, 3])],
    "channels last": lambda: [Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))],
    "no dimensions": lambda: [Parameter(torch.tensor(1.5))],
    "empty": lambda: [Parameter(torch.empty(0)), Parameter(torch.empty(3, 0, 2)), Parameter(base())],
    "views of one storage": two_views,
    "dimensions of one": lambda: [Parameter(base().view(6, 1, 8, 1).transpose(0, 1))],
    "float32 and float64": lambda: [*parameters((4,)), *parameters((3, 2), dtype=torch.float64), *parameters((5,))],
    "float64": lambda: parameters(dtype=torch.float64),
    "one": lambda: [Parameter(torch.ones(1))],
    "none that requires gradients": lambda: [base(), base()],
}


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_memory_of_an_empty_tensor_has_an_address(shape: tuple[int, ...]) -> None:
    """NumPy before 2.4 refuses 0, which is that of torch."""
    tensor = torch.ones(shape)
    assert tensor.data_ptr() == 0
    assert Memory(tensor).__array_interface__["data"][0] > 0
    assert flat_array(tensor).shape == (0,)


@by_case
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_parameters(case: Case, layout: Callable[[], list[Any]], carry_in: CarryIn) -> None:
    carry_in(case.optimizer, torch.float64)

    def make_params() -> list[Any]:
        torch.manual_seed(0)
        return layout()

    if case.spec.has_sums_over_all and len({param.dtype for param in make_params()}) > 1:
        with pytest.raises(ValueError, match="adding up over all parameters needs all parameters to be of one dtype"):
            train(make(fastopt.torch, case, params := make_params()), params)
        return
    check_same(case, train, make_params)


def negated_scalar() -> Tensor:
    return torch.tensor(1 - 2j).conj().imag


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda g: g.t().contiguous().t(),
    "with gaps": lambda g: torch.stack([g, g], -1)[..., 0],
    "expanded": lambda g: g[:1].expand_as(g),
    "one number": lambda g: torch.tensor(0.5).expand_as(g),
    "with an offset": lambda g: torch.cat([torch.zeros(1), g.flatten()])[1:].view(g.shape),
    "of a graph": lambda g: g.requires_grad_() * 2,
    "a Parameter": Parameter,
    "imaginary part of a conjugate": lambda g: torch.complex(g, g).conj().imag,
}


@by_case
@pytest.mark.parametrize("layout", GRADIENTS.values(), ids=GRADIENTS)
def test_layouts_of_gradients(case: Case, layout: Callable[[Tensor], Tensor]) -> None:
    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        for seed in range(3):
            set_gradients(params, seed)
            for param in params:
                assert param.grad is not None
                param.grad = layout(param.grad)
            optimizer.step()
        for param in params:
            assert param.grad is not None
            param.grad = param.grad.detach()

    check_same(case, situation, lambda: [Parameter(base()), Parameter(base().t())])


@by_case
def test_a_negated_gradient_of_one_element(case: Case) -> None:
    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        for _ in range(3):
            params[0].grad = negated_scalar()
            assert params[0].grad.is_neg()
            optimizer.step()
        params[0].grad = None

    check_same(case, situation, lambda: [Parameter(torch.tensor(1.0))])


@by_case
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_gradient_that_is_the_parameters_own_memory(case: Case, backend: str) -> None:
    runs = []
    for module in (fastopt.torch, TORCH):
        params = parameters()
        optimizer = make(module, case, params, **({"backend": backend} if module is fastopt.torch else {}))
        for _ in range(4):
            for param in params:
                param.grad = param.detach()
            optimizer.step()
        runs.append(params)
    for mine, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@by_case_apart
def test_parameters_that_overlap(case: Case) -> None:
    """In order, as torch does."""

    def overlapping() -> list[Parameter]:
        whole = base().flatten()
        return [Parameter(whole[:20]), Parameter(whole[10:30]), Parameter(whole[25:]), Parameter(whole[:5])]

    check_same(case, train, overlapping)


@by_case_apart
def test_a_parameter_twice_in_a_list_is_stepped_twice(case: Case) -> None:
    def situation(_: Any, params: list[Parameter]) -> None:
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = make(situation.module, case, [params[0], params[1], params[0]])  # type: ignore[attr-defined]
        train(optimizer, params)
        situation.states.append({**optimizer.state[params[0]]})  # type: ignore[attr-defined]

    situation.states = []  # type: ignore[attr-defined]
    runs = []
    for situation.module in (fastopt.torch, TORCH):  # type: ignore[attr-defined]
        params = parameters((5,), (4,))
        situation(None, params)
        runs.append(params)
    for mine, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    mine, theirs = situation.states  # type: ignore[attr-defined]
    for name in theirs:
        if theirs[name] is not None:
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-5, atol=1e-6)


# --- which parameters have gradients --------------------------------------------------------------------------------


def without_any_gradient_at_first(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    optimizer.step()
    optimizer.step()
    train(optimizer, params)


def some_never_have_gradients(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params[::2])


def gradients_come_and_go(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    for seed in range(6):
        set_gradients(params, seed)
        for index, param in enumerate(params):
            if (seed + index) % 3 == 0:
                param.grad = None
        optimizer.step()


def frozen_later(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    params[0].requires_grad_(False)
    params[1].requires_grad_(False)
    params[1].grad = None
    optimizer.step()


def a_group_added_later(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    one_dtype = SPECS[type(optimizer).__name__].has_sums_over_all
    more = parameters((4, 4), (3,), dtype=torch.float32 if one_dtype else torch.float64)
    optimizer.add_param_group({"params": more, **own_rate(type(optimizer).__name__, 0.5)})
    train(optimizer, [*params, *more])


def a_parameter_replaced_in_its_group(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    optimizer.state.pop(params[0], None)
    params[0] = optimizer.param_groups[0]["params"][0] = Parameter(torch.ones(3))
    if isinstance(optimizer, torch.optim.Adagrad):  # torch makes its states only with the group
        optimizer.state[params[0]] = {"step": torch.tensor(0.0), "sum": torch.full((3,), 0.25)}
    train(optimizer, params)


def gradients_kept_and_zeroed(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    set_gradients(params, 0)
    for seed in range(4):
        for param in params:
            assert param.grad is not None
            param.grad += seed
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


@by_case
@pytest.mark.parametrize(
    "situation",
    [
        without_any_gradient_at_first,
        some_never_have_gradients,
        gradients_come_and_go,
        frozen_later,
        a_group_added_later,
        a_parameter_replaced_in_its_group,
        gradients_kept_and_zeroed,
    ],
)
def test_which_parameters_have_gradients(case: Case, situation: Any, carry_in: CarryIn) -> None:
    carry_in(case.optimizer, torch.float64)
    check_same(case, situation)


# --- memory that moves ----------------------------------------------------------------------------------------------


def other_data(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    for param in params:
        param.data = param.detach() * 2
    train(optimizer, params)


def data_in_another_layout(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    params[1].data = torch.ones(7, 5).t()
    train(optimizer, params)


def shared_memory(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    torch.nn.ParameterList(params).share_memory()
    train(optimizer, params)


def states_in_shared_memory(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.share_memory_()
    train(optimizer, params)


def changed(name: str, value: Tensor) -> Tensor:
    return value.detach() + 1 if name == "step" else value.detach() * 0.5


def states_with_other_data(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                value.data = changed(name, value)
    train(optimizer, params)


def swapped(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    params[0].grad = None
    other = Parameter(torch.ones_like(params[0]))
    torch.utils.swap_tensors(params[0], other)
    train(optimizer, params)


def states_cleared(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    remade = optimizer.state[params[0]].get("sum") is None  # torch makes Adagrad's only once
    if remade:
        optimizer.state.clear()
    train(optimizer, params)
    if remade:
        optimizer.state = defaultdict(dict)
    train(optimizer, params)


def states_replaced(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                state[name] = changed(name, value)
    train(optimizer, params)
    for param in params:
        optimizer.state[param] = {name: copy.deepcopy(value) for name, value in optimizer.state[param].items()}
    train(optimizer, params)
    optimizer.state = defaultdict(dict, {param: dict(own) for param, own in optimizer.state.items()})
    train(optimizer, params)


def states_edited(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                value.fill_(0.25 if name != "step" else 0)
    train(optimizer, params)


def states_with_other_strides(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    train(optimizer, params)
    state = optimizer.state[params[1]]
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() == 2:
            state[name] = value.t().contiguous().t()
    train(optimizer, params)
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() == 2:
            state[name] = value.contiguous()


@by_case
@pytest.mark.parametrize(
    "situation",
    [
        other_data,
        data_in_another_layout,
        shared_memory,
        states_in_shared_memory,
        states_with_other_data,
        swapped,
        states_cleared,
        states_replaced,
        states_edited,
        states_with_other_strides,
    ],
)
def test_memory_that_moves(case: Case, situation: Any) -> None:
    check_same(case, situation)


def test_adagrad_in_shared_memory() -> None:
    def situation(optimizer: Any, params: list[Parameter]) -> None:
        train(optimizer, params)
        optimizer.share_memory()
        assert optimizer.state[params[0]]["sum"].is_shared()
        train(optimizer, params)

    check_same(Case("Adagrad", {}), situation, lambda: parameters((100_000,), (5,)))


@by_case
def test_a_module_in_another_dtype_with_fresh_states(case: Case) -> None:
    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        train(optimizer, params)
        torch.nn.ParameterList(params).to(torch.float64)
        assert params[0].dtype == torch.float64
        for state in optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor) and name != "step":
                    state[name] = value.double()
        train(optimizer, params)

    check_same(case, situation, tolerance=TOLERANCE[torch.float32])


@by_class
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [None, True])
def test_counts_of_steps_are_of_torchs_dtype(name: str, default: torch.dtype, fused: bool | None) -> None:
    if fused and "fused" not in inspect.signature(getattr(TORCH, name)).parameters:
        fused = None
    with default_dtype(default):
        check_same(Case(name, {"lr": 0.01}), train, **({"fused": fused} if fused else {}))


# --- copies ---------------------------------------------------------------------------------------------------------


def deep_copy(both: Any) -> Any:
    return copy.deepcopy(both)


def through_pickle(both: Any) -> Any:
    return pickle.loads(pickle.dumps(both))


@by_case
@pytest.mark.parametrize("duplicate", [deep_copy, through_pickle])
def test_copies_go_on_by_themselves(case: Case, duplicate: Any) -> None:
    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> list[list[float]]:
        train(optimizer, params)
        other_params, other = duplicate((params, optimizer))
        train(other, other_params, range(5, 8))
        result = [param.tolist() for param in other_params]
        before = [param.tolist() for param in params]
        train(other, other_params)
        assert [param.tolist() for param in params] == before
        return result

    mine, theirs = check_same(case, situation)
    for my, their in zip(mine, theirs, strict=True):
        torch.testing.assert_close(torch.tensor(my), torch.tensor(their), rtol=1e-5, atol=1e-6)


# --- anything -------------------------------------------------------------------------------------------------------


@st.composite
def tensor_plans(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], bool, torch.dtype, tuple[bool, ...], bool]:
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    order = tuple(draw(st.permutations(range(len(shape)))))
    gaps = draw(st.booleans())
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    given_at = tuple(draw(st.lists(st.booleans(), min_size=4, max_size=4)))
    return shape, order, gaps, dtype, given_at, draw(st.booleans())


def laid_out(shape: tuple[int, ...], order: tuple[int, ...], gaps: bool, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    permuted = [shape[axis] for axis in order]
    values = torch.randn([*permuted, 2 if gaps else 1], generator=generator, dtype=dtype)[..., 0]
    return values.permute([order.index(axis) for axis in range(len(shape))])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=st.sampled_from(APART), plans=st.lists(tensor_plans(), min_size=1, max_size=6), split=st.integers(0, 6))
def test_any_tensors(case: Case, plans: list[Any], split: int) -> None:
    def make_params() -> list[Parameter]:
        return [Parameter(laid_out(*plan[:4], seed)) for seed, plan in enumerate(plans)]

    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        moved = params[split:]
        if moved and split:
            group = optimizer.param_groups[0]
            optimizer.param_groups.append({**group, "params": moved, **own_rate(case.optimizer, 0.07)})
            group["params"] = params[:split]
        for step in range(4):
            for index, (param, (shape, order, gaps, dtype, given_at, alike)) in enumerate(
                zip(params, plans, strict=True)
            ):
                seed = 100 * step + index
                layout = (order, gaps) if alike else (tuple(reversed(order)), not gaps)
                param.grad = laid_out(shape, *layout, dtype, seed) if given_at[step] else None
            optimizer.step()

    with carrying_in(case.optimizer, torch.float64):
        check_same(case, situation, make_params)


def test_what_the_tests_compare_can_differ() -> None:
    """The comparison sees a difference where there is one."""

    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        train(optimizer, params)
        if isinstance(optimizer, fastopt.torch.NativeOptimizer):
            optimizer.state[params[0]]["exp_avg"] += 1e-4

    with pytest.raises(AssertionError, match="exp_avg of parameter 0"):
        check_same(ADAM, situation)


@by_class
def test_a_gradient_that_overlaps_its_parameter_is_read_before_anything_is_written(name: str) -> None:
    """Shifted by an element. Torch itself refuses some of these."""
    memory = torch.linspace(-1, 1, 1038)
    params = [Parameter(memory[1:]), Parameter(memory[1:].clone())]
    params[0].grad, params[1].grad = memory[:-1], memory[:-1].clone()
    for param in params:
        getattr(fastopt.torch, name)([param], lr=0.1).step()
    assert torch.equal(*params)

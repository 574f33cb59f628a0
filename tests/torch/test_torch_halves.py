"""bfloat16 and float16 parameters: float32 arithmetic and one rounding, as torch's fused loops do it."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import VARIANTS, Case
from custom_momentum import Momentum
from torch import Tensor, nn
from torch.nn import Parameter
from torch_cases import by_case, gradient, make, parameters, set_values, train
from torch_halves import HALVES, Doubled, by_half, same_bits, spacing
from torch_pairs import MAIN, by_case_apart
from torch_pairs import by_case as by_main_case
from torch_peers import IN_TORCH, TORCH

import fastopt
import fastopt.torch
from fastopt.definitions.specs import SPECS

# --- exactly --------------------------------------------------------------------------------------------------------


@by_case
@by_half
def test_a_step_is_that_of_float32_rounded_once(case: Case, dtype: torch.dtype) -> None:
    doubled = Doubled.of(case, dtype)
    for number in range(4):
        doubled.step(number)
        doubled.check()


OPTIONS: dict[str, dict[str, Any]] = {
    "max_grad_norm": {"max_grad_norm": 0.5},
    "clip_norm": {"clip_norm": 0.1},
    "clip_value": {"clip_value": 0.3},
    "nonfinite": {"nonfinite": "skip"},
    "denormals": {"flush_denormals": False},
    "zero_grads": {"zero_grads": True},
    "reference": {"backend": "reference"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("case", MAIN, ids=str)
@by_half
def test_with_options_too(case: Case, options: dict[str, Any], dtype: torch.dtype) -> None:
    doubled = Doubled.of(case, dtype, **options)
    if options.get("zero_grads"):
        doubled.params.pop("transposed")  # its gradient lies otherwise
    for number in range(2):
        doubled.step(number)
        doubled.check()
        if options.get("zero_grads"):
            assert all(not param.grad.any() for param in doubled.params.values() if param.grad is not None)
    if "max_grad_norm" in options:
        assert doubled.optimizer.grad_norm == doubled.single.grad_norm > 0.5


@by_half
def test_infinities_nans_and_what_overflows(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max

    def change(found: Tensor) -> Tensor:
        flat = found.reshape(-1)
        for index, value in enumerate((torch.inf, -torch.inf, torch.nan, largest, -largest, 1e-30)[: flat.numel()]):
            flat[index] = value
        return flat.reshape(found.shape)

    doubled = Doubled.of(Case("SGD", {"lr": 3.0, "momentum": 0.9}), dtype)
    for number in range(3):
        doubled.step(number, change)
        doubled.check()


@pytest.mark.parametrize("case", MAIN, ids=str)
def test_a_gradient_may_be_float32(case: Case) -> None:
    """As `Tensor.grad_dtype` allows; it changes from step to step."""
    wide, params = (parameters(torch.bfloat16) for _ in range(2))
    mine, theirs = make(fastopt.torch, case, wide), make(fastopt.torch, case, params)
    for number in range(4):
        for name, param in params.items():
            param.grad = gradient(name, param, number)
            wide[name].grad = None
            wide[name].grad_dtype = torch.float32 if number % 2 else None
            if param.grad is not None:
                wide[name].grad = param.grad.float() if number % 2 else param.grad.clone()
        mine.step()
        theirs.step()
    assert all(same_bits(wide[name], param) for name, param in params.items())


# --- against torch --------------------------------------------------------------------------------------------------


def implementations(name: str) -> list[str]:
    has_fused = "fused" in inspect.signature(getattr(TORCH, name)).parameters
    return ["for loop", *(["fused"] if has_fused and name != "SGD" else [])]  # SGD's leaves out blocks: pytorch#191763


# By how many roundings of the change that a step makes torch's step and ours may differ, beside one rounding of the
# result. Torch's fused loops round once, as we do; Adagrad's goes on with the sum as it is rounded. The others round
# after each operation, which matters most where differences cancel (centered RMSprop: 32) and where a root is taken of
# what float16 has few digits of (Adam: 293; we compare with a large eps, or it would be what v became 0 for).
ROUNDINGS = {
    ("fused", torch.bfloat16): 0.5,
    ("fused", torch.float16): 0.5,
    ("for loop", torch.bfloat16): 40.0,
    ("for loop", torch.float16): 400.0,
}


@pytest.mark.parametrize(
    ("case", "implementation"),
    [
        pytest.param(case, each, id=f"{case}-{each}")
        for case in IN_TORCH
        if case.spec.in_torch
        for each in implementations(case.optimizer)
    ],
)
@by_half
def test_torchs_step_is_the_same_but_for_its_roundings(case: Case, implementation: str, dtype: torch.dtype) -> None:
    if dtype is torch.float16 and "eps" in case.options:
        case = Case(case.optimizer, {**case.options, "eps": 0.01})
    flags = {"fused": True} if implementation == "fused" else {"foreach": False}
    params, others = (parameters(dtype, plain=implementation == "fused") for _ in range(2))
    theirs, mine = make(TORCH, case, others, **flags), make(fastopt.torch, case, params)
    for number in range(6):
        set_values(params, others)
        mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
        before = snapshot(theirs, others)
        train(mine, params, [number])
        train(theirs, others, [number])
        for name, param in params.items():
            my_state, their_state = mine.state.get(param, {}), theirs.state.get(others[name], {})
            assert my_state.keys() == their_state.keys()
            for key, value in {"parameter": others[name], **their_state}.items():
                found = param if key == "parameter" else my_state[key]
                assert found.dtype == value.dtype
                if value.is_floating_point() and value.numel():
                    limit = ROUNDINGS[implementation, dtype]
                    check_roundings(f"{key} of {name}", found, value, before[name].get(key), limit)


def snapshot(optimizer: Any, params: dict[str, Parameter]) -> dict[str, dict[str, Tensor]]:
    return {
        name: {
            key: value.detach().clone()
            for key, value in {"parameter": param, **optimizer.state.get(param, {})}.items()
            if isinstance(value, Tensor)
        }
        for name, param in params.items()
    }


def check_roundings(label: str, mine: Tensor, theirs: Tensor, before: Tensor | None, roundings: float) -> None:
    if theirs.dtype not in HALVES:
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)
        return
    mine, wide = mine.detach().double(), theirs.detach().double()
    change = wide if before is None else (wide - before.double())
    unit, relative = spacing(torch.maximum(mine.abs(), wide.abs()), theirs.dtype), torch.finfo(theirs.dtype).eps
    allowed = unit + roundings * relative * change.abs()
    error = (mine - wide).abs()
    assert bool((error <= allowed).all()), f"{label}: {float((error / allowed).max()):.2f} times what is allowed"


# --- in one call ----------------------------------------------------------------------------------------------------

KINDS = (torch.float32, torch.bfloat16, torch.float16)


def of_all_kinds() -> list[Parameter]:
    generator = torch.Generator().manual_seed(2)
    shapes = ((700,), (5, 7), ())
    return [Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes for dtype in KINDS]


def give_gradients(params: list[Parameter], number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


@by_main_case
@pytest.mark.parametrize("backend", ["cython", "reference"])
@pytest.mark.usefixtures("threads_always")
def test_kinds_are_stepped_together_as_by_themselves(case: Case, backend: str) -> None:
    cls = getattr(fastopt.torch, case.optimizer)
    params, others = of_all_kinds(), of_all_kinds()
    options = fastopt_options(case)
    together = cls(params, **options, backend=backend, n_threads=2)
    alone = [cls([param], **options) for param in others]
    for number in range(3):
        give_gradients(params, number)
        give_gradients(others, number)
        together.step()
        for optimizer in alone:
            optimizer.step()
    assert all(same_bits(param, other) for param, other in zip(params, others, strict=True))
    assert len(together._stepper.update.rounds) == 1


def fastopt_options(case: Case) -> dict[str, Any]:
    return {key: value for key, value in case.options.items() if key != "decoupled_weight_decay"}


@by_half
def test_own_rules(dtype: torch.dtype) -> None:
    doubled = Doubled(dtype, lambda params: Momentum.torch(list(params.values()), nesterov=True))
    for number in range(3):
        doubled.step(number)
        doubled.check()


@by_main_case
@pytest.mark.parametrize("dtype", [*HALVES, None], ids=str)
def test_one_buffer_gives_the_same_bits(case: Case, dtype: torch.dtype | None) -> None:
    params, others = (of_all_kinds() for _ in range(2))
    if dtype is not None:
        params, others = ([param for param in each if param.dtype is dtype] for each in (params, others))
    cls, options = getattr(fastopt.torch, case.optimizer), fastopt_options(case)
    flat, plain = cls(params, **options, flatten=True), cls(others, **options)
    assert len(flat._host.buffers) == (1 if dtype else 3)
    for number in range(3):
        flat.zero_grad()
        give_gradients(others, number)
        for param, other in zip(params, others, strict=True):
            param.grad.copy_(other.grad)  # type: ignore[union-attr]
        flat.step()
        plain.step()
    for param, other in zip(params, others, strict=True):
        assert same_bits(param, other)
        for key, value in plain.state[other].items():
            assert same_bits(flat.state[param][key], value)
    (one,) = flat._stepper.update.rounds
    assert len(one.engines) == (1 if case.has_sums else 2)
    assert int(one.engines[-1].records.steps[0]) > 0, "it was not stepped as one"


@by_case_apart
def test_stepping_in_the_backward_pass(case: Case) -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).to(torch.bfloat16)

    mine, theirs = network(), network()
    cls, options = getattr(fastopt.torch, case.optimizer), fastopt_options(case)
    fastopt.torch.step_in_backward(mine, cls, **options)
    optimizer = cls(theirs.parameters(), **options)
    for _ in range(3):
        inputs = torch.randn(4, 7, dtype=torch.bfloat16)
        optimizer.zero_grad()
        for model in (mine, theirs):
            model(inputs).square().mean().backward()
        optimizer.step()
    assert all(same_bits(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


# --- gradient scalers and clipping ----------------------------------------------------------------------------------


def test_a_gradient_scaler_with_float16() -> None:
    """The update divides gradients by the scale in float32; a step with infinities is skipped."""
    params, others = ([Parameter(torch.ones(5, dtype=torch.float16))] for _ in range(2))
    mine, theirs = fastopt.torch.SGD(params, lr=0.5), fastopt.torch.SGD(others, lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=100)
    values = torch.tensor([1e-7, 1e-3, 0.25, 3.0, -2.0])
    scaler.scale((params[0] * values).sum()).backward()
    scaled = params[0].grad.clone()  # type: ignore[union-attr]
    assert scaled[0] != 0
    scaler.step(mine)
    scaler.update()
    others[0].grad_dtype = torch.float32
    others[0].grad = scaled.float() / 2.0**12
    theirs.step()
    assert same_bits(params[0], others[0])
    assert torch.equal(params[0].grad, scaled)  # type: ignore[arg-type]
    before = params[0].detach().clone()
    params[0].grad = torch.tensor([1, torch.inf, 1, 1, 1], dtype=torch.float16)
    scaler.step(mine)
    scaler.update()
    assert torch.equal(params[0], before)
    assert scaler.get_scale() == 2.0**11


@pytest.mark.parametrize("layout", [lambda g: g, lambda g: g.t().contiguous().t()], ids=["contiguous", "transposed"])
@by_half
def test_gradients_are_clipped_as_in_float32_and_rounded_once(dtype: torch.dtype, layout: Callable[..., Any]) -> None:
    def params() -> list[Parameter]:
        generator = torch.Generator().manual_seed(7)
        made = [Parameter(torch.zeros(shape, dtype=kind)) for shape in ((70, 30), (3, 0), (9, 9)) for kind in KINDS]
        for param in made:
            param.grad = layout(torch.randn(param.shape, generator=generator).to(dtype)).to(param.dtype)
        return made

    mine, theirs = params(), params()
    for param in theirs:
        found, param.grad = param.grad, None
        param.grad_dtype = torch.float32
        param.grad = found.float()  # type: ignore[union-attr]
    norms = [fastopt.torch.clip_grad_norm_(each, 3.0) for each in (mine, theirs)]
    assert torch.equal(*norms)
    assert norms[0].dtype == torch.float32
    reference = torch.nn.utils.clip_grad_norm_([Parameter(p.grad.float()) for p in mine if p.grad is not None], 1.0)
    assert reference == 0  # parameters without gradients: torch agrees that there is nothing
    for _ in range(2):
        for my, their in zip(mine, theirs, strict=True):
            assert same_bits(my.grad, their.grad.to(my.dtype))  # type: ignore[union-attr,arg-type]
        for each in (mine, theirs):
            fastopt.torch.clip_grad_value_(each, 0.01)


@by_half
def test_the_norm_is_that_of_the_values(dtype: torch.dtype) -> None:
    """torch adds up in the gradients' dtype, whose sum overflows in float16 and loses digits in bfloat16."""
    param = Parameter(torch.zeros(100_000, dtype=dtype))
    param.grad = torch.full_like(param, 300.0)
    norm = fastopt.torch.clip_grad_norm_([param], 1e9)
    assert float(norm) == pytest.approx(300 * 100_000**0.5, rel=1e-6)


def test_nonfinite_gradients_are_counted_and_named() -> None:
    params = of_all_kinds()
    optimizer = fastopt.torch.Adam(params, nonfinite="skip")
    give_gradients(params, 0)
    params[1].grad[3] = torch.inf  # type: ignore[index]
    params[2].grad[:2] = torch.nan  # type: ignore[index]
    before = [param.detach().clone() for param in params]
    optimizer.step()
    assert optimizer.nonfinite_counts == {"params[1]": 1, "params[2]": 2}
    assert all(torch.equal(param, old) for param, old in zip(params, before, strict=True))


# --- saving ---------------------------------------------------------------------------------------------------------


@by_main_case
@by_half
@pytest.mark.parametrize("way", ["to torch and back", "file", "deepcopy", "pickle"])
def test_training_goes_on(case: Case, dtype: torch.dtype, way: str) -> None:
    """Through a file or a copy with the same bits as without; through torch's class, which has the same states."""
    params, others = parameters(dtype), parameters(dtype)
    mine, theirs = make(fastopt.torch, case, params), make(fastopt.torch, case, others)
    train(mine, params, range(3))
    train(theirs, others, range(3))
    if way == "to torch and back":
        peer = make(TORCH, case, parameters(dtype))
        peer.load_state_dict(mine.state_dict())
        again = parameters(dtype)
        set_values(again, params)
        mine, params = make(fastopt.torch, case, again), again
        mine.load_state_dict(peer.state_dict())
    elif way == "file":
        file = io.BytesIO()
        torch.save(mine.state_dict(), file)
        mine = make(fastopt.torch, case, params)
        mine.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    elif way == "deepcopy":
        params, mine = copy.deepcopy((params, mine))
    else:
        params, mine = pickle.loads(pickle.dumps((params, mine)))
    train(mine, params, range(3, 5))
    train(theirs, others, range(3, 5))
    rounded = SPECS[case.optimizer].carried and way == "to torch and back"  # torch rounds these numbers to the dtype
    for name, param in params.items():
        assert rounded or same_bits(param, others[name]), name


@by_main_case
@by_half
def test_states_of_float32_are_kept_when_they_are_loaded(case: Case, dtype: torch.dtype) -> None:
    """Torch's class rounds them to the parameters' dtype (pytorch#43706). Steps read and write them as they are."""
    singles = parameters(torch.float32)
    single = make(fastopt.torch, case, singles)
    train(single, singles, range(3))
    params = parameters(dtype)
    set_values(params, singles)
    optimizer = make(fastopt.torch, case, params)
    optimizer.load_state_dict(copy.deepcopy(single.state_dict()))
    for name, param in params.items():
        for key, value in single.state.get(singles[name], {}).items():
            assert same_bits(optimizer.state[param][key], value), f"{key} of {name}"
    set_values(singles, params)
    for name, param in params.items():
        param.grad = gradient(name, param, 3)
        singles[name].grad = None if param.grad is None else param.grad.float()
    optimizer.step()
    single.step()
    for name, param in params.items():
        assert same_bits(param, singles[name].to(dtype))
        for key, value in single.state.get(singles[name], {}).items():
            assert same_bits(optimizer.state[param][key], value), f"{key} of {name}"


@by_half
def test_a_numpy_optimizers_states_are_kept(dtype: torch.dtype) -> None:
    array = np.linspace(1, 2, 300, dtype=np.float32)
    source = fastopt.Adam(array)
    source.step(np.linspace(-1, 1, 300, dtype=np.float32))
    param = Parameter(torch.tensor(array).to(dtype))
    optimizer = fastopt.torch.Adam([param])
    optimizer.load_state_dict(source.state_dict())
    assert torch.equal(optimizer.state[param]["exp_avg"], torch.tensor(source.state[0]["exp_avg"]))
    param.grad = torch.ones_like(param)
    optimizer.step()


def test_states_of_a_half_become_float32_with_a_float32_parameter() -> None:
    """As in torch: nothing is lost, and float32 training is not held up by states of fewer digits."""
    half = Parameter(torch.ones(5, dtype=torch.bfloat16))
    source = fastopt.torch.Adam([half])
    half.grad = torch.full_like(half, 0.3)
    source.step()
    param = Parameter(torch.ones(5))
    optimizer = fastopt.torch.Adam([param])
    optimizer.load_state_dict(source.state_dict())
    assert same_bits(optimizer.state[param]["exp_avg"], source.state[half]["exp_avg"].float())


def test_other_dtypes_of_states_and_gradients_are_refused() -> None:
    param = Parameter(torch.ones(5, dtype=torch.bfloat16))
    optimizer = fastopt.torch.Adam([param])
    param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.state[param]["exp_avg"] = optimizer.state[param]["exp_avg"].double()
    before = param.detach().clone()
    with pytest.raises(ValueError, match=r"'exp_avg' in the state of params\[0\] must be of its parameter's dtype"):
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    param.grad_dtype = None
    param.grad = torch.ones(5, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"of its parameter's dtype torch.bfloat16 or torch.float32, got torch.float64"):
        optimizer.step()
    assert torch.equal(param, before)


@by_half
def test_a_model_that_becomes_a_half_keeps_its_states(dtype: torch.dtype) -> None:
    """torch's class would mix dtypes and raise an error."""
    model = nn.Linear(3, 2)
    optimizer = fastopt.torch.Adam(model.parameters())
    for kind in (torch.float32, dtype):
        model.to(kind)
        optimizer.zero_grad()
        model(torch.ones(1, 3, dtype=kind)).sum().backward()
        optimizer.step()
    assert {state["exp_avg"].dtype for state in optimizer.state.values()} == {torch.float32}


def test_the_cases_cover_every_optimizer() -> None:
    assert {case.optimizer for case in MAIN} == {case.optimizer for case in IN_TORCH} == set(SPECS)
    assert {case.optimizer for case in VARIANTS} == set(SPECS)

"""Parameters that are frozen or have no shape yet: they may be anything, and are judged when they have a gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import each_pair
from torch import Tensor, nn
from torch.nn import Parameter
from torch_pairs import CLASSES, by_class, parameters, set_gradients
from torch_peers import TORCH, makes_states_early

import fastopt.torch
from fastopt.torch import step_in_backward


class Quantised(Tensor):
    """Codes and a scale, as the weights of quantised models are: a tensor without elements in its memory."""

    @staticmethod
    def __new__(cls, values: Tensor) -> Quantised:
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype)  # type: ignore[attr-defined,no-any-return]

    def __init__(self, values: Tensor) -> None:
        self.scale = values.abs().max() / 127
        self.codes = (values / self.scale).round().to(torch.int8)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return args[0]
        plain = [each.codes * each.scale if isinstance(each, Quantised) else each for each in args]
        return function(*plain, **(kwargs or {}))


def quantised_by_torch() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 10, torch.qint8)


def inference() -> Tensor:
    with torch.inference_mode():
        return torch.ones(3)


FROZEN: dict[str, Callable[[], Tensor]] = {
    "bfloat16": lambda: torch.ones(3, dtype=torch.bfloat16),
    "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "int8": lambda: torch.ones(3, dtype=torch.int8),
    "int64": lambda: torch.ones(3, dtype=torch.int64),
    "bool": lambda: torch.ones(3, dtype=torch.bool),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "sparse": lambda: torch.ones(3).to_sparse(),
    "quantised by torch": quantised_by_torch,
    "a quantised class": lambda: Quantised(torch.ones(3)),
    "meta": lambda: torch.ones(3, device="meta"),
    "inference": inference,
    "negated": lambda: torch._neg_view(torch.ones(3)),
    "expanded": lambda: torch.ones(1).expand(3),
}


def makes_its_states(name: str, frozen: Tensor) -> bool:
    """Whether torch's class can make a frozen parameter's states in its constructor, if it does."""
    try:
        getattr(TORCH, name)([frozen])
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return False
    return True


@each_pair(name=CLASSES, make_frozen=FROZEN, options=[{}, {"flatten": True}, {"backend": "reference"}])
def test_frozen_parameters_are_let_through(
    name: str, make_frozen: Callable[[], Tensor], options: dict[str, Any]
) -> None:
    frozen = Parameter(made, requires_grad=False) if type(made := make_frozen()) is Tensor else made
    if makes_states_early(name) and not makes_its_states(name, frozen):
        pytest.skip("torch's class refuses it, too")
    params, others = parameters((3,), (4, 2)), parameters((3,), (4, 2))
    cls = getattr(fastopt.torch, name)
    mine, theirs = cls([params[0], frozen, params[1]], **options), cls(others)
    for seed in range(3):
        for each, optimizer in ((params, mine), (others, theirs)):
            set_gradients(each, seed)
            optimizer.step()
    assert all(torch.equal(param, other) for param, other in zip(params, others, strict=True))
    mine.add_param_group({"params": [Parameter(torch.ones(2))]})
    mine.load_state_dict(mine.state_dict())


JUDGED: dict[str, tuple[type[Exception], str]] = {
    "int64": (TypeError, r"params\[1\] is torch.int64"),
    "int8": (TypeError, r"params\[1\] is torch.int8"),
    "complex": (TypeError, r"params\[1\] is torch.complex64"),
    "sparse": (RuntimeError, r"sparse.*params\[1\] is torch.sparse_coo"),
    "a quantised class": (TypeError, r"params\[1\] is a Quantised"),
    "meta": (ValueError, r"params\[1\] is on meta"),
    "inference": (ValueError, r"params\[1\] is an inference tensor"),
    "negated": (ValueError, r"params\[1\] is a view that negates"),
}


@pytest.mark.parametrize("kind", JUDGED)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_they_are_judged_when_they_have_a_gradient(kind: str, backend: str) -> None:
    error, message = JUDGED[kind]
    (param,) = parameters((3,))
    frozen = FROZEN[kind]()
    optimizer = fastopt.torch.Adam([param, frozen], backend=backend)
    set_gradients([param], 0)
    optimizer.step()
    before = param.detach().clone()
    frozen.grad = FROZEN[kind]()
    set_gradients([param], 1)
    with pytest.raises(error, match=message):
        optimizer.step()
    assert torch.equal(param, before)
    frozen.grad = None
    optimizer.step()
    assert not torch.equal(param, before)


class Adapted(nn.Module):
    """A frozen layer and a small trained one beside it (LoRA)."""

    def __init__(self, base: nn.Parameter) -> None:
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(0)
        self.down = Parameter(torch.randn(2, 6, generator=generator))
        self.up = Parameter(torch.zeros(4, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.base.to(inputs.dtype).t() + inputs @ self.down.t() @ self.up.t()


BASES: dict[str, Callable[[], Parameter]] = {
    "bfloat16": lambda: Parameter(torch.ones(4, 6, dtype=torch.bfloat16), requires_grad=False),
    "float16": lambda: Parameter(torch.ones(4, 6, dtype=torch.float16), requires_grad=False),
    "int8": lambda: Parameter(torch.ones(4, 6, dtype=torch.int8), requires_grad=False),
    "float8": lambda: Parameter(torch.ones(4, 6).to(torch.float8_e4m3fn), requires_grad=False),
}


@by_class
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_adapters_over_a_frozen_base(name: str, base: Callable[[], Parameter]) -> None:
    losses = []
    for module in (fastopt.torch, TORCH):
        model = Adapted(base())
        optimizer = getattr(module, name)(model.parameters(), lr=0.01)
        for seed in range(4):
            inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            loss = model(inputs).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)


@by_class
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_lazy_parameters(name: str, backend: str) -> None:
    """An optimizer is made before the first forward pass, which gives them their shape."""
    if makes_states_early(name):
        with pytest.raises(ValueError, match="uninitialized parameter"):  # torch's own
            getattr(fastopt.torch, name)(nn.LazyLinear(3).parameters())
        return
    trained = []
    for module in (fastopt.torch, TORCH):
        torch.manual_seed(0)
        model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))
        options = {"backend": backend} if module is fastopt.torch else {}
        optimizer = getattr(module, name)(model.parameters(), lr=0.01, **options)
        optimizer.step()
        for seed in range(3):
            optimizer.zero_grad()
            model(torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
            optimizer.step()
        trained.append(list(model.parameters()))
    for mine, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_lazy_parameters_in_the_backward_pass_need_shapes() -> None:
    model = nn.LazyLinear(3)
    with pytest.raises(ValueError, match=r"params\[0\] has no shape yet; do a forward pass first"):
        step_in_backward(model, fastopt.torch.Adam)
    before = model(torch.ones(5, 4)).detach()
    step_in_backward(model, fastopt.torch.Adam)
    model(torch.ones(5, 4)).sum().backward()
    assert not torch.equal(model(torch.ones(5, 4)), before)


def test_one_buffer_needs_shapes() -> None:
    with pytest.raises(ValueError, match=r"flatten=True needs to know shapes; params\[0\] has none before a forward"):
        fastopt.torch.Adam(nn.LazyLinear(3).parameters(), flatten=True)

"""Inference mode, models that change their dtype or get memory late, integer counts: as torch does, or an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch_pairs import by_class, parameters, set_gradients, snapshot, train
from torch_peers import makes_states_early

import fastopt.torch

# --- inference mode -------------------------------------------------------------------------------------------------


def gapped() -> list[Parameter]:
    return [Parameter(torch.linspace(1, 2, 24).reshape(4, 6)[:, ::2])]


@by_class
@pytest.mark.parametrize("make_params", [parameters, gapped], ids=lambda each: each.__name__)
@pytest.mark.parametrize("options", [{}, {"zero_grads": True}, {"backend": "reference"}], ids=str)
def test_steps_in_inference_mode_and_outside(name: str, make_params: Any, options: dict[str, Any]) -> None:
    """In torch, states that are made in inference mode cannot be used outside of it."""
    runs = []
    for inside in ((0, 2), ()):
        params = make_params()
        optimizer = getattr(fastopt.torch, name)(params, **options)
        for step in range(4):
            with torch.inference_mode(step in inside):
                train(optimizer, params, [step])
        runs.append(snapshot(optimizer))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_optimizers_are_made_in_inference_mode(name: str) -> None:
    for options in ({}, {"flatten": True}):
        params = parameters()
        with torch.inference_mode():
            optimizer = getattr(fastopt.torch, name)(params, **options)
        train(optimizer, params)
        sum(param.square().sum() for param in params).backward()  # type: ignore[union-attr]


# --- another dtype, no memory yet -----------------------------------------------------------------------------------


@by_class
@pytest.mark.parametrize("flatten", [False, True])
def test_a_model_that_becomes_double(name: str, flatten: bool) -> None:
    model = nn.Linear(3, 2)
    optimizer = getattr(fastopt.torch, name)(model.parameters(), flatten=flatten)
    train(optimizer, model.parameters())
    model.double()
    set_gradients(model.parameters(), 5)
    has_states = any(value.numel() > 1 for own in optimizer.state.values() for value in own.values())
    if has_states:
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match=r"load_state_dict\(optimizer\.state_dict\(\)\) converts the states"):
            optimizer.step()
        assert snapshot(optimizer) == before
        optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert all(
        value.dtype == torch.float64
        for own in optimizer.state.values()
        for key, value in own.items()
        if key != "step" and value.numel() > 1
    )


@by_class
def test_a_model_without_memory_yet(name: str) -> None:
    model = nn.Linear(3, 2, device="meta")
    if makes_states_early(name):
        pytest.skip("torch's constructor makes states")
    with pytest.raises(ValueError, match=r"params\[0\] is on meta.*model\.to_empty\(device='cpu'\)"):
        getattr(fastopt.torch, name)(model.parameters())
    model.to_empty(device="cpu")
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(1.0)
    train(getattr(fastopt.torch, name)(model.parameters()), model.parameters())


# --- counts of steps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", ["cython", "reference"])
@pytest.mark.parametrize("flatten", [False, True])
def test_a_count_of_any_dtype(dtype: torch.dtype, backend: str, flatten: bool) -> None:
    runs = []
    for each in (dtype, torch.float32):
        params = parameters()
        optimizer = fastopt.torch.Adam(params, backend=backend, flatten=flatten)
        train(optimizer, params)
        for own in optimizer.state.values():
            own["step"] = own["step"].to(each)
        train(optimizer, params)
        assert {own["step"].dtype for own in optimizer.state.values()} == {each}
        runs.append(snapshot(optimizer))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("count", [3, torch.tensor(True), torch.tensor([1, 2]), torch.tensor(1.0).half()], ids=str)
def test_other_counts_are_refused(count: Any) -> None:
    params = parameters((3,))
    optimizer = fastopt.torch.Adam(params)
    train(optimizer, params)
    optimizer.state[params[0]]["step"] = count
    with pytest.raises(TypeError, match=r"'step' in the state of params.*must be a float32, .* int64 tensor"):
        optimizer.step()


# --- subclasses -----------------------------------------------------------------------------------------------------


class Liar(torch.Tensor):
    """Says something untrue of itself."""

    @staticmethod
    def __new__(cls, values: Tensor) -> Liar:
        result: Liar = torch.Tensor._make_subclass(cls, values)
        return result


LIES: dict[str, Callable[[Liar], Any]] = {
    "ndim": lambda self: 7,
    "shape": lambda self: torch.Size((10**9,)),
    "dtype": lambda self: torch.float64,
    "is_sparse": lambda self: True,
}
METHOD_LIES: dict[str, Any] = {
    "numel": 10**9,
    "dim": 7,
    "size": torch.Size((10**9,)),
    "stride": (5, 1),
    "data_ptr": 64,
    "element_size": 1,
    "storage_offset": 10**9,
}


def liar(name: str) -> type[Liar]:
    said: Any = property(LIES[name]) if name in LIES else lambda self, *arguments: METHOD_LIES[name]
    return type("Liar", (Liar,), {name: said})


@pytest.mark.parametrize("backend", ["cython", "reference"])
@pytest.mark.parametrize("place", ["parameter", "gradient", "state"])
@pytest.mark.parametrize("name", [*LIES, *METHOD_LIES])
def test_a_tensor_that_lies_is_refused_or_right(name: str, place: str, backend: str) -> None:
    cls = liar(name)
    values = torch.ones(4, 3)
    error = ""
    try:
        param = cls(values.clone()) if place == "parameter" else Parameter(values.clone())
        optimizer = fastopt.torch.Adam([param], lr=0.5, backend=backend)
        for _ in range(2):
            param.grad = cls(values.clone()) if place == "gradient" else values.clone()
            optimizer.step()
            if place == "state":
                optimizer.state[param]["exp_avg"] = cls(optimizer.state[param]["exp_avg"])
    except (TypeError, ValueError, RuntimeError) as raised:
        error = str(raised)
    if error:
        assert any(word in error for word in ("Liar", "sparse", "torch.float64"))
    else:
        torch.testing.assert_close(torch.Tensor.detach(param).as_subclass(Tensor), torch.zeros(4, 3), atol=1e-5, rtol=0)


class Meddler(torch.Tensor):
    """Resizes the state of another parameter when its gradient is looked up."""

    meddle: Callable[[], None] | None = None

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if cls.meddle is not None and function == torch.Tensor.grad.__get__:  # type: ignore[attr-defined]
            cls.meddle()
        return super().__torch_function__(function, types, args, kwargs or {})


def test_what_python_does_while_gradients_are_looked_up_is_noticed() -> None:
    plain = Parameter(torch.ones(50_000))
    meddler: Any = torch.Tensor._make_subclass(Meddler, torch.ones(3))
    optimizer = fastopt.torch.Adam([plain, meddler])
    for param in (plain, meddler):
        param.grad = torch.ones(param.shape)
    optimizer.step()
    optimizer.step()
    storage = optimizer.state[plain]["exp_avg"].untyped_storage()
    Meddler.meddle = lambda: storage.resize_(0)  # type: ignore[assignment,return-value]
    try:
        with pytest.raises(RuntimeError, match="its storage has 0 bytes"):
            optimizer.step()
    finally:
        Meddler.meddle = None

"""What fastopt.torch refuses, when, and that nothing is changed then."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import arguments_in_torch
from processes import in_a_fresh_process
from torch import Tensor
from torch.nn import Parameter
from torch_pairs import by_class, parameters, set_gradients, snapshot, train
from torch_peers import makes_states_early

import fastopt.torch
from fastopt.definitions.specs import SPECS
from fastopt.torch.base import OPTIONS


class Logged(torch.Tensor):
    """A subclass with a memory of its own, and a say in what is done with it."""

    @staticmethod
    def __new__(cls, values: Tensor) -> Logged:
        result: Logged = torch.Tensor._make_subclass(cls, values)
        return result

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C._DisableTorchDispatch():
            return function(*args, **(kwargs or {}))


class Plain(torch.Tensor):
    """A subclass without."""


def two_tensors(values: Tensor) -> Tensor:
    from torch.testing._internal.two_tensor import TwoTensor

    return TwoTensor(values, values.clone())


def inference(values: Tensor) -> Tensor:
    with torch.inference_mode():
        return values.clone()


# --- parameters -----------------------------------------------------------------------------------------------------

BAD_PARAMETERS: dict[str, tuple[Callable[[], Tensor], Any, str]] = {
    "float8": (lambda: torch.ones(3).to(torch.float8_e5m2), TypeError, "{} is torch.float8_e5m2"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), TypeError, "{} is torch.complex64"),
    "meta": (lambda: torch.ones(3, device="meta"), ValueError, "{} is on meta"),
    "sparse": (lambda: torch.ones(3).to_sparse(), RuntimeError, "sparse.*{} is torch.sparse_coo"),
    "dispatch": (lambda: Logged(torch.ones(3)), TypeError, "{} is a Logged"),
    "no memory": (lambda: two_tensors(torch.ones(3)), TypeError, "{} is a TwoTensor"),
    "negated": (lambda: torch._neg_view(torch.ones(3)), ValueError, "{} is a view that negates"),
}
"""Where they require gradients: frozen ones are let through, see test_torch_frozen.py."""


@by_class
@pytest.mark.parametrize(("bad", "error", "message"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS)
@pytest.mark.parametrize("named", [False, True])
def test_parameters_are_checked_first(name: str, bad: Any, error: Any, message: str, named: bool) -> None:
    cls = getattr(fastopt.torch, name)
    good = parameters((4,))[0]
    wrong = bad().requires_grad_()
    given: Any = [("layer.weight", good), ("layer.bias", wrong)] if named else [good, wrong]
    label = "parameter 'layer.bias'" if named else r"params\[1\]"
    if "sparse" in message and makes_states_early(name):
        message = "only supported by strided tensors"  # torch's own, which makes the states first
    with pytest.raises(error, match=message.format(label)):
        cls(given)


@by_class
@pytest.mark.parametrize("kind", ["float8", "meta"])
def test_a_bad_group_is_not_added(name: str, kind: str) -> None:
    bad, error, message = BAD_PARAMETERS[kind]
    params = parameters()
    optimizer = getattr(fastopt.torch, name)(params)
    train(optimizer, params)
    before = snapshot(optimizer)
    with pytest.raises(error, match=message.format(r"params\[5\]")):
        optimizer.add_param_group({"params": [bad().requires_grad_()]})
    assert snapshot(optimizer) == before
    train(optimizer, params)


def test_a_parameter_that_becomes_another_dtype() -> None:
    params = parameters()
    optimizer = fastopt.torch.Adam([("a", params[0]), ("b", params[1])])
    train(optimizer, params)
    params[1].data = params[1].data.double()
    set_gradients(params, 0)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="'exp_avg' in the state of parameter 'b' must be of its parameter's dtype"):
        optimizer.step()
    params[1].data = params[1].data.to(torch.float8_e5m2)
    set_gradients(params, 0)
    with pytest.raises(TypeError, match=r"parameter 'b' is torch\.float8_e5m2"):
        optimizer.step()
    params[1].data = params[1].data.float()
    before[0] = snapshot(optimizer)[0]
    assert snapshot(optimizer) == before


def test_subclasses_that_are_nothing_but_their_memory() -> None:
    param = Parameter(torch.ones(3))
    optimizer = fastopt.torch.SGD([param], lr=1.0)
    for _ in range(2):
        param.grad = torch.ones(3).as_subclass(Plain)
        optimizer.step()
    assert param.tolist() == [-1.0] * 3


# --- gradients ------------------------------------------------------------------------------------------------------

BAD_GRADIENTS: dict[str, tuple[Callable[[Tensor], Tensor], Any, str]] = {
    "sparse": (lambda values: values.to_sparse(), RuntimeError, "does not support sparse"),
    "dispatch": (Logged, TypeError, "is a Logged"),
    "no memory": (two_tensors, TypeError, "is a TwoTensor"),
}


@by_class
@pytest.mark.parametrize(("bad", "error", "message"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients_are_checked_first(
    name: str, bad: Any, error: Any, message: str, steps_before: int, backend: str
) -> None:
    params = parameters((3,), (4,), (5,))
    named = list(zip("abc", params, strict=True))
    optimizer = getattr(fastopt.torch, name)(named, backend=backend)
    train(optimizer, params, range(steps_before))
    before = snapshot(optimizer)
    set_gradients(params, 9)
    params[1].grad = bad(params[1].grad)
    with pytest.raises(
        error, match=f"the gradient of parameter 'b'.*{message}|{message}.*the gradient of parameter 'b'"
    ):
        optimizer.step()
    assert snapshot(optimizer) == before
    train(optimizer, params)


@by_class
def test_zeroing_needs_gradients_that_lie_as_their_parameters(name: str) -> None:
    params = parameters((3, 4), (4, 3))
    optimizer = getattr(fastopt.torch, name)(params, zero_grads=True)
    set_gradients(params, 0)
    params[1].grad = torch.ones(3, 4).t()
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"zero_grads=True needs.*the gradient of params\[1\] has strides \(1, 4\)"):
        optimizer.step()
    assert snapshot(optimizer) == before
    params[1].grad = params[0].grad.view(4, 3)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="share memory"):
        optimizer.step()
    assert snapshot(optimizer)[0] == before[0]


@by_class
@pytest.mark.parametrize("options", [{"max_grad_norm": 1.0}, {"nonfinite": "skip"}], ids=str)
def test_what_looks_at_all_gradients_needs_one_dtype(name: str, options: dict[str, Any]) -> None:
    params = [*parameters((3,)), *parameters((3,), dtype=torch.float64)]
    optimizer = getattr(fastopt.torch, name)(params, **options)
    set_gradients(params, 0)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"needs all parameters to be of one dtype.*params\[1\] is torch.float64"):
        optimizer.step()
    assert snapshot(optimizer) == before


# --- states ---------------------------------------------------------------------------------------------------------

BAD_STATES: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "missing": (lambda state: state.pop("exp_avg"), ValueError, r"the state of params\[1\] has no 'exp_avg'"),
    "none": (lambda state: state.update(exp_avg=None), ValueError, r"the state of params\[1\] has no 'exp_avg'"),
    "shape": (lambda state: state.update(exp_avg=torch.ones(2)), ValueError, r"'exp_avg' in the state of params\[1\]"),
    "dtype": (
        lambda state: state.update(exp_avg=state["exp_avg"].double()),
        ValueError,
        r"'exp_avg' in the state of params\[1\] must be of its parameter's dtype",
    ),
    "device": (
        lambda state: state.update(exp_avg=torch.ones(4, device="meta")),
        ValueError,
        r"'exp_avg' in the state of params\[1\] is on meta",
    ),
    "step": (lambda state: state.update(step=3), TypeError, r"'step' in the state of params\[1\] must be a float32"),
    "inference": (
        lambda state: state.update(exp_avg=inference(state["exp_avg"])),
        ValueError,
        r"'exp_avg' in the state of params\[1\] is an inference tensor",
    ),
}


@pytest.mark.parametrize(("spoil", "error", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_states_are_checked_first(spoil: Callable[[Any], Any], error: Any, message: str) -> None:
    params = parameters((3,), (4,), (5,))
    optimizer = fastopt.torch.Adam(params)
    train(optimizer, params[:2])
    set_gradients(params, 5)
    good = dict(optimizer.state[params[1]])
    before = snapshot(optimizer)
    spoil(optimizer.state[params[1]])
    with pytest.raises(error, match=message):
        optimizer.step()
    optimizer.state[params[1]] = good
    assert snapshot(optimizer) == before
    optimizer.step()


def test_states_that_are_no_dicts() -> None:
    params = parameters((3,))
    optimizer = fastopt.torch.Adam(params)
    train(optimizer, params)
    optimizer.state[params[0]] = 3  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"the state of params\[0\] must be a dict, got 3"):
        optimizer.step()


# --- options --------------------------------------------------------------------------------------------------------

BAD_OPTIONS: list[tuple[dict[str, Any], Any, str]] = [
    ({"max_grad_norm": -1}, ValueError, "max_grad_norm must be > 0"),
    ({"max_grad_norm": "1"}, TypeError, "max_grad_norm must be a real number"),
    ({"clip_norm": 0}, ValueError, "clip_norm must be > 0"),
    ({"clip_value": float("nan")}, ValueError, "clip_value must be > 0"),
    ({"clip_norm": 1.0, "max_grad_norm": 1.0}, ValueError, "at most one of max_grad_norm, clip_norm and clip_value"),
    ({"clip_norm": 1.0, "clip_value": 1.0}, ValueError, "at most one of max_grad_norm, clip_norm and clip_value"),
    ({"nonfinite": "x"}, ValueError, "nonfinite must be one of 'propagate', 'skip', 'raise'"),
    ({"nonfinite": None}, ValueError, "nonfinite must be one of"),
    ({"max_consecutive_skips": 3}, ValueError, "max_consecutive_skips needs nonfinite='skip'"),
    ({"max_consecutive_skips": 0, "nonfinite": "skip"}, ValueError, "max_consecutive_skips must be at least 1"),
    ({"zero_grads": 1}, TypeError, "zero_grads must be True or False"),
    ({"n_threads": 0}, ValueError, "n_threads"),
    ({"n_threads": 1.5}, TypeError, "n_threads"),
    ({"flush_denormals": "no"}, TypeError, "flush_denormals must be True or False"),
    ({"backend": 3}, TypeError, "backend must be a string"),
    ({"backend": "fortran"}, ValueError, "fortran"),
    ({"max_grad_nrom": 1.0}, TypeError, "unexpected keyword argument 'max_grad_nrom'"),
    ({"accumulate_steps": 2}, TypeError, "unexpected keyword argument 'accumulate_steps'"),
    ({"convention": "keras"}, ValueError, r"follows torch.optim: convention must be 'torch', got 'keras' \(fastopt\."),
    ({"convention": None}, ValueError, "convention must be 'torch', got None"),
    ({"lr": -1.0}, ValueError, "Invalid learning rate"),
    ({"differentiable": True}, ValueError, "does not support differentiable=True"),
]


@by_class
@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS, ids=[str(each[0]) for each in BAD_OPTIONS])
def test_options_are_checked(name: str, options: dict[str, Any], error: Any, message: str) -> None:
    params = parameters()
    before = [param.tolist() for param in params]
    if not SPECS[name].in_torch and "differentiable" in options:
        error, message = TypeError, "unexpected keyword argument 'differentiable'"
    with pytest.raises(error, match=message):
        getattr(fastopt.torch, name)(params, **options)
    assert [param.tolist() for param in params] == before


@pytest.mark.parametrize(
    "name", [name for name, spec in SPECS.items() if spec.in_torch and "capturable" in arguments_in_torch(name)]
)
def test_capturable_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="does not support capturable=True"):
        getattr(fastopt.torch, name)(parameters(), capturable=True)


@by_class
@pytest.mark.parametrize("flag", ["differentiable", "capturable"])
def test_flags_that_are_set_later_are_refused(name: str, flag: str) -> None:
    params = parameters()
    optimizer = getattr(fastopt.torch, name)(params)
    train(optimizer, params)
    optimizer.param_groups[0][flag] = True
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=f"does not support {flag}=True"):
        optimizer.step()
    assert snapshot(optimizer) == before
    optimizer.param_groups[0][flag] = False
    optimizer.step()


# --- the import -----------------------------------------------------------------------------------------------------


def test_fastopt_does_not_import_torch() -> None:
    assert in_a_fresh_process("import sys, fastopt; fastopt.Adam; print('torch' in sys.modules)") == "False\n"


def test_without_torch_the_message_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\ntry: import fastopt.torch\nexcept ImportError as error: print(error)"
    )
    message = in_a_fresh_process(code)
    assert "fastopt.torch needs PyTorch" in message
    assert "pip install 'fastopt[torch]'" in message


def test_with_an_old_torch_the_message_says_which_is_needed() -> None:
    code = (
        "import torch, types, sys\n"
        "old = types.ModuleType('torch'); old.Tensor = object; old.__version__ = '2.1.0'; sys.modules['torch'] = old\n"
        "try: import fastopt.torch\n"
        "except ImportError as error: print(error)"
    )
    assert in_a_fresh_process(code) == "fastopt.torch needs PyTorch 2.10 or later, this is 2.1.0\n"


def test_there_is_an_extra() -> None:
    assert "torch" in (importlib.metadata.metadata("fastopt").get_all("Provides-Extra") or ())


# --- attributes -------------------------------------------------------------------------------------------------------


@by_class
def test_options_are_fixed_and_can_be_read(name: str) -> None:
    """All that fastopt adds; other attributes are the user's own, as in torch, which reads `lr` from groups alone."""
    optimizer: Any = getattr(fastopt.torch, name)([Parameter(torch.zeros(3))], nonfinite="skip", max_grad_norm=0.5)
    assert (optimizer.nonfinite, optimizer.max_grad_norm, optimizer.flatten) == ("skip", 0.5, False)
    for option, default in OPTIONS.items():
        with pytest.raises(AttributeError, match=f"{name}.{option} is fixed at construction; make a new {name} with"):
            setattr(optimizer, option, default)
    for attribute in ("skipped_steps", "grad_norm"):
        with pytest.raises(AttributeError):
            setattr(optimizer, attribute, 1)
    for attribute in ("lr", "grad_scale", "found_inf", "name"):
        setattr(optimizer, attribute, None)

"""Under torch's modes and tracers a step is seen, or refused; it is never left out of a trace."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch_pairs import by_class, parameters, set_gradients, snapshot, train

import fastopt.torch
from fastopt.torch import step_in_backward


class Recorder(TorchDispatchMode):
    """Records operations with their arguments, and runs them unless told not to."""

    def __init__(self, runs: bool = True) -> None:
        super().__init__()
        self.runs = runs
        self.calls: list[tuple[Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append((function, args))
        return function(*args, **(kwargs or {})) if self.runs or function is not step_operation() else None

    def steps(self) -> list[Any]:
        return [args for function, args in self.calls if function is step_operation()]


def step_operation() -> Any:
    return torch.ops.fastopt.step.default if hasattr(torch.ops.fastopt, "step") else None


def under_make_fx(step: Callable[[], Any]) -> None:
    make_fx(lambda x: (step(), x + 1)[1])(torch.ones(2))


def under_make_fx_before_dispatch(step: Callable[[], Any]) -> None:
    make_fx(lambda x: (step(), x + 1)[1], pre_dispatch=True)(torch.ones(2))


def under_functionalize(step: Callable[[], Any]) -> None:
    torch.func.functionalize(lambda x: (step(), x + 1)[1])(torch.ones(2))


def under_grad(step: Callable[[], Any]) -> None:
    torch.func.grad(lambda x: (step(), x.sum())[1])(torch.ones(2))


def under_vmap(step: Callable[[], Any]) -> None:
    torch.vmap(lambda x: (step(), x + 1)[1])(torch.ones(2))


def under_fake_tensors(step: Callable[[], Any]) -> None:
    with FakeTensorMode():
        step()


def under_export(step: Callable[[], Any]) -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            step()
            return x + 1

    torch.export.export(Module(), (torch.ones(2),), strict=False)


def under_jit_trace(step: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.trace` is deprecated", FutureWarning)  # from torch 2.14 on
        torch.jit.trace(lambda x: (step(), x + 1)[1], torch.ones(2))


TRACERS = (under_make_fx, under_functionalize, under_grad, under_vmap, under_fake_tensors, under_export)
AT_FIRST = (under_make_fx_before_dispatch, under_jit_trace)
"""They are noticed in a step that has to make something."""


def check_refused(tracer: Callable[[Callable[[], Any]], None], steps_before: int, name: str = "Adam") -> None:
    params = parameters()
    optimizer = getattr(fastopt.torch, name)(params)
    train(optimizer, params, range(steps_before))
    set_gradients(params, 9)
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=rf"{name}\.step\(\) under .*call step\(\) outside"):
        tracer(optimizer.step)
    assert snapshot(optimizer) == before
    train(optimizer, params)


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("tracer", TRACERS, ids=lambda each: each.__name__)
def test_a_traced_step_is_refused(tracer: Callable[[Callable[[], Any]], None], steps_before: int) -> None:
    check_refused(tracer, steps_before)


@by_class
def test_every_class_refuses(name: str) -> None:
    check_refused(under_make_fx, 1, name)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("tracer", AT_FIRST, ids=lambda each: each.__name__)
def test_a_traced_first_step_is_refused(tracer: Callable[[Callable[[], Any]], None]) -> None:
    check_refused(tracer, 0)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_modes_see_a_step(steps_before: int) -> None:
    pairs = []
    for recorder in (Recorder(), None):
        params = parameters((3,), (2, 2))
        optimizer = fastopt.torch.Adam(params)
        train(optimizer, params, range(steps_before))
        set_gradients(params, 9)
        if recorder is None:
            optimizer.step()
        else:
            with recorder:
                optimizer.step()
            ((seen, gradients, states, _),) = recorder.steps()
            assert [each is param for each, param in zip(seen, params, strict=True)] == [True, True]
            assert [each is param.grad for each, param in zip(gradients, params, strict=True)] == [True, True]
            assert len(states) == (6 if steps_before else 0)
        pairs.append(snapshot(optimizer))
    assert pairs[0] == pairs[1]


def test_a_mode_that_runs_nothing_has_no_step() -> None:
    params = parameters((3,))
    optimizer = fastopt.torch.Adam(params)
    train(optimizer, params)
    before = snapshot(optimizer)
    with Recorder(runs=False) as recorder:
        optimizer.step()
    assert len(recorder.steps()) == 1
    assert snapshot(optimizer) == before


def test_a_recorded_step_cannot_run_again() -> None:
    params = parameters((3,))
    optimizer = fastopt.torch.Adam(params)
    train(optimizer, params)
    with Recorder() as recorder:
        optimizer.step()
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match="call step\\(\\) again"):
        step_operation()(*recorder.steps()[0])
    assert snapshot(optimizer) == before


def test_errors_and_closures_pass_through_modes() -> None:
    params = parameters((3,))
    optimizer = fastopt.torch.Adam(params)
    train(optimizer, params)
    with Recorder():
        assert optimizer.step(lambda: 2.5) == 2.5
        params[0].grad = params[0].grad.to_sparse()  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match="does not support sparse"):
            optimizer.step()


def test_flops_are_counted_as_without() -> None:
    model = nn.Linear(2, 3)
    optimizer = fastopt.torch.Adam(model.parameters())
    with FlopCounterMode(display=False) as counter:
        model(torch.ones(5, 2)).sum().backward()
        optimizer.step()
    assert counter.get_total_flops() == 2 * (2 * 3 * 5 * 2)
    assert all(len(optimizer.state[param]) == 3 for param in model.parameters())


def test_modes_see_steps_in_the_backward_pass() -> None:
    model = nn.Linear(2, 3)
    step_in_backward(model, fastopt.torch.Adam)
    before = [param.tolist() for param in model.parameters()]
    with Recorder() as recorder:
        model(torch.ones(5, 2)).sum().backward()
    assert sorted(len(params) for params, *_ in recorder.steps()) == [1, 1]
    assert all(param.tolist() != old for param, old in zip(model.parameters(), before, strict=True))
    with pytest.raises(RuntimeError, match=r"Adam\.step\(\) under make_fx"):
        make_fx(lambda x: model(x).sum().backward())(torch.ones(5, 2))

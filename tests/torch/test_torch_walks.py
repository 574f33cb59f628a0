"""The walks over tensors: one interface, and engines that stay from step to step."""

from __future__ import annotations

import gc
import inspect
import weakref

import pytest

torch = pytest.importorskip("torch")

import fastopt.torch  # noqa: E402
from fastopt.torch.stepping import native_walk  # noqa: E402
from fastopt.torch.stepping.device_walk import DeviceWalk  # noqa: E402
from fastopt.torch.stepping.walks import ArrayWalk, TensorWalk  # noqa: E402

BACKENDS = ("cython", "numba", "reference")


@pytest.mark.parametrize("walk", [native_walk.NativeWalk, ArrayWalk, DeviceWalk], ids=lambda walk: walk.__name__)
@pytest.mark.parametrize("method", ["look", "step", "set_values"])
def test_each_walk_takes_what_the_protocol_says(walk: type, method: str) -> None:
    def parameters(function: object) -> list[tuple[str, bool]]:
        signature = inspect.signature(function)  # type: ignore[arg-type]
        return [(each.name, each.default is inspect.Parameter.empty) for each in signature.parameters.values()]

    assert parameters(getattr(walk, method)) == parameters(getattr(TensorWalk, method))


@pytest.mark.parametrize("backend", BACKENDS)
def test_engines_stay_while_nothing_changes(backend: str) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = fastopt.torch.Adam([param], backend=backend)
    updates = []
    for lr in (0.1, 0.1, 0.2):
        optimizer.param_groups[0]["lr"] = lr
        param.grad = torch.ones(3)
        optimizer.step()
        updates.append(optimizer._stepper.update)
    assert updates[0] is updates[1] is updates[2]
    optimizer.state[param]["exp_avg"] = torch.zeros(3)
    optimizer.step()
    assert optimizer._stepper.update is not updates[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_optimizer_that_stepped_is_freed_without_the_garbage_collector(backend: str) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = fastopt.torch.Adam([param], backend=backend)
    param.grad = torch.ones(3)
    optimizer.step()
    parts = [weakref.ref(optimizer), weakref.ref(optimizer._stepper), weakref.ref(optimizer._stepper.update)]
    gc.collect()
    gc.disable()
    try:
        del optimizer
        assert [part() for part in parts] == [None] * 3
    finally:
        gc.enable()

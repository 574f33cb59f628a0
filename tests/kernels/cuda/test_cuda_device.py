"""What only a device can show: streams, captured graphs, the arrays of PyTorch and CuPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import equal_bits
from engines import on_device

import fastopt
from fastopt.kernels.cuda import memory
from fastopt.kernels.cuda.availability import is_simulated

pytestmark = pytest.mark.skipif(is_simulated(), reason="this is the simulator, not a CUDA device")
SIZE = 100_003


@pytest.fixture
def torch() -> Any:
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    return module


def reference(steps: int, start: np.ndarray, gradient: np.ndarray, **more: Any) -> np.ndarray:
    param = start.copy()
    opt = fastopt.SGD(param, lr=0.5, momentum=0.9, backend="reference", flush_denormals=False, **more)
    for _ in range(steps):
        opt.step(gradient)
    return param


def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.standard_normal(SIZE).astype(np.float32), rng.standard_normal(SIZE).astype(np.float32)


@pytest.mark.parametrize("more", [{}, {"clip_value": 0.1}, {"nonfinite": "skip"}], ids=str)
def test_a_captured_graph_goes_on_counting(torch: Any, more: dict[str, Any]) -> None:
    start, gradient = arrays()
    param, grad = torch.from_numpy(start).cuda(), torch.from_numpy(gradient).cuda()
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    opt = fastopt.SGD(param, lr=0.5, momentum=0.9, backend="cuda", grads=grad, **more)
    opt.stream = stream.cuda_stream
    opt.step()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        opt.step()
    for _ in range(5):
        graph.replay()
    torch.cuda.synchronize()
    assert equal_bits(reference(6, start, gradient, **more), param.cpu().numpy())


def test_steps_on_a_stream_that_does_not_wait_for_the_default_one(torch: Any) -> None:
    start, gradient = arrays()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        param, grad = torch.from_numpy(start).cuda(), torch.from_numpy(gradient).cuda()
        opt = fastopt.SGD(param, lr=0.5, momentum=0.9, backend="cuda")
        opt.stream = stream
        for _ in range(20):
            opt.step(grad.clone())
        stream.synchronize()
    assert equal_bits(reference(20, start, gradient), param.cpu().numpy())


def test_arrays_of_cupy() -> None:
    cupy = pytest.importorskip("cupy")
    start, gradient = arrays()
    param = cupy.asarray(start)
    opt = fastopt.SGD(param, lr=0.5, momentum=0.9, backend="cuda")
    opt.step(cupy.asarray(gradient))
    assert equal_bits(reference(1, start, gradient), cupy.asnumpy(param))


def test_many_launches_before_anything_is_waited_for() -> None:
    start, gradient = arrays()
    param = on_device(start)
    opt = fastopt.SGD(param, lr=0.5, momentum=0.9, backend="cuda", grads=on_device(gradient))
    for _ in range(200):
        opt.step()
    assert equal_bits(reference(200, start, gradient), memory.to_host(param))

"""fastopt on a CUDA device: over arrays, through fastopt.torch, in a graph; its peers; and a copy as the roofline."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

import fastopt
from fastopt.kernels import backends

from .cases import FLOAT32, Problem, Variant, Workload, flat
from .peers import unavailable_in
from .peers.pytorch import Tensors, cannot_compile, start_compiled, torch_peer
from .runner import Peer, Runner
from .torch_cases import PACKAGE

DEVICE = "cuda"
SIZES = tuple(flat(10**power) for power in (4, 6, 7, 8))
LARGEST = flat(10**9)

LEAST_SIZE = 1_000_000
"""A step on at least this many parameters is compared with a copy; launches limit steps on fewer."""


def unavailable() -> str | None:
    """Why nothing can be measured on a CUDA device here, or None when it can."""
    from fastopt.kernels.cuda import availability

    error = availability.unavailable()
    if error is not None:
        return str(error)
    if availability.is_simulated():
        return "Numba's simulator measures nothing"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return None if torch.cuda.is_available() else "this build of torch has no CUDA"


def sides_on_device(variant: Variant, workload: Workload) -> int:
    """How many optimizers fit into the memory of the device, with their numbers in main memory."""
    import torch

    n_bytes = workload.size * FLOAT32.itemsize
    torch.cuda.empty_cache()  # what earlier cases left there
    free, _ = torch.cuda.mem_get_info()
    temporaries = 2  # of foreach
    return int(min(free / ((2 + len(variant.states) + temporaries) * n_bytes), 1000))


# --- fastopt ----------------------------------------------------------------------------------------------------------


def to_device(memory: Any, array: np.ndarray) -> Any:
    made = memory.zeros(array.size, array.dtype)
    memory.copy(made, array.reshape(-1))
    return made.reshape(array.shape)


def make(problem: Problem, **options: Any) -> tuple[Any, Callable[[], list[np.ndarray]], Callable[[], None]]:
    """An optimizer over device arrays with its gradients bound, a function that returns its parameters, and one that
    takes new gradients."""
    memory = backends.load("cuda").memory
    params, grads = ([to_device(memory, each) for each in arrays] for arrays in (problem.params, problem.grads))

    def take_gradients() -> None:
        for mine, given in zip(grads, problem.grads, strict=True):
            memory.copy(mine, given)

    settings = {**problem.variant.hyperparameters, **options}
    optimizer = getattr(fastopt, problem.variant.optimizer)(params, grads=grads, backend="cuda", **settings)
    return optimizer, lambda: [memory.to_host(param) for param in params], take_gradients


def start(problem: Problem) -> Runner:
    optimizer, results, take_gradients = make(problem)
    return Runner(optimizer.step, results, take_gradients)


FASTOPT = Peer("fastopt", start)


def start_graph(problem: Problem) -> Runner:
    import torch

    optimizer, results, take_gradients = make(problem)

    def step() -> None:
        optimizer.stream = torch.cuda.current_stream()
        optimizer.step()

    return Runner(captured(step), results, take_gradients)


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """The replay of a CUDA graph of one step. An earlier step, before the capture, compiles and creates states."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    # A graph does not keep the states that it updates; the step does, with its optimizer.
    return functools.partial(_replay, graph, step)


def _replay(graph: Any, step: Callable[[], Any]) -> None:
    graph.replay()


GRAPH = Peer("fastopt", start_graph)


# --- peers ------------------------------------------------------------------------------------------------------------

TORCH: dict[str, dict[str, Any]] = {
    "torch default": {},
    "torch foreach": {"foreach": True},
    "torch fused": {"fused": True},
}
"""On a device, foreach is the default of torch."""


def unavailable_on_device(**options: Any) -> Callable[[Problem], str | None]:
    """As `unavailable_in`; also tries a step, because some of torch's fused steps are for processors alone."""
    missing = unavailable_in("torch.optim", **options)

    def unavailable(problem: Problem) -> str | None:
        return missing(problem) or _why_no_step(problem.variant.optimizer, tuple(sorted(options.items())))

    return unavailable


@functools.cache
def _why_no_step(optimizer: str, options: tuple[tuple[str, Any], ...]) -> str | None:
    import torch

    param = torch.nn.Parameter(torch.ones(1, device=DEVICE))
    param.grad = torch.ones_like(param)
    try:
        getattr(torch.optim, optimizer)([param], **dict(options)).step()
    except (RuntimeError, NotImplementedError) as error:
        return f"torch.optim.{optimizer} cannot step there: {str(error).splitlines()[0]}"
    return None


def on_device(name: str, **options: Any) -> Peer:
    start = torch_peer(name, device=DEVICE, **options).start
    return Peer(name, start, unavailable_on_device(**options))


PEERS = (
    *(on_device(name, **options) for name, options in TORCH.items()),
    Peer("torch compile", functools.partial(start_compiled, device=DEVICE), cannot_compile),
)
OURS = torch_peer(PACKAGE, PACKAGE, device=DEVICE)


def start_torch_graph(problem: Problem) -> Runner:
    tensors = Tensors.of(problem, DEVICE)
    optimizer = tensors.optimizer("torch.optim", fused=True, capturable=True)
    return Runner(captured(optimizer.step), tensors.results, tensors.take_gradients)


TORCH_GRAPH = Peer("torch fused", start_torch_graph, unavailable_on_device(fused=True, capturable=True))


# --- the roofline -----------------------------------------------------------------------------------------------------


def start_copy(problem: Problem) -> Runner:
    """A copy on the device that reads and writes as many bytes as a step does."""
    import torch

    size = problem.variant.bytes_per_parameter * problem.workload.size // 2
    source, target = (torch.zeros(size, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    return Runner(lambda: target.copy_(source), results=None)


def copy_unavailable(problem: Problem) -> str | None:
    small = problem.workload.size < LEAST_SIZE
    return f"less than {LEAST_SIZE:,} parameters: bound by the launch, not by memory" if small else None


COPY = Peer("roofline", start_copy, copy_unavailable)

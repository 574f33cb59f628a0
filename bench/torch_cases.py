"""fastopt.torch and torch: ways to step, networks to train, and the bytes of their gradients."""

from __future__ import annotations

import importlib
import itertools
import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .cases import FLOAT32, Problem, Variant, Workload
from .clipping import MAX_GRAD_NORM
from .custom_loops import LEARNING_STEPS
from .peers import TORCH, Tensors, torch_peer, unavailable_in
from .runner import Peer, Runner

PACKAGE = "fastopt.torch"

# --- steps ------------------------------------------------------------------------------------------------------------


def ours(prepare: Callable[[Tensors], None] | None = None, **options: Any) -> Peer:
    """The class of fastopt.torch."""
    return torch_peer(PACKAGE, PACKAGE, prepare=prepare, learning_steps=LEARNING_STEPS, **options)


def torchs(*names: str, prepare: Callable[[Tensors], None] | None = None) -> tuple[Peer, ...]:
    """The class of torch, in each of the named implementations; in all of them if none is named."""
    return tuple(torch_peer(name, prepare=prepare, **TORCH[name]) for name in names or TORCH)


OURS = ours()
FLATTENED = ours(flatten=True)
CLIP_STEP_ZERO = ours(Tensors.take_gradients, max_grad_norm=MAX_GRAD_NORM, zero_grads=True)


# --- clip_grad_norm_ --------------------------------------------------------------------------------------------------

CLIPPING = Variant("clip_grad_norm_", "sgd", {})
"""It moves as many bytes as the plain rule of SGD: it reads gradients once, then reads and writes them."""


NORM_ERROR = 1e-6
TORCH_NORM_ERROR = 2e-3
"""Torch adds up squares in float32: with 124 million elements, 6e-4 of the norm were missing."""


def clipping(name: str, package: str, error: float) -> Peer:
    """The clip_grad_norm_ of a package; its results are the clipped gradients, and its norm may be off by the share
    `error`."""

    def start(problem: Problem) -> Runner:
        clip = importlib.import_module(package).clip_grad_norm_
        tensors = Tensors.of(problem)
        exact = math.sqrt(sum(float(np.sum(np.square(grad, dtype=np.float64))) for grad in problem.grads))
        measured = float(clip(tensors.params, math.inf))
        assert abs(measured / exact - 1) < error, f"{name}: the norm is {exact}, got {measured}"
        return Runner(
            lambda: clip(tensors.params, exact / 2),
            lambda: [grad.numpy() for grad in tensors.grads],
            tensors.take_gradients,
            prepare=tensors.take_gradients,
        )

    return Peer(name, start)


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network(Workload):
    """Linear layers with an activation between them, trained on batches of `batch` rows."""

    widths: tuple[int, ...] = field(default=(), repr=False)
    batch: int = 1
    activation: str = "ReLU"

    @classmethod
    def of(cls, name: str, widths: tuple[int, ...], batch: int, activation: str = "ReLU") -> Network:
        pairs = itertools.pairwise(widths)
        shapes = tuple(shape for before, after in pairs for shape in ((after, before), (after,)))
        spread = math.sqrt(24 / widths[0])  # of He's initialization, for uniform numbers
        return cls(f"{name}, batch {batch}", shapes, spread, widths, batch, activation)


SMALL_NETWORK = Network.of("64-64-64-10", (64, 64, 64, 10), 32)
DEEP_NETWORK = Network.of("12 layers of 1,024", (1024,) * 13, 64, "SiLU")
"""12.6 million parameters, 50 MB of gradients. Smooth: with ReLU, one of 800,000 activations can be so near to zero
that rounding decides whether it is alive, and all gradients behind it jump: weights that differed by 2e-8 after two
steps did by 2e-4 after three. Without kinks it stays so, and the usual limit holds for whole iterations."""

LARGE_EPS = Variant("Adam", "adam", {"eps": 1e-3})
"""With the usual one, elements whose gradients are next to zero go by rounding errors, a whole learning rate
up or down: after three steps torch's own default and fused differ by more than is allowed."""


def network_of(problem: Problem) -> Network:
    assert isinstance(problem.workload, Network)
    return problem.workload


def make_network(problem: Problem) -> Any:
    """A network that starts with the parameters of a problem."""
    import torch

    torch.set_num_threads(problem.n_threads)
    workload = network_of(problem)
    widths, activation = workload.widths, getattr(torch.nn, workload.activation)
    layers: list[Any] = []
    for before, after in itertools.pairwise(widths):
        layers += [torch.nn.Linear(before, after), activation()]
    network = torch.nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for param, given in zip(network.parameters(), problem.params, strict=True):
            param.copy_(torch.from_numpy(given))
    return network


@dataclass(frozen=True)
class Training:
    """How an iteration trains a network. `in_backward`: with fastopt.torch's step_in_backward."""

    name: str
    package: str = PACKAGE
    in_backward: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def iteration(self, network: Any, problem: Problem) -> Callable[[], None]:
        """A function that runs one training iteration, always on the same batch."""
        import torch

        workload, variant = network_of(problem), problem.variant
        generator = np.random.default_rng(workload.size)
        rows = generator.standard_normal((workload.batch, workload.widths[0]), np.float32)
        inputs, targets = map(torch.from_numpy, (rows, generator.integers(0, workload.widths[-1], workload.batch)))
        loss_function = torch.nn.CrossEntropyLoss()
        if self.package == NO_OPTIMIZER:
            params = list(network.parameters())

            def iterate_only() -> None:
                for param in params:
                    param.grad = None
                loss_function(network(inputs), targets).backward()

            return iterate_only
        package = importlib.import_module(self.package)
        optimizer_class = getattr(package, variant.optimizer)
        options = {**variant.hyperparameters, **self.options}
        if self.in_backward:
            package.step_in_backward(network, optimizer_class, **options)

            def iterate() -> None:
                loss_function(network(inputs), targets).backward()

            return iterate
        optimizer = optimizer_class(network.parameters(), **options)

        def iterate_and_step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_function(network(inputs), targets).backward()
            optimizer.step()

        return iterate_and_step

    @property
    def peer(self) -> Peer:
        def start(problem: Problem) -> Runner:
            network = make_network(problem)
            step = self.iteration(network, problem)
            learning_steps = LEARNING_STEPS if self.package == PACKAGE else 0
            results = [param.detach().numpy() for param in network.parameters()]
            return Runner(step, lambda: results, learning_steps=learning_steps)

        return Peer(self.name, start, unavailable_in(self.package, **self.options))


NO_OPTIMIZER = "no optimizer"
WITHOUT_OPTIMIZER = Training(NO_OPTIMIZER, NO_OPTIMIZER)
STEP_AFTER = Training(PACKAGE)
IN_BACKWARD = Training(PACKAGE, in_backward=True)
STEP_FLATTENED = Training(PACKAGE, options={"flatten": True})
TORCH_TRAININGS = {name: Training(name, "torch.optim", options=options) for name, options in TORCH.items()}


class GradientBytes:
    """Counts the bytes of the gradients of parameters: the current number, and the greatest so far.

    Create it before the optimizer, because hooks are called in the order of registration, and the hook of
    step_in_backward removes the gradient.
    """

    def __init__(self, params: Iterable[Any]) -> None:
        self.now = self.most = 0
        for param in params:
            param.register_post_accumulate_grad_hook(self._appeared)

    def _appeared(self, param: Any) -> None:
        n_bytes = param.grad.numel() * FLOAT32.itemsize
        self.now += n_bytes
        self.most = max(self.most, self.now)
        weakref.finalize(param.grad, self._disappeared, n_bytes)

    def _disappeared(self, n_bytes: int) -> None:
        self.now -= n_bytes

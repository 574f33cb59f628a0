"""fastopt.torch and torch: whole training iterations, steps, clipping, and the step in backward."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from . import torch_cases
from .cases import ADAM, GPT2, MANY, SMALL, VARIANTS, Problem, Variant, Workload, identifier
from .clipping import torchs
from .measure import Record, Settings, bare_beside_ours
from .peers import Tensors
from .runner import Peer
from .torch_cases import DEEP_NETWORK, PACKAGE, SMALL_NETWORK, TORCH_TRAININGS, Network, Training

pytest.importorskip("torch")

Compare = Callable[..., None]

ADAMW = VARIANTS["AdamW"]


@pytest.mark.parametrize(
    ("training", "label"),
    [
        (torch_cases.STEP_AFTER, ""),
        (torch_cases.IN_BACKWARD, "step in backward"),
        (torch_cases.STEP_FLATTENED, "flattened"),
    ],
    ids=["step", "in-backward", "flattened"],
)
def test_training(compare: Compare, training: Training, label: str) -> None:
    peers = tuple(each.peer for each in TORCH_TRAININGS.values())
    section = "torch: whole training iterations"
    compare(section, ADAM, SMALL_NETWORK, training.peer, peers, label=label, only_moves=False)


def test_training_without_optimizer(
    benchmark: BenchmarkFixture, settings: Settings, record: Callable[[Record], None]
) -> None:
    """The lower bound: forward and backward pass alone, and iterations with fastopt.torch."""
    problem = Problem.make(ADAM, SMALL_NETWORK, settings.n_threads)
    trainings = (torch_cases.WITHOUT_OPTIMIZER, torch_cases.STEP_AFTER)
    bare, ours = (each.iteration(torch_cases.make_network(problem), problem) for each in trainings)
    if values := bare_beside_ours(benchmark, bare, ours):
        record({"section": "torch: lower bound of an iteration", "name": SMALL_NETWORK.name, "values": values})


@pytest.mark.parametrize(
    ("subject", "label"), [(torch_cases.OURS, ""), (torch_cases.FLATTENED, "flattened")], ids=["step", "flattened"]
)
@pytest.mark.parametrize("workload", [SMALL, MANY], ids=identifier)
def test_steps(compare: Compare, workload: Workload, subject: Peer, label: str) -> None:
    compare("torch: steps", ADAM, workload, subject, torch_cases.torchs(), label=label)


@pytest.mark.parametrize("workload", [MANY], ids=identifier)
def test_steps_over_new_gradients(compare: Compare, workload: Workload) -> None:
    subject = torch_cases.ours(Tensors.renew_gradients)
    peers = torch_cases.torchs(prepare=Tensors.renew_gradients)
    compare("torch: steps", ADAM, workload, subject, peers, label="new gradients")


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Rprop"])
@pytest.mark.parametrize("workload", [GPT2], ids=identifier)
def test_large_steps(compare: Compare, workload: Workload, name: str) -> None:
    """Without foreach: its temporaries would take gigabytes more."""
    peers = torch_cases.torchs("torch default", "torch fused")
    compare("torch: steps", VARIANTS[name], workload, torch_cases.OURS, peers)


@pytest.mark.parametrize("workload", [SMALL, GPT2], ids=identifier)
def test_clip_step_zero(compare: Compare, workload: Workload) -> None:
    compare("torch: clip, step, zero", ADAMW, workload, torch_cases.CLIP_STEP_ZERO, torchs(refilled=True))


@pytest.mark.parametrize("workload", [MANY, GPT2], ids=identifier)
def test_clip_grad_norm(compare: Compare, workload: Workload) -> None:
    error = torch_cases.TORCH_NORM_ERROR
    subject = torch_cases.clipping(PACKAGE, PACKAGE, torch_cases.NORM_ERROR)
    peers = (torch_cases.clipping("torch", "torch.nn.utils", error),)
    compare("torch: clip_grad_norm_", torch_cases.CLIPPING, workload, subject, peers, relative=error)


@pytest.mark.parametrize(
    ("variant", "workload"), [(ADAM, SMALL_NETWORK), (torch_cases.LARGE_EPS, DEEP_NETWORK)], ids=identifier
)
def test_step_in_backward(compare: Compare, variant: Variant, workload: Workload) -> None:
    after = Training("fastopt.torch, step after")
    peers = (after.peer, TORCH_TRAININGS["torch fused"].peer)
    section = "torch: step in backward"
    compare(section, variant, workload, torch_cases.IN_BACKWARD.peer, peers, only_moves=False)


TRAININGS = {
    "fastopt.torch, step in backward": torch_cases.IN_BACKWARD,
    "fastopt.torch, step after backward": torch_cases.STEP_AFTER,
    "torch fused": TORCH_TRAININGS["torch fused"],
}


@pytest.mark.parametrize("name", TRAININGS)
def test_memory_of_gradients(
    benchmark: BenchmarkFixture, settings: Settings, record: Callable[[Record], None], quick: bool, name: str
) -> None:
    workload: Network = SMALL_NETWORK if quick else DEEP_NETWORK
    training = TRAININGS[name]
    problem = Problem.make(ADAM, workload, settings.n_threads)
    network = torch_cases.make_network(problem)
    gradients = torch_cases.GradientBytes(network.parameters())
    iterate = training.iteration(network, problem)
    benchmark.pedantic(iterate, rounds=5, warmup_rounds=1)
    all_bytes = sum(param.nbytes for param in network.parameters())
    if training.in_backward:
        assert gradients.now == 0
    else:
        assert gradients.now == gradients.most == all_bytes
    if benchmark.stats is None:  # --benchmark-disable
        return
    values = {
        "parameters": (all_bytes / 1e6, "MB"),
        "most bytes of gradients": (gradients.most / 1e6, "MB"),
        "an iteration, counting included": (1e3 * statistics.median(benchmark.stats.stats.data), "ms"),
    }
    record({"section": "torch: memory of gradients", "name": f"{name}, {workload.name}", "values": values})

"""Training with fully_shard and parallelize_module, for the tests of DTensor parameters; runs in `ranks.run_ranks`."""

from __future__ import annotations

import copy
import itertools
import math
import traceback
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from custom_sums import ByRoot
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

import fastopt.torch
from fastopt.torch.stepping.exchange import Exchange

SIZES = (5, 7, 6, 1)
"""Of layers; most are not divisible by the number of processes, and the last bias is empty on all but the first."""


def network(even: bool = False) -> nn.Sequential:
    """Tensor parallelism needs a hidden layer of an even size."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    sizes = (SIZES[0], SIZES[1] + even, *SIZES[2:])
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers)


def fsdp(model: nn.Sequential, mesh: DeviceMesh | None, **options: Any) -> nn.Sequential:
    """Nested: each layer by itself, and the rest."""
    for layer in model[:4]:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def tensor_parallel(model: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    """The last layer stays plain."""
    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})  # type: ignore[return-value]


def parallel(kind: str) -> nn.Sequential:
    """A model, spread over all processes."""
    n_ranks = dist.get_world_size()
    model = network(even="tensor" in kind)
    if kind == "fsdp":
        return fsdp(model, None)
    if kind == "fsdp, later reshard":
        return fsdp(model, None, reshard_after_forward=False)
    if kind == "fsdp, bfloat16":
        return fsdp(model, None, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    if kind == "fsdp, other dimension":
        return fsdp(model, None, shard_placement_fn=lambda param: Shard(param.ndim - 1))
    if kind == "hsdp":
        return fsdp(model, init_device_mesh("cpu", (2, n_ranks // 2), mesh_dim_names=("replicate", "shard")))
    if kind == "tensor":
        return tensor_parallel(model, init_device_mesh("cpu", (n_ranks,), mesh_dim_names=("tensor",)))
    if kind == "fsdp and tensor":
        mesh = init_device_mesh("cpu", (n_ranks // 2, 2), mesh_dim_names=("shard", "tensor"))
        return fsdp(tensor_parallel(model, mesh["tensor"]), mesh["shard"])
    raise ValueError(kind)


KINDS = ("fsdp", "fsdp, later reshard", "fsdp, bfloat16", "hsdp", "tensor")


def batch(step: int, kind: str) -> tuple[Tensor, Tensor]:
    """The data of a step: of each process its own, but for those that have a layer together."""
    together = {"tensor": dist.get_world_size(), "fsdp and tensor": 2}.get(kind, 1)
    made = torch.Generator().manual_seed(1000 * step + dist.get_rank() // together)
    return torch.randn(8, SIZES[0], generator=made), torch.randn(8, SIZES[-1], generator=made)


def train_parallel(model: nn.Module, optimizer: Any, steps: int, kind: str) -> None:
    for step in range(steps):
        x, y = batch(step, kind)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def gathered(tensor: Tensor) -> Tensor:
    """All of a DTensor."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def difference_to_torch(kind: str, name: str, options: dict[str, Any]) -> tuple[float, bool]:
    """The largest difference of a parameter or state after training, and whether some shard is empty."""
    model, other = parallel(kind), parallel(kind)
    optimizer = getattr(fastopt.torch, name)(model.parameters(), **options)
    theirs = getattr(torch.optim, name)(other.parameters(), **options)
    train_parallel(model, optimizer, 4, kind)
    train_parallel(other, theirs, 4, kind)
    worst, empty = 0.0, False
    for param, expected in zip(model.parameters(), other.parameters(), strict=True):
        pairs = [(param, expected)]
        assert optimizer.state[param].keys() == theirs.state[expected].keys()
        pairs += [(optimizer.state[param][key], value) for key, value in theirs.state[expected].items()]
        for one, two in pairs:
            assert type(one) is type(two)
            worst = max(worst, float((gathered(one) - gathered(two)).abs().max()))
        empty = empty or (isinstance(param, DTensor) and not param._local_tensor.numel())
    return worst, empty


def norms_beside_torch(kind: str, max_norm: float, **options: Any) -> list[float]:
    """Norms with `max_grad_norm`, for which torch's class and its clip_grad_norm_ in one process are the measure."""
    model = parallel(kind)
    optimizer = fastopt.torch.AdamW(model.parameters(), lr=0.01, max_grad_norm=max_norm, **options)
    whole = [nn.Parameter(gathered(param)) for param in model.parameters()]
    theirs = torch.optim.AdamW(whole, lr=0.01)
    norms = []
    for step in range(3):
        x, y = batch(step, kind)
        model.zero_grad()
        (model(x) - y).square().mean().backward()
        for param, other in zip(model.parameters(), whole, strict=True):
            other.grad = gathered(param.grad)  # type: ignore[arg-type]
        optimizer.step()
        norm = float(torch.nn.utils.clip_grad_norm_(whole, max_norm))
        assert abs(optimizer.grad_norm / norm - 1) < 1e-6, kind
        norms.append(optimizer.grad_norm)
        theirs.step()
    for param, expected in zip(model.parameters(), whole, strict=True):
        assert float((gathered(param) - expected.detach()).abs().max()) < 2e-6, kind
    return norms


def decisions(option: dict[str, Any]) -> list[Any]:
    """What each process makes of gradients that are not finite on one of them, and of an error on one of them."""
    rank = dist.get_rank()
    model = parallel("fsdp")
    optimizer = fastopt.torch.AdamW(model.named_parameters(), lr=0.01, **option)
    found: list[Any] = []
    for step in range(6):
        x, y = batch(step, "fsdp")
        model.zero_grad()
        (model(x) - y).square().mean().backward()
        gradient: Any = model[0].weight.grad
        if step in (0, 2) and rank == 1:  # also before there are states
            gradient._local_tensor[0, :2] = float("nan")
        if step == 3 and rank == 0:
            model[0].weight.grad = DTensor.from_local(
                gradient._local_tensor, gradient.device_mesh, [Shard(1)], shape=gradient.shape, stride=gradient.stride()
            )
        if step == 4 and rank == 0:
            optimizer.found_inf = torch.tensor(1.0)  # as a GradScaler sets it
        before = [param._local_tensor.clone() for param in model.parameters()]  # type: ignore[union-attr]
        try:
            optimizer.step()
            found.append((optimizer.skipped_steps, optimizer.nonfinite_counts, repr(optimizer.grad_norm)))
        except (FloatingPointError, RuntimeError, ValueError) as error:
            found.append((type(error).__name__, str(error)))
        optimizer.__dict__.pop("found_inf", None)
        changed = any(
            not torch.equal(param._local_tensor, old)  # type: ignore[union-attr]
            for param, old in zip(model.parameters(), before, strict=True)
        )
        found.append(changed)
    return found


def clipped_gradients(kind: str, norm: float) -> None:
    """clip_grad_norm_ of DTensors scales as torch's does in one process."""
    model = parallel(kind)
    x, y = batch(0, kind)
    (model(x) - y).square().mean().backward()
    whole = [nn.Parameter(gathered(param)) for param in model.parameters()]
    for param, other in zip(model.parameters(), whole, strict=True):
        other.grad = gathered(param.grad)  # type: ignore[arg-type]
    found = fastopt.torch.clip_grad_norm_(model.parameters(), norm)
    expected = torch.nn.utils.clip_grad_norm_(whole, norm)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    for param, other in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(gathered(param.grad), other.grad, rtol=1e-6, atol=1e-9)  # type: ignore[arg-type]
    fastopt.torch.clip_grad_value_(model.parameters(), norm / 100)
    torch.nn.utils.clip_grad_value_(whole, norm / 100)
    for param, other in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(gathered(param.grad), other.grad, rtol=1e-6, atol=1e-9)  # type: ignore[arg-type]


def own_norms(kind: str, backend: str) -> None:
    """`clip_norm` is by the norm of each whole parameter."""
    model = parallel(kind)
    optimizer = fastopt.torch.SGD(model.parameters(), lr=1.0, clip_norm=0.05, backend=backend)
    x, y = batch(0, kind)
    (model(x) - y).square().mean().backward()
    expected = []
    for param in model.parameters():
        gradient = gathered(param.grad)  # type: ignore[arg-type]
        expected.append(gathered(param) - gradient * min(1.0, 0.05 / (float(gradient.norm()) + 1e-6)))
    optimizer.step()
    for param, other in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(gathered(param), other, rtol=0, atol=1e-6)


def norms_of_shards(n_replicas: int, names: tuple[str, ...]) -> list[float]:
    """Of the same shards, however many processes have each of them; the last parameter is plain, and another empty."""
    mesh = init_device_mesh("cpu", (n_replicas, 2), mesh_dim_names=("replicate", "shard"))
    made = torch.Generator().manual_seed(0)
    whole = [torch.randn(size, 3, generator=made) for size in (501, 1, 77)]
    params = [
        nn.Parameter(distribute_tensor(each, mesh["shard"] if n_replicas == 1 else mesh, placements))
        for each, placements in zip(whole[:2], itertools.repeat([Replicate()] * (n_replicas > 1) + [Shard(0)]))
    ]
    params.append(nn.Parameter(whole[2].clone()))
    norms = []
    for name in names:
        optimizer = getattr(fastopt.torch, name)(params, lr=0.0, max_grad_norm=1.0)
        for param in params:
            param.grad = param.detach() * 1.7
        optimizer.step()
        norms.append(optimizer.grad_norm)
    exact = math.sqrt(sum(float((each.double() * 1.7).square().sum()) for each in whole))
    assert all(abs(each / exact - 1) < 1e-6 for each in norms)
    return norms


def sequence_parallel(accumulates: bool) -> float:
    """With gradients added up as docs/distributed.md says: the largest difference to a model in one process."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    whole = copy.deepcopy(model)
    plan = {
        "0": SequenceParallel(),
        "1": ColwiseParallel(input_layouts=Shard(1)),
        "3": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
    }
    parallelize_module(model, mesh, plan)
    x = torch.randn(2, 6, 8)

    def add_up(param: Any) -> None:
        if param.grad.placements != param.placements:
            param.grad = param.grad.redistribute(placements=param.placements)

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(add_up)
    optimizer = fastopt.torch.AdamW(model.parameters(), lr=0.01, max_grad_norm=0.5)
    theirs = torch.optim.AdamW(whole.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        theirs.zero_grad()
        for _ in range(1 + accumulates):
            model(distribute_tensor(x, mesh, [Shard(1)]).to_local()).square().mean().backward()
            whole(x).square().mean().backward()
        optimizer.step()
        torch.nn.utils.clip_grad_norm_(whole.parameters(), 0.5)
        theirs.step()
    return max(
        float((gathered(param) - other.detach()).abs().max())
        for param, other in zip(model.parameters(), whole.parameters(), strict=True)
    )


def in_backward(kind: str, name: str = "Adam") -> None:
    """step_in_backward does what step() does."""
    model, other = parallel(kind), parallel(kind)
    make = getattr(fastopt.torch, name)
    fastopt.torch.step_in_backward(model, make, lr=0.01)
    theirs = make(other.parameters(), lr=0.01)
    for step in range(4):
        x, y = batch(step, kind)
        (model(x) - y).square().mean().backward()
        assert all(param.grad is None for param in model.parameters())
        theirs.zero_grad()
        (other(x) - y).square().mean().backward()
        theirs.step()
    for param, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(gathered(param), gathered(expected))


def all_norms(kind: str) -> list[float]:
    """All that takes norms, which have the same bits with other backends."""
    norms = norms_beside_torch(kind, 0.1)
    assert norms_beside_torch(kind, 0.1, backend="reference") == norms
    clipped_gradients(kind, 0.05)
    for backend in ("cython", "reference"):
        own_norms(kind, backend)
    return norms


def cautious_but_one(params: Iterable[nn.Parameter], **options: Any) -> Any:
    """An optimizer one of whose groups adds nothing up."""
    first, *others = params
    groups: Any = [{"params": [first]}, {"params": others, "cautious": True}]
    return fastopt.torch.AdamW(groups, **options)


SUMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "LAMB": (fastopt.torch.LAMB, {"lr": 0.1, "weight_decay": 0.1}),
    "LARS": (fastopt.torch.LARS, {"lr": 10.0, "weight_decay": 0.1}),
    "StableAdamW": (fastopt.torch.StableAdamW, {"lr": 0.1}),
    "cautious": (cautious_but_one, {"lr": 0.1}),
    "over all": (ByRoot.torch, {}),
    "Prodigy": (fastopt.torch.Prodigy, {"d0": 1e-2}),
    "clipped": (fastopt.torch.LAMB, {"lr": 0.1, "max_grad_norm": 0.1, "nonfinite": "skip"}),
    "compressed": (fastopt.torch.LAMB, {"lr": 0.1, "state_dtype": {"exp_avg": "bfloat16"}}),
}
"""Optimizers that add up whole parameters."""


def sums_beside_whole(kind: str, name: str, backend: str = "auto") -> tuple[float, list[Tensor]]:
    """The largest relative difference to the optimizer of whole parameters, and what this process has at the end."""
    make, options = SUMS[name]
    torch.set_default_dtype(torch.float32 if "state_dtype" in options else torch.float64)
    try:
        model = parallel(kind)
        optimizer = make(model.parameters(), backend=backend, **options)
        whole = [nn.Parameter(gathered(param)) for param in model.parameters()]
        other = make(whole, backend=backend, **options)
        for step in range(5):
            x, y = batch(step, kind)
            model.zero_grad()
            (model(x) - y).square().mean().backward()
            for param, expected in zip(model.parameters(), whole, strict=True):
                expected.grad = gathered(param.grad)  # type: ignore[arg-type]
            optimizer.step()
            other.step()
    finally:
        torch.set_default_dtype(torch.float32)
    worst, own = 0.0, []
    for number in optimizer.spec.common:  # of all processes together
        one, two = (each.param_groups[0][number] for each in (optimizer, other))
        worst = max(worst, abs(one - two) / (abs(two) + 1e-3))
    for param, expected in zip(model.parameters(), whole, strict=True):
        pairs = [(param, expected)]
        pairs += [(optimizer.state[param][key], value) for key, value in other.state[expected].items()]
        for one, two in pairs:
            worst = max(worst, float(((gathered(one) - two).abs() / (two.abs() + 1e-3)).max()))
        own.append(param._local_tensor.detach().clone() if isinstance(param, DTensor) else param.detach().clone())
    return worst, own


def exact_sums(n_replicas: int) -> list[Tensor]:
    """Parameters after a step whose sums are whole numbers, so that shards and replicas change no bit of them."""
    mesh = init_device_mesh("cpu", (n_replicas, 2), mesh_dim_names=("replicate", "shard"))
    made = torch.Generator().manual_seed(0)
    whole = [nn.Parameter(torch.randint(-9, 9, (size, 3), generator=made).double()) for size in (501, 1, 77)]
    params = [nn.Parameter(distribute_tensor(each.detach(), mesh, [Replicate(), Shard(0)])) for each in whole[:2]]
    params.append(nn.Parameter(whole[2].detach().clone()))
    found = []
    for make in (fastopt.torch.LARS, ByRoot.torch):
        for each in (whole, params):
            for param in each:
                param.grad = param.detach() * 2
            make(each, lr=1.0).step()
        found += [gathered(param) for param in params]
        assert all(torch.equal(one, two) for one, two in zip(found[-3:], whole, strict=True)), make
    return found


def errors_beside_sums(options: dict[str, Any]) -> list[Any]:
    """What each process makes of errors of one of them, before and between exchanges, and of a GradScaler's."""
    rank, model = dist.get_rank(), parallel("fsdp")
    optimizer = fastopt.torch.LAMB(model.named_parameters(), lr=0.01, **options)
    found: list[Any] = []
    add_up = Exchange.add_up
    for case in ("", "before", "", "between", "scaler", ""):
        x, y = batch(0, "fsdp")
        model.zero_grad()
        (model(x) - y).square().mean().backward()
        if rank == 0:
            if case == "before":
                gradient: Any = model[0].weight.grad
                model[0].weight.grad = DTensor.from_local(
                    gradient._local_tensor,
                    gradient.device_mesh,
                    [Shard(1)],
                    shape=gradient.shape,
                    stride=gradient.stride(),
                )
            if case == "scaler":
                optimizer.found_inf = torch.tensor(1.0)
            if case == "between":
                optimizer._stepper.forget()

                def broken(self: Exchange, *arguments: Any) -> Any:
                    add_up(self, *arguments)
                    raise ArithmeticError("between")

                Exchange.add_up = broken  # type: ignore[method-assign]
        before = [param._local_tensor.clone() for param in model.parameters()]  # type: ignore[union-attr]
        try:
            optimizer.step()
            found.append("")
        except Exception as error:
            found.append(type(error).__name__)
        Exchange.add_up = add_up  # type: ignore[method-assign]
        if case == "between" and rank == 0:
            optimizer._stepper.forget()
        optimizer.__dict__.pop("found_inf", None)
        pairs = zip(model.parameters(), before, strict=True)
        found.append(any(not torch.equal(param._local_tensor, old) for param, old in pairs))  # type: ignore[union-attr]
    return found


def do_jobs(jobs: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The result of each of these calls; of one that raises, what it says."""
    results = {}
    for name, (function, *arguments) in jobs.items():
        try:
            results[name] = function(*arguments)
        except Exception:
            results[name] = traceback.format_exc()
    return results

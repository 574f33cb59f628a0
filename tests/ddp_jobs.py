"""What processes do for test_torch_ddp.py; they import this file alone."""

from __future__ import annotations

import copy
import functools
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook, fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

import fastopt.torch
from fastopt.torch import step_in_backward

STEPS = 5
BUCKET = 0.005
"""Megabytes: layers of the network take twice as much."""


class Network(torch.nn.Module):
    """With weights that are used twice, a layout of its own, and layers that are left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        self.first = torch.nn.Linear(8, 50)
        self.twice = torch.nn.Linear(50, 50)
        self.optional = torch.nn.Linear(50, 50)
        self.never = torch.nn.Linear(3, 3)
        self.last = torch.nn.Linear(50, 2)

    def forward(self, inputs: Tensor, is_used: bool) -> Tensor:
        hidden = self.first(self.convolution(inputs).relu().mean((2, 3)))
        hidden = self.twice(self.twice(hidden.tanh()).tanh())
        result: Tensor = self.last(self.optional(hidden) if is_used else hidden)
        return result


@dataclass(frozen=True)
class Setup:
    """How a module is wrapped, and trained."""

    options: dict[str, Any] = field(hash=False)
    comm_hook: Any = None
    accumulates: bool = False
    n_ranks: int = 2

    @property
    def is_static(self) -> bool:
        return bool(self.options.get("static_graph"))

    @property
    def leaves_out(self) -> bool:
        """Whether the network may leave layers out: some in all processes, some in one."""
        return self.is_static or bool(self.options.get("find_unused_parameters"))

    def wrapped(self) -> DistributedDataParallel:
        network = Network()
        if not self.leaves_out:
            network.never.requires_grad_(False)
        return DistributedDataParallel(network, bucket_cap_mb=BUCKET, **self.options)


def elsewhere(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """A communication hook whose result is in memory of its own."""
    mean = bucket.buffer() / dist.get_world_size()
    future: torch.futures.Future[Tensor] = dist.all_reduce(mean, async_op=True).get_future()
    return future.then(lambda each: each.value()[0])


elsewhere.__annotations__.clear()  # DDP compares them with types, and here they are strings


VIEWS, UNUSED = {"gradient_as_bucket_view": True}, {"find_unused_parameters": True}
SETUPS = {
    "plain": Setup({}),
    "views": Setup(VIEWS),
    "unused": Setup(UNUSED),
    "unused views": Setup(VIEWS | UNUSED),
    "static": Setup({"static_graph": True}),
    "static views": Setup(VIEWS | {"static_graph": True}),
    "hook": Setup(UNUSED, fp16_compress_hook),
    "hook views": Setup(VIEWS, fp16_compress_hook),
    "elsewhere": Setup({}, elsewhere),
    "elsewhere views": Setup(VIEWS | UNUSED, elsewhere),
    "accumulated": Setup(UNUSED, accumulates=True),
    "accumulated views": Setup(VIEWS | UNUSED, accumulates=True),
    "three": Setup(UNUSED, n_ranks=3),  # 1 / 3 is rounded
    "three views": Setup(VIEWS, n_ranks=3),
}


def inputs(step: int) -> Tensor:
    return torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(10 * step + dist.get_rank()))


def backward(module: DistributedDataParallel, setup: Setup, step: int) -> None:
    turn = 0 if setup.is_static else step % 2
    is_used = not setup.leaves_out or (dist.get_rank() == turn and (setup.is_static or step % 3 != 2))
    if setup.accumulates:
        with module.no_sync():
            module(inputs(step + 100), not is_used).square().mean().backward()
    module(inputs(step), is_used).square().mean().backward()


def trained(optimizer: str, options: dict[str, Any], setup: Setup, in_backward: bool) -> list[Tensor]:
    """Parameters and states after some steps, one after backward passes or in them."""
    cls, module = getattr(fastopt.torch, optimizer), setup.wrapped()
    if in_backward:
        made = step_in_backward(module, cls, comm_hook=setup.comm_hook, **options)
    else:
        made = cls([param for param in module.parameters() if param.requires_grad], **options)
        if setup.comm_hook:
            module.register_comm_hook(None, setup.comm_hook)
    for step in range(STEPS):
        backward(module, setup, step)
        if in_backward:
            assert all(param.grad is None for param in module.parameters())
        else:
            made.step()
            made.zero_grad()
    # A parameter that no process used has states from the start in the backward pass, and otherwise none.
    used = [param for param in module.parameters() if in_backward or param in made.state]
    states = [made.state[param][name] for param in used for name in made.state[param]] if not setup.leaves_out else []
    return [each.detach().clone() for each in (*module.parameters(), *states)]


def in_both_ways(jobs: list[tuple[str, dict[str, Any]]], setup: Setup) -> list[list[Tensor]]:
    found = []
    for optimizer, options in jobs:
        mine, theirs = (trained(optimizer, options, setup, in_backward) for in_backward in (True, False))
        assert len(mine) == len(theirs)
        assert all(map(torch.equal, mine, theirs)), optimizer
        found.append(mine)
    return found


def when_buckets_are_stepped() -> list[tuple[int, int, int]]:
    """For each bucket that is sent in a second backward pass: its number, how many parameters of the earlier ones have
    been stepped, and how many have a gradient outside of the buckets."""
    seen: list[tuple[int, int, int]] = []
    earlier: list[tuple[Tensor, int]] = []
    buffers: set[int] = set()

    def at_once(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        future = allreduce_hook(None, bucket)
        future.wait()
        n_outside = sum(
            param.grad is not None and param.grad.untyped_storage().data_ptr() not in buffers for param, _ in earlier
        )
        seen.append((bucket.index(), sum(param._version > version for param, version in earlier), n_outside))
        earlier.extend((param, param._version) for param in bucket.parameters())
        buffers.add(bucket.buffer().untyped_storage().data_ptr())
        return future

    at_once.__annotations__.clear()
    module = SETUPS["plain"].wrapped()
    step_in_backward(module, fastopt.torch.Adam, comm_hook=at_once)
    for step in range(2):
        backward(module, SETUPS["plain"], step)
        if step == 0:
            seen.clear(), earlier.clear()
    return seen


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))


def loss(module: torch.nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 * step + dist.get_rank())
    result: Tensor = module(torch.randn(4, 5, generator=generator)).square().mean()
    return result


def flat(module: torch.nn.Module) -> Tensor:
    return torch.cat([param.detach().flatten() for param in module.parameters()])


def two_optimizers() -> tuple[Tensor, Tensor]:
    found = []
    for in_backward in (True, False):
        whole = model()
        module = DistributedDataParallel(whole)
        loss(module, 0).backward()  # The module has been used.
        module.zero_grad()
        made: list[Any] = [(fastopt.torch.Adam, whole[0]), (fastopt.torch.RMSprop, whole[2])]
        if in_backward:  # Given a part of the module, or parameters, they find what averages these.
            step_in_backward(whole[2].parameters(), fastopt.torch.RMSprop, lr=0.1)
            added = step_in_backward([whole[0].weight], fastopt.torch.Adam, lr=0.1)
            added.add_param_group({"params": [whole[0].bias], "lr": 0.2})
            made = []
        else:
            groups = [{"params": [whole[0].weight]}, {"params": [whole[0].bias], "lr": 0.2}]
            made = [fastopt.torch.Adam(groups, lr=0.1), fastopt.torch.RMSprop(whole[2].parameters(), lr=0.1)]
        for step in range(3):
            loss(module, step).backward()
            for each in made:
                each.step()
                each.zero_grad()
        found.append(flat(whole))
    return found[0], found[1]


def ignored_parameters() -> tuple[Tensor, Tensor]:
    found = []
    for in_backward in (True, False):
        whole = model()
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(whole, ["0.bias"])
        module = DistributedDataParallel(whole)
        cls = fastopt.torch.Adam
        made = step_in_backward(module, cls, lr=0.1) if in_backward else cls(module.parameters(), lr=0.1)
        for step in range(3):
            loss(module, step).backward()
            made.step()
            made.zero_grad()
        found.append(flat(whole))
    return found[0], found[1]


def uneven_inputs() -> Tensor:
    module = DistributedDataParallel(model())
    step_in_backward(module, fastopt.torch.Adam, lr=0.1)
    with module.join():
        for step in range(3 + dist.get_rank()):
            loss(module, step).backward()
    return flat(module)


def returns_to_steps_after_backward() -> tuple[Tensor, Tensor]:
    found = []
    for in_backward in (True, False):
        module = DistributedDataParallel(model())
        made = fastopt.torch.Adam(module.parameters(), lr=0.1)
        for step in range(6):
            if in_backward and step in (0, 4):
                made.step_in_backward()
            if in_backward and step == 2:
                made.step_after_backward()
            loss(module, step).backward()
            made.step()
            made.zero_grad()
        found.append(flat(module))
    return found[0], found[1]


def one_rank_fails() -> tuple[str, list[bool], Tensor, Tensor]:
    """What the backward pass raises where a state is damaged in one process, and parameters after that."""
    module = DistributedDataParallel(model(), bucket_cap_mb=1e-4)
    made = step_in_backward(module, fastopt.torch.Adam, lr=0.1)
    loss(module, 0).backward()
    weight = module.module[2].weight
    state, before = made.state[weight]["exp_avg"], flat(module)
    message = ""
    if dist.get_rank() == 1:
        made.state[weight]["exp_avg"] = torch.zeros(2)
    try:
        loss(module, 1).backward()
    except ValueError as error:
        message = str(error)
    made.state[weight]["exp_avg"] = state
    after = flat(module)
    missing = [param.grad is None for param in module.parameters()]
    made.zero_grad()
    loss(module, 2).backward()  # Nobody hangs, and the module works.
    assert not torch.equal(flat(module), after)
    return message, missing, before, after


def wrap_later() -> None:
    whole = model()
    step_in_backward(whole, fastopt.torch.Adam)
    DistributedDataParallel(whole)


def wrap_with_fsdp_later() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    whole = model()
    step_in_backward(whole.named_parameters(), fastopt.torch.Adam)
    FullyShardedDataParallel(whole, use_orig_params=True, device_id=torch.device("cpu"))


def unfreeze_later() -> None:
    whole = model()
    whole[0].bias.requires_grad_(False)
    module = DistributedDataParallel(whole)
    whole[0].bias.requires_grad_()
    step_in_backward(module, fastopt.torch.Adam)
    before = flat(whole)
    try:
        loss(module, 0).backward()
    finally:
        assert torch.equal(flat(whole), before)


def second_hook() -> None:
    module = DistributedDataParallel(model())
    module.register_comm_hook(None, allreduce_hook)
    step_in_backward(module, fastopt.torch.Adam)


def other_hook() -> None:
    module = DistributedDataParallel(model())
    step_in_backward(module.module[0], fastopt.torch.Adam)
    step_in_backward(module.module[2], fastopt.torch.Adam, comm_hook=fp16_compress_hook)


def hook_without_module() -> None:
    step_in_backward(model(), fastopt.torch.Adam, comm_hook=fp16_compress_hook)


def delayed() -> None:
    whole = model()
    named = [("0.bias", whole[0].bias)]
    module = DistributedDataParallel(
        whole, delay_all_reduce_named_params=named, param_to_hook_all_reduce=whole[2].weight
    )
    step_in_backward(module, fastopt.torch.Adam)


def copy_of_optimizer() -> None:
    module = DistributedDataParallel(model())
    made = step_in_backward(module, fastopt.torch.Adam)
    loss(module, 0).backward()
    assert not copy.copy(made).in_backward
    assert isinstance(copy.deepcopy(module), DistributedDataParallel)
    copy.deepcopy((module, made))


def zero(**options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, for what stands beside it
        from torch.distributed.optim import ZeroRedundancyOptimizer
    module = DistributedDataParallel(model())
    return module, ZeroRedundancyOptimizer(module.parameters(), optimizer_class=fastopt.torch.Adam, lr=0.1, **options)


def zero_norm() -> None:
    zero(max_grad_norm=1.0)


def zero_nonfinite() -> None:
    zero(nonfinite="skip")


def sharded(**options: Any) -> Any:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: FSDP1 is on its way out
        module = FullyShardedDataParallel(model(), use_orig_params=True, device_id=torch.device("cpu"))
    return module, fastopt.torch.Adam(module.parameters(), lr=0.1, **options)


def sharded_norm() -> None:
    sharded(max_grad_norm=1.0)


def sharded_nonfinite() -> None:
    sharded(nonfinite="raise")


def sharded_in_backward() -> None:
    sharded()[1].step_in_backward()


BAD: dict[str, tuple[Callable[[], None], type[Exception], str]] = {
    "wrapped later": (wrap_later, RuntimeError, "params[0] ('0.weight' of the module) is stepped in the backward pass"),
    "wrapped by FSDP later": (wrap_with_fsdp_later, RuntimeError, "parameter '0.weight' ('0.weight' of the module) is"),
    "unfrozen later": (unfreeze_later, RuntimeError, "params[1]: DistributedDataParallel does not average"),
    "a hook before": (second_hook, ValueError, "has a communication hook already"),
    "another hook": (other_hook, ValueError, "has a communication hook already"),
    "no module": (hook_without_module, ValueError, "comm_hook is for DistributedDataParallel, and no such module"),
    "delayed": (delayed, ValueError, "params[1] is one of delay_all_reduce_named_params"),
    "copied": (copy_of_optimizer, RuntimeError, "call step_after_backward() first"),
    "norm, ZeRO": (zero_norm, ValueError, "max_grad_norm=1.0 goes by all gradients together, but under ZeroRedundancy"),
    "nonfinite, ZeRO": (zero_nonfinite, ValueError, "nonfinite='skip' goes by all gradients together"),
    "norm, FSDP": (
        sharded_norm,
        ValueError,
        "max_grad_norm=1.0 goes by all gradients together, but under FullySharded",
    ),
    "nonfinite, FSDP": (sharded_nonfinite, ValueError, "nonfinite='raise' goes by all gradients together"),
    "hooks, FSDP": (sharded_in_backward, ValueError, "params[0] is a part of a FullyShardedDataParallel module"),
}


def what_is_raised() -> dict[str, tuple[str, str]]:
    found = {}
    for name, (attempt, _, _) in BAD.items():
        try:
            attempt()
            found[name] = "nothing", ""
        except Exception as error:
            found[name] = type(error).__name__, str(error)
    return found


def clipped_under_zero() -> tuple[Tensor, Tensor, float, float]:
    module, made = zero()
    whole = model()
    alone = fastopt.torch.Adam(whole.parameters(), lr=0.1, max_grad_norm=0.01)
    for step in range(3):
        made.zero_grad()
        loss(module, step).backward()
        for param, other in zip(whole.parameters(), module.parameters(), strict=True):
            assert other.grad is not None
            param.grad = other.grad.clone()
        norm = float(fastopt.torch.clip_grad_norm_(module.parameters(), 0.01))
        made.step()
        alone.step()
    return flat(module), flat(whole), norm, alone.grad_norm


def with_fsdp_and_local_sgd(package: str) -> list[Tensor]:
    from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.optim import PostLocalSGDOptimizer

    cls = {"fastopt": fastopt.torch.Adam, "torch": torch.optim.Adam}[package]
    found = []
    module: Any = DistributedDataParallel(model())
    module.register_comm_hook(PostLocalSGDState(None, dist.new_group([dist.get_rank()]), 2), post_localSGD_hook)
    averager = PeriodicModelAverager(period=2, warmup_steps=2)
    local: Any = PostLocalSGDOptimizer(cls(module.parameters(), lr=0.1), averager)
    for step in range(7):
        local.zero_grad()
        loss(module, step).backward()
        local.step()
    found.append(flat(module))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = FullyShardedDataParallel(model(), use_orig_params=True, device_id=torch.device("cpu"))
    sharded_optimizer = cls(module.parameters(), lr=0.1)
    for step in range(4):
        sharded_optimizer.zero_grad()
        loss(module, step).backward()
        module.clip_grad_norm_(0.01)
        sharded_optimizer.step()
    with FullyShardedDataParallel.summon_full_params(module):
        found.append(flat(module))
    return found


JOBS: dict[str, Callable[[], Any]] = {
    "when buckets are stepped": when_buckets_are_stepped,
    "two optimizers": two_optimizers,
    "ignored parameters": ignored_parameters,
    "uneven inputs": uneven_inputs,
    "returns to steps after backward": returns_to_steps_after_backward,
    "one rank fails": one_rank_fails,
    "what is raised": what_is_raised,
    "clipped under zero": clipped_under_zero,
    "fsdp and local sgd, fastopt": functools.partial(with_fsdp_and_local_sgd, "fastopt"),
    "fsdp and local sgd, torch": functools.partial(with_fsdp_and_local_sgd, "torch"),
}

Jobs = list[tuple[str, dict[str, Any]]]
"""Names of optimizers, and their options."""


def run_jobs(two: Jobs, every: Jobs) -> dict[str, Any]:
    """The results of all jobs for this number of processes, by name; what an assertion says instead of a result."""
    n_ranks = dist.get_world_size()
    setups = {name: each for name, each in SETUPS.items() if each.n_ranks == n_ranks}
    jobs = {f"setup {name}": functools.partial(in_both_ways, two, each) for name, each in setups.items()}
    if n_ranks == 2:
        jobs |= {"every optimizer": functools.partial(in_both_ways, every, SETUPS["plain"]), **JOBS}
    found: dict[str, Any] = {}
    for name, job in jobs.items():
        try:
            found[name] = job()
        except AssertionError:
            found[name] = traceback.format_exc()
    return found

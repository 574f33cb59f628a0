"""`python -m fastopt.bench.sharded_training`: train a sharded model, kill a rank, go on with fewer. Linux only.

A network of 2e8 parameters is sharded by FSDP2 over 4 processes of this machine (gloo) and trained with
`fastopt.torch.AdamW`, whose states are in float8. Half way, `torch.distributed.checkpoint` saves model and optimizer;
then one rank is killed (SIGKILL). A run of 2 processes loads the checkpoint and trains to the end. Printed are

- the losses beside those of a run that nobody disturbed;
- the memory that the first step of each optimizer adds to a rank, for each of its parameters;
- the optimizer's share of a step, beside torch.optim's fused AdamW.

`--quick` takes a network of 2e5 parameters and 2 ranks, then 1; its times and its memory mean nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from . import memory

PRELOADED = ["torch", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict", "fastopt.torch"]
"""What ranks need: they are forks of a process that has imported it, and has run nothing."""

PATIENCE = 600.0
"""Seconds in which a step or a checkpoint must come to an end."""

BATCH = 16


@dataclass(frozen=True)
class Run:
    """One training, by `ranks` processes: steps `first` to `last`, and what happens between them."""

    ranks: int
    package: str = "fastopt.torch"
    width: int = 1024
    blocks: int = 24
    first: int = 0
    last: int = 8
    options: tuple[tuple[str, Any], ...] = (("state_dtype", "float8"), ("stochastic_rounding", True))
    load_from: str | None = None
    save_to: str | None = None
    save_before: int = -1
    kill_before: int = -1


@dataclass
class Outcome:
    """What one rank found, in the order of steps."""

    losses: list[float]
    seconds: list[float]
    optimizer_seconds: list[float]
    parameters: int
    """Of this rank."""
    bytes_added: int
    """Physical memory after the first step of the optimizer, more than before it."""


def network(width: int, blocks: int) -> Any:
    """A regression by residual blocks of two matrices, 8 * width**2 parameters each."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.inner = nn.Linear(width, 4 * width)
            self.outer = nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            return x + self.outer(torch.relu(self.inner(self.norm(x))))

    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(blocks)), nn.Linear(width, 1))


def batch_of(step: int, width: int, rank: int, ranks: int) -> tuple[Any, Any]:
    """This rank's share of the batch of a step, which is the same for any number of ranks."""
    import torch

    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH, width, generator=generator)
    mine = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    return inputs[mine], inputs[mine, :8].sum(1, keepdim=True).sin()


def train(run: Run, rank: int, meeting: str, answers: Any) -> None:
    """One rank of a run, in a process of its own."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    if run.kill_before >= 0:  # Those that are left tell at length that they have lost one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    import importlib

    import torch
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", meeting, rank=rank, world_size=run.ranks)
    mesh = init_device_mesh("cpu", (run.ranks,))
    model = network(run.width, run.blocks)
    for block in model[:-1]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = importlib.import_module(run.package).AdamW(model.parameters(), lr=1e-5, **dict(run.options))
    if run.load_from is not None:
        states, optim = get_state_dict(model, optimizer)
        load({"model": states, "optim": optim}, checkpoint_id=run.load_from)
        set_state_dict(model, optimizer, model_state_dict=states, optim_state_dict=optim)
    mine = sum(param.to_local().numel() for param in model.parameters())
    found = Outcome([], [], [], mine, 0)
    for step in range(run.first, run.last):
        if step == run.save_before:
            states, optim = get_state_dict(model, optimizer)
            save({"model": states, "optim": optim}, checkpoint_id=run.save_to)
            del states, optim
        if step == run.kill_before and rank == run.ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.perf_counter()
        inputs, targets = batch_of(step, run.width, rank, run.ranks)
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        if step == run.first:  # The states would lie where gathered parameters lay.
            memory.give_memory_back()
        before = memory.resident_bytes() if step == run.first else 0
        ready = time.perf_counter()
        optimizer.step()
        ended = time.perf_counter()
        if step == run.first:
            found.bytes_added = memory.resident_bytes() - before
        optimizer.zero_grad()
        total = loss.detach().clone()
        dist.all_reduce(total)
        found.losses.append(float(total) / run.ranks)
        found.seconds.append(time.perf_counter() - began)
        found.optimizer_seconds.append(ended - ready)
        if rank == 0:
            answers.put(("step", step, found.losses[-1]))
    answers.put(("end", rank, asdict(found)))
    dist.barrier()
    dist.destroy_process_group()


def run_all(run: Run) -> list[Outcome]:
    """Run the ranks of a training; what each found. Where one was to be killed, what rank 0 told until then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    answers = context.Queue()
    outcomes: dict[int, Outcome] = {}
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=train, args=(run, rank, f"file://{folder}/meeting", answers), daemon=True)
            for rank in range(run.ranks)
        ]
        for each in ranks:
            each.start()
        try:
            end = time.monotonic() + PATIENCE
            while len(outcomes) < run.ranks:
                try:
                    kind, number, value = answers.get(timeout=1.0)
                except queue.Empty:
                    codes = [each.exitcode for each in ranks]
                    if run.kill_before >= 0 and -signal.SIGKILL in codes:
                        return [Outcome(losses, [], [], 0, 0)]
                    if any(codes) or time.monotonic() > end:
                        raise RuntimeError(f"{run}: ranks ended with {codes}") from None
                    continue
                end = time.monotonic() + PATIENCE
                if kind == "step":
                    losses.append(value)
                else:
                    outcomes[number] = Outcome(**value)
            for each in ranks:
                each.join()
        finally:
            for each in ranks:
                each.kill()
                each.join()
    return [outcomes[rank] for rank in sorted(outcomes)]


def share(outcome: Outcome) -> float:
    """The optimizer's part of the time, after the first step, which makes the states."""
    return sum(outcome.optimizer_seconds[1:]) / sum(outcome.seconds[1:])


def describe(name: str, outcomes: Sequence[Outcome], states: float) -> str:
    """A line of the table: the rank that is slowest in the optimizer stands for all. `states`: bytes that it needs."""
    slowest = max(outcomes, key=lambda each: sum(each.optimizer_seconds[1:]))
    added = max(each.bytes_added / each.parameters for each in outcomes)
    milliseconds, whole = (1e3 * statistics.median(each[1:]) for each in (slowest.optimizer_seconds, slowest.seconds))
    return (
        f"{name:27} {added:6.2f} bytes a parameter (states: {states:.2f}), optimizer {milliseconds:8.2f} ms of "
        f"{whole:9.1f} ms a step, {100 * share(slowest):.2f} %"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; see the docstring of the module."""
    parser = argparse.ArgumentParser(
        prog="python -m fastopt.bench.sharded_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a small network, 2 ranks, then 1")
    parser.add_argument("--ranks", type=int, nargs=2, default=(4, 2), metavar=("BEFORE", "AFTER"), help="default: 4 2")
    options = parser.parse_args(arguments)
    if reason := memory.unavailable():
        parser.exit(1, f"{parser.prog}: {reason}\n")
    before, after = (2, 1) if options.quick else options.ranks
    whole = Run(before, width=64, blocks=6) if options.quick else Run(before)
    middle = whole.last // 2
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = run_all(whole)
        killed = run_all(replace(whole, save_to=folder, save_before=middle, kill_before=middle + 1))
        resumed = run_all(replace(whole, ranks=after, first=middle, load_from=folder))
    theirs = run_all(replace(whole, package="torch.optim", options=(("fused", True),)))
    total = sum(each.parameters for each in undisturbed)
    print(f"{total:,} parameters, {before} ranks, of which one is killed, then {after}; losses by step:")
    print("  undisturbed        ", *(f"{each:.6f}" for each in undisturbed[0].losses))
    print("  killed, then resumed", *(f"{each:.6f}" for each in killed[0].losses[:middle] + resumed[0].losses))
    pairs = zip(undisturbed[0].losses[middle:], resumed[0].losses, strict=True)
    print(f"largest relative difference after the checkpoint: {max(abs(a - b) / abs(a) for a, b in pairs):.1e}")
    print(describe("fastopt.torch.AdamW, float8", undisturbed, 2 * (1 + 1 / 256)))
    print(describe("torch.optim.AdamW, fused", theirs, 8.0))


if __name__ == "__main__":
    main()

"""The tests' own way of running several processes: what they return, raise, and wait for."""

from __future__ import annotations

import os
import signal

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks


def summed(value: int) -> tuple[int, torch.Tensor]:
    total = torch.tensor([value + dist.get_rank()])
    dist.all_reduce(total)
    return dist.get_rank(), total


def one_raises() -> None:
    if dist.get_rank() == 1:
        raise ValueError("what it says")
    dist.barrier()


def one_dies() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def one_is_missing() -> None:
    if dist.get_rank() == 0:
        dist.all_reduce(torch.zeros(1))
    else:
        signal.pause()


@pytest.mark.parametrize("n_ranks", [1, 2, 4])
def test_results_come_by_rank(n_ranks: int) -> None:
    total = sum(range(10, 10 + n_ranks))
    assert run_ranks(summed, n_ranks, 10) == [(rank, torch.tensor([total])) for rank in range(n_ranks)]


def test_what_a_rank_raises_is_told() -> None:
    with pytest.raises(AssertionError, match=r"(?s)rank 1: .*ValueError: what it says"):
        run_ranks(one_raises, 2)


def test_ranks_that_die_or_hang_end_the_run() -> None:
    with pytest.raises(AssertionError, match=r"rank \d: "):
        run_ranks(one_dies, 2)
    with pytest.raises(AssertionError, match=r"ranks .* hang"):
        run_ranks(one_is_missing, 2, patience=3.0)

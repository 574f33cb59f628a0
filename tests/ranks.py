"""Functions that run in several processes of torch.distributed at once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

# Processes are forks of one that has imported these, and has run nothing: a rank starts in 0.1 s instead of 5.
PRELOADED = ["torch", "torch.distributed.fsdp", "torch.distributed.tensor", "fastopt.torch"]
PATIENCE = 100.0
"""Seconds until ranks that wait for each other are killed."""

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(PRELOADED)


def run_ranks(function: Callable[..., Any], n_ranks: int, *arguments: Any, patience: float = PATIENCE) -> list[Any]:
    """Call `function(*arguments)` in `n_ranks` processes with a gloo group of all; their results, by rank.

    The function is one of a module, which processes import, and tells its rank by `dist.get_rank()`. Arguments and
    results are pickled, so return plain tensors. What one raises is an AssertionError here, and the others are killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks: list[tuple[Any, Connection]] = []
        try:
            for rank in range(n_ranks):
                here, there = _forks.Pipe(duplex=False)
                call = (pickle.dumps((function, arguments)), f"file://{folder}/meeting", rank, n_ranks, there)
                process = _forks.Process(target=_run_rank, args=call, daemon=True)
                process.start()
                there.close()
                ranks.append((process, here))
            return _results([each for _, each in ranks], time.monotonic() + patience)
        finally:
            for process, here in ranks:
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                process.join()
                here.close()


def _results(connections: list[Connection], end: float) -> list[Any]:
    results: dict[int, Any] = {}
    waiting = dict(zip(connections, range(len(connections)), strict=True))
    while waiting:
        ready = wait(list(waiting), max(0.0, end - time.monotonic()))
        assert ready, f"ranks {sorted(waiting.values())} hang"
        for each in ready:
            assert isinstance(each, Connection)
            rank = waiting.pop(each)
            try:
                failure, results[rank] = pickle.loads(each.recv_bytes())
            except EOFError:
                failure = "the process ended"
            assert failure is None, f"rank {rank}: {failure}"
    return [results[rank] for rank in range(len(connections))]


def _run_rank(call: bytes, meeting: str, rank: int, n_ranks: int, there: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    failure, result = None, None
    try:
        function, arguments = pickle.loads(call)
        dist.init_process_group("gloo", meeting, rank=rank, world_size=n_ranks)
        result = function(*arguments)
        dist.barrier()  # Nobody goes while another one still waits for it.
        dist.destroy_process_group()
    except BaseException:
        failure, result = traceback.format_exc(), None
    there.send_bytes(pickle.dumps((failure, result)))
    there.close()

"""A pool of single-threaded worker processes; if one dies, that is the result of its job."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)
"""The environment variables from which numerical libraries read their number of threads when they are loaded."""

READY = "ready"


@dataclass(frozen=True)
class Died:
    """The result of a job whose process ended before it had one."""

    exit_code: int | None

    def __str__(self) -> str:
        code = self.exit_code
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"the worker process was killed by {signal.Signals(-code).name}"
        return f"the worker process ended with exit code {code}"


@dataclass
class Worker:
    """A process, its pipe, and the number of its job; None before it is ready and while it is idle."""

    process: BaseProcess
    pipe: Connection
    job: int | None = None
    ready: bool = False


def run_jobs(
    function: Callable[[Any], Any], jobs: Sequence[Any], n_workers: int
) -> Generator[tuple[int, Any], None, None]:
    """Run `function(job)` for each job, and yield the number and result of each as it completes.

    The processes are spawned, not forked, with one thread for every library that reads an environment variable. If a
    process dies, it is replaced, and its job's result is a `Died`. If the caller stops early, all processes are killed.

    Raises
    ------
    RuntimeError
        No process can be started.
    """
    waiting = deque(range(len(jobs)))
    workers: list[Worker] = []
    try:
        workers += [_start(function) for _ in range(min(n_workers, len(jobs)))]
        while workers:
            for pipe in wait([worker.pipe for worker in workers]):
                worker = next(each for each in workers if each.pipe is pipe)
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    yield from _bury(worker)
                    if waiting:
                        workers.append(_start(function))
                    continue
                if worker.ready:
                    assert worker.job is not None
                    done, worker.job = worker.job, None
                    yield done, message
                worker.ready = True
                if waiting:
                    worker.job = waiting.popleft()
                    with contextlib.suppress(BrokenPipeError):  # it died, and its pipe reports that next
                        worker.pipe.send(jobs[worker.job])
                else:
                    workers.remove(worker)
                    worker.pipe.close()  # ends it
                    worker.process.join()
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.pipe.close()


def _start(function: Callable[[Any], Any]) -> Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), name="fastopt sweep")
    try:
        with _one_thread_each():
            process.start()
    except BaseException:
        if process.pid is not None:  # started, but an interrupt came before it was known
            process.kill()
            process.join()
        raise
    finally:
        theirs.close()
    return Worker(process, ours)


def _bury(worker: Worker) -> Iterator[tuple[int, Any]]:
    worker.pipe.close()
    worker.process.join()
    if not worker.ready:
        raise RuntimeError(
            f"a worker process ended before it could begin, with exit code {worker.process.exitcode}; what it printed "
            "says why. A program that starts a sweep must do so within `if __name__ == '__main__':`"
        )
    if worker.job is not None:
        yield worker.job, Died(worker.process.exitcode)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Start processes within this with an environment that sets one thread."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else ()
    # It is inherited, and shields a starting child from Ctrl-C.
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # last, as it may raise a KeyboardInterrupt


def _end_with_parent() -> None:
    """End this process if its parent, which reads the results, is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(function: Callable[[Any], Any], pipe: Connection) -> None:
    """The main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(READY)
    with contextlib.suppress(EOFError, OSError, BrokenPipeError):
        while True:
            result = function(pipe.recv())
            sys.stdout.flush()
            pipe.send(result)

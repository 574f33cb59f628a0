"""Programs in processes of their own, and the threads of this one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

import fastopt

TESTS = Path(__file__).parent


def in_a_fresh_process(code: str, **environment: str) -> str:
    """Run a program that can import the tests; what it printed. What hangs is killed, with all its children."""
    path = os.pathsep.join(each for each in sys.path if Path(each).is_relative_to(TESTS))
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = child.communicate(timeout=100)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, errors
    return output


def threads_during_steps(n_threads: int | None, enough: float = float("inf")) -> int:
    """The most threads that this process was seen to have while it stepped; looks often, but not beyond `enough`."""
    most, looks, stop = 0, 0, threading.Event()

    def watch() -> None:
        nonlocal most, looks
        while not stop.is_set():
            most = max(most, len(os.listdir("/proc/self/task")))
            looks += 1

    param, gradient = np.ones((2, 100_000), np.float32)
    optimizer = fastopt.Adam(param, grads=gradient, n_threads=n_threads)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        steps = 0
        while most < enough and (looks < 2000 or steps < 300):
            optimizer.step()
            steps += 1
    finally:
        stop.set()
        watcher.join()
        while str(watcher.native_id) in os.listdir("/proc/self/task"):  # It is there for a moment longer.
            pass
    return most

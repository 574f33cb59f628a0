"""Python threads that help with a compiled step, without which the step is only slower."""

from __future__ import annotations

import os
import queue
import threading
from typing import Any

from ..engine.step_table import HELP

Request = tuple[Any, Any, int]
"""The compiled step, the table, which must stay as long as a thread may look at it, and its address."""

_requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
_started = 0
_process = 0


def call_for_help(n: int, function: Any, table: Any, address: int) -> None:
    """Ask threads to help with the step that is about to begin; those that come too late do nothing."""
    if _process != os.getpid() or _started < n:
        _start(n)
    n = min(n, _started)
    if _requests.qsize() < 2 * n:  # otherwise they are busy
        for _ in range(n):
            _requests.put((function, table, address))


def _start(n: int) -> None:
    """Start threads, so that there are this many if there can be. A forked child has none of its parent's.

    There is no lock, which another thread could hold in the moment of a fork; too many threads do no harm.
    """
    global _requests, _started, _process
    if _process != os.getpid():
        _requests, _started, _process = queue.SimpleQueue(), 0, os.getpid()
    while _started < n:
        try:
            threading.Thread(target=_help, args=(_requests,), name="fastopt", daemon=True).start()
        except RuntimeError:  # no more can be started
            return
        _started += 1


def _help(requests: queue.SimpleQueue[Request]) -> None:
    while True:
        function, table, address = requests.get()
        function(address, HELP)
        del table

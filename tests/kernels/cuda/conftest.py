"""Tests of backend='cuda': in Numba's simulator or on a device, in a process of their own (`tests/test_cuda.py`)."""

from __future__ import annotations

import os
import threading
import time

collect_ignore_glob = [] if os.environ.get("FASTOPT_TEST_CUDA") else ["test_*.py"]

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" and os.environ.get("FASTOPT_TEST_CUDA"):
    from numba.cuda.simulator.kernel import BlockThread

    def is_alive(self: threading.Thread) -> bool:
        """The simulator calls this in a loop until a block's threads are done; meanwhile they can run."""
        time.sleep(0)
        return threading.Thread.is_alive(self)

    BlockThread.is_alive = is_alive

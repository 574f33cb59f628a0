"""Tests of backend='cuda': in Numba's simulator or on a device, in a process of their own (`tests/test_cuda.py`)."""

from __future__ import annotations

import os
import sys

collect_ignore_glob = [] if os.environ.get("FASTOPT_TEST_CUDA") else ["test_*.py"]

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    # The simulator's threads wait for each other by looking; this lets them look more often.
    sys.setswitchinterval(1e-4)

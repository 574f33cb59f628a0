"""Loads the compiled modules and configures them for this machine, on import.

Importing this package raises ImportError if the compiled modules were not built; callers that can work without them
catch the error.
"""

from __future__ import annotations

import os
from typing import Any

from .. import cpu
from . import _coefficients  # type: ignore[attr-defined]
from . import engine as _engine  # type: ignore[attr-defined]

CAPABILITIES: dict[str, Any] = _engine.describe()
Engine = _engine.Engine
set_requested_threads = _engine.set_requested_threads
get_default_threads = _engine.get_default_threads
set_thread_policy = _engine.set_thread_policy
ThreadChoice = _engine.ThreadChoice
add_up_arrays = _engine.add_up_arrays
change_arrays = _engine.change_arrays
Pieces = _engine.Pieces

PREFETCH_DISTANCE = cpu.choose_prefetch_distance(CAPABILITIES)
_engine.set_prefetch_distance(PREFETCH_DISTANCE)
AVAILABLE_CPUS = cpu.available_cpus(openmp=CAPABILITIES["openmp_processors"])
if not os.environ.get("OMP_NUM_THREADS"):
    _engine.set_available_threads(AVAILABLE_CPUS)
_engine.set_stack_bytes(cpu.openmp_stack_bytes())
if cpu.is_forked_child():
    _engine.set_forked()


def can_flush_denormals() -> bool:
    """Whether the compiled engine can treat denormals as zero on this processor."""
    return bool(CAPABILITIES["can_flush_denormals"])


def coefficient_function(name: str) -> int:
    """The address of a compiled coefficient function."""
    return int(_coefficients.ADDRESSES[name])

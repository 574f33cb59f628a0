"""Chooses the instruction set of the loops, and counts the processors that this process may use."""

from __future__ import annotations

import functools
import math
import os
import re
from pathlib import Path

LEVELS = ("x86-64", "x86-64-v3", "x86-64-v4")
"""The x86-64 micro-architecture levels that the loops are compiled for, from plain to AVX-512."""

OTHER = "native"
"""The only level on other architectures."""

LEVEL_VARIABLE = "FASTOPT_CPU"
PREFETCH_VARIABLE = "FASTOPT_PREFETCH"
ROOTS_VARIABLE = "FASTOPT_SHARED_ROOTS"


def module_name(level: str) -> str:
    """The compiled module that holds the loops of a level."""
    return "_loops_" + level.replace("-", "_")


def choose_level(capabilities: dict[str, object]) -> str:
    """The highest level that the processor supports, or the level that FASTOPT_CPU names.

    Raises
    ------
    ValueError
        FASTOPT_CPU names an unknown level, or one that this processor does not support.
    """
    usable = [OTHER]
    if capabilities["x86_64"]:
        usable = [level for level in LEVELS if capabilities.get(level.replace("-", "_"))]
    wanted = os.environ.get(LEVEL_VARIABLE, "")
    if not wanted:
        return usable[-1]
    if wanted not in (*LEVELS, OTHER):
        raise ValueError(f"{LEVEL_VARIABLE}={wanted!r} is no instruction set level; choose one of {', '.join(usable)}")
    if wanted not in usable:
        raise ValueError(f"{LEVEL_VARIABLE}={wanted!r} cannot run on this processor; choose one of {', '.join(usable)}")
    return wanted


def choose_prefetch_distance(capabilities: dict[str, object]) -> int:
    """How many elements ahead the loops prefetch; 0 for no prefetch.

    On an Intel server a distance of 512 gained 20 % at 10 million parameters. On an AMD Zen 4 server nearly every
    distance and size was slower, up to 1.9 times (docs/performance.md).
    """
    wanted = os.environ.get(PREFETCH_VARIABLE, "")
    if not wanted:
        return 512 if capabilities["intel"] else 0
    if not wanted.isdigit():
        raise ValueError(f"{PREFETCH_VARIABLE}={wanted!r}: expected a number of elements, 0 for no prefetch")
    return int(wanted)


def choose_shared_roots(capabilities: dict[str, object], can_share: bool) -> bool:
    """Whether multipliers compute a part of the float32 square roots; the bits are the same.

    On an Intel server this is 1.15 to 1.2 times as fast within the caches. Other processors have not been measured, and
    some have half as many multipliers for vectors of 512 bits (docs/performance.md).
    """
    wanted = os.environ.get(ROOTS_VARIABLE, "")
    if wanted not in ("", "0", "1"):
        raise ValueError(f"{ROOTS_VARIABLE}={wanted!r}: expected 0 or 1")
    return can_share and (wanted == "1" or (not wanted and bool(capabilities["intel"])))


_requested_threads = 0


def set_requested_threads(n_threads: int) -> None:
    """Set the number of threads that `default_threads` returns; 0 for as many as the process may use."""
    global _requested_threads
    _requested_threads = n_threads


def default_threads() -> int:
    """How many threads to use, if there is no compiled module that decides it."""
    return _requested_threads or _found_threads()


@functools.cache
def _found_threads() -> int:
    """By OMP_NUM_THREADS, the affinity and the quota of this process when it is first asked for, as OpenMP does."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else available_cpus()


def is_forked_child(stat: str = "/proc/self/stat") -> bool:
    """Whether this process was forked and has run no other program since; False if the system does not tell."""
    try:
        flags = int(Path(stat).read_text().rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & 0x40)  # PF_FORKNOEXEC


def openmp_stack_bytes() -> int:
    """The size that OMP_STACKSIZE asks for, by which each thread of OpenMP's gets its stack; 0 if it asks for none."""
    found = re.fullmatch(r"\s*(\d+)\s*([bkmg]?)\s*", os.environ.get("OMP_STACKSIZE", ""), re.IGNORECASE)
    return int(found[1]) << {"b": 0, "": 10, "k": 10, "m": 20, "g": 30}[found[2].lower()] if found else 0


def available_cpus(root: str = "/", openmp: int = 0) -> int:
    """How many processors this process may use, by its affinity and the quota of its control group, rounded up.

    `openmp` is how many OpenMP's threads may run on. An OpenMP runtime that binds its threads (OMP_PROC_BIND,
    OMP_PLACES) has already bound this one, so that its affinity counts only one place.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = max(openmp, len(affinity(0)) if affinity else (os.cpu_count() or 1))
    quota = cgroup_quota(Path(root))
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def cgroup_quota(root: Path) -> float | None:
    """The processor time, in processors, that the control groups of this process allow; None if unlimited."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            quotas += _quotas_above(root / "sys/fs/cgroup", path, _read_v2)
        elif "cpu" in controllers.split(","):
            quotas += _quotas_above(root / "sys/fs/cgroup" / controllers, path, _read_v1)
    return min(quotas, default=None)


def _quotas_above(mount: Path, path: str, read) -> list[float]:  # type: ignore[no-untyped-def]
    folder = mount / path.strip("/")
    folders = [folder, *folder.parents]
    folders = folders[: folders.index(mount) + 1] if mount in folders else [mount]
    return [quota for each in folders if (quota := read(each)) is not None]


def _read_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _read_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None

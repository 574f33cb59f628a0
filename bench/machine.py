"""Description of the machine: processor, versions, OpenMP runtimes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

from .results import RUNTIMES

PACKAGES = (
    "fastopt",
    "numpy",
    "numba",
    "numba-cuda",
    "torch",
    "deepspeed",
    "bitsandbytes",
    "jax",
    "optax",
    "keras",
    "thinc",
    "pytest-benchmark",
)
"""Packages whose versions are reported."""

PROCESSORS = Path("/sys/devices/system/cpu")
CACHES = PROCESSORS / "cpu0" / "cache"
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_", "NUMBA_", "FASTOPT_", "THP_")


class Load:
    """How many processors other processes keep busy, on average, since this object was created."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.others = _seconds_of_others()

    def processors(self) -> float:
        return max(0.0, _seconds_of_others() - self.others) / (time.perf_counter() - self.started)


def _seconds_of_others() -> float:
    """Processor seconds spent so far by everything except this process and its children; 0 if they cannot be read."""
    try:
        user, nice, system, _, _, interrupt, soft_interrupt = Path("/proc/stat").read_text().split()[1:8]
    except OSError:
        return 0.0
    ticks = sum(map(int, (user, nice, system, interrupt, soft_interrupt)))
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def describe(n_threads: int) -> dict[str, str]:
    """The machine and the software as labelled text; after a run, when peers have loaded their runtimes."""
    from fastopt.config import get_config
    from fastopt.kernels.cuda import availability

    config = get_config()
    return {
        **({"GPU": config["cuda"]} if availability.unavailable() is None else {}),
        "processor": _processor(),
        "processors available": str(config["cpus available"]) + _cores(),
        "caches": _caches() or "unknown",
        "threads asked for": str(n_threads),
        "memory": _memory() or "unknown",
        "system": f"{platform.system()} {platform.release()}, huge pages {_huge_pages() or 'unknown'}",
        "Python": platform.python_version(),
        "C++ compiler": _compiler(),
        **{package: _version(package) for package in PACKAGES},
        "instruction set": str(config.get("instruction set", "no compiled module")),
        "prefetch distance": str(config.get("prefetch distance", "none")),
        RUNTIMES: ", ".join(Path(path).name for path in config["openmp runtimes"]) or "unknown",
    }


def environment() -> str:
    """The variables that libraries of arrays and threads read; some peers set a few when they are imported."""
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIXES)}
    return ", ".join(f"{name}={value}" for name, value in variables.items()) or "nothing set"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _caches() -> str:
    """Level, kind and size of each cache of the first processor; Linux only."""
    found = []
    for folder in sorted(CACHES.glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return ", ".join(found)


def _cores() -> str:
    """The number of cores of the processors that this process may use; Linux only."""
    try:
        cores = {
            tuple(
                (PROCESSORS / f"cpu{number}" / "topology" / name).read_text()
                for name in ("physical_package_id", "core_id")
            )
            for number in os.sched_getaffinity(0)
        }
    except (OSError, AttributeError):
        return ""
    return f" on {len(cores)} core{'s'[: len(cores) > 1]}"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB"
    except (OSError, ValueError):
        return ""


def _compiler() -> str:
    """The C++ compiler that torch.compile and DeepSpeed find, where there is one."""
    command = os.environ.get("CXX", "g++")
    if shutil.which(command) is None:
        return f"no {command}"
    found = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
    return found.splitlines()[0] if found else command


def _huge_pages() -> str:
    try:
        text = HUGE_PAGES.read_text()
    except OSError:
        return ""
    return text[text.index("[") + 1 : text.index("]")]

"""Versions, backends and settings of this installation on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ._version import __version__
from .kernels import backends, cpu
from .threads import get_num_threads


def get_config() -> dict[str, Any]:
    """The contents of `show_config` as a dict."""
    # Slow to load, and not needed for steps.
    import importlib.util
    import platform

    from .kernels import floating_point
    from .kernels.cuda import availability
    from .kernels.numba import object_cache

    config: dict[str, Any] = {
        "fastopt": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }
    error = backends.compiled_module_error()
    if error is None:
        from .kernels import native
        from .kernels.native import loops as cython_loops

        config |= {
            "cpus available": native.AVAILABLE_CPUS,
            "compiled module": "yes",
            "instruction set": cython_loops.LEVEL,
            "prefetch distance": native.PREFETCH_DISTANCE,
            "square roots": "divider and multipliers" if cython_loops.SHARED_ROOTS else "divider",
            "openmp": native.CAPABILITIES["openmp"] or "no (built for one thread)",
            "can flush denormals": native.CAPABILITIES["can_flush_denormals"],
        }
    else:
        config |= {"cpus available": cpu.available_cpus(), "compiled module": f"no: {error}"}
        config |= {"can flush denormals": floating_point.can_flush_denormals()}
    config["backend auto"] = "cython" if error is None else "numba"
    config["numba"] = "installed" if importlib.util.find_spec("numba") else "not installed"
    config["cuda"] = availability.describe()
    why_not = object_cache.why_not()
    config["compiled rules in"] = str(object_cache.folder()) if why_not is None else f"none ({why_not})"
    config["threads"] = get_num_threads()
    variables = (
        "OMP_NUM_THREADS",
        object_cache.VARIABLE,
        cpu.LEVEL_VARIABLE,
        cpu.PREFETCH_VARIABLE,
        cpu.ROOTS_VARIABLE,
    )
    config["environment"] = {name: os.environ[name] for name in variables if name in os.environ}
    config["openmp runtimes"] = _openmp_runtimes()
    return config


def _openmp_runtimes() -> list[str]:
    """The OpenMP libraries mapped into this process; only known on Linux."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    return sorted(path for path in paths if any(name in Path(path).name for name in ("libgomp", "libomp", "libiomp")))


def get_include() -> str:
    """The include folder: Cython finds `fastopt/updates.pxd` in it, and C compilers `fastopt/updates_api.h`.

    For `cythonize(..., include_path=[fastopt.get_include()])` and `Extension(..., include_dirs=[...])`; see
    docs/your-loop.md.

    Examples
    --------
    >>> import os, fastopt
    >>> os.path.isdir(os.path.join(fastopt.get_include(), "fastopt"))
    True
    """
    return str(Path(__file__).resolve().parent.parent)


def show_config() -> None:
    """Print versions, backends, instruction set, threads and OpenMP runtimes, for bug reports."""
    for key, value in get_config().items():
        print(f"{key + ':':<22}{value}")

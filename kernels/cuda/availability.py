"""Whether CUDA can be used here, and why not."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from typing import Any

FIRST_IMPORTS = ("numba.cuda.np.arrayobj", "numba.cuda.np.npdatetime")
"""Of the modules that numba-cuda imports when it compiles its first kernel, those that touch NumPy the most: 0.30 does
not work with NumPy 2.5, and shows it only there."""


@functools.cache
def unavailable() -> Exception | None:
    """The exception that says why backend='cuda' cannot be used; None when it can be used.

    Numba's simulator (NUMBA_ENABLE_CUDASIM=1 in the environment before Numba is imported) can always be used.
    """
    if importlib.util.find_spec("numba_cuda") is None:
        return ImportError("backend 'cuda' needs the package numba-cuda: `pip install 'fastopt[cuda]'`")
    try:
        cuda: Any = importlib.import_module("numba.cuda")
    except Exception as error:
        return _not_loaded(error)
    try:
        if not cuda.is_available():
            return _no_device(cuda.cuda_error() or "no device, or no NVVM (`pip install 'fastopt[cuda]'` brings it)")
    except Exception as error:  # any error of the driver
        return _no_device(error)
    if is_simulated():
        return None
    try:
        for name in FIRST_IMPORTS:
            importlib.import_module(name)
    except Exception as error:
        return _not_loaded(error)
    return None


def _no_device(reason: object) -> RuntimeError:
    return RuntimeError(f"backend 'cuda': no CUDA device can be used here: {' '.join(str(reason).split())}")


def _not_loaded(error: Exception) -> ImportError:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("numba-cuda", "numba", "numpy")]
    reason = " ".join(str(error).split())
    return ImportError(
        f"backend 'cuda': these versions do not work together: {', '.join(versions)} ({type(error).__name__}: "
        f"{reason}); `pip install 'fastopt[cuda]'` installs versions that do"
    )


def require_cuda() -> None:
    """If CUDA cannot be used here, raise the error that says why.

    Raises
    ------
    ImportError
        The package numba-cuda is not installed, or cannot be loaded beside the installed NumPy.
    RuntimeError
        CUDA finds no device or driver; the message is CUDA's.
    """
    error = unavailable()
    if error is not None:
        raise error.with_traceback(None)


def is_simulated() -> bool:
    """Whether Numba runs kernels in its simulator, on the CPU."""
    from numba.cuda.core import config

    return bool(config.ENABLE_CUDASIM)


def describe() -> str:
    """One line for people: the device that CUDA runs on, or why CUDA cannot run."""
    error = unavailable()
    if error is not None:
        return "no: " + str(error).removeprefix("backend 'cuda'").removeprefix(":").strip()
    if is_simulated():
        return "Numba's simulator, on the processor"
    from numba import cuda

    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    major, minor = device.compute_capability
    return f"{name}, compute capability {major}.{minor}"

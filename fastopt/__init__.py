"""Fused, in-place optimizer updates on the CPU, over flat NumPy buffers.

>>> import numpy as np, fastopt
>>> w = np.zeros(1000, np.float32)
>>> opt = fastopt.Adam(w, lr=1e-3)
>>> opt.step(np.ones(1000, np.float32))

Importing this loads NumPy and the compiled module, and nothing else.
"""

from typing import Any

try:
    from .kernels import backends
except ModuleNotFoundError as error:
    if error.name != f"{__name__}.kernels":
        raise
    raise ImportError(
        "this is fastopt's source folder, which has no kernels of its own: either start Python outside of the "
        "checkout's root, or install the checkout with `python -m pip install -e .`"
    ) from error
from . import optimizers
from ._version import __version__
from .config import get_include, show_config
from .norms import global_norm
from .optimizers import *
from .optimizers.base import Optimizer
from .state.packing import pack
from .threads import get_num_threads, set_num_threads

LAZY = {
    "DivergenceGuard": "guard",
    "ReduceOnPlateau": "schedules.plateau",
    "constraints": "constraints",
    "guard": "guard",
    "jit": "jit",
    "load": "checkpoints",
    "rule": "rules",
    "rules": "rules",
    "save": "checkpoints",
    "schedules": "schedules",
    "torch": "torch",
    "tuning": "tuning",
}
"""What is loaded when first used, and the module that it is or is in."""


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f".{LAZY[name]}", __name__)
    return module if name == LAZY[name] else getattr(module, name)


# Loaded now, so that a wrong FASTOPT_CPU is an error at import, and OpenMP is there for whoever limits it.
backends.compiled_module_error()

__all__ = [
    "DivergenceGuard",
    "Optimizer",
    "ReduceOnPlateau",
    "__version__",
    "constraints",
    "get_include",
    "get_num_threads",
    "global_norm",
    "guard",
    "jit",
    "load",
    "pack",
    "rule",
    "rules",
    "save",
    "schedules",
    "set_num_threads",
    "show_config",
    "tuning",
]
__all__ += optimizers.__all__

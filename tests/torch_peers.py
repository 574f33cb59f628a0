"""The classes that those of fastopt.torch are compared with: torch's own, and for Lion the plain one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from cases import CASES
from torch.testing._internal.common_optimizers import (
    OptimizerInfo,
    OptimizerInput,
    optim_error_inputs_func_adamax,
    optim_inputs_func_adamax,
)

from fastopt.definitions.specs import SPECS
from fastopt.torch import lion

CarryIn = Callable[[str, torch.dtype], object]
"""The fixture `carry_in`: an optimizer's name, and the dtype of what torch carries for it from step to step."""

TORCH = SimpleNamespace(**{name: getattr(lion if name == "Lion" else torch.optim, name) for name in SPECS})
"""By name, as in the module torch.optim."""

IN_TORCH = [case for case in CASES if case.in_torch or case.optimizer == "Lion"]
"""What `TORCH` can do."""


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Torch's default dtype inside of a `with` statement."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def carrying_in(optimizer: str, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Torch carries an optimizer's numbers from step to step in this dtype; no effect if it carries none.

    NAdam's `mu_product` is one: fastopt keeps it in float64, torch in its default dtype, which rounds it in each step.
    A test that compares the two to more digits than float32 has, or with NumPy's optimizers, asks for float64.
    """
    return default_dtype(dtype) if SPECS[optimizer].carried else nullcontext()


def torch_options(options: dict[str, Any], name: str) -> dict[str, Any]:
    """Those of fastopt's options that torch's class has an argument for."""
    known = inspect.signature(getattr(TORCH, name)).parameters
    return {key: value for key, value in options.items() if key != "decoupled_weight_decay" or key in known}


def _lion_inputs(device: Any, dtype: Any = None) -> list[OptimizerInput]:
    """Adamax' without what is for CUDA alone; and other betas."""
    inputs: list[OptimizerInput] = optim_inputs_func_adamax("cpu", dtype)
    return [*inputs, OptimizerInput(params=None, kwargs={"betas": (0.5, 0.75)}, desc="non-default betas")]


LION = OptimizerInfo(
    lion.Lion,
    optim_inputs_func=_lion_inputs,
    optim_error_inputs_func=optim_error_inputs_func_adamax,
    supported_impls=("foreach",),
    not_og_supported_flags=("foreach", "maximize"),
)
"""What torch's table of tests would have, if torch had a Lion."""

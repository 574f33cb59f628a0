"""The classes that those of fastopt.torch are compared with: torch's own, and the textbook's where torch has none."""

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
from torch_textbook import CLASSES

from fastopt.definitions.specs import CAUTION, SPECS, Spec

CarryIn = Callable[[str, torch.dtype], object]
"""The fixture `carry_in`: an optimizer's name, and the dtype of what torch carries for it from step to step."""

TORCH = SimpleNamespace(
    **{name: getattr(torch.optim, name) if spec.in_torch else CLASSES[name] for name, spec in SPECS.items()}
)
"""By name, as in the module torch.optim."""


def makes_states_early(name: str) -> bool:
    """Whether torch's class has states before the first step."""
    return bool(getattr(TORCH, name)([torch.nn.Parameter(torch.ones(1))]).state)


ROUNDING = {"Adan": 10.0}
"""How many times larger rounding errors are in float32: differences of gradients average out, their errors do not."""


def rounding(optimizer: str, dtype: torch.dtype) -> float:
    return ROUNDING.get(optimizer, 1.0) if dtype == torch.float32 else 1.0


NOT_IN_TORCH = [spec for spec in SPECS.values() if not spec.in_torch]

IN_TORCH = [case for case in CASES if case.in_torch or not SPECS[case.optimizer].in_torch]
"""What `TORCH` can do."""

NATIVE = [case for case in CASES if case in IN_TORCH or not {*case.options}.isdisjoint(CAUTION)]
"""What the classes of `fastopt.torch` can do."""


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


def info_of(spec: Spec) -> OptimizerInfo:
    """What torch's table of tests would have of an optimizer, if torch had it: as of Adamax."""
    n_betas = len(spec.defaults.get("betas", ()))
    betas = tuple(0.5 + 0.25 * index / n_betas for index in range(n_betas))

    def inputs(device: Any, dtype: Any = None) -> list[OptimizerInput]:
        """Without what is for CUDA alone; and other betas."""
        found: list[OptimizerInput] = optim_inputs_func_adamax("cpu", dtype)
        more = [OptimizerInput(params=None, kwargs={"betas": betas}, desc="non-default betas")] if betas else []
        return [*found, *more]

    def error_inputs(device: Any, dtype: Any) -> list[Any]:
        found = optim_error_inputs_func_adamax(device, dtype)
        for each in found:
            if "betas" in each.optimizer_error_input.kwargs:
                each.optimizer_error_input.kwargs["betas"] = (0.0, 1.0, *betas[2:])
        return [each for each in found if betas or "betas" not in each.optimizer_error_input.kwargs]

    return OptimizerInfo(
        getattr(TORCH, spec.name),
        optim_inputs_func=inputs,
        optim_error_inputs_func=error_inputs,
        supported_impls=("foreach",),
        not_og_supported_flags=("foreach", "maximize"),
    )

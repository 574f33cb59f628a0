"""Steps while torch traces a function, or while a mode looks at every operation.

Torch records a function by its operations, and a native step is none: a trace without it would be wrong.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import shards
from .coded_states import stored_tensors
from .host import Group, States

transform: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack
n_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack

TRACERS = {"FAKE": "FakeTensorMode", "PROXY": "make_fx or torch.export", "FUNCTIONAL": "functionalization"}
"""Torch's own modes that trace, by their key, and what a user knows them by."""

_numbers = itertools.count()
_steps: dict[int, Callable[[], None]] = {}
"""The steps under way that modes see, by the number that is an argument of the operation."""


def is_observed() -> bool:
    """Whether a function transform or a mode is active in this thread."""
    return n_dispatch_modes() > 0 or transform() is not None


def tracer() -> str | None:
    """What records or transforms the operations of this thread; None if nothing does."""
    if transform() is not None:
        return f"torch.func.{transform().key().name.lower()}"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace"
    if torch._ops.mode_stack_state_for_pre_dispatch().count():  # type: ignore[no-untyped-call]
        return TRACERS["PROXY"]
    keys = torch._C._TorchDispatchModeKey
    active = (name for key, name in TRACERS.items() if torch._C._get_dispatch_mode(getattr(keys, key)) is not None)
    return next(active, None)


def check_not_traced(owner: str) -> None:
    """Check that no trace misses a step; `owner` is the optimizer's name for messages.

    Raises
    ------
    RuntimeError
        One would miss it.
    """
    where = tracer()
    if where is not None:
        raise RuntimeError(
            f"{owner}.step() under {where}: a native step cannot be recorded, so the traced function would lack it; "
            "trace the loss and its gradients alone and call step() outside, or use torch.optim's class there"
        )


def run(owner: str, groups: Sequence[Group], states: States, step: Callable[[], None]) -> None:
    """Call `step` in an operation `fastopt::step`, which modes see, with the tensors that it reads and writes.

    A mode that records the operation cannot run it again later.

    Raises
    ------
    RuntimeError
        Torch is tracing.
    """
    check_not_traced(owner)
    stepped = [param for group in groups for param in group["params"] if param.grad is not None]
    values = [value for param in stepped for value in stored_tensors(states.get(param, {}))]
    number = next(_numbers)
    _steps[number] = step
    try:
        with torch.no_grad():
            seen = (stepped, [param.grad for param in stepped], values)
            # Their shards: DTensors have no rule for this operation.
            _operation()(*([shards.local(each) for each in found] for found in seen), number)
    finally:
        del _steps[number]


@functools.cache
def _operation() -> Any:
    library: Any = torch.library.Library("fastopt", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define("step(Tensor(a!)[] params, Tensor(b!)[] grads, Tensor(c!)[] states, int number) -> ()")
    library.impl("step", _run, "CompositeExplicitAutograd")
    _operation.library = library  # type: ignore[attr-defined]  # which takes its operations with it
    return torch.ops.fastopt.step.default


def _run(params: list[Tensor], gradients: list[Tensor], states: list[Tensor], number: int) -> None:
    if number not in _steps:
        raise RuntimeError("fastopt::step runs within an optimizer's step() alone; call step() again instead")
    _steps[number]()

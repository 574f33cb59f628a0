"""The classes, made from the table of specs: each torch's class of the same name, or the plain one, with a native step.

Type checkers and editors read `optimizers.pyi`, which `setup.py` writes from the same table.
"""

from __future__ import annotations

import textwrap

import torch

from ..definitions.specs import SPECS, Spec
from .averaging import AveragingOptimizer
from .base import NativeOptimizer
from .plain import plain_class

_DOCUMENTATION = """\
{beginning} with a native step; `fastopt.{name}` has its maths, `NativeOptimizer` the options.
{note}
Examples
--------
>>> import torch
>>> from fastopt.torch import {name}
>>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
>>> optimizer = {name}([w], max_grad_norm=1.0)
>>> (w**2).sum().backward()
>>> optimizer.step()
>>> round(optimizer.grad_norm, 3)
4.472
"""


def documentation(spec: Spec) -> str:
    """The docstring of a class."""
    beginning = f"torch.optim.{spec.name}" if spec.in_torch else f"{spec.name}, which torch.optim does not have,"
    note = f"\n{textwrap.fill(spec.torch_note, 116)}\n" if spec.torch_note else ""
    return _DOCUMENTATION.format(beginning=beginning, name=spec.name, note=note)


def optimizer_class(spec: Spec) -> type[NativeOptimizer]:
    base = getattr(torch.optim, spec.name) if spec.in_torch else plain_class(spec)
    more = (AveragingOptimizer,) if spec.average is not None else ()
    return type(spec.name, (*more, NativeOptimizer, base), {"__doc__": documentation(spec), "__module__": __name__})


for _spec in SPECS.values():
    globals()[_spec.name] = optimizer_class(_spec)

__all__ = sorted(SPECS)

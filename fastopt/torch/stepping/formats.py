"""The formats in which tensors store what kernels compute in float32."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...kernels.backends import Backend
from ...kernels.engine.plan import OperandForm
from ...step.storage import codec
from . import tensors


def operand_forms(backend: Backend, names: Sequence[str], operands: Sequence[Tensor]) -> tuple[OperandForm, ...] | None:
    """The forms of these operands of a segment, or None if kernels read all of them directly."""
    formats = [tensors.HALVES.get(each.dtype) for each in operands]
    if not any(formats):
        return None
    return tuple(
        OperandForm(name, tensors.DTYPES[operand.dtype], codec(backend, stored, False) if stored else None)
        for name, operand, stored in zip(names, operands, formats, strict=True)
    )

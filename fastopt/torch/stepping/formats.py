"""The formats in which tensors store what kernels compute in float32."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...kernels.backends import Backend
from ...kernels.constants import GRAD
from ...kernels.engine.plan import OperandForm
from ...step.storage import codec
from . import tensors


def operand_forms(
    backend: Backend, names: Sequence[str], operands: Sequence[Tensor], stochastic: bool
) -> tuple[OperandForm, ...] | None:
    """The forms of these operands of a segment, or None if kernels read all of them directly.

    If `stochastic`, a step rounds them stochastically; the gradient is not rounded.
    """
    formats = [tensors.HALVES.get(each.dtype) for each in operands]
    if not any(formats):
        return None
    return tuple(
        OperandForm(name, tensors.DTYPES[operand.dtype], codec(backend, stored, rounds) if stored else None)
        for position, (name, operand, stored) in enumerate(zip(names, operands, formats, strict=True))
        for rounds in [stochastic and position != GRAD]
    )

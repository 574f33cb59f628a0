"""The formats in which tensors store what kernels compute in float32.

With `master_weights=True`, a bfloat16 parameter and its state `REST` hold a float32 number together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...kernels.backends import Backend
from ...kernels.constants import GRAD, PARAM
from ...kernels.engine.plan import OperandForm
from ...state import coded
from ...step import param_storage
from ...step.storage import REST, codec
from . import tensors


def operand_forms(
    backend: Backend, names: Sequence[str], operands: Sequence[Tensor], stochastic: bool
) -> tuple[OperandForm, ...] | None:
    """The forms of these operands of a segment, or None if kernels read all of them directly.

    If `stochastic`, a step rounds them stochastically; the gradient is not rounded, nor are parameters with a `REST`.
    """
    formats = [tensors.HALVES.get(each.dtype) for each in operands]
    rest = names.index(REST) if REST in names else -1
    if rest >= 0:
        formats[PARAM] = "split_bfloat16"
    if not any(formats):
        return None
    return tuple(
        OperandForm(
            name,
            tensors.ARRAY_DTYPES[operand.dtype],
            codec(backend, stored, rounds) if stored else None,
            rest if position == PARAM else -1,
        )
        for position, (name, operand, stored) in enumerate(zip(names, operands, formats, strict=True))
        for rounds in [stochastic and position != GRAD and not (position == PARAM and rest >= 0)]
    )


def check_master_weights(owner: str, label: str, param: Tensor) -> None:
    """Raise a TypeError if a parameter cannot have master weights: if it is of float16."""
    param_storage.check_master_weights(f"{owner}: ", label, str(param.dtype))


def joined(param: Tensor, rest: Tensor | None) -> Tensor:
    """A copy of a parameter, with its rest, in the dtype that kernels compute in."""
    param = tensors.as_plain(param).detach()
    if rest is None or param.dtype is not torch.bfloat16:
        return param.to(torch.float32, copy=True) if param.dtype in tensors.HALVES else param.clone()
    codes, others = (each.contiguous().view(torch.int16).cpu().numpy().view(np.uint16) for each in (param, rest))
    found = torch.from_numpy(coded.joined(codes, others))
    return torch.empty_like(param, dtype=torch.float32).copy_(found)

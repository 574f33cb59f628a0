"""The formats in which tensors store what kernels compute in float32.

With `master_weights=True`, a bfloat16 parameter and its state `REST` hold a float32 number together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...kernels.backends import Backend
from ...kernels.engine.plan import OperandForm
from ...state import coded
from ...step import param_storage, storage
from . import shards, tensors


def operand_forms(
    backend: Backend,
    states: Sequence[str],
    memory: Sequence[Tensor],
    formats: Mapping[str, str],
    stochastic: bool,
) -> tuple[OperandForm, ...] | None:
    """The forms of a segment's operands, or None if kernels read all of them directly.

    Parameters
    ----------
    states: the names of the states.
    memory: the tensors of the parameter and of each state.
    formats: of those states that hold codes. Others with a dtype of 16 bits are of the format of this name.
    stochastic: whether a step rounds them stochastically.
    """
    names = ("param", "grad", *states)
    halves = {
        name: tensors.HALVES[each.dtype]
        for name, each in zip(states, memory[1:], strict=True)
        if each.dtype in tensors.HALVES
    }
    dtypes = [tensors.ARRAY_DTYPES[each.dtype] for each in (memory[0], *memory)]
    found = storage.formats_of(names, tensors.dtype_name(memory[0]), {**halves, **formats})
    return storage.operand_forms(backend, names, dtypes, found, stochastic=stochastic)


def check_master_weights(owner: str, label: str, param: Tensor) -> None:
    """Raise a TypeError if a parameter cannot have master weights: if it is of float16."""
    param_storage.check_master_weights(f"{owner}: ", label, tensors.dtype_name(param))


def joined(param: Tensor, rest: Tensor | None) -> Tensor:
    """A copy of a parameter, with its rest, in the dtype that kernels compute in."""
    if shards.is_sharded(param):
        return shards.wrapped(joined(shards.local(param), shards.local(rest)), param)
    param = tensors.as_plain(param).detach()
    if rest is None or param.dtype is not torch.bfloat16:
        return param.to(torch.float32, copy=True) if param.dtype in tensors.HALVES else param.clone()
    codes, others = (each.contiguous().view(torch.int16).cpu().numpy().view(np.uint16) for each in (param, rest))
    found = torch.from_numpy(coded.joined(codes, others))
    return torch.empty_like(param, dtype=torch.float32).copy_(found)

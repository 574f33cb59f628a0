"""In which formats a parameter, its gradient and its states are stored."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..kernels.backends import Backend
from ..kernels.constants import GRAD, PARAM
from ..kernels.engine.plan import Codec, OperandForm
from ..kernels.formulas.storage import FORMATS

HALVES = ("bfloat16", "float16")
"""The names of the dtypes that arrays of parameters can have beside those that kernels work in: all are formats."""

REST = "param_rest"
"""The state that holds, with `master_weights=True`, what the parameter itself does not hold of its float32."""

CODE_DTYPES: dict[int, np.dtype[Any]] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}
"""The dtype of codes, by their bits."""


def working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that kernels compute in for a parameter of this one."""
    return np.dtype(np.float32) if dtype.name in HALVES else dtype


@functools.cache
def codec(backend: Backend, name: str, stochastic: bool) -> Codec:
    """What decodes and encodes a format."""
    return Codec(name, stochastic, *backend.codec(name, stochastic))


def formats_of(names: Sequence[str], dtype: str, formats: Mapping[str, str]) -> dict[str, str]:
    """The formats of a parameter's operands by name; those that are not in it are read directly.

    Parameters
    ----------
    names: those of the operands: of the parameter, the gradient and each state, `REST` among them if weights are split.
    dtype: the name of the parameter's.
    formats: the formats of states by name.
    """
    found = {name: formats[name] for name in names if name in formats}
    if dtype in HALVES:
        found[names[GRAD]] = dtype
        found[names[PARAM]] = "split_bfloat16" if REST in names else dtype
    return found


def operand_forms(
    backend: Backend,
    names: Sequence[str],
    dtypes: Sequence[np.dtype[Any]],
    formats: Mapping[str, str],
    *,
    stochastic: bool = False,
) -> tuple[OperandForm, ...] | None:
    """The forms of a parameter's operands, or None if kernels read all of them directly.

    Parameters
    ----------
    names, dtypes: of each operand, and of the array that holds it.
    formats: see `formats_of`.
    stochastic: whether the parameter and all states with a format are rounded stochastically.
    """
    if not formats:
        return None
    forms = []
    for name, dtype in zip(names, dtypes, strict=True):
        stored = formats.get(name)
        if stored is None:
            forms.append(OperandForm(name, dtype))
            continue
        storage = FORMATS[stored]
        rounds = stochastic and storage.stochastic and name != names[GRAD]
        rest = names.index(REST) if storage.has_rest else -1
        forms.append(OperandForm(name, dtype, codec(backend, stored, rounds), rest))
    return tuple(forms)

"""Loops compiled from the Cython rendering of the rules, for the instruction set of this processor."""

from __future__ import annotations

import importlib

import numpy as np

from .. import cpu
from . import CAPABILITIES

LEVEL = cpu.choose_level(CAPABILITIES)
_module = importlib.import_module("." + cpu.module_name(LEVEL), __package__)
DIGEST: str = _module.DIGEST
SHARED_ROOTS = cpu.choose_shared_roots(CAPABILITIES, _module.CAN_SHARE_ROOTS)
_loops: dict[tuple[str, str], int] = _module.ADDRESSES | (_module.SHARING if SHARED_ROOTS else {})


def loop(name: str, dtype: np.dtype) -> int:
    """The address of a rule's or an operation's loop over float32 or float64."""
    return _loops[name, dtype.name]


def over_bfloat16(name: str) -> tuple[int, int] | None:
    """The addresses of a rule's loops over operands stored as bfloat16: to nearest, and stochastically."""
    nearest = _module.OVER_BFLOAT16.get((name, False))
    return None if nearest is None else (nearest, _module.OVER_BFLOAT16[name, True])


def sum_over(name: str, dtype: np.dtype) -> int:
    """The address of a sum over elements of float32 or float64."""
    return int(_module.SUMS[name, dtype.name])


def codec(name: str, stochastic: bool) -> tuple[int, int]:
    """The addresses of the loops that decode and encode a format."""
    return _module.DECODERS[name], _module.ENCODERS[name, stochastic]

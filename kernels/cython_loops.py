"""Loops compiled from the Cython rendering of the rules, in the instruction set of this processor."""

from __future__ import annotations

import importlib

import numpy as np

from . import cpu
from .native import CAPABILITIES

LEVEL = cpu.choose_level(CAPABILITIES)
_module = importlib.import_module("." + cpu.module_name(LEVEL), __package__)
DIGEST: str = _module.DIGEST


def loop(rule: str, dtype: np.dtype) -> int:
    """The address of a rule's loop over float32 or float64."""
    return int(_module.ADDRESSES[rule, dtype.name])

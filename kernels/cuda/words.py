"""The names in kernels' source: functions that formulas may call (`dialect.VOCABULARY`), loads, stores and others."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
from numba import cuda

from ..formulas.dialect import WORD_VOCABULARY
from .availability import is_simulated

machine: Any = importlib.import_module(".simulated" if is_simulated() else ".hardware", __package__)
"""The module for this machine: `hardware` for a GPU, `simulated` for the simulator."""


@machine.device_function
def select(condition, if_true, if_false):  # type: ignore[no-untyped-def]
    return if_true if condition else if_false


@machine.device_function
def maximum(a, b):  # type: ignore[no-untyped-def]
    return b if a < b else a


@machine.device_function
def clip(x, low, high):  # type: ignore[no-untyped-def]
    y = low if x < low else x
    return high if y > high else y


@functools.cache
def _sign(real: str) -> Any:
    zero, one = np.dtype(real).type(0), np.dtype(real).type(1)

    @machine.device_function
    def sign(x):  # type: ignore[no-untyped-def]
        return (one if x > zero else zero) - (one if x < zero else zero)

    return sign


def words(real: str) -> dict[str, Any]:
    """The globals for the source of a kernel whose elements have the precision `real`.

    The dialect's words are `element_...` and `term_...` in that precision, and `coefficient_...` in float64. Codecs
    have `word_...`, on words of 32 bits.
    """
    found = {
        "cuda": cuda,
        "device_function": machine.device_function,
        "real": np.dtype(real).type,
        "float64": np.float64,
        "is_finite": machine.is_finite,
        "load_int64": machine.LOADS["int64"],
        "load_float32": machine.LOADS["float32"],
        "load_float64": machine.LOADS["float64"],
        "load_real": machine.LOADS[real],
        "load_vector": machine.VECTOR_LOADS[real],
        "store_int64": machine.STORES["int64"],
        "store_float64": machine.STORES["float64"],
        "store_real": machine.STORES[real],
        "store_vector": machine.VECTOR_STORES[real],
        "multiply": machine.multiply,
        "varying": machine.varying,
        "as_word": machine.as_word,
        "bits_of": machine.bits_of,
        "real_of": machine.real_of,
        "load_code": machine.CODE_LOADS[1],
        "load_codes": machine.CODE_LOADS[machine.CODE_LANES],
        "store_code": machine.CODE_STORES[1],
        "store_codes": machine.CODE_STORES[machine.CODE_LANES],
    }
    found |= {f"word_{word}": select if word == "select" else getattr(machine, word) for word in WORD_VOCABULARY}
    for prefix, precision in (("element", real), ("coefficient", "float64"), ("term", real)):
        spelled = {
            "sqrt": machine.square_root,
            "floor": machine.floor,
            "log": machine.log,
            "power": machine.power,
            "select": select,
            "maximum": maximum,
            "clip": clip,
            "sign": _sign(precision),
        }
        found |= {f"{prefix}_{word}": function for word, function in spelled.items()}
    return found

"""Updates to call inside your own `@njit` functions."""

from __future__ import annotations

from typing import Any

from ..definitions.signatures import signatures
from . import states
from .making import Functions, built_in, functions
from .modes import flush_denormals, restore_denormals

_SUFFIXES = {"": "step", "_state": "state", "_update": "update", "_parallel": "parallel"}
_SUFFIXES["_update_parallel"] = "update_parallel"

__all__ = ["Functions", "flush_denormals", "functions", "restore_denormals"]


def __getattr__(name: str) -> Any:
    for suffix, attribute in _SUFFIXES.items():
        base = name.removesuffix(suffix) if suffix else name
        if name.endswith(suffix) and base in signatures():
            value = getattr(built_in(base), attribute)
            break
    else:
        value = states.find(name)
        if value is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name + suffix for name in signatures() for suffix in _SUFFIXES)])

"""Updates to call inside your own `@njit` functions."""

from __future__ import annotations

from typing import Any

from ..definitions.signatures import no_single_updates, signatures
from ..definitions.specs import SPECS
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
            optimizer, *variant = name.split("_")
            with_sums = [
                spec
                for spec in SPECS.values()
                if optimizer == spec.name.lower() and (spec.has_sums or spec.summing in variant)
            ]
            why = f": {no_single_updates(with_sums[0])}" if with_sums else ""
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{why}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name + suffix for name in signatures() for suffix in _SUFFIXES)])

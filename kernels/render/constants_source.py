"""Writes constants as Cython declarations, when fastopt is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEADER = """\
# Rendered by kernels/render/constants_source.py; never edited, never committed.

cdef enum:
"""


def constants_source(values: Mapping[str, Any]) -> str:
    """Declares the public constants in the namespace of a module.

    A number keeps its name. Each name in a tuple of names becomes a constant whose value is its position, and `N_...`
    is the length of the tuple.
    """
    lines: list[str] = []
    for name, value in values.items():
        if name.startswith("_") or name != name.upper():
            continue
        if isinstance(value, int):
            lines.append(f"    {name} = {int(value)}")
        elif isinstance(value, tuple) and all(isinstance(each, str) for each in value):
            lines += [f"    {each.upper()} = {position}" for position, each in enumerate(value)]
            lines.append(f"    N_{name} = {len(value)}")
    return _HEADER + "\n".join(lines) + "\n"

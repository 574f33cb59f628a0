"""Numbers as text, for tables and plots, and prose in lines of one width."""

from __future__ import annotations

import textwrap

WIDTH = 119
"""Characters of a line of prose."""


def wrapped(text: str, indent: str = "") -> str:
    """`text` in lines of WIDTH, all but the first with an indent."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def seconds_text(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 999.5 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def number_text(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 99.5 else f"{number:.3g}"


def percent_text(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")

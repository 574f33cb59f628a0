"""docs/conventions.md: what it shows is what is so. `python tests/test_conventions_page.py` writes its table anew."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

import fastopt
from fastopt.definitions.conventions import FRAMEWORKS, conventions_of, spec_of
from fastopt.definitions.specs import CAUTION, SPECS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conventions.md"
BEGIN, END = "<!-- defaults -->\n", "<!-- end of defaults -->\n"


def shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    return str(value) if value is None or isinstance(value, bool) else f"{value:g}"


def defaults_table() -> str:
    """Every default that differs anywhere, by optimizer and framework."""
    lines = ["| | " + " | ".join(f"`{name}`" for name in FRAMEWORKS) + " |", "| --- " * (len(FRAMEWORKS) + 1) + "|"]
    for name in SPECS:
        specs = {convention: spec_of(name, convention) for convention in conventions_of(name)}
        for key in dict.fromkeys(key for spec in specs.values() for key in spec.defaults if key not in CAUTION):
            cells = [
                shown(specs[each].defaults[key]) if each in specs and key in specs[each].defaults else "-"
                for each in FRAMEWORKS
            ]
            if len({cell for cell, each in zip(cells, FRAMEWORKS, strict=True) if each in specs}) > 1:
                lines.append(f"| {name} `{key}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def test_the_defaults_are_those_of_the_table() -> None:
    text = PAGE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == defaults_table()


def test_the_description_is_what_is_printed() -> None:
    (block,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    printed = io.StringIO()
    fastopt.RMSprop(np.ones(3), convention="keras").describe(printed)
    assert block == printed.getvalue()


def test_every_framework_and_what_it_has_is_on_the_page() -> None:
    text = PAGE.read_text()
    with_conventions = [name for name in SPECS if len(conventions_of(name)) > 1]
    assert all(name in text for name in (*with_conventions, *FRAMEWORKS))


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(page[: page.index(BEGIN) + len(BEGIN)] + defaults_table() + page[page.index(END) :])

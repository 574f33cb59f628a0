"""The tables of a run in the terminal."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .results import Results
from .tables import Section, all_sections
from .tables import Table as TableOfCells

WIDTH = 160
"""Width of the tables, if no terminal sets another."""

STYLES = {"win": "green", "loss": "bold red", "wrong": "bold white on red", "": ""}
"""Styles of cells, by mark."""


EMPTY = frozenset({"", "-", "none"})
"""Cells without a result. A column that has no other is left out: its room is for those that have."""


SMALL = 100
"""In terminals of fewer columns, those of LEAST use are left out, so that the names of peers are whole."""

LEAST = ("GB/s", "of roofline")


def shown_columns(table: TableOfCells, width: int) -> list[int]:
    """The columns that have a result in some row, and the first."""
    columns = [index for index, header in enumerate(table.headers) if width >= SMALL or header not in LEAST]
    return [index for index in columns if not index or any(row[index].text not in EMPTY for row in table.rows)]


def broken(text: str, width: int) -> str:
    """A name in lines of about this width, broken between words only."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def lines_width(texts: list[list[str]], width: int) -> int:
    """Characters of a line that cells are broken to so that a table fits: as wide as possible, or 1 if none fits."""
    for limit in range(width // 4, 0, -1):
        needed = [max(len(line) for cell in column for line in broken(cell, limit).split("\n")) for column in texts]
        if sum(needed) + 2 * len(texts) + 1 <= width:
            return limit
    return 1


def as_rich(section: Section, width: int) -> list[Table | str]:
    made: list[Table | str] = [f"\n[bold]{escape(section.title)}[/]"]
    if section.note:
        made.append(f"[dim]{escape(section.note)}[/]")
    narrow = width < WIDTH
    for table in section.tables:
        grid = Table(title=table.title or None, title_justify="left")
        if narrow:
            grid.padding = (0, 1, 0, 0)
        columns = shown_columns(table, width)
        texts = [[table.headers[index] or " ", *(row[index].text or " " for row in table.rows)] for index in columns]
        limit = lines_width(texts, width) if narrow else width
        for index in columns:
            whole = not index if narrow else index < table.whole
            grid.add_column(
                broken(table.headers[index], limit) if narrow else table.headers[index], overflow="fold", no_wrap=whole
            )
        for row in table.rows:
            cells = [row[index] for index in columns]
            grid.add_row(
                *(Text(broken(cell.text, limit) if narrow else cell.text, STYLES[cell.mark]) for cell in cells)
            )
        made.append(grid)
    return made


def print_summary(results: Results, console: Console) -> None:
    for section in all_sections(results, brief=True):
        for each in as_rich(section, console.width):
            console.print(each)
    if console.width < SMALL:
        console.print(f"[dim]{' and '.join(LEAST)}: in terminals of at least {SMALL} columns.[/]")

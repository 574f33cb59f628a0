"""The tables of a run in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .results import Results
from .tables import Section, all_sections

WIDTH = 160
"""Width of the tables, if no terminal sets another."""

STYLES = {"win": "green", "loss": "bold red", "wrong": "bold white on red", "": ""}
"""Styles of cells, by mark."""


def as_rich(section: Section, width: int) -> list[Table | str]:
    made: list[Table | str] = [f"\n[bold]{escape(section.title)}[/]"]
    if section.note:
        made.append(f"[dim]{escape(section.note)}[/]")
    for table in section.tables:
        grid = Table(title=table.title or None, title_justify="left")
        for index, header in enumerate(table.headers):
            grid.add_column(header, overflow="fold", no_wrap=index < table.whole and width >= WIDTH)
        for row in table.rows:
            grid.add_row(*(Text(cell.text, STYLES[cell.mark]) for cell in row))
        made.append(grid)
    return made


def print_summary(results: Results, console: Console) -> None:
    for section in all_sections(results, brief=True):
        for each in as_rich(section, console.width):
            console.print(each)

"""The command line and the printed table that the examples share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

Results = TypeVar("Results")


@dataclass(frozen=True)
class Report:
    """What an example prints: a table, notes on it, and the answer in one sentence."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    answer: str
    notes: Sequence[str] = ()

    def print(self, console: Console) -> None:
        """Print everything. Columns after the first are numbers and right-aligned."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for number, column in enumerate(self.columns):  # a narrow terminal breaks headings and numbers, and no name
            table.add_column(column, justify="right" if number else "left", no_wrap=not number, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for text in (*self.notes, self.answer):
            console.print(text, markup=False, soft_wrap=True)


def main(
    description: str | None,
    run: Callable[[bool], Results],
    report: Callable[[Results], Report],
    arguments: Sequence[str] | None = None,
) -> None:
    """Run an example: parse `--quick`, run, and print the report.

    NumPy's matrix products use one thread: with small matrices, several threads mostly wait for each other.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds: less data, fewer epochs, fewer seeds")
    options = parser.parse_args(arguments)
    try:
        from rich.console import Console
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1, "blas"):
            report(run(options.quick)).print(Console(highlight=False))
    except ImportError as error:
        parser.exit(1, f"{parser.prog}: a package is missing ({error}): pip install 'fastopt[cli]'\n")

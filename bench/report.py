"""The report of a run as Markdown with plots, and README's table.

`python -m bench.report RESULTS.json [MORE.json...]` prints it; `--page` and `--readme` write files.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path

from . import plots, summary
from .results import Results, ResultsError
from .tables import LOSSES, Cell, Section, Table, all_sections
from .text import wrapped

INTRODUCTION = (
    "How long steps of fastopt and of other optimizers take on one machine, as measured by `fastopt bench`: a summary, "
    "the targets, every case in which a peer is faster, and then all measurements."
)

READING = (
    "Times are medians of one step. A ratio is the peer's time divided by fastopt's, measured alternately: the median "
    "over the rounds, then the smallest and the largest in brackets. Above 1 fastopt is faster. **Bold: a peer is "
    "faster**, or a target is missed. Results are compared before anything is timed; a peer with other results is "
    "marked WRONG and not timed. GB/s is the memory that a step has to read and write, divided by its time. The "
    "roofline is a loop in fastopt's compiled module that reads and writes the same arrays and computes nothing; per "
    "cents are its time divided by theirs."
)

START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
"""The marks in README around the generated part."""


def cell_text(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    return f"**{text}**" if text and cell.mark in ("loss", "wrong") else text


def markdown_table(table: Table) -> str:
    lines = [f"### {table.title}", ""] if table.title else []
    lines += ["| " + " | ".join(header.replace("|", "\\|") for header in table.headers) + " |"]
    lines.append("| --- " * len(table.headers) + "|")
    lines += ["| " + " | ".join(map(cell_text, row)) + " |" for row in table.rows]
    return "\n".join(lines)


def markdown(section: Section) -> str:
    return "\n\n".join(
        filter(None, [f"## {section.title}", wrapped(section.note), *map(markdown_table, section.tables)])
    )


def report(results: Results, pictures: dict[str, str] | None = None) -> str:
    """The whole report; `pictures` are links to the plots, by their titles."""
    parts = ["# Benchmarks", wrapped(INTRODUCTION), wrapped(READING)]
    if short := summary.summary(results.records):
        parts.append(markdown(short))
    parts += ["## Machine", f"Measured at {results.datetime}."]
    parts.append("\n".join(wrapped(f"- {label}: {text}", "  ") for label, text in results.machine.items()))
    for section in all_sections(results):
        parts.append(markdown(section))
        if section.title == LOSSES and pictures:
            parts.append("## Time by size")
            parts += [f"![{title}]({link})" for title, link in pictures.items()]
    return "\n\n".join(parts) + "\n"


def link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target, page.parent)).as_posix()


def write(results: Results, page: Path, pictures: Path) -> None:
    """Write the report as a page and its plots into a folder; missing folders are created."""
    for folder in (page.parent, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    made = plots.write(results.records, pictures)
    links = {title: link(path, page) for title, path in made.items()}
    page.write_text(report(results, links), encoding="utf-8")


# --- README -----------------------------------------------------------------------------------------------------------


def write_readme(results: Results, readme: Path, page: Path) -> None:
    """Replace the text between the marks by a table of six rows and a note on how to read it."""
    text = readme.read_text(encoding="utf-8")
    before, mark, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ResultsError(f"{readme} has no {START} and {END}")
    table = markdown_table(summary.readme_table(results.records))
    part = f"{table}\n\n{summary.readme_note(results, link(page, readme))}"
    readme.write_text(f"{before}{START}\n{part}\n{END}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="The report of a run.")
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        help="files that `fastopt bench --json RESULTS.json` wrote; a later file replaces cases of earlier ones",
    )
    parser.add_argument(
        "--page", type=Path, help="write the report there, and its plots into a folder of the same name"
    )
    parser.add_argument("--readme", type=Path, help=f"replace the table between {START} and {END} in this file")
    arguments = parser.parse_args(argv)
    page: Path = arguments.page or Path("docs/benchmarks.md")
    try:
        results = functools.reduce(Results.with_later, map(Results.load, arguments.results))
        if arguments.page:
            write(results, page, page.with_suffix(""))
        if arguments.readme:
            write_readme(results, arguments.readme, page)
    except ResultsError as error:
        print(f"python -m bench.report: error: {error}", file=sys.stderr)
        return 1
    if not arguments.page and not arguments.readme:
        print(report(results), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

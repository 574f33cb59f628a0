"""The page of a machine: Markdown with plots. README's table, and the index that compares machines.

`python -m bench.report RESULTS.json` prints the page; `--pages` and `--readme` write files.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from pathlib import Path

from . import plots, summary, tables
from .results import COMMAND, MEASURED, TOOK, Results, ResultsError
from .tables import Cell, Section, Table
from .text import seconds_text, wrapped

READING = (
    "Times are medians of one step. A ratio is the peer's time divided by fastopt's, measured alternately: the median "
    "over the rounds, then the smallest and the largest in brackets. Above 1 fastopt is faster. **Bold: a peer is "
    "faster**, or a target is missed. Results are compared before anything is timed; a peer with other results is "
    "marked WRONG and not timed. GB/s is the memory that a step has to read and write, divided by its time. The "
    "roofline only moves the same memory: a loop in fastopt's compiled module, or a copy on a GPU; per cents are its "
    "time divided by theirs."
)

START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
"""The marks around the generated part of README and of the index."""


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


def machine_name(results: Results) -> str:
    """The processor, or the GPU if all was measured on one, without ornaments."""
    on_gpu = all(record["section"].startswith("CUDA") for record in results.records)
    name = results.machine.get("GPU" if on_gpu else "processor", "unknown processor").partition(",")[0]
    return re.sub(r"\((R|TM)\)|\bProcessor\b|\s+(?=\s|$)", "", name).strip()


def how_section(results: Results, who: str) -> str:
    """Who measured, on what, and how to do it again."""
    machine = results.machine
    took = f", in {machine[TOOK]}" if TOOK in machine else ""
    whom = f" by {who}" if who else ""
    said = f"Measured{whom} at {results.datetime}{took}: {machine.get(MEASURED, 'unknown cases')}."
    command = machine.get(COMMAND, "fastopt bench")
    again = f"```sh\npython -m pip install 'fastopt[bench]'\n{command} --report report\n```"
    described = "\n".join(
        wrapped(f"- {label}: {text}", "  ") for label, text in machine.items() if label not in (MEASURED, TOOK, COMMAND)
    )
    return "\n\n".join(["## How it was measured", wrapped(said), "To repeat it:", again, described, wrapped(READING)])


def report(results: Results, pictures: dict[str, str] | None = None, who: str = "") -> str:
    """The whole page: what matters most, how it was measured, plots, then everything; `pictures` are links to the
    plots, by their titles."""
    records = results.records
    sections = [tables.failures_section(results.failures), summary.main_section(records)]
    parts = [f"# Benchmarks: {machine_name(results)}", *(markdown(each) for each in sections if each)]
    parts.append(how_section(results, who))
    if pictures:
        parts.append("## Time by size")
        parts += [f"![{title}]({link})" for title, link in pictures.items()]
    rest = [
        summary.wins_and_losses(records),
        tables.losses_section(records, brief=False),
        tables.target_section(records, brief=False),
        summary.summary(records),
        *tables.measured_sections(records),
        *tables.closing_sections(results),
    ]
    return "\n\n".join([*parts, *(markdown(each) for each in rest if each)]) + "\n"


def link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target, page.parent)).as_posix()


def write(results: Results, page: Path, pictures: Path, who: str = "") -> None:
    """Write the report as a page and its plots into a folder; missing folders are created."""
    for folder in (page.parent, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    made = plots.write(results.records, pictures)
    links = {title: link(path, page) for title, path in made.items()}
    page.write_text(report(results, links, who), encoding="utf-8")


def write_between_marks(path: Path, part: str) -> None:
    """Replace the text between the marks."""
    text = path.read_text(encoding="utf-8")
    before, mark, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ResultsError(f"{path} has no {START} and {END}")
    path.write_text(f"{before}{START}\n{part}\n{END}{after}", encoding="utf-8")


# --- a page for each machine, and their index -------------------------------------------------------------------------


def page_of(results: Results, folder: Path) -> Path:
    """The page of the machine that these results are of."""
    words = re.findall(r"[a-z0-9]+", machine_name(results).lower())
    return folder / f"{'-'.join(words)}.md"


def write_pages(results: Results, folder: Path, who: str) -> Path:
    """The page of a machine, with its plots in a folder and its main rows in a file beside it, and the index of all
    such pages, which is named like their folder."""
    page = page_of(results, folder)
    write(results, page, page.with_suffix(""), who)
    rows = summary.found_rows(results.records, (*summary.ROWS, *summary.CUDA_ROWS))
    Results([record for _, record in rows], results.machine, datetime=results.datetime).save(page.with_suffix(".json"))
    index = folder.with_suffix(".md")
    if not index.exists():
        index.write_text(f"# Benchmarks\n\n{START}\n{END}\n", encoding="utf-8")
    write_between_marks(index, index_part(folder, index))
    return page


def index_part(folder: Path, index: Path) -> str:
    """The pages, and what fastopt does on each machine beside the best library there."""
    found = {path: Results.load(path) for path in sorted(folder.glob("*.json"))}
    parts = [
        "\n".join(
            wrapped(
                f"- [{machine_name(each)}]({link(path.with_suffix('.md'), index)}): {each.machine.get(MEASURED, '?')}, "
                f"{each.machine.get('threads asked for', '?')} threads, fastopt {each.machine.get('fastopt', '?')}, "
                f"{each.datetime[:10]}",
                "  ",
            )
            for path, each in found.items()
        )
    ]
    for rows in (summary.ROWS, summary.CUDA_ROWS):
        columns = {path: dict(summary.found_rows(each.records, rows)) for path, each in found.items()}
        columns = {path: column for path, column in columns.items() if column}
        lines = [
            [Cell(row.label), *(_index_cell(column.get(row)) for column in columns.values())]
            for row in rows
            if any(row in column for column in columns.values())
        ]
        if lines:
            parts.append(markdown_table(Table(["", *(machine_name(found[path]) for path in columns)], lines)))
    return "\n\n".join(parts)


def _index_cell(record: dict[str, object] | None) -> Cell:
    if record is None:
        return Cell("")
    best = summary.best_of(record)
    return Cell(f"{seconds_text(record['seconds'])}; {best.text}", best.mark)  # type: ignore[arg-type]


# --- README -----------------------------------------------------------------------------------------------------------


def write_readme(results: Results, readme: Path, page: Path) -> None:
    """Replace the text between the marks by a table of six rows and a note on how to read it."""
    table = markdown_table(summary.readme_table(results.records))
    write_between_marks(readme, f"{table}\n\n{summary.readme_note(results, link(page, readme))}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="The report of a run.")
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        help="files that `fastopt bench --json RESULTS.json` wrote; a later file replaces cases of earlier ones",
    )
    parser.add_argument(
        "--pages",
        type=Path,
        metavar="FOLDER",
        help="write the page of this machine there, with its plots, and the index of all pages beside the folder",
    )
    parser.add_argument("--readme", type=Path, help=f"replace the table between {START} and {END} in this file")
    parser.add_argument("--by", default="", metavar="NAME", help="who measured, for the page")
    arguments = parser.parse_args(argv)
    try:
        results = functools.reduce(Results.with_later, map(Results.load, arguments.results))
        page = page_of(results, arguments.pages or Path("docs/benchmarks"))
        if arguments.pages:
            write_pages(results, arguments.pages, arguments.by)
        if arguments.readme:
            write_readme(results, arguments.readme, page)
    except ResultsError as error:
        print(f"python -m bench.report: error: {error}", file=sys.stderr)
        return 1
    if not arguments.pages and not arguments.readme:
        print(report(results, who=arguments.by), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

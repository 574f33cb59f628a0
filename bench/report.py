"""The report of a run as Markdown with plots, and the part of a README about it.

`python -m bench.report RESULTS.json [MORE.json...]` prints it; `--page` and `--readme` write files.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from . import findings, plots
from .results import Results, ResultsError
from .tables import LOSSES, Cell, Section, Table, all_sections
from .targets import FLAT, LISTS
from .text import number_text, percent_text, plural, seconds_text

READING = (
    "Times are medians of a step. A ratio is the peer's time divided by fastopt's, measured in turns: the median of "
    "the pairs, then the least and the greatest. Above 1 fastopt is faster. **Bold: a peer is faster**, or a target is "
    "missed. Results were compared before anything was timed; one that differs is WRONG and has no time. GB/s is the "
    "memory that a step must read and write, divided by its time. The roofline is a loop in fastopt's own compiled "
    "module that reads and writes the same streams and computes nothing, in turns with the others; per cents are its "
    "time divided by theirs."
)

START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
"""What the README has before and after the part that is written here."""

README_FLAT = ("Adam", "AdamW", "RMSprop", "Rprop", "Adagrad", "SGD momentum")
README_LISTS = ("Adam",)
"""The rows of the README's tables."""

TORCH_SECTIONS, TORCH_SUBJECT = ("torch: whole training iterations", "torch: steps"), "fastopt.torch"
TORCH_WAYS = ("torch default", "torch foreach", "torch fused")


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
    return "\n\n".join(filter(None, [f"## {section.title}", section.note, *map(markdown_table, section.tables)]))


def report(results: Results, pictures: dict[str, str] | None = None) -> str:
    """The whole report; `pictures` are links to the plots, by their titles."""
    parts = ["# Benchmarks", f"Measured at {results.datetime}."]
    parts.append("\n".join(f"- {label}: {text}" for label, text in results.machine.items()))
    parts.append(READING)
    for section in all_sections(results):
        parts.append(markdown(section))
        if section.title == LOSSES and pictures:
            parts.append("## Time by size")
            parts += [f"![{title}]({link})" for title, link in pictures.items()]
    return "\n\n".join(parts) + "\n"


def link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target, page.parent)).as_posix()


def write(results: Results, page: Path, pictures: Path) -> None:
    """The report as a page, its plots in a folder; both are made where they are not."""
    for folder in (page.parent, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    made = plots.write(results.records, pictures)
    links = {title: link(path, page) for title, path in made.items()}
    page.write_text(report(results, links), encoding="utf-8")


# --- README -----------------------------------------------------------------------------------------------------------


def readme_cell(found: tuple[str, findings.Record] | None) -> str:
    """The ratio and who it is to."""
    if found is None:
        return "-"
    name, result = found
    text = f"{number_text(result['ratio'])}, {name}"
    return f"**{text}**" if result["ratio"] < 1 else text


def readme_table(records: list[findings.Record], section: str, variants: tuple[str, ...], corner: str) -> list[str]:
    """Main optimizers by workload: the ratios to the best library and to the best loop by hand, fastopt's time."""
    chosen = [
        record
        for record in findings.comparisons(records)
        if record["section"] == section and record["variant"] in variants and record["subject"] == "fastopt"
    ]
    workloads = list(dict.fromkeys(record["workload"] for record in chosen))
    if not chosen:
        return []
    lines = [f"| {corner} | " + " | ".join(workloads) + " |", "| --- " * (1 + len(workloads)) + "|"]
    kinds: dict[str, Callable[[findings.Record], str]] = {
        "best library": lambda record: readme_cell(findings.best(record)),
        "best by hand": lambda record: readme_cell(findings.best_by_hand(record)),
        "a step of fastopt": own_text,
    }
    for variant in variants:
        row = {record["workload"]: record for record in chosen if record["variant"] == variant}
        for kind, text in kinds.items() if row else ():
            cells = [text(row[name]) if name in row else "" for name in workloads]
            lines.append(f"| {variant}, {kind} | " + " | ".join(cells) + " |")
    return lines


def readme_torch_table(records: list[findings.Record]) -> list[str]:
    """fastopt.torch's classes beside each of torch's ways."""
    chosen = [
        record
        for record in findings.comparisons(records)
        if record["section"] in TORCH_SECTIONS and record["subject"] == TORCH_SUBJECT
    ]
    peers = list(dict.fromkeys(name for record in chosen for name in findings.timed(record)))
    if not chosen:
        return []
    peers.sort(key=lambda name: [*TORCH_WAYS, name].index(name))
    lines = [f"| {TORCH_SUBJECT} | a step or iteration | " + " | ".join(peers) + " |"]
    lines.append("| --- " * (2 + len(peers)) + "|")
    for record in chosen:
        timed = findings.timed(record)
        cells = [readme_cell(("", timed[name])).replace(", ", "") if name in timed else "-" for name in peers]
        lines.append(f"| {record['name']} | {seconds_text(record['seconds'])} | " + " | ".join(cells) + " |")
    return lines


def own_text(record: findings.Record) -> str:
    fraction = f", {percent_text(record['fraction'])}" if "fraction" in record else ""
    return seconds_text(record["seconds"]) + fraction


def readme_part(results: Results, page: str, picture: str | None = None) -> str:
    """What goes between the marks; links as they are to be in the README."""
    machine = results.machine
    updates = [record for record in results.records if record["section"] in (FLAT, LISTS)]
    peers = [name for name, each in findings.attendance(updates).items() if each.timed and findings.is_peer(name)]
    losses = findings.Losses.of(results.records)
    anchor = LOSSES.lower().replace(" ", "-")
    parts = [
        f"The best library's time divided by fastopt's, float32, {machine.get('threads asked for', '?')} threads, "
        f"{machine.get('processor', 'an unknown processor')}, results compared first; above 1 fastopt is faster, bold "
        "it is slower. By hand: the textbook's update in NumPy or Numba, one rule and nothing around it. Per cents are "
        "of the roofline, a loop that only moves the same bytes.",
        "\n".join(readme_table(results.records, FLAT, README_FLAT, "parameters")),
        "\n".join(readme_table(results.records, LISTS, README_LISTS, "list")),
        "\n".join(readme_torch_table(results.records)),
        f"![Nanoseconds per parameter over size]({picture})" if picture else "",
        f"Peers: {'; '.join(peers)}. Of {plural(losses.compared, 'comparison')} a peer is faster in "
        f"{len(losses.rows):,}: [all of them]({page}#{anchor}), and [all that was measured]({page}).",
    ]
    return "\n\n".join(filter(None, parts))


def write_readme(results: Results, readme: Path, page: Path, picture: Path | None) -> None:
    """Replace what is between the marks."""
    text = readme.read_text(encoding="utf-8")
    before, mark, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ResultsError(f"{readme} has no {START} and {END}")
    part = readme_part(results, link(page, readme), link(picture, readme) if picture else None)
    readme.write_text(f"{before}{START}\n{part}\n{END}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="The report of a run.")
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        help="what `fastopt bench --json RESULTS.json` wrote; a later run's cases count",
    )
    parser.add_argument(
        "--page", type=Path, help="write the report there, and its plots into a folder beside it of the same name"
    )
    parser.add_argument("--readme", type=Path, help=f"replace what is between {START} and {END} in this file")
    arguments = parser.parse_args(argv)
    page: Path = arguments.page or Path("docs/benchmarks.md")
    pictures = page.with_suffix("")
    try:
        results = functools.reduce(Results.with_later, map(Results.load, arguments.results))
        if arguments.page:
            write(results, page, pictures)
        if arguments.readme:
            overview = pictures / plots.OVERVIEW
            write_readme(results, arguments.readme, page, overview if overview.exists() else None)
    except ResultsError as error:
        print(f"python -m bench.report: error: {error}", file=sys.stderr)
        return 1
    if not arguments.page and not arguments.readme:
        print(report(results), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

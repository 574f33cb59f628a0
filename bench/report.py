"""`python -m bench.report RESULTS.json`: pytest-benchmark's JSON as Markdown tables, on standard output."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .tables import Cell, Table, all_tables

READING = (
    "Times are medians of a step. A ratio is the peer's time divided by fastopt's, measured in turns: the median of "
    "the pairs, then the least and the greatest. Above 1 fastopt is faster. **Bold: fastopt is slower**, or misses a "
    "target. Results were compared before anything was timed; one that differs is WRONG and has no time. GB/s is the "
    "memory that a step must read and write, divided by its time."
)


def cell_text(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    return f"**{text}**" if cell.mark in ("loss", "wrong") else text


def markdown(table: Table) -> str:
    lines = [f"## {table.title}", "", table.note, "", "| " + " | ".join(table.headers) + " |"]
    lines.append("| --- " * len(table.headers) + "|")
    lines += ["| " + " | ".join(cell_text(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines)


def report(results: dict[str, Any]) -> str:
    """The whole report."""
    records = [each["extra_info"] for each in results["benchmarks"] if "section" in each["extra_info"]]
    described = results["machine_info"].get("described", {})
    parts = ["# Benchmarks", f"Measured at {results['datetime']}."]
    parts.append("\n".join(f"- {label}: {text}" for label, text in described.items()))
    parts.append(READING)
    parts += [markdown(table) for table in all_tables(records)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("results", type=Path, help="what `pytest bench/ --benchmark-json=RESULTS.json` wrote")
    results = json.loads(parser.parse_args().results.read_text(encoding="utf-8"))
    print(report(results), end="")


if __name__ == "__main__":
    main()

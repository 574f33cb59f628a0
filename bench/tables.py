"""Records as tables, with losses marked as clearly as wins: a row per case in the terminal, all peers in the report."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import findings, targets
from .results import Results
from .sections import SECTIONS
from .text import number_text, percent_text, plural, seconds_text

Record = dict[str, Any]

NOT_MEASURED = "not measured"

BUSY = 0.1
"""A case is marked if other work used more than this many processors."""

FEW = 3
"""Up to this many peers have a column each. More peers have a row each in the report; the terminal shows the first."""

SHOWN_LOSSES = 20
"""Lines of the table of losses in the terminal; the report shows all."""


@dataclass(frozen=True)
class Cell:
    """Some text; `mark` is "win", "loss", "wrong" or empty."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """`title` is empty if the section title suffices. `whole`: how many columns stay on one line in a wide terminal."""

    headers: list[str]
    rows: list[list[Cell]]
    title: str = ""
    whole: int = 0


@dataclass(frozen=True)
class Section:
    title: str
    note: str
    tables: list[Table]


# --- cells ------------------------------------------------------------------------------------------------------------


def mark_of(ratio: float) -> str:
    return "win" if ratio >= 1 else "loss"


def spread_text(result: Record) -> str:
    return f"({number_text(result['ratio_min'])} to {number_text(result['ratio_max'])})"


def ratio_text(result: Record) -> str:
    return f"{number_text(result['ratio'])}x {spread_text(result)}"


def result_cell(result: Record) -> Cell:
    """The time of a peer, its ratio with spread, its fraction of the roofline and GB/s; or why these are missing."""
    if "wrong" in result:
        return Cell("WRONG: " + result["wrong"], "wrong")
    if "ratio" not in result:
        return Cell("none")
    parts = [seconds_text(result["seconds"]), ratio_text(result)]
    if "fraction" in result:
        parts += [percent_text(result["fraction"]), f"{number_text(result['bytes_per_second'] / 1e9)} GB/s"]
    return Cell(", ".join(parts), mark_of(result["ratio"]))


def peer_cell(found: tuple[str, Record] | None, spread: bool) -> Cell:
    """The name of a peer, and its ratio."""
    if found is None:
        return Cell("none")
    name, result = found
    text = ratio_text(result) if spread else f"{number_text(result['ratio'])}x"
    return Cell(f"{name} {text}", mark_of(result["ratio"]))


def time_cell(record: Record) -> Cell:
    """The time of the subject; empty if all peers that could be compared disagree."""
    agreed = ["wrong" not in result for result in record["peers"].values() if "unavailable" not in result]
    if agreed and not any(agreed):
        return Cell("WRONG", "wrong")
    return Cell(seconds_text(record["seconds"]))


def bytes_cell(record: Record) -> Cell:
    moved = record.get("bytes_per_parameter")
    return Cell("" if moved is None else f"{moved:.3g}")


def rate_cell(record: Record) -> Cell:
    moved = record.get("bytes_per_second")
    return Cell("" if moved is None else number_text(moved / 1e9))


def fraction_cell(record: Record, spread: bool = True) -> Cell:
    if "fraction" not in record:
        return Cell("")
    text = percent_text(record["fraction"])
    if spread:
        text += f" ({100 * record['fraction_min']:.0f} to {100 * record['fraction_max']:.0f})"
    return Cell(text)


def case_cell(record: Record) -> Cell:
    return Cell(record["name"] + ("*" if record.get("busy", 0) > BUSY else ""))


def note(section: str, records: list[Record]) -> str:
    """A note on the measurements of a section, and on the meaning of a star."""
    busy = any(record.get("busy", 0) > BUSY for record in records)
    star = f"A star marks cases during which other programs used more than {BUSY} processors."
    return " ".join([SECTIONS.get(section, ""), *([star] if busy else [])]).strip()


# --- tables of a section ----------------------------------------------------------------------------------------------


def own_columns(records: list[Record], spread: bool = True) -> dict[str, Callable[[Record], Cell]]:
    """Columns of the subject: time, and bytes, GB/s and the fraction of the roofline if any record has them."""
    columns: dict[str, Callable[[Record], Cell]] = {records[0]["subject"]: time_cell}
    if any("bytes_per_parameter" in record for record in records):
        columns["bytes"] = bytes_cell
    if any("bytes_per_second" in record for record in records):
        columns["GB/s"] = rate_cell
    if any("fraction" in record for record in records):
        columns["of roofline"] = partial(fraction_cell, spread=spread)
    return columns


def peers_of(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record["peers"]))


def few_peers_table(records: list[Record], title: str = "") -> Table:
    """One row per case, one column per peer."""
    columns, peers = own_columns(records), peers_of(records)
    rows = []
    for record in records:
        row = [case_cell(record), *(make(record) for make in columns.values())]
        row += [result_cell(record["peers"].get(peer, {})) for peer in peers]
        rows.append(row)
    return Table(["case", *columns, *peers], rows, title)


def summary_table(records: list[Record]) -> Table:
    """One row per case: the best library, the best handwritten loop, other peers that are faster, and wrong peers."""
    columns = own_columns(records, spread=False)
    rows = []
    for record in records:
        best = [findings.best(record), findings.best_by_hand(record)]
        shown = {found[0] for found in best if found}
        others = {name: result for name, result in findings.faster(record).items() if name not in shown}
        faster = [f"{name} {number_text(result['ratio'])}x" for name, result in others.items()]
        wrong = [f"WRONG: {name}" for name, result in record["peers"].items() if "wrong" in result]
        rest = Cell(", ".join(wrong + faster), "wrong" if wrong else "loss" if faster else "")
        own = [case_cell(record), *(make(record) for make in columns.values())]
        rows.append([*own, peer_cell(best[0], spread=True), peer_cell(best[1], spread=False), rest])
    headers = ["case", *columns, "best library", "best hand-written"]
    return Table([*headers, "also faster"], rows, whole=len(headers))


def by_variant(records: list[Record]) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = {}
    for record in records:
        title = record["variant"] if record["subject"] == "fastopt" else f"{record['variant']}, {record['subject']}"
        grouped.setdefault(title, []).append(record)
    return grouped


def variant_table(title: str, records: list[Record]) -> Table:
    """All peers of one variant: one row per peer, one column per case."""
    variant = records[0]["variant"]
    headers = ["", *(case_cell(record).text.removeprefix(variant).removeprefix(", ") for record in records)]
    rows = [[Cell(name), *map(make, records)] for name, make in own_columns(records).items()]
    if any("roofline" in record for record in records):
        seconds = [record.get("roofline", {}).get("seconds") for record in records]
        rows.append([Cell("roofline"), *(Cell("" if each is None else seconds_text(each)) for each in seconds)])
    for peer in peers_of(records):
        results = [record["peers"].get(peer, {}) for record in records]
        if any("ratio" in result or "wrong" in result for result in results):
            rows.append([Cell(peer), *map(result_cell, results)])
    return Table(headers, rows, title)


def measurement_table(records: list[Record]) -> Table:
    labels = list(dict.fromkeys(label for record in records for label in record["values"]))
    rows = []
    for record in records:
        row = [case_cell(record)]
        for label in labels:
            value, unit = record["values"].get(label, (None, ""))
            row.append(Cell("" if value is None else f"{number_text(value)} {unit}".strip()))
        rows.append(row)
    return Table(["case", *labels], rows)


def section_tables(records: list[Record], brief: bool) -> list[Table]:
    """The tables of one section, which may contain both comparisons and measurements."""
    compared = findings.comparisons(records)
    measured = [record for record in records if "values" in record]
    compared = [record for each in by_variant(compared).values() for record in each]
    tables = []
    if compared and len(peers_of(compared)) <= FEW:
        tables.append(few_peers_table(compared))
    elif compared and brief:
        tables.append(summary_table(compared))
    elif compared:
        tables += [variant_table(title, each) for title, each in by_variant(compared).items()]
    return tables + ([measurement_table(measured)] if measured else [])


# --- tables about all sections ----------------------------------------------------------------------------------------


def target_row(target: targets.Target, found: tuple[str, float] | None, records: list[Record]) -> list[Cell]:
    """The row of a target; `found`: the case that is farthest from the target, and its value."""
    by_hand = Cell("")
    if found is None:
        measured = Cell(NOT_MEASURED)
    else:
        case, value = found
        mark = "win" if target.is_met_by(value) else "loss"
        which = "" if case == target.cases else f" ({case})"
        measured = Cell(f"{number_text(value)}{'' if mark == 'win' else ' missed'}{which}", mark)
        if target.column == targets.BEST:
            record = next(each for each in records if (each["section"], each["name"]) == (target.section, case))
            by_hand = peer_cell(findings.best_by_hand(record), spread=False)
    return [Cell(target.section), Cell(target.cases), Cell(target.column), Cell(target.wanted), measured, by_hand]


def target_section(records: list[Record], brief: bool) -> Section | None:
    """All targets of the groups of which any was measured; the terminal omits the others of them."""
    tables, met = [], []
    for title, group in targets.GROUPS.items():
        worst = {target: targets.worst(target, records) for target in group}
        met += [target.is_met_by(found[1]) for target, found in worst.items() if found]
        shown = [each for each in worst.items() if each[1] or (not brief and any(worst.values()))]
        rows = [target_row(target, found, records) for target, found in shown]
        if rows:
            tables.append(
                Table(["section", "case", "compared with", "target", "measured", "best hand-written"], rows, title)
            )
    note = (
        f"{sum(met)} of the {len(met)} measured targets are met. A pattern that fits several cases shows the worst of "
        "them. The best library is the fastest one with right and not approximate results (8-bit states are "
        "approximate). Loops written by hand in NumPy and Numba, one rule without any options, have their own column."
    )
    return Section("Targets", note, tables) if tables else None


LOSSES = "Where a peer is faster"


def losses_section(records: list[Record], brief: bool) -> Section | None:
    losses = findings.Losses.of(records)
    if not losses.compared:
        return None
    shown = losses.rows[:SHOWN_LOSSES] if brief else losses.rows
    rows = [
        [Cell(record["section"]), case_cell(record), Cell(name), Cell(ratio_text(result), "loss")]
        for record, name, result in shown
    ]
    cases = len({(record["section"], record["name"]) for record, _, _ in losses.rows})
    note = f"{len(losses.rows):,} of {plural(losses.compared, 'comparison')} with a peer, in {plural(cases, 'case')}."
    if len(shown) < len(losses.rows):
        note += f" The {len(shown)} greatest:"
    return Section(LOSSES, note, [Table(["section", "case", "peer", "ratio"], rows)] if rows else [])


def first_steps_section(records: list[Record]) -> Section | None:
    """The times to construct an optimizer and take its first step, with compiling; other times do not include them."""
    found: dict[str, list[tuple[float, str]]] = {}
    for record in findings.comparisons(records):
        sides = {record["subject"]: record, **record["peers"]}
        for name, result in sides.items():
            if "first_seconds" in result:
                found.setdefault(name, []).append((result["first_seconds"], record["name"]))
    rows = []
    for name, each in found.items():
        longest, case = max(each)
        median = statistics.median(seconds for seconds, _ in each)
        rows.append(
            [Cell(name), Cell(f"{len(each):,}"), *map(Cell, (seconds_text(median), seconds_text(longest), case))]
        )
    note = (
        "Construction and the first step, including compilation; other tables leave them out. The longest is usually "
        "the first in a process, which also loads the package."
    )
    headers = ["", "cases", "median", "longest", "of"]
    return Section("First steps", note, [Table(headers, rows)]) if rows else None


def peers_section(records: list[Record], brief: bool) -> Section | None:
    """The peers that took part, and the reasons of the others; the terminal shows only peers that never took part."""
    rows = []
    for name, counted in findings.attendance(records).items():
        if brief and (counted.timed or counted.wrong):
            continue
        reasons = "; ".join(
            reason + (f" ({plural(count, 'case')})" if count < counted.asked else "")
            for reason, count in counted.reasons.most_common()
        )
        timed = f"{counted.timed:,} of {counted.asked:,}"
        wrong = Cell(f"{counted.wrong:,}", "wrong") if counted.wrong else Cell("")
        rows.append([Cell(name), Cell(timed), wrong, Cell(reasons)])
    if not rows:
        return None
    title = "Absent peers" if brief else "Peers"
    return Section(title, "", [Table(["peer", "cases timed", "wrong", "reasons in the other cases"], rows)])


def failures_section(failures: dict[str, str]) -> Section | None:
    rows = [[Cell(test), Cell(reason, "wrong")] for test, reason in failures.items()]
    return Section("Failed", "", [Table(["test", "reason"], rows)]) if rows else None


def left_out_section(left_out: dict[str, str]) -> Section | None:
    """The tests that did not run, by reason."""
    by_reason: dict[str, list[str]] = {}
    for test, reason in left_out.items():
        by_reason.setdefault(reason, []).append(test)
    rows = []
    for reason, tests in by_reason.items():
        more = f" and {len(tests) - FEW:,} more" if len(tests) > FEW else ""
        rows.append([Cell(reason), Cell(", ".join(tests[:FEW]) + more)])
    return Section("Skipped", "", [Table(["reason", "tests"], rows)]) if rows else None


def all_sections(results: Results, brief: bool = False) -> list[Section]:
    """Failures, targets and losses first, then the measurements. With `brief`, for the terminal, they come last, where
    they stay visible."""
    records = results.records
    first = [
        failures_section(results.failures),
        target_section(records, brief),
        losses_section(records, brief),
    ]
    rest = [*measured_sections(records, brief), *closing_sections(results, brief)]
    ordered = [*rest, *reversed(first)] if brief else [*first, *rest]
    return [section for section in ordered if section is not None]


def measured_sections(records: list[Record], brief: bool = False) -> list[Section]:
    """All measurements, in the order of SECTIONS."""
    measured = []
    for title in dict.fromkeys([*SECTIONS, *(record["section"] for record in records)]):
        chosen = [record for record in records if record["section"] == title]
        if chosen:
            measured.append(Section(title, note(title, chosen), section_tables(chosen, brief)))
    return measured


def closing_sections(results: Results, brief: bool = False) -> list[Section | None]:
    return [
        first_steps_section(results.records),
        peers_section(results.records, brief),
        left_out_section(results.left_out),
    ]

"""Records as tables: one row a case, losses marked as plainly as wins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import targets

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Record = dict[str, Any]

SECTIONS = {
    "Flat tensors": "One tensor, gradients bound or held by the tensor.",
    "One thread": "Flat tensors, fastopt and everyone beside it on one thread.",
    "Lists of tensors": "Separate tensors, one optimizer; fastopt gets a list as torch does.",
    "Moving bytes": "Adam beside a loop that moves the same bytes and computes next to nothing.",
    "Ways to call": "Gradients bound at construction or passed to step; memory on a cache line's start or not.",
    "Numba beside Cython": "The same rules compiled by Numba; a ratio below 1 means that Numba is the slower.",
    "Threads": "As many threads as fastopt chooses, beside one thread and beside all.",
    "Clip, step, zero": "AdamW, gradients clipped by their norm and zeroed: one call, beside torch's "
    "clip_grad_norm_, a step and zero_grad(set_to_none=False); optax clips in its step, and zeroes nothing.",
    "Finite checks": "A plain step, divided by one with nonfinite='skip'.",
    "Norms": "The norm of one array: fastopt.global_norm beside torch.linalg.vector_norm, and the error of each.",
    "NumPy: whole training iterations": "Forward, cross-entropy, backward in NumPy and a step of Adam, everyone on the "
    "same flat buffers.",
    "NumPy: the least an iteration can take": "Forward and backward without any optimizer, beside the whole iteration "
    "with fastopt's: how much of it is left to gain.",
    "torch: whole training iterations": "zero_grad, forward, cross-entropy, backward and step; fastopt.torch's class "
    "in place of torch's.",
    "torch: the least an iteration can take": "Forward and backward without any optimizer, beside the whole iteration "
    "with fastopt.torch's: how much of it is left to gain.",
    "torch: steps": "fastopt.torch's class beside torch's, on torch's parameters. Gradients are kept from step to "
    "step, or are new tensors in each (which is not timed).",
    "torch: clip, step, zero": "One call with max_grad_norm and zero_grads, beside clip_grad_norm_, a step and "
    "zero_grad(set_to_none=False). Gradients are refilled before each (not timed).",
    "torch: clip_grad_norm_": "fastopt.torch's beside torch's, to half of the norm. Gradients are refilled before each "
    "(not timed).",
    "torch: the step in backward": "Whole training iterations with step_in_backward, beside backward and then a step.",
    "torch: memory of gradients": "The most bytes of gradients that parameters have at any time in a training "
    "iteration, counted tensor by tensor.",
    "Half-dead gradients": "Half of the gradients are zero from the second step on; denormals appear after about 800. "
    "Everyone takes the same steps, and those from step 10, 1,000 and 3,000 on are timed in turns.",
    "Half-dead gradients: growth": "The time of a step there, divided by that of step 10.",
    "Cold start": "A fresh process, beyond `import numpy`: the import, and all up to the end of Adam's first "
    "step with 1,000 parameters. What packages compile and keep is there already, but for the last column.",
    "Memory per parameter": "Bytes, in a process of its own. Kept from step to step, with 4 of a parameter and 4 of "
    "its gradient (less where a package uses the array that it is given); and at most during a step besides.",
    "A million steps": "What they leave behind.",
}
"""What each section measures, in order."""

NOT_MEASURED = "not measured"

BUSY = 0.1
"""Processors that other work may use before a case is marked."""


@dataclass(frozen=True)
class Cell:
    """Some text; `mark` is "win", "loss", "wrong" or empty."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    headers: list[str]
    rows: list[list[Cell]]


def seconds_text(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 999.5 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def number_text(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 99.5 else f"{number:.3g}"


def ratio_cell(result: Record, before: str = "") -> Cell:
    """Text and mark of what came of one peer."""
    if "wrong" in result:
        return Cell("WRONG: " + result["wrong"], "wrong")
    if "unavailable" in result:
        return Cell("none")
    spread = f"{number_text(result['ratio_min'])} to {number_text(result['ratio_max'])}"
    return Cell(f"{before}{number_text(result['ratio'])}x ({spread})", mark_of(result["ratio"]))


def own_cells(record: Record) -> list[Cell]:
    """Time and GB/s; neither where all who could be compared disagree."""
    agreed = ["ratio" in result for result in record["peers"].values() if "unavailable" not in result]
    if agreed and not any(agreed):
        return [Cell("WRONG", "wrong"), Cell("")]
    moved = record.get("bytes_per_second")
    return [Cell(seconds_text(record["seconds"])), Cell("" if moved is None else number_text(moved / 1e9))]


def best_cell(record: Record) -> Cell:
    if "best_peer" not in record:
        return Cell("none")
    return Cell(f"{number_text(record['ratio'])}x, {record['best_peer']}", mark_of(record["ratio"]))


def case_cell(record: Record) -> Cell:
    return Cell(record["name"] + ("*" if record["busy"] > BUSY else ""))


def note(section: str, records: list[Record]) -> str:
    """What the section measures, why peers are missing, and what a star says."""
    results = [result for record in records for result in record.get("peers", {}).values()]
    reasons = dict.fromkeys(result["unavailable"] for result in results if "unavailable" in result)
    parts = [SECTIONS[section], *(f"{reason}." for reason in reasons)]
    if any(record["busy"] > BUSY for record in records):
        parts.append(f"* Other work kept more than {BUSY} processors busy in the meantime.")
    return " ".join(parts)


def mark_of(ratio: float) -> str:
    return "win" if ratio >= 1 else "loss"


def comparison_table(section: str, records: list[Record]) -> Table:
    peers = list(dict.fromkeys(name for record in records for name in record["peers"]))
    headers = ["case", records[0]["subject"], "GB/s", *peers, "best peer"]
    rows = []
    for record in records:
        row = [case_cell(record), *own_cells(record)]
        for peer in peers:
            result = record["peers"].get(peer, {"unavailable": NOT_MEASURED})
            before = f"{seconds_text(result['seconds'])}, " if "seconds" in result else ""
            row.append(ratio_cell(result, before))
        row.append(best_cell(record))
        rows.append(row)
    return Table(section, note(section, records), headers, rows)


def measurement_table(section: str, records: list[Record]) -> Table:
    labels = list(dict.fromkeys(label for record in records for label in record["values"]))
    rows = []
    for record in records:
        row = [case_cell(record)]
        for label in labels:
            value, unit = record["values"].get(label, (None, ""))
            row.append(Cell("" if value is None else f"{number_text(value)} {unit}".strip()))
        rows.append(row)
    return Table(section, note(section, records), ["case", *labels], rows)


def target_table(records: list[Record]) -> Table:
    """Every target, those that nothing was measured for too."""
    rows = []
    for target in targets.TARGETS:
        found = targets.worst(target, records)
        if found is None:
            measured = Cell(NOT_MEASURED)
        else:
            case, value = found
            mark = "win" if target.is_met_by(value) else "loss"
            which = "" if case == target.cases else f" ({case})"
            measured = Cell(f"{number_text(value)}{'' if mark == 'win' else ' missed'}{which}", mark)
        rows.append([Cell(target.section), Cell(target.cases), Cell(target.column), Cell(target.wanted), measured])
    headers = ["section", "case", "beside", "wanted", "measured"]
    return Table("Targets", "Where a pattern fits several cases, the worst of them.", headers, rows)


def all_tables(records: Iterable[Record]) -> list[Table]:
    """The targets, then a table for each section that was measured."""
    records = list(records)
    made = [target_table(records)]
    for section in SECTIONS:
        chosen = [record for record in records if record["section"] == section]
        if chosen:
            make = comparison_table if "peers" in chosen[0] else measurement_table
            made.append(make(section, chosen))
    return made


def as_rich(table: Table) -> RichTable:
    """For the terminal, without targets that nothing was measured for."""
    from rich.table import Table as RichTable
    from rich.text import Text

    styles = {"win": "green", "loss": "bold red", "wrong": "bold white on red", "": ""}
    made = RichTable(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
    for header in table.headers:
        made.add_column(header)
    for row in table.rows:
        if row[-1].text != NOT_MEASURED:
            made.add_row(*(Text(cell.text, styles[cell.mark]) for cell in row))
    return made

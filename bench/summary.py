"""The short tables: the rows that matter most, for the top of a page and for README, and the summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import findings
from .results import Record, Results
from .tables import LOSSES, Cell, Section, Table, mark_of
from .targets import FLAT, LISTS
from .text import number_text, percent_text, seconds_text, wrapped

TORCH_DEFAULT, TORCH_FUSED = "torch default", "torch fused"


@dataclass(frozen=True)
class Row:
    """A case of a section that matters to a reader, and what it is called; `in_readme`: README has it too."""

    label: str
    section: str
    case: str
    in_readme: bool = False


CLIP, TRAINING, STEPS = "Clip, step, zero", "torch: whole training iterations", "torch: steps"
GPT2_CASE, MANY_CASE = "Adam, GPT-2 124M, 148 tensors", "Adam, 500 tensors of 256"

ROWS = (
    Row("Adam, 1,000 parameters", FLAT, "Adam, 1,000", in_readme=True),
    Row("Adam, 100,000 parameters", FLAT, "Adam, 100,000"),
    Row("Adam, 1,000,000 parameters", FLAT, "Adam, 1,000,000", in_readme=True),
    Row("Adam, 100,000,000 parameters", FLAT, "Adam, 100,000,000", in_readme=True),
    Row("RMSprop, 1,000,000 parameters", FLAT, "RMSprop, 1,000,000"),
    Row("SGD with momentum, 1,000,000 parameters", FLAT, "SGD momentum, 1,000,000"),
    Row("Adam, 500 tensors of 256", LISTS, MANY_CASE, in_readme=True),
    Row("Adam, GPT-2's 148 tensors, 124 million parameters", LISTS, GPT2_CASE),
    Row("AdamW, 1,000,000: clip, step, zero gradients", CLIP, "AdamW betas, 1,000,000", in_readme=True),
    Row("PyTorch: a step of Adam, 500 tensors of 256", STEPS, MANY_CASE),
    Row("PyTorch: a step of Adam, GPT-2's 148 tensors", STEPS, GPT2_CASE),
    Row("PyTorch: a whole iteration of a small network", TRAINING, "Adam, 64-64-64-10, batch 32", in_readme=True),
)
CUDA_ROWS = (
    Row("Adam, 10,000 parameters", "CUDA: flat tensors", "Adam, 10,000"),
    Row("Adam, 1,000,000 parameters", "CUDA: flat tensors", "Adam, 1,000,000"),
    Row("Adam, 10,000,000 parameters", "CUDA: flat tensors", "Adam, 10,000,000"),
    Row("Adam, 100,000,000 parameters", "CUDA: flat tensors", "Adam, 100,000,000"),
    Row("RMSprop, 10,000,000 parameters", "CUDA: flat tensors", "RMSprop, 10,000,000"),
    Row("Rprop, 10,000,000 parameters", "CUDA: flat tensors", "Rprop, 10,000,000"),
    Row("Adam, 500 tensors of 256", "CUDA: lists of tensors", MANY_CASE),
    Row("Adam, GPT-2's 148 tensors, 124 million parameters", "CUDA: lists of tensors", GPT2_CASE),
    Row("A replayed graph of Adam, 10,000 parameters", "CUDA: replayed graphs", "Adam, 10,000"),
    Row("A replayed graph of Adam, 500 tensors of 256", "CUDA: replayed graphs", MANY_CASE),
    Row("PyTorch: a step of Adam, 10,000 parameters", "CUDA: torch: steps", "Adam, 10,000"),
    Row("PyTorch: a step of Adam, 500 tensors of 256", "CUDA: torch: steps", MANY_CASE),
    Row("PyTorch: a step of Adam, GPT-2's 148 tensors", "CUDA: torch: steps", GPT2_CASE),
)
README_ROWS = tuple(row for row in ROWS if row.in_readme)
README_HEADERS = ("", "fastopt", "`torch.optim`", "`torch.optim`, fused", "best other library")

SUMMARY_FLAT = ("Adam", "AdamW", "RMSprop", "Rprop", "Adagrad", "SGD momentum")
SUMMARY_LISTS = ("Adam",)
"""The variants in the summary of the page."""

TORCH_SECTIONS, TORCH_SUBJECT = ("torch: whole training iterations", "torch: steps"), "fastopt.torch"
TORCH_WAYS = (TORCH_DEFAULT, "torch foreach", TORCH_FUSED)

NO_RATIO = Cell("-")


def ratio_cell(result: Record | None, name: str = "") -> Cell:
    """The time of a peer divided by that of fastopt, and the name of the peer if the column does not name it."""
    if result is None or "ratio" not in result:
        return NO_RATIO
    text = f"{number_text(result['ratio'])}x" + (f" ({name})" if name else "")
    return Cell(text, mark_of(result["ratio"]))


def best_cell(found: tuple[str, Record] | None) -> Cell:
    return NO_RATIO if found is None else ratio_cell(found[1], found[0])


def best_of(record: Record) -> Cell:
    """The best library beside fastopt."""
    return best_cell(findings.best(record))


# --- README -----------------------------------------------------------------------------------------------------------


def found_rows(records: list[Record], rows: Sequence[Row]) -> list[tuple[Row, Record]]:
    """The rows that were measured."""
    by_case = {(record["section"], record["name"]): record for record in findings.comparisons(records)}
    return [(row, record) for row in rows if (record := by_case.get((row.section, row.case)))]


def readme_table(records: list[Record]) -> Table:
    """The table of the measured cases of README_ROWS."""
    rows = []
    for row, record in found_rows(records, README_ROWS):
        peers = [ratio_cell(record["peers"].get(name)) for name in (TORCH_DEFAULT, TORCH_FUSED)]
        own = Cell(seconds_text(record["seconds"]))
        rows.append([Cell(row.label), own, *peers, best_cell(findings.best(record))])
    return Table(list(README_HEADERS), rows)


def readme_note(results: Results, page: str) -> str:
    """How to read README's table; `page` is a link to all results."""
    losses = findings.Losses.of(results.records)
    anchor = LOSSES.lower().replace(" ", "-")
    text = (
        "Ratios are the library's time divided by fastopt's: above 1x fastopt is faster. Measured in float32 on "
        f"{results.machine.get('threads asked for', '?')} threads of an "
        f"{results.machine.get('processor', 'unknown processor')}, after all results had been compared. "
        f"[All results]({page}) include the [{len(losses.rows):,} of {losses.compared:,} "
        f"comparisons]({page}#{anchor}) that fastopt loses."
    )
    return wrapped(text)


# --- the page ---------------------------------------------------------------------------------------------------------


MAIN = "The cases that matter most"
MAIN_HEADERS = ("", "fastopt", "of roofline", "torch default", "torch fused", "best library", "best hand-written")


def main_section(records: list[Record]) -> Section | None:
    """A dozen rows, of a processor or of a GPU, and how many comparisons are won and lost in all."""
    rows = []
    for row, record in found_rows(records, (*ROWS, *CUDA_ROWS)):
        own = [
            Cell(seconds_text(record["seconds"])),
            Cell(percent_text(record["fraction"]) if "fraction" in record else ""),
        ]
        peers = [ratio_cell(record["peers"].get(name)) for name in (TORCH_DEFAULT, TORCH_FUSED)]
        rows.append(
            [Cell(row.label), *own, *peers, best_cell(findings.best(record)), best_cell(findings.best_by_hand(record))]
        )
    counted = findings.counts(records)
    won, lost = sum(each.won for each in counted.values()), sum(each.lost for each in counted.values())
    note = (
        "The time of a step, and each peer's time divided by it: above 1x fastopt is faster, **bold: the peer is**. Of "
        f"all {won + lost:,} comparisons of this page, fastopt wins {won:,} and loses {lost:,}."
    )
    return Section(MAIN, note, [Table(list(MAIN_HEADERS), rows)]) if rows else None


WINS_AND_LOSSES = "Wins and losses"


def wins_and_losses(records: list[Record]) -> Section | None:
    """By section: how often fastopt is faster, how often a peer is, and the ratios."""
    rows = []
    for section, found in findings.counts(records).items():
        ratios = [
            Cell(f"{number_text(ratio)}x", mark_of(ratio)) for ratio in (found.lowest, found.median, found.highest)
        ]
        lost = Cell(f"{found.lost:,}", "loss" if found.lost else "")
        rows.append([Cell(section), Cell(f"{found.won:,}"), lost, *ratios])
    headers = ["section", "fastopt is faster", "a peer is faster", "lowest ratio", "median", "highest"]
    return (
        Section(WINS_AND_LOSSES, "Comparisons with a peer, hand-written loops included.", [Table(headers, rows)])
        if rows
        else None
    )


def own_cell(record: Record) -> Cell:
    fraction = f", {percent_text(record['fraction'])}" if "fraction" in record else ""
    return Cell(seconds_text(record["seconds"]) + fraction)


ROWS_OF_A_VARIANT: dict[str, Callable[[Record], Cell]] = {
    "best library": lambda record: best_cell(findings.best(record)),
    "best hand-written": lambda record: best_cell(findings.best_by_hand(record)),
    "time of fastopt": own_cell,
}


def variants_table(records: list[Record], section: str, variants: tuple[str, ...], corner: str) -> Table | None:
    """One column per workload; for each variant the best library, the best handwritten loop, and fastopt's time."""
    chosen = [
        record
        for record in findings.comparisons(records)
        if record["section"] == section and record["variant"] in variants and record["subject"] == "fastopt"
    ]
    workloads = list(dict.fromkeys(record["workload"] for record in chosen))
    rows = []
    for variant in variants:
        found = {record["workload"]: record for record in chosen if record["variant"] == variant}
        for kind, cell in ROWS_OF_A_VARIANT.items() if found else ():
            cells = [cell(found[workload]) if workload in found else Cell("") for workload in workloads]
            rows.append([Cell(f"{variant}, {kind}"), *cells])
    return Table([corner, *workloads], rows) if rows else None


def torch_table(records: list[Record]) -> Table | None:
    """The classes of fastopt.torch compared with each implementation in torch."""
    chosen = [
        record
        for record in findings.comparisons(records)
        if record["section"] in TORCH_SECTIONS and record["subject"] == TORCH_SUBJECT
    ]
    peers = {name for record in chosen for name in findings.timed(record)}
    ordered = sorted(peers, key=lambda name: [*TORCH_WAYS, name].index(name))
    rows = [
        [
            Cell(record["name"]),
            Cell(seconds_text(record["seconds"])),
            *(ratio_cell(findings.timed(record).get(name)) for name in ordered),
        ]
        for record in chosen
    ]
    return Table([TORCH_SUBJECT, "step or iteration", *ordered], rows) if rows else None


NOTE = (
    "The best peer's time divided by fastopt's. Hand-written means the textbook's update in NumPy or Numba: one rule, "
    "without groups, checks or options. Per cents are of the roofline."
)


def summary(records: list[Record]) -> Section | None:
    """The main optimizers at every size, some lists of tensors, and PyTorch."""
    found = (
        variants_table(records, FLAT, SUMMARY_FLAT, "parameters"),
        variants_table(records, LISTS, SUMMARY_LISTS, "list"),
        torch_table(records),
    )
    measured = [table for table in found if table is not None]
    return Section("Summary", NOTE, measured) if measured else None

"""The results of a run as one JSON file: machine, records, skipped cases, failures."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]

FORMAT = 1
DIGITS = 5
"""Significant digits of written numbers: repeated times do not even agree to three."""


class ResultsError(ValueError):
    """A file does not hold the results of a run; the message says why, in one line."""


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@dataclass
class Results:
    """`machine` is labelled text; the rest is by the id of a test. `measure.py` describes records."""

    records: list[Record] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Tests that did not run, and why."""
    failures: dict[str, str] = field(default_factory=dict)
    """Tests that failed, and why; wrong results are in their records too."""
    took: dict[str, float] = field(default_factory=dict)
    """The seconds of each test in all."""
    datetime: str = field(default_factory=_now)
    format: int = FORMAT

    def save(self, path: Path) -> None:
        """Write the file; if that fails, an existing file stays as it is."""
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_text(json.dumps(_rounded(asdict(self)), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file that `save` or `--benchmark-json` of pytest-benchmark wrote."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ResultsError(f"cannot read {path}: {error}") from None
        if isinstance(found, dict) and "machine_info" in found:
            records = [each["extra_info"] for each in found["benchmarks"] if "section" in each["extra_info"]]
            return cls(records, found["machine_info"].get("described", {}), datetime=found["datetime"])
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ResultsError(f"{path} does not hold results of format {FORMAT}")
        return cls(**found)

    def with_later(self, later: Results) -> Results:
        """These results and those of a later run, which takes the place of an earlier one where both have a case.

        Raises
        ------
        ResultsError
            The runs were on different machines, or of different versions.
        """
        for label in sorted(self.machine.keys() | later.machine.keys()):
            ours, theirs = self.machine.get(label), later.machine.get(label)
            if ours != theirs and label not in OF_A_RUN:
                raise ResultsError(f"the runs do not belong together: {label} is {ours} in one, {theirs} in the other")
        records = {identity(record): record for record in self.records}
        records |= {identity(record): record for record in later.records}
        return Results(
            list(records.values()),
            self.machine | {MEASURED: "; then ".join(run.machine.get(MEASURED, "") for run in (self, later))},
            self.left_out | later.left_out,
            self.failures | later.failures,
            self.took | later.took,
            f"{self.datetime.partition(' to ')[0]} to {later.datetime}",
        )


MEASURED, BUSY, RUNTIMES = "measured", "processors busy with other work", "OpenMP runtimes"
TOOK = "time taken"
COMMAND = "command"
OF_A_RUN = (MEASURED, BUSY, RUNTIMES, TOOK, COMMAND)
"""Parts of the description of the machine that differ between runs: other work, and the libraries that peers load."""

EARLY = "ended early"
"""A part of what is said of MEASURED."""


def identity(record: Record) -> tuple[str, str, str]:
    """The values that distinguish a record from all others of a run."""
    return record["section"], record["name"], record.get("subject", "")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value

"""The file of a sweep's runs: one line per run, written as soon as it is done, so that nothing is lost."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .runs import SweepRun

FORMAT = 1
"""The version of the file format. The first line has it and the configuration; each other line is a run."""


Append = Callable[[SweepRun], None]


class OtherConfigurationError(ValueError):
    """The file has the runs of a sweep with another configuration."""


@contextlib.contextmanager
def open_runs(
    path: Path | None, configuration: Mapping[str, Any], anew: bool = False
) -> Iterator[tuple[list[SweepRun], Append]]:
    """Open a file of runs: the runs in it, and a function that appends one. Without a path, nothing is read or written.

    An incomplete last line, left by a program that was killed, is cut off. With `anew`, the runs in it are dropped,
    whatever they are.

    Raises
    ------
    OtherConfigurationError
        The file was written with another configuration.
    ValueError
        It is not a file of runs. It is not changed.
    RuntimeError
        Another program is writing to it.
    """
    if path is None:
        yield [], lambda run: None
        return
    with path.open("ab+") as file:
        try:
            _lock(file)
        except OSError:
            raise RuntimeError(f"another sweep is writing to {path}") from None
        file.seek(0)
        if anew:
            file.truncate(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        header = _line({"format": FORMAT, "configuration": configuration})
        if not whole and not header.startswith(content):
            raise ValueError(f"{path} is not a file of a sweep's runs")
        try:
            runs = _parse(path, content[:whole], configuration) if whole else []
        except OtherConfigurationError as error:
            raise OtherConfigurationError(f"{error}; give another folder") from None
        file.truncate(whole)
        if not whole:
            _append(file, header)
        yield runs, lambda run: _append(file, _line(run.to_dict()))


def _lock(file: BinaryIO) -> None:
    """Keep other programs from writing to a file until it is closed; an OSError if one does."""
    try:
        import fcntl
    except ImportError:  # on Windows, whose locks are of bytes: one that is never written
        import msvcrt

        file.seek(1 << 30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _parse(path: Path, content: bytes, configuration: Mapping[str, Any]) -> list[SweepRun]:
    try:
        header, *rows = [json.loads(line) for line in content.splitlines()]
        found, runs = header["configuration"], [SweepRun.from_dict(row) for row in rows]
        if header["format"] != FORMAT:
            raise ValueError(f"it has format {header['format']}, expected {FORMAT}")
        differ = differences(found, configuration)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of a sweep's runs: {error}") from None
    if differ:
        raise OtherConfigurationError(f"{path} holds the runs of another sweep: {differ}")
    return runs


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs between two configurations, in words; empty if nothing does."""
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return ", ".join(f"{name} {found.get(name)!r}, not {wanted.get(name)!r}" for name in names)


def check_runs(path: Path, configuration: Mapping[str, Any]) -> bool:
    """Whether a file has runs of this configuration, False if there is no such file. Nothing is written.

    Raises
    ------
    OtherConfigurationError, ValueError
        As `open_runs`.
    """
    if not path.exists():
        return False
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    return bool(whole) and bool(_parse(path, content[:whole], configuration))


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False).encode() + b"\n"


def _append(file: BinaryIO, line: bytes) -> None:
    """Append one line and flush it to the disk."""
    file.write(line)
    file.flush()
    os.fsync(file.fileno())


def write_file(path: Path, text: str) -> None:
    """Replace a file atomically."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_csv(path: Path, runs: Sequence[SweepRun]) -> None:
    """Write one row per run: lr, seed, status, the metrics of the last epoch, seconds, error."""
    temporary = path.with_name(f".{path.name}.part")
    names = metric_names(runs)
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["lr", "seed", "status", *names, "seconds", "error"])
        for run in runs:
            values = [run.metrics.get(name, "") for name in names]
            writer.writerow([run.lr, run.seed, run.status, *values, f"{run.seconds:.3f}", run.error])
    temporary.replace(path)


def metric_names(runs: Iterable[SweepRun]) -> tuple[str, ...]:
    """The names of all metrics, in order of first appearance."""
    return tuple(dict.fromkeys(name for run in runs for name in run.metrics))

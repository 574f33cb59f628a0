"""The command `fastopt bench`: its arguments, the run, and its output."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastopt.command.arguments import CommandError, UsageError
from fastopt.command.progress import shown_while

from .arguments import THREADS
from .results import COMMAND, Results

if TYPE_CHECKING:
    from rich.progress import Progress

    from .suite import Ended


def options(arguments: argparse.Namespace) -> list[str]:
    """The arguments of the command as arguments of pytest."""
    chosen: dict[str, Any] = {
        "--threads": arguments.threads,
        "--seconds": arguments.seconds,
        "--peers": arguments.peers and ",".join(arguments.peers),
        "-k": arguments.select,
    }
    words = [f"--{name}" for name in ("quick", "all") if getattr(arguments, name)]
    for name, value in chosen.items():
        if value is not None:
            words += [name, str(value)]
    return words


def command_of(arguments: argparse.Namespace) -> str:
    """The command that measures the same again."""
    words = options(arguments)
    if arguments.threads == THREADS:
        place = words.index("--threads")
        del words[place : place + 2]
    return shlex.join(["fastopt", "bench", *words])


def run(arguments: argparse.Namespace) -> int:
    if arguments.report:
        importlib.import_module("matplotlib")  # missing now, rather than after hours
    if arguments.list:
        return run_list(arguments)
    return run_suite(arguments)


def run_list(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from . import listing, suite, terminal

    collecting = suite.Collecting()
    check(suite.run([*options(arguments), "--collect-only"], collecting), arguments)
    console = Console(width=None if sys.stdout.isatty() else terminal.WIDTH)
    for table in (listing.cases_table(collecting.items), listing.peers_table(arguments.threads)):
        console.print(table)
    return 0


def partial(path: Path) -> Path:
    """The file that holds the results until the run is complete."""
    return path.with_name(path.name + ".partial")


def run_suite(arguments: argparse.Namespace) -> int:
    import pytest
    from rich.console import Console

    from . import processes, suite

    screen = Console(file=sys.stderr)
    path = None
    if arguments.json:  # what there is of them, case by case: a run that is killed leaves it
        path = partial(arguments.json)
        path.unlink(missing_ok=True)
    with shown_while(progress_bar(screen)) as progress:
        progressing = suite.Progressing(
            progress,
            lambda line: screen.print(line, markup=False, highlight=False, soft_wrap=True),
            not screen.is_terminal,
        )
        ended, results = processes.run(options(arguments), progressing, path)
    check(ended, arguments)
    results.machine[COMMAND] = command_of(arguments)
    show(results, arguments)
    if progressing.interrupted:
        raise KeyboardInterrupt(f"{len(results.records):,} of {progressing.total:,} cases were measured")
    if ended.exit_code == pytest.ExitCode.INTERNAL_ERROR:
        raise CommandError(f"pytest failed: {ended.error}")
    if results.failures:
        raise CommandError(f"{len(results.failures):,} of {progressing.total:,} cases failed")
    if not results.records:
        reasons = dict.fromkeys(results.left_out.values())
        raise CommandError(f"nothing was measured: {'; '.join(reasons) or 'no case has a result'}")
    return 0


def check(ended: Ended, arguments: argparse.Namespace) -> None:
    """Reject the arguments that pytest could not use."""
    import pytest

    if ended.exit_code == pytest.ExitCode.USAGE_ERROR:
        raise UsageError(ended.error)
    if ended.exit_code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise UsageError(f"no case fits {arguments.select!r}: `fastopt bench --list` lists them")


def progress_bar(screen: Any) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=screen,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,  # pytest has them
        redirect_stderr=False,
        disable=not screen.is_terminal,
    )


def show(results: Results, arguments: argparse.Namespace) -> None:
    """Print the tables, and write the requested files."""
    from rich.console import Console

    from . import terminal

    terminal.print_summary(results, Console(width=None if sys.stdout.isatty() else terminal.WIDTH))
    if arguments.json:
        results.save(arguments.json)
        partial(arguments.json).unlink(missing_ok=True)
    if arguments.report:
        from . import report

        report.write(results, arguments.report / "report.md", arguments.report)
        results.save(arguments.report / "results.json")

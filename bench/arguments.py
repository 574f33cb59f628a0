"""The arguments of `fastopt bench`. Its help needs nothing of the extra `bench`, such as pytest."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastopt.command.arguments import cannot, make_folder, positive_integer, positive_number, writable

THREADS = 2

EXAMPLES = """examples:
  fastopt bench --quick                              the main cases, in less than two minutes
  fastopt bench --list                               all cases and peers, and why a peer is absent
  fastopt bench --select "flat and Adam" --peers torch,optax
  fastopt bench --report report                      what a reader needs, about half an hour: tables, plots and JSON
  fastopt bench --all --report report                every case, some hours
"""


def folder(value: str) -> Path:
    """A folder for a report, made now."""
    path = Path(value)
    try:
        make_folder(path)
    except OSError as error:
        raise argparse.ArgumentTypeError(cannot("make", value, error, "give another place")) from None
    return path


def peer_names(value: str) -> list[str]:
    from . import listing

    asked = [name.strip() for name in value.split(",") if name.strip()]
    unknown = listing.unknown_peers(asked)
    if unknown or not asked:
        known = ", ".join(listing.peer_names())
        raise argparse.ArgumentTypeError(f"no peer is called {', '.join(unknown) or repr(value)}; there are: {known}")
    return asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="few cases and repeats, and no torch.compile: less than two minutes"
    )
    size.add_argument("--all", action="store_true", help="every case: hours, rather than half an hour")
    parser.add_argument(
        "--threads",
        type=positive_integer,
        default=THREADS,
        metavar="N",
        help="threads of fastopt and its peers (%(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        metavar="S",
        help="seconds to measure each side of a case (0.25; quick: 0.05)",
    )
    parser.add_argument(
        "-k",
        "--select",
        metavar="EXPRESSION",
        help="those of all cases that match, as in pytest -k: 'Adam and not 1_000'",
    )
    parser.add_argument(
        "--peers", type=peer_names, metavar="NAME[,NAME]", help="only these peers, by name or first word: torch,optax"
    )
    parser.add_argument("--list", action="store_true", help="list cases and peers without measuring")
    parser.add_argument(
        "--json", type=writable, metavar="FILE", help="write all results to FILE (during the run to FILE.partial)"
    )
    parser.add_argument(
        "--report", type=folder, metavar="DIRECTORY", help="write report.md, its plots and results.json to DIRECTORY"
    )

"""The tables of `fastopt bench --list`: the cases, the peers, and the reason of each absence."""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Any

from . import custom_loops
from .cases import VARIANTS, Problem, flat
from .measure import fits
from .peers import PEERS
from .runner import Peer

if TYPE_CHECKING:
    from rich.table import Table

SMALL = flat(1_000)


def peer_names() -> list[str]:
    return [peer.name for peer in PEERS]


def unknown_peers(asked: list[str]) -> list[str]:
    """The requested names that match no peer and no other way to run fastopt."""
    ours = [each.name for each in vars(custom_loops).values() if isinstance(each, Peer)]
    return [name for name in asked if not any(fits(name, known) for known in (*peer_names(), *ours))]


def reasons(peer: Peer, n_threads: int) -> Counter[str | None]:
    """The reasons why a peer cannot run variants, each with their number; None counts the variants that it can run."""
    problem = functools.partial(Problem.make, workload=SMALL, n_threads=n_threads)
    return Counter(peer.unavailable(problem(variant)) for variant in VARIANTS.values())


def peers_table(n_threads: int) -> Table:
    from rich.table import Table

    table = Table(title=f"Peers, {n_threads} threads", title_justify="left")
    for index, header in enumerate(("peer", "variants", "why not the others")):
        table.add_column(header, overflow="fold", no_wrap=not index)
    for peer in PEERS:
        found = reasons(peer, n_threads)
        count = found.pop(None, 0)
        why = "; ".join(f"{reason} ({times})" if times > 1 else str(reason) for reason, times in found.items())
        table.add_row(peer.name, f"{count} of {len(VARIANTS)}" if count else "absent", why)
    return table


def cases_table(items: list[Any]) -> Table:
    """One row per test: the number of its cases and the name of one; before the rows of a file, its subject."""
    from rich.table import Table
    from rich.text import Text

    grouped: dict[Any, dict[str, list[Any]]] = {}
    for item in items:
        grouped.setdefault(item.module, {}).setdefault(item.originalname, []).append(item)
    table = Table(title=f"Cases, {len(items):,}; --select takes any part of a name", title_justify="left")
    for index, header in enumerate(("test", "cases", "one of them")):
        table.add_column(header, overflow="fold", no_wrap=not index)
    for module, tests in grouped.items():
        file = module.__name__.rpartition(".")[2]
        table.add_row(Text(file, "bold"), "", Text((module.__doc__ or "").strip().splitlines()[0], "bold"))
        for name, each in tests.items():
            table.add_row(f"  {name}", f"{len(each):,}", each[len(each) // 2].name)
        table.add_section()
    return table

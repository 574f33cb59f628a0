"""Every pair of a peer and an optimizer agrees with fastopt, or says why it cannot be compared; nothing is timed."""

from __future__ import annotations

import pytest

from . import check
from .cases import SMALL, VARIANTS, Problem, Variant, Workload, flat, identifier
from .measure import Settings
from .own import FASTOPT
from .peers import PEERS
from .runner import Peer


def disagreement(peer: Peer, problem: Problem) -> str | None:
    """After the same steps of fastopt and of a peer."""
    runners = {"fastopt": FASTOPT.start(problem), "peer": peer.start(problem)}
    check.take_steps(problem, runners)
    return check.disagreement(problem, runners["fastopt"], runners["peer"], absolute=peer.absolute)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name.replace(" ", "-"))
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=identifier)
@pytest.mark.parametrize("workload", [flat(1_000), flat(10_003), SMALL], ids=identifier)
def test_every_pair_agrees(peer: Peer, variant: Variant, workload: Workload, settings: Settings) -> None:
    problem = Problem.make(variant, workload, settings.n_threads)
    reason = peer.unavailable(problem)
    if reason:
        pytest.skip(reason)
    assert disagreement(peer, problem) is None

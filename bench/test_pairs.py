"""Every pair of a peer and an optimizer agrees with fastopt, or says why it cannot be compared; nothing is timed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace

import pytest

from . import check
from .cases import ADAM, SMALL, VARIANTS, Problem, Variant, Workload, flat, identifier
from .custom_loops import FASTOPT
from .peers import PEERS
from .peers.libraries import import_failure, settings
from .peers.textbook import NUMPY
from .runner import Peer
from .storage_cases import BESIDE_FLOAT32, BESIDE_PEERS, DIFFERENCE, FLOAT32_STATES, Storage
from .storage_cases import flat as small_numbers


def name_of(peer: Peer) -> str:
    return peer.name.replace(", ", "-").replace(" ", "-")


def disagreement(peer: Peer, problem: Problem) -> str | None:
    """How the results of fastopt and of a peer disagree after the same steps, or None."""
    runners = {"fastopt": FASTOPT.start(problem), "peer": peer.start(problem)}
    check.take_steps(problem, runners)
    assert runners["peer"].results is not None
    return check.disagreement(problem, runners["fastopt"], runners["peer"], absolute=peer.absolute)


@pytest.mark.parametrize("peer", PEERS, ids=name_of)
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=identifier)
@pytest.mark.parametrize("workload", [flat(1_000), SMALL], ids=identifier)
def test_every_pair_agrees(peer: Peer, variant: Variant, workload: Workload, pytestconfig: pytest.Config) -> None:
    problem = Problem.make(variant, workload, pytestconfig.getoption("--threads"))
    reason = peer.unavailable(problem)
    if reason:
        pytest.skip(reason)
    assert disagreement(peer, problem) is None


def other_rate(variant: Variant, factor: float) -> Variant:
    return replace(variant, hyperparameters={**variant.hyperparameters, "lr": factor * settings(variant)["lr"]})


@pytest.mark.parametrize("peer", PEERS, ids=name_of)
def test_another_rate_is_seen(peer: Peer, pytestconfig: pytest.Config) -> None:
    problem = Problem.make(ADAM, flat(1_000), pytestconfig.getoption("--threads"))
    reason = peer.unavailable(problem)
    if reason:
        pytest.skip(reason)
    factor = 1.01 if peer.absolute is None else 1.2
    wrong = replace(peer, start=lambda given: peer.start(replace(given, variant=other_rate(ADAM, factor))))
    assert disagreement(wrong, problem)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    import_failure.cache_clear()
    yield
    import_failure.cache_clear()


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer is not NUMPY], ids=name_of)
def test_a_package_that_is_missing_is_named(peer: Peer) -> None:
    reason = peer.unavailable(Problem.make(ADAM, flat(1_000), 2))
    assert reason is not None
    assert reason.endswith(" is not installed")


STORAGES = [*BESIDE_PEERS, *((variant, storage, (FLOAT32_STATES,)) for variant, storage in BESIDE_FLOAT32)]


@pytest.mark.parametrize(
    ("variant", "storage", "peer"),
    [(variant, storage, peer) for variant, storage, peers in STORAGES for peer in peers],
    ids=lambda each: name_of(each) if isinstance(each, Peer) else identifier(each),
)
def test_storages_agree_and_another_rate_is_seen(variant: Variant, storage: Storage, peer: Peer) -> None:
    problem = storage.problem(variant, small_numbers(10_000), 2)
    reason = storage.subject.unavailable(problem) or peer.unavailable(problem)
    if reason:
        pytest.skip(reason)
    faster = replace(peer, start=lambda given: peer.start(replace(given, variant=other_rate(variant, 1.5))))
    for theirs, agrees in ((peer, True), (faster, False)):
        runners = {"fastopt": storage.subject.start(problem), "peer": theirs.start(problem)}
        check.take_steps(problem, runners)
        found = check.disagreement(problem, runners["fastopt"], runners["peer"], DIFFERENCE, peer.absolute)
        assert (found is None) is agrees, found

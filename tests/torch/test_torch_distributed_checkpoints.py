"""Checkpoints of torch.distributed.checkpoint, resumed by other numbers of processes, in other wrappers and classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from cases import CASES
from dcp_jobs import Job, Setup, run_jobs, through_zero, uninterrupted
from ranks import run_ranks
from torch import Tensor
from torch_peers import torch_options

pytestmark = pytest.mark.slow

FLAT = {"flatten_optimizer_state_dict": True}
SETUPS = {
    "AdamW": Setup("AdamW", {"amsgrad": True}),
    "SGD": Setup("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.5}, FLAT),
    "Rprop": Setup("Rprop", {}, {"cpu_offload": True}),
    "NAdam": Setup("NAdam", {}, {"full_state_dict": True}),
    "float8": Setup("AdamW", {"state_dtype": "float8"}, FLAT),
    "master weights": Setup("AdamW", {"master_weights": True, "lr": 0.01}, dtype=torch.bfloat16),
    "no states": Setup("SGD", {"master_weights": True, "lr": 0.1}, dtype=torch.bfloat16),
    "bfloat16": Setup("Adam", {"state_dtype": {"exp_avg": "bfloat16"}}, dtype=torch.bfloat16),
    "stochastic": Setup("SGD", {"momentum": 0.9, "lr": 0.1, "stochastic_rounding": True}, dtype=torch.bfloat16),
}
OPTIONS = {case.optimizer: torch_options(case.options, case.optimizer) for case in CASES}
ALL = {f"every {name}": Setup(name, options) for name, options in OPTIONS.items()}
FEW = {name: SETUPS[name] for name in ("SGD", "master weights", "stochastic")}
TORCHS = {"AdamW": SETUPS["AdamW"]}
PAIRS = {
    ("plain 1", "fully_shard 2"): SETUPS,
    ("fully_shard 2", "plain 1"): SETUPS,
    ("fully_shard 2", "fully_shard 4"): SETUPS,
    ("plain 1", "in backward 2"): FEW,
    ("flat 1", "flat 1"): FEW,
    ("flat 1", "fully_shard 2"): FEW,
    ("fully_shard 2", "flat 1"): FEW,
    ("fully_shard 2", "ddp 2"): FEW,
    ("ddp 2", "plain 1"): FEW,
    ("in backward 2", "fully_shard 2"): FEW,
}
"""By writer and reader: the setups."""

TRIALS = [(name, writer, reader) for (writer, reader), setups in PAIRS.items() for name in setups]


def job(action: str, folder: str, setups: dict[str, Setup], who: str, package: str = "fastopt") -> tuple[int, Job]:
    kind, _, n_ranks = who.rpartition(" ")
    return int(n_ranks), (action, folder, setups, kind, package)


def all_jobs() -> dict[Any, tuple[int, Job]]:
    """The number of processes and the job, by (writer, reader, package) for those that resume."""
    jobs: dict[Any, tuple[int, Job]] = {}
    for writer in dict.fromkeys(writer for writer, _ in PAIRS):
        names = {name: each for (wrote, _), setups in PAIRS.items() if wrote == writer for name, each in setups.items()}
        jobs[writer] = job("save", writer, names, writer)
    jobs["every"] = job("save", "every", ALL, "fully_shard 2")
    jobs["torch"] = job("save", "torch", TORCHS, "plain 1", "torch")
    for (writer, reader), setups in PAIRS.items():
        jobs[writer, reader] = job("resume", writer, setups, reader)
    jobs["every", "plain 1"] = job("resume", "every", ALL, "plain 1")
    jobs["fully_shard 2", "torch"] = job("resume", "fully_shard 2", TORCHS, "plain 1", "torch")
    jobs["torch", "fully_shard 2"] = job("resume", "torch", TORCHS, "fully_shard 2")
    return jobs


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, list[Tensor]]]:
    """What is trained after resuming, by writer and reader, then by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    found: dict[Any, dict[str, list[Tensor]]] = {}
    for n_ranks, action in ((1, "save"), (2, "save"), (1, "resume"), (2, "resume"), (4, "resume")):
        jobs = {key: each for key, (n, each) in all_jobs().items() if n == n_ranks and each[0] == action}
        results = run_ranks(run_jobs, n_ranks, folder, list(jobs.values()))
        for index, key in enumerate(jobs if action == "resume" else ()):
            found[key] = results[0][index]
            for others in results[1:]:
                for name, mine in found[key].items():
                    assert all(map(torch.equal, mine, others[index][name]))
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Tensor]]:
    """What is trained in one process without an interruption."""
    setups = SETUPS | ALL
    return dict(zip(setups, run_ranks(uninterrupted, 1, list(setups.values()))[0], strict=True))


def check_equal(mine: Iterable[Tensor], theirs: list[Tensor]) -> None:
    for index, (each, other) in enumerate(zip(mine, theirs, strict=True)):
        assert each.dtype is other.dtype
        assert torch.equal(each, other), index


@pytest.mark.parametrize(("name", "writer", "reader"), TRIALS)
def test_training_goes_on_with_the_same_bits(
    name: str, writer: str, reader: str, resumed: dict[Any, dict[str, list[Tensor]]], expected: dict[str, list[Tensor]]
) -> None:
    check_equal(resumed[writer, reader][name], expected[name])


@pytest.mark.parametrize("name", ALL)
def test_every_optimizer(
    name: str, resumed: dict[Any, dict[str, list[Tensor]]], expected: dict[str, list[Tensor]]
) -> None:
    check_equal(resumed["every", "plain 1"][name], expected[name])


@pytest.mark.parametrize("key", [("fully_shard 2", "torch"), ("torch", "fully_shard 2")], ids=str)
def test_from_and_to_torchs_class(
    key: tuple[str, str], resumed: dict[Any, dict[str, list[Tensor]]], expected: dict[str, list[Tensor]]
) -> None:
    for mine, theirs in zip(resumed[key]["AdamW"], expected["AdamW"], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_from_and_to_zero(expected: dict[str, list[Tensor]]) -> None:
    setups = {
        name: setup for name, setup in SETUPS.items() if name != "stochastic"
    }  # parameters have other numbers there
    results = run_ranks(through_zero, 2, list(setups.values()))
    n_params = 6
    for results_of_rank in results:
        for name, (from_plain, _) in zip(setups, results_of_rank, strict=True):
            check_equal(from_plain, expected[name][:n_params])
    for name, (_, from_zero) in zip(setups, results[0], strict=True):
        assert from_zero is not None
        check_equal(from_zero, expected[name][:n_params])

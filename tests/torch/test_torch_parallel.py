"""DTensor parameters as torch makes them: fully_shard, hybrid sharding and tensor parallelism, in several processes."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch_parallel import (
    KINDS,
    SUMS,
    all_norms,
    decisions,
    difference_to_torch,
    do_jobs,
    errors_beside_sums,
    exact_sums,
    in_backward,
    norms_of_shards,
    sequence_parallel,
    sums_beside_whole,
)

DECISIONS: dict[str, dict[str, Any]] = {
    "skip": {"nonfinite": "skip"},
    "raise": {"nonfinite": "raise", "max_grad_norm": 0.1},
    "skip, reference": {"nonfinite": "skip", "clip_norm": 0.1, "backend": "reference"},
}
NAMES = ("Adam", "SGD")
ERRORS: dict[str, dict[str, Any]] = {"alone": {}, "with norms": {"max_grad_norm": 0.1}}

JOBS: dict[int, dict[str, tuple[Any, ...]]] = {
    2: {
        **{f"train {kind}": (difference_to_torch, kind, "Adam", {"lr": 0.01}) for kind in KINDS},
        "train SGD": (difference_to_torch, "fsdp", "SGD", {"lr": 0.1, "momentum": 0.9}),
        **{f"norms {kind}": (all_norms, kind) for kind in KINDS},
        **{f"decide {name}": (decisions, options) for name, options in DECISIONS.items()},
        **{f"in backward {kind}": (in_backward, kind) for kind in ("fsdp", "tensor")},
        **{f"sequence {accumulates}": (sequence_parallel, accumulates) for accumulates in (False, True)},
        "norms of shards": (norms_of_shards, 1, NAMES),
        **{
            f"sums fsdp {name}": (sums_beside_whole, "fsdp", name)
            for name in ("LAMB", "Prodigy", "cautious", "clipped")
        },
        "sums fsdp over all, reference": (sums_beside_whole, "fsdp", "over all", "reference"),
        "sums tensor LAMB": (sums_beside_whole, "tensor", "LAMB"),
        "in backward fsdp LAMB": (in_backward, "fsdp", "LAMB"),
        "exact": (exact_sums, 1),
        **{f"errors {name}": (errors_beside_sums, options) for name, options in ERRORS.items()},
    },
    4: {
        **{f"norms {kind}": (all_norms, kind) for kind in ("hsdp", "fsdp and tensor")},
        "norms of shards": (norms_of_shards, 2, NAMES),
        **{
            f"sums {kind} {name}": (sums_beside_whole, kind, name)
            for kind in ("fsdp", "hsdp", "fsdp and tensor")
            for name in SUMS
        },
        "sums fsdp clipped, reference": (sums_beside_whole, "fsdp", "clipped", "reference"),
        "exact": (exact_sums, 2),
    },
}


@functools.cache
def all_results(n_ranks: int) -> list[dict[str, Any]]:
    return run_ranks(do_jobs, n_ranks, JOBS[n_ranks])


def results(n_ranks: int, name: str) -> list[Any]:
    """What each process returned of a job. All jobs run in the same processes: to start some takes seconds."""
    found = [each[name] for each in all_results(n_ranks)]
    for each in found:
        assert not (isinstance(each, str) and each.startswith("Traceback")), each
    return found


def names_of(n_ranks: int, kind: str) -> list[str]:
    return [name for name in JOBS[n_ranks] if name.startswith(kind)]


@pytest.mark.parametrize("name", names_of(2, "train"))
def test_training_agrees_with_torch(name: str) -> None:
    """The largest difference that was seen is 6e-8."""
    found = results(2, name)
    assert all(worst < 6e-7 for worst, _ in found), found
    if name == "train fsdp":
        assert [has_empty_shard for _, has_empty_shard in found] == [False, True]  # of the last bias


@pytest.mark.parametrize("name", names_of(2, "norms"))
def test_norms_are_of_all_processes(name: str) -> None:
    """`max_grad_norm`, `clip_norm` and both functions that clip; each process has the same norm, to the last bit."""
    first, *others = results(2, name)
    assert others == [first]


@pytest.mark.slow
@pytest.mark.parametrize("name", names_of(4, "norms"))
def test_norms_are_of_all_processes_on_meshes_of_two_dimensions(name: str) -> None:
    first, *others = results(4, name)
    assert others == [first] * 3


@pytest.mark.slow
def test_norms_have_the_same_bits_with_more_processes() -> None:
    few, many = results(2, "norms of shards"), results(4, "norms of shards")
    assert few == [few[0]] * 2
    assert many == [few[0]] * 4


@pytest.mark.parametrize("name", DECISIONS)
def test_all_processes_decide_the_same(name: str) -> None:
    """NaN in the shard of one process, an error in one, and a GradScaler that has found infinities in one."""
    first, second = results(2, f"decide {name}")
    assert [first[1::2], second[1::2]] == [[False, True, False, False, False, True]] * 2
    assert first[:6] == second[:6]
    for found in (first, second):
        if DECISIONS[name]["nonfinite"] == "raise":
            assert found[4][0] == "FloatingPointError"
            assert "2 of 35 in parameter '0.weight'" in found[4][1]
        else:
            assert found[4][:2] == (2, {"parameter '0.weight'": 2})
    assert first[6][0] == "ValueError"
    assert re.search(r"gradient of parameter '0.weight' must have .*Shard.dim=0", first[6][1])
    assert second[6][0] == "RuntimeError"
    assert "another process raised an error in this step, so nothing was changed here" in second[6][1]


@pytest.mark.parametrize("name", names_of(2, "in backward"))
def test_steps_in_the_backward_pass_have_the_same_bits(name: str) -> None:
    results(2, name)


@pytest.mark.parametrize("name", names_of(2, "sequence"))
def test_gradients_that_were_added_up_as_the_guide_says(name: str) -> None:
    assert all(worst < 1e-6 for worst in results(2, name))


@pytest.mark.parametrize("name", names_of(2, "sums"))
def test_rules_add_up_whole_parameters(name: str) -> None:
    """In float64, beside the same optimizer of whole parameters. The largest relative difference that was seen, here
    and with four processes, is 5e-15."""
    assert all(worst < 1e-13 for worst, _ in results(2, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", names_of(4, "sums"))
def test_rules_add_up_whole_parameters_on_meshes_of_two_dimensions(name: str) -> None:
    """Processes of the same shards have the same bits."""
    found = results(4, name)
    assert all(worst < 1e-13 for worst, _ in found)
    if "hsdp" in name:
        for one, two in ((0, 2), (1, 3)):
            assert all(torch.equal(*pair) for pair in zip(found[one][1], found[two][1], strict=True))


def test_sums_without_rounding_have_the_bits_of_whole_parameters() -> None:
    results(2, "exact")


@pytest.mark.slow
def test_replicas_count_once() -> None:
    results(4, "exact")


@pytest.mark.parametrize("name", ERRORS)
def test_errors_beside_sums_stop_all_processes(name: str) -> None:
    """Of one process before the first exchange and after it, and a GradScaler's that has found infinities in one."""
    first, second = results(2, f"errors {name}")
    done = [("", ""), (True, True)]
    between = [("ArithmeticError", "RuntimeError"), (False, False)] if name == "with norms" else done
    assert list(zip(first, second, strict=True)) == [
        *done,
        *[("ValueError", "RuntimeError"), (False, False)],
        *done,
        *between,
        *[("", ""), (False, False)],
        *done,
    ]

"""Steps in the backward pass of DistributedDataParallel, and optimizers that see a share of the gradients."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from cases import CASES
from ddp_jobs import BAD, SETUPS, Jobs, flat, model, run_jobs
from ranks import run_ranks
from torch import Tensor
from torch_peers import torch_options

import fastopt.torch
from fastopt.definitions.specs import SPECS
from fastopt.torch import step_in_backward

pytestmark = pytest.mark.slow


def check_ranks_agree(found: list[list[list[Tensor]]]) -> None:
    for others in found[1:]:
        for mine, theirs in zip(found[0], others, strict=True):
            assert all(map(torch.equal, mine, theirs))


TWO: Jobs = [("AdamW", {"lr": 0.01}), ("SGD", {"momentum": 0.9, "dampening": 0.5})]
ALL = list(
    {
        case.optimizer: (case.optimizer, torch_options(case.options, case.optimizer))
        for case in CASES
        if not SPECS[case.optimizer].has_sums_over_all
    }.values()
)


@pytest.mark.parametrize("name", SETUPS)
def test_the_bits_of_a_step_after_backward(name: str) -> None:
    check_ranks_agree(results(SETUPS[name].n_ranks, f"setup {name}"))


def test_every_optimizer() -> None:
    check_ranks_agree(results(2, "every optimizer"))


def test_buckets_are_stepped_while_the_backward_pass_goes_on() -> None:
    for seen in results(2, "when buckets are stepped"):
        assert [number for number, _, _ in seen] == list(range(len(seen)))
        assert len(seen) >= 3
        assert all(n_stepped > 0 for _, n_stepped, _ in seen[1:])
        assert all(n_outside == 0 for _, _, n_outside in seen)


def test_several_optimizers_and_groups_that_come_later() -> None:
    for mine, theirs in results(2, "two optimizers"):
        assert torch.equal(mine, theirs)


def test_parameters_that_the_module_ignores_are_stepped_by_their_own_gradients() -> None:
    found = results(2, "ignored parameters")
    for mine, theirs in found:
        assert torch.equal(mine, theirs)
    assert not torch.equal(found[0][0], found[1][0])


def test_a_process_without_inputs_joins() -> None:
    mine, theirs = results(2, "uneven inputs")
    assert torch.equal(mine, theirs)
    assert not torch.equal(mine, flat(model()))


def test_steps_after_the_backward_pass_again() -> None:
    for mine, theirs in results(2, "returns to steps after backward"):
        assert torch.equal(mine, theirs)


def test_an_error_in_one_process_leaves_the_others_to_go_on() -> None:
    (message, missing, before, after), other_rank = results(2, "one rank fails")
    other, other_missing, other_before, other_after = other_rank
    assert message == ""
    assert all(missing)
    assert not torch.equal(before, after)
    assert "'exp_avg' in the state of params[2]" in other
    assert not all(other_missing)
    assert torch.equal(other_before, before)
    assert not torch.equal(other_after, after)


def test_what_cannot_be_right_is_refused() -> None:
    for found in results(2, "what is raised"):
        for name, (_, error, message) in BAD.items():
            assert found[name][0] == error.__name__, (name, found[name])
            assert message in found[name][1], (name, found[name])


def test_a_comm_hook_must_be_callable() -> None:
    with pytest.raises(TypeError, match="comm_hook must be a communication hook"):
        step_in_backward(model(), fastopt.torch.Adam, comm_hook="fp16")  # type: ignore[arg-type]


def test_zero_with_clip_grad_norm_clips_by_the_global_norm() -> None:
    found = results(2, "clipped under zero")
    for mine, alone, norm, alone_norm in found:
        assert torch.equal(mine, found[0][0])
        torch.testing.assert_close(mine, alone, rtol=1e-6, atol=1e-7)
        assert norm == pytest.approx(alone_norm, rel=1e-6)
        assert norm > 0.01


def test_local_sgd_and_fsdp1_train_as_with_torchs_class() -> None:
    mine, theirs = (results(2, f"fsdp and local sgd, {package}") for package in ("fastopt", "torch"))
    for ours, others in zip(mine, theirs, strict=True):
        for each, other in zip(ours, others, strict=True):
            torch.testing.assert_close(each, other, rtol=0, atol=2e-6)


@functools.cache
def all_results(n_ranks: int) -> list[dict[str, Any]] | str:
    try:
        return run_ranks(run_jobs, n_ranks, TWO, ALL)
    except AssertionError as error:
        return str(error)


def results(n_ranks: int, name: str) -> list[Any]:
    """What a job has returned, by rank."""
    ran = all_results(n_ranks)
    assert not isinstance(ran, str), ran
    found = [each[name] for each in ran]
    assert not any(isinstance(each, str) for each in found), "\n".join(map(str, found))
    return found

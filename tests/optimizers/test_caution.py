"""`cautious=True` and `cautious_weight_decay=True`: what is computed, in groups, saved, and where it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, equal_bits

import fastopt
from fastopt import jit
from fastopt.definitions.specs import CAUTION, SPECS

WITH_CAUTION = [name for name, spec in SPECS.items() if "cautious" in spec.defaults]
WITH_CAUTIOUS_DECAY = [name for name, spec in SPECS.items() if "cautious_weight_decay" in spec.defaults]
by_backend = pytest.mark.parametrize("backend", BACKENDS)


def make(name: str, *params: Any, **options: Any) -> fastopt.Optimizer:
    optimizer: fastopt.Optimizer = getattr(fastopt, name)(*params, **options)
    return optimizer


def test_which_have_it() -> None:
    assert WITH_CAUTION == ["Adam", "AdamW", "NAdam", "Lion"]
    assert WITH_CAUTIOUS_DECAY == ["AdamW", "Lion"]


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_CAUTION)
def test_maximizing_is_minimizing_along_negative_gradients(name: str, rng: np.random.Generator) -> None:
    one, other = np.ones(50), np.ones(50)
    up, down = make(name, one, lr=0.1, cautious=True, maximize=True), make(name, other, lr=0.1, cautious=True)
    for _ in range(5):
        gradient = rng.standard_normal(50)
        up.step(gradient)
        down.step(-gradient)
    assert equal_bits(one, other)


@by_backend
@pytest.mark.parametrize("name", WITH_CAUTION)
def test_elements_that_disagree_stay(name: str, backend: str) -> None:
    """The second gradient has another sign for two elements of five, and others move 5/3 as far as without."""
    moved = {}
    for cautious in (False, True):
        param = np.zeros(5)
        optimizer = make(name, param, lr=0.1, weight_decay=0.0, cautious=cautious, backend=backend)
        optimizer.step(np.array([1.0, -1.0, 2.0, -2.0, 3.0]))
        before = param.copy()
        optimizer.step(np.array([1.0, -1.0, -0.01, 0.01, 3.0]))
        moved[cautious] = param - before
    expected = np.where([1, 1, 0, 0, 1], moved[False] * 5 / 3, 0)
    np.testing.assert_allclose(moved[True], expected, rtol=1e-12, atol=0)
    assert (moved[True][2:4] == 0).all()


@by_backend
@pytest.mark.parametrize("name", WITH_CAUTION)
def test_no_more_than_a_thousand_times(name: str, backend: str) -> None:
    """Where one element of 5,000 agrees, it moves 1,000 times as far, not 5,000 times."""
    moved = {}
    for cautious in (False, True):
        param = np.zeros(5000)
        optimizer = make(name, param, lr=0.1, weight_decay=0.0, cautious=cautious, backend=backend)
        optimizer.step(np.ones(5000))
        before = param.copy()
        optimizer.step(np.array([1.0] + [-0.01] * 4999))
        moved[cautious] = param - before
    assert (moved[True][1:] == 0).all()
    np.testing.assert_allclose(moved[True][0], moved[False][0] * 1000, rtol=1e-12)


@by_backend
@pytest.mark.parametrize("name", WITH_CAUTION)
def test_tiny_numbers_agree_too(name: str, backend: str) -> None:
    """Products of these are 0 in float32."""
    param = np.zeros(4, np.float32)
    make(name, param, lr=1e-3, cautious=True, backend=backend).step(np.array([1e-25, -1e-25, 0, 1e-30], np.float32))
    assert (np.sign(param) == [-1, 1, 0, -1]).all()


@by_backend
@pytest.mark.parametrize("name", WITH_CAUTION)
def test_nan_stays_visible(name: str, backend: str) -> None:
    param = np.ones(4)
    make(name, param, cautious=True, backend=backend).step(np.array([1.0, np.nan, -1.0, 0.0]))
    assert np.isnan(param).tolist() == [False, True, False, False]


@by_backend
@pytest.mark.parametrize("name", WITH_CAUTIOUS_DECAY)
def test_weights_decay_where_the_update_has_their_sign(name: str, backend: str, rng: np.random.Generator) -> None:
    """To the bit: elements are those of steps with weight decay, or of steps without."""
    start, gradient = rng.standard_normal(100), rng.standard_normal(100)
    start[:3] = gradient[2:5] = 0
    found = {}
    for decay, cautious in ((0.5, True), (0.5, False), (0.0, False)):
        found[decay, cautious] = start.copy()
        optimizer = make(
            name, found[decay, cautious], lr=0.1, weight_decay=decay, cautious_weight_decay=cautious, backend=backend
        )
        optimizer.step(gradient)
    expected = np.where(gradient * start >= 0, found[0.5, False], found[0.0, False])
    assert equal_bits(found[0.5, True], expected)
    assert not equal_bits(found[0.5, True], found[0.5, False])


# --- groups and what is saved -----------------------------------------------------------------------------------------


@by_backend
def test_each_group_for_itself(backend: str, rng: np.random.Generator) -> None:
    """Some add up, others do not; and it can be switched on and off between steps."""
    choices: list[dict[str, Any]] = [
        {},
        {"cautious": True},
        {"cautious_weight_decay": True},
        dict.fromkeys(CAUTION, True),
    ]
    grouped, alone = ([np.linspace(-1, 1, 700) for _ in choices] for _ in range(2))
    together = fastopt.AdamW(
        [{"params": param, **choice} for param, choice in zip(grouped, choices, strict=True)], backend=backend, lr=0.1
    )
    singles = [fastopt.AdamW(param, **choice, lr=0.1) for param, choice in zip(alone, choices, strict=True)]
    for number in range(6):
        if number == 3:
            choices.reverse()
            for group, single, choice in zip(together.param_groups, singles, choices, strict=True):
                for each in (group, single.param_groups[0]):
                    each.update({**dict.fromkeys(CAUTION, False), **choice})
        gradients = [rng.standard_normal(700) for _ in choices]
        together.step(gradients)
        for single, gradient in zip(singles, gradients, strict=True):
            single.step(gradient)
    assert all(map(equal_bits, grouped, alone))
    assert not equal_bits(grouped[0], grouped[1])


def test_state_dicts_that_do_not_say_it() -> None:
    """Those of earlier versions and of other classes: the optimizer stays as it was made. Others decide."""
    optimizer, plain = fastopt.AdamW(np.ones(3), cautious=True), fastopt.AdamW(np.ones(3))
    saved = plain.state_dict()
    for group in saved["param_groups"]:
        assert [group.pop(name) for name in CAUTION] == [False, False]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["cautious"] is True
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups[0]["cautious"] is False


# --- in PyTorch -------------------------------------------------------------------------------------------------------


def test_groups_of_torchs_classes_have_it_where_it_was_given() -> None:
    torch = pytest.importorskip("torch")
    from fastopt.torch import AdamW

    first, second, third = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    plain = AdamW([first])
    assert not {*CAUTION} & {*plain.defaults, *plain.param_groups[0], *plain.state_dict()["param_groups"][0]}
    groups = [{"params": [first]}, {"params": [second], "cautious": False, "cautious_weight_decay": True}]
    optimizer = AdamW(groups, cautious=True)
    optimizer.add_param_group({"params": [third]})
    assert [group["cautious"] for group in optimizer.param_groups] == [True, False, True]
    assert [group.get("cautious_weight_decay") for group in optimizer.param_groups] == [None, True, None]
    saved = torch.optim.AdamW([first]).state_dict()
    single = AdamW([first], cautious=True)
    single.load_state_dict(saved)
    assert single.param_groups[0]["cautious"] is True
    single.load_state_dict({**saved, "param_groups": [{**saved["param_groups"][0], "cautious": False}]})
    assert single.param_groups[0]["cautious"] is False


def test_switched_on_in_a_group_of_torchs(rng: np.random.Generator) -> None:
    """As in NumPy; also where parameters lie in one buffer, over which nothing is added up."""
    torch = pytest.importorskip("torch")
    from fastopt.torch import AdamW

    arrays = [np.linspace(-1, 1, size) for size in (5, 700)]
    params = [torch.nn.Parameter(torch.tensor(array)) for array in arrays]
    mine, theirs = AdamW(params, lr=0.1, flatten=True), fastopt.AdamW(arrays, lr=0.1)
    for switched in ({}, {"cautious": True}, {"cautious": False, "cautious_weight_decay": True}):
        mine.param_groups[0].update(switched)
        theirs.param_groups[0].update(switched)
        for _ in range(3):
            gradients = [rng.standard_normal(array.shape) for array in arrays]
            for param, gradient in zip(params, gradients, strict=True):
                param.grad.copy_(torch.tensor(gradient))
            mine.step()
            theirs.step(gradients)
        assert all(equal_bits(param.detach().numpy(), array) for param, array in zip(params, arrays, strict=True))


def test_what_torchs_classes_refuse() -> None:
    torch = pytest.importorskip("torch")
    from fastopt.torch import SGD, Adam, AdamW

    param = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(TypeError, match="cautious must be True or False, got 'yes'"):
        Adam([param], cautious="yes")
    with pytest.raises(TypeError, match="cautious must be True or False, got 1"):
        Adam([{"params": [param], "cautious": 1}])
    with pytest.raises(TypeError, match=r"fastopt\.torch\.SGD has no cautious, got cautious=True in a group"):
        SGD([{"params": [param], "cautious": True}])
    with pytest.raises(TypeError, match="cautious_weight_decay"):
        Adam([param], cautious_weight_decay=True)
    param._fsdp_flattened = True
    refusal = "fastopt.torch.AdamW with cautious=True adds up whole parameters, but under FullyShardedDataParallel"
    with pytest.raises(ValueError, match=refusal):
        AdamW([param], cautious=True)
    optimizer = AdamW([param], cautious_weight_decay=True)
    param.grad = torch.ones(3)
    optimizer.step()
    before = param.detach().clone()
    optimizer.param_groups[0]["cautious"] = True
    with pytest.raises(ValueError, match=refusal):
        optimizer.step()
    assert torch.equal(param, before)


# --- elsewhere --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_CAUTION)
def test_single_updates_have_no_sums(name: str) -> None:
    refusal = f"{name} with cautious=True adds up whole parameters before it updates them"
    with pytest.raises(ValueError, match=refusal):
        jit.functions(getattr(fastopt, name), cautious=True)
    with pytest.raises(AttributeError, match=refusal):
        getattr(jit, f"{name.lower()}_cautious")


@pytest.mark.parametrize("convention", ["keras", "tf1", "tf_keras_legacy", "optax"])
def test_no_framework_has_it(convention: str) -> None:
    with pytest.raises(TypeError, match=f"no argument 'cautious' with convention='{convention}' .it has with 'torch'."):
        fastopt.Adam(np.ones(3), convention=convention, cautious=True)


@pytest.mark.peers
def test_lion_is_that_of_pytorch_optimizer_but_for_one_in_the_count(rng: np.random.Generator) -> None:
    """It divides by one element more: ours takes a rate that makes up for it."""
    torch, pytorch_optimizer = (pytest.importorskip(name) for name in ("torch", "pytorch_optimizer"))
    mine = rng.standard_normal(500)
    theirs = torch.nn.Parameter(torch.tensor(mine))
    ours = fastopt.Lion(mine, lr=0.1, betas=(0.9, 0.99), cautious=True)
    reference = pytorch_optimizer.Lion([theirs], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0, cautious=True)
    for _ in range(40):
        gradient = rng.standard_normal(500)
        direction = 0.9 * ours.state[0]["exp_avg"] + 0.1 * gradient
        agreeing = int((direction * gradient > 0).sum())
        ours.param_groups[0]["lr"] = 0.1 * agreeing / (agreeing + 1)
        ours.step(gradient)
        theirs.grad = torch.tensor(gradient)
        reference.step()
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=1e-12, atol=1e-12)

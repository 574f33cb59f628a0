"""What `load_state_dict` of `fastopt.torch` takes, matches and refuses, and what it leaves alone."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case
from torch.nn import Parameter
from torch_cases import by_name
from torch_pairs import MAIN, make, parameters, set_gradients, snapshot, train
from torch_peers import TORCH, CarryIn

import fastopt
import fastopt.torch

by_case = pytest.mark.parametrize("case", MAIN, ids=str)
BACKENDS = ("cython", "reference")


def trained(case: Case, steps: int = 3) -> tuple[Any, list[Parameter]]:
    params = parameters()
    optimizer = make(fastopt.torch, case, params)
    train(optimizer, params, range(steps))
    return optimizer, params


def assert_goes_on_alike(optimizer: Any, params: list[Parameter], other: Any, others: list[Parameter]) -> None:
    with torch.no_grad():
        for param, value in zip(others, params, strict=True):
            param.copy_(value)
    for each, its in ((optimizer, params), (other, others)):
        train(each, its, range(3, 6))
    assert snapshot(other) == snapshot(optimizer)


# --- other forms of the same ------------------------------------------------------------------------------------------


def with_string_keys(saved: dict[str, Any]) -> dict[str, Any]:
    return {**saved, "state": {str(key): state for key, state in saved["state"].items()}}


def with_arrays(saved: dict[str, Any]) -> dict[str, Any]:
    states = {
        key: {name: value.numpy().copy() for name, value in state.items()} for key, state in saved["state"].items()
    }
    groups = [{**group, "params": np.array(group["params"])} for group in saved["param_groups"]]
    return {"state": states, "param_groups": groups}


@by_case
@pytest.mark.parametrize("change", [with_string_keys, with_arrays, lambda saved: with_string_keys(with_arrays(saved))])
def test_files_change_keys_and_types(case: Case, change: Callable[[Any], Any]) -> None:
    optimizer, params = trained(case)
    others = parameters()
    other = make(fastopt.torch, case, others)
    saved = change(copy.deepcopy(optimizer.state_dict()))
    keys, kinds = list(saved["state"]), {type(value) for state in saved["state"].values() for value in state.values()}
    other.load_state_dict(saved)
    assert list(saved["state"]) == keys
    assert {type(value) for state in saved["state"].values() for value in state.values()} == kinds
    assert_goes_on_alike(optimizer, params, other, others)


@by_case
def test_a_numpy_optimizers_state_dict_loads_as_it_is(case: Case, carry_in: CarryIn) -> None:
    carry_in(case.optimizer, torch.float64)
    params = [Parameter(param.detach().double()) for param in parameters()]
    arrays = [param.detach().numpy().copy() for param in params]
    numpy_optimizer = case.make(arrays)
    for seed in range(3):
        set_gradients(params, seed)
        numpy_optimizer.step([param.grad.numpy() for param in params])  # type: ignore[union-attr]
    optimizer = make(fastopt.torch, case, params)
    optimizer.load_state_dict(numpy_optimizer.state_dict())
    with torch.no_grad():
        for param, array in zip(params, arrays, strict=True):
            param.copy_(torch.tensor(array))
    for seed in range(3, 6):
        set_gradients(params, seed)
        optimizer.step()
        numpy_optimizer.step([param.grad.numpy() for param in params])  # type: ignore[union-attr]
    for param, array in zip(params, arrays, strict=True):
        assert np.array_equal(param.detach().numpy(), array)


def test_numbers_keep_their_precision() -> None:
    """torch would load NAdam's product in the dtype of the parameter, and round it otherwise from then on."""
    params, others = (parameters(dtype=torch.float64) for _ in range(2))
    optimizer, other = fastopt.torch.NAdam(params), fastopt.torch.NAdam(others)
    train(optimizer, params)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.state[others[0]]["mu_product"].dtype == torch.float32
    assert_goes_on_alike(optimizer, params, other, others)


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception], str]] = {
    "another parameter": (
        lambda saved: saved["state"].update({7: saved["state"].pop(1)}),
        ValueError,
        r"state_dict has states for 7, but its groups have the parameters 0, 1, 2, 3, 4",
    ),
    "a string": (lambda saved: saved["state"].update({"9": saved["state"].pop(1)}), ValueError, "states for '9', but"),
    "both": (lambda saved: saved["state"].update({"1": saved["state"][1]}), ValueError, "states for '1', but"),
    "a name": (lambda saved: saved["state"].update({"w": saved["state"].pop(1)}), ValueError, "states for 'w', but"),
    "no dict": (lambda saved: saved["state"].update({1: 3}), TypeError, r"\['state'\]\[1\] must be a dict, got 3"),
    "a list": (
        lambda saved: saved["state"][0].update(exp_avg=[1.0]),
        TypeError,
        r"\['state'\]\[0\]\['exp_avg'\] must be a tensor or an array, got \[1.0\]",
    ),
    "accumulated": (
        lambda saved: saved.update(accumulated={"calls": 2, "params": [0]}),
        ValueError,
        "saved between accumulated steps, after 2 calls; torch's optimizers cannot",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_states_that_nobody_takes_are_refused(name: str) -> None:
    spoil, error, message = BAD[name]
    optimizer, _ = trained(Case("Adam", {}))
    saved = copy.deepcopy(optimizer.state_dict())
    before = snapshot(optimizer)
    spoil(saved)
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(saved)
    assert snapshot(optimizer) == before
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


def test_half_filled_accumulators_are_not_converted() -> None:
    array = np.ones(3)
    optimizer = fastopt.Adam(array, accumulate_steps=3)
    for _ in range(3):
        optimizer.step(np.ones(3))
    whole = fastopt.torch.convert_state_dict(optimizer.state_dict())
    assert set(whole["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    optimizer.step(np.ones(3))
    with pytest.raises(ValueError, match="between accumulated steps, after 1 calls; torch's optimizers cannot"):
        fastopt.torch.convert_state_dict(optimizer.state_dict())


# --- names ------------------------------------------------------------------------------------------------------------


def named(params: list[Parameter], order: Any = range(5)) -> list[tuple[str, Parameter]]:
    return [(f"p{index}", params[index]) for index in order]


@by_case
@pytest.mark.parametrize("saved_by", [fastopt.torch, TORCH], ids=["ours", "torch's"])
def test_parameters_are_matched_by_name(case: Case, saved_by: Any) -> None:
    params, others = parameters(), parameters()
    optimizer, other = make(saved_by, case, named(params)), make(fastopt.torch, case, named(others, (3, 0, 4, 2, 1)))
    train(optimizer, params)
    saved = copy.deepcopy(optimizer.state_dict())
    other.load_state_dict(saved)
    assert saved["param_groups"][0]["param_names"] == ["p0", "p1", "p2", "p3", "p4"]
    assert other.param_groups[0]["param_names"] == ["p3", "p0", "p4", "p2", "p1"]
    for param, its in zip(params, others, strict=True):
        assert optimizer.state[param].keys() == other.state[its].keys()
        for key, value in optimizer.state[param].items():
            assert torch.equal(value, other.state[its][key])


def test_names_are_matched_in_each_group() -> None:
    def optimizer(first: Any, second: Any, params: list[Parameter]) -> Any:
        groups = [{"params": named(params, first)}, {"params": named(params, second), "lr": 0.5}]
        return fastopt.torch.SGD(groups, momentum=0.9)

    params, others = parameters(), parameters()
    one, other = optimizer((0, 1), (2, 3, 4), params), optimizer((1, 0), (4, 2, 3), others)
    train(one, params)
    other.load_state_dict(one.state_dict())
    for param, its in zip(params, others, strict=True):
        assert torch.equal(one.state[param]["momentum_buffer"], other.state[its]["momentum_buffer"])
    others = parameters()
    other = optimizer((4, 2, 3), (1, 0), others)  # groups in another order, with their rates
    other.load_state_dict(one.state_dict())
    assert [group["lr"] for group in other.param_groups] == [0.5, 1e-3]
    for param, its in zip(params, others, strict=True):
        assert torch.equal(one.state[param]["momentum_buffer"], other.state[its]["momentum_buffer"])
    with pytest.raises(
        ValueError,
        match=r"param_groups\[0\] has 'p0' in the optimizer, 'p2' in state_dict; "
        r"param_groups\[1\] has 'p2', 'p3' in the optimizer, 'p0' in state_dict",
    ):
        optimizer((0, 1), (2, 3, 4), others).load_state_dict(optimizer((1, 2), (4, 0), parameters()).state_dict())


def test_other_names_are_an_error_unless_a_hook_adapts_them() -> None:
    params, others = parameters(), parameters()
    optimizer = fastopt.torch.Adam(named(params))
    train(optimizer, params)
    other = fastopt.torch.Adam([(f"module.{name}", param) for name, param in named(others)])
    with pytest.raises(ValueError, match=r"param_groups\[0\] has 'module.p0', .* in the optimizer, 'p0', 'p1', "):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state
    seen = []

    def adapt(owner: Any, saved: dict[str, Any]) -> dict[str, Any]:
        seen.append(owner.state_dict())  # as in PyTorch's own example
        groups = [{**group, "param_names": owner.param_groups[0]["param_names"]} for group in saved["param_groups"]]
        return {**saved, "param_groups": groups}

    handle = other.register_load_state_dict_pre_hook(adapt)
    other.load_state_dict(optimizer.state_dict())
    handle.remove()
    assert len(seen) == 1
    assert other.param_groups[0]["param_names"][0] == "module.p0"
    for param, its in zip(params, others, strict=True):
        assert torch.equal(optimizer.state[param]["exp_avg"], other.state[its]["exp_avg"])


@pytest.mark.parametrize("with_names", [(True, False), (False, True)], ids=str)
def test_without_names_on_one_side_the_order_decides(with_names: tuple[bool, bool]) -> None:
    params, others = parameters(), parameters()
    optimizer, other = (
        fastopt.torch.Adam(named(each) if has else each) for each, has in zip((params, others), with_names, strict=True)
    )
    train(optimizer, params)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for param, its in zip(params, others, strict=True):
        assert torch.equal(optimizer.state[param]["exp_avg"], other.state[its]["exp_avg"])
    assert other.param_groups[0]["param_names"] == ["p0", "p1", "p2", "p3", "p4"]


# --- what a checkpoint has not ----------------------------------------------------------------------------------------

TURNED_ON = [
    ("Adam", "amsgrad", True),
    ("AdamW", "amsgrad", True),
    ("RMSprop", "centered", True),
    ("RMSprop", "momentum", 0.9),
    ("SGD", "momentum", 0.9),
]


@pytest.mark.parametrize(("name", "option", "value"), TURNED_ON, ids=str)
@pytest.mark.parametrize("more", [{}, {"flatten": True}, {"backend": "reference"}], ids=str)
def test_what_is_turned_on_after_loading_begins_as_new(name: str, option: str, value: Any, more: Any) -> None:
    params, others = parameters(), parameters()
    optimizer, other = (
        getattr(fastopt.torch, name)(each, **its) for each, its in ((params, {}), (others, {option: value, **more}))
    )
    train(optimizer, params)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        for param, its in zip(params, others, strict=True):
            its.copy_(param)
    new = {key for key in _states(name, **{option: value}) if key not in _states(name)}
    assert new
    set_gradients(others, 0)
    other.param_groups[0][option] = value
    others[1].grad = torch.ones(5, 7).to_sparse()
    before = snapshot(other)
    with pytest.raises(RuntimeError, match="does not support sparse"):
        other.step()
    assert snapshot(other) == before
    train(other, others, range(3, 6))

    expected = parameters()
    with torch.no_grad():
        for param, its in zip(params, expected, strict=True):
            its.copy_(param)
    reference = getattr(torch.optim, name)(expected, **{option: value}, foreach=False)
    train(reference, expected, range(3))  # to make all states
    for param, its in zip(params, expected, strict=True):
        with torch.no_grad():
            its.copy_(param)
        for key, state in reference.state[its].items():
            known = optimizer.state.get(param, {})
            if key in known:
                state.copy_(known[key])
            elif key in new:
                state.zero_()
    if name == "SGD":  # torch makes the momentum itself
        reference.state.clear()
    train(reference, expected, range(3, 6))
    for param, its in zip(others, expected, strict=True):
        torch.testing.assert_close(param, its, rtol=2e-6, atol=2e-6)


def _states(name: str, **options: Any) -> tuple[str, ...]:
    spec = getattr(fastopt.torch, name).spec
    names: tuple[str, ...] = spec.states({**spec.defaults, **options})
    return names


@by_case
def test_a_parameter_without_a_state_begins_as_new(case: Case) -> None:
    """One that the checkpoint's run froze, for example."""
    optimizer, params = trained(case)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"].pop(1, None)
    others = parameters()
    other = make(fastopt.torch, case, others)
    other.load_state_dict(saved)
    fresh = parameters()[1:2]
    expected = make(fastopt.torch, case, fresh)
    with torch.no_grad():
        for param, its in zip(params, others, strict=True):
            its.copy_(param)
        fresh[0].copy_(params[1])
    for seed in range(3, 6):
        set_gradients(others, seed)
        fresh[0].grad = others[1].grad.clone()  # type: ignore[union-attr]
        other.step()
        expected.step()
    assert torch.equal(fresh[0], others[1])


# --- what others keep in `state` --------------------------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("when", ["before", "beside"])
def test_what_others_keep_in_state_stays(name: str, backend: str, when: str) -> None:
    params, others = parameters(), parameters()
    cls, options = getattr(fastopt.torch, name), {"momentum": 0.9} if name == "SGD" else {}
    optimizer, expected = cls(params, backend=backend, **options), cls(others, backend=backend, **options)
    elsewhere = torch.ones(2)
    notes: dict[Any, Any] = {"note": 1, "0": "zero", 7: [1, 2], elsewhere: {"x": 3}, None: "text"}
    if when == "beside":
        train(optimizer, params, range(1))
        train(expected, others, range(1))
    optimizer.state.update(notes)
    optimizer.state[params[0]]["note"] = "mine"
    for seed in range(1, 4):
        train(optimizer, params, [seed])
        train(expected, others, [seed])
        update = optimizer._stepper.update
        optimizer.state["note"] += 1  # a counter of a hook
        notes["note"] += 1
        train(optimizer, params, [seed + 10])
        train(expected, others, [seed + 10])
        assert optimizer._stepper.update is update  # no new engines for it
    for key, value in notes.items():
        assert optimizer.state[key] is value or optimizer.state[key] == value
    assert optimizer.state[params[0]].pop("note") == "mine"
    assert optimizer.state.pop(elsewhere) == {"x": 3}
    for param, its in zip(params, others, strict=True):
        assert torch.equal(param, its)
        assert optimizer.state[param].keys() == expected.state[its].keys()
    saved = optimizer.state_dict()
    assert saved["state"]["note"] == notes["note"]
    again = cls(parameters(), backend=backend, **options)
    again.load_state_dict(copy.deepcopy(saved))
    assert again.state["note"] == notes["note"]
    assert copy.deepcopy(optimizer).state["note"] == notes["note"]


@by_name
def test_what_a_hook_adds_is_saved_and_stays(name: str) -> None:
    optimizer = getattr(fastopt.torch, name)(parameters())
    optimizer.register_state_dict_pre_hook(lambda each: each.state.update(note=5))
    assert optimizer.state_dict()["state"]["note"] == 5
    assert optimizer.state["note"] == 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_that_fails_leaves_what_others_keep(backend: str) -> None:
    params = parameters()
    optimizer = fastopt.torch.Adam(params, backend=backend)
    optimizer.state[params[0]]["note"] = 1
    set_gradients(params, 0)
    params[1].grad = torch.ones(5, 7).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse"):
        optimizer.step()
    assert dict(optimizer.state) == {params[0]: {"note": 1}}


# --- copies -----------------------------------------------------------------------------------------------------------


def public(optimizer: Any) -> set[str]:
    return {name for name in vars(optimizer) if not name.startswith("_")}


@by_name
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("how", ["plain", "flat", "in backward"])
def test_a_copy_has_the_same_attributes(name: str, steps: int, how: str) -> None:
    params = parameters()
    optimizer = getattr(fastopt.torch, name)(params, flatten=how == "flat")
    if how == "in backward":
        optimizer.step_in_backward()
    train(optimizer, params, range(steps))
    for duplicate in (copy.deepcopy, copy.copy):
        assert public(duplicate(optimizer)) == public(optimizer)


@pytest.mark.parametrize("how", ["plain", "flat", "in backward"])
def test_a_shallow_copy_steps_the_same_parameters(how: str) -> None:
    """As of torch's: parameters, groups and states are shared."""
    params, others = parameters(), parameters()
    optimizer, expected = (fastopt.torch.Adam(each, flatten=how == "flat") for each in (params, others))
    if how == "in backward":
        optimizer.step_in_backward()
    twin = copy.copy(optimizer)
    assert twin.param_groups is optimizer.param_groups
    assert twin.state is optimizer.state
    assert (optimizer.in_backward, twin.in_backward) == (how == "in backward", False)
    for number in range(6):
        for each, its in ((twin if number % 2 else optimizer, params), (expected, others)):
            set_gradients(its, number)
            each.step()
    for param, its in zip(params, others, strict=True):
        assert torch.equal(param, its)
    assert how != "flat" or twin._host.buffers == optimizer._host.buffers != []
    params[0].sum().backward()  # type: ignore[no-untyped-call]
    assert (params[0].grad is None) == (how == "in backward")


# --- threads ----------------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Any], Any]] = {
    "state_dict": lambda optimizer: optimizer.state_dict(),
    "load_state_dict": lambda optimizer: optimizer.load_state_dict({"state": {}, "param_groups": []}),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda optimizer: optimizer.__getstate__(),
    "add_param_group": lambda optimizer: optimizer.add_param_group({"params": parameters((2,))}),
    "step": lambda optimizer: optimizer.step(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("busy", ["in a step", "being saved"])
def test_calls_during_another_threads_step_are_refused(call: str, backend: str, busy: str) -> None:
    params = parameters()
    optimizer = fastopt.torch.Adam(params, backend=backend)
    train(optimizer, params)
    saved, groups = copy.deepcopy(optimizer.state_dict()), len(optimizer.param_groups)
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        end.wait()

    claim = optimizer._stepper.alone if busy == "being saved" else optimizer._stepper.update.rounds[0].engine.alone
    thread = threading.Thread(target=claim, args=(hold,))
    thread.start()
    try:
        begun.wait()
        before = snapshot(optimizer)
        with pytest.raises(RuntimeError, match="in another thread"):
            CALLS[call](optimizer)
        assert snapshot(optimizer) == before
        assert len(optimizer.param_groups) == groups
    finally:
        end.set()
        thread.join()
    optimizer.load_state_dict(saved)
    optimizer.step()

"""What users see: arrays, lists, dicts and groups; gradients passed or bound; states; copies."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, CASES, PLAIN, Case, each_pair, equal_bits, own_rate

import fastopt

by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_plain_case = pytest.mark.parametrize("case", PLAIN, ids=str)


def arrays(rng: np.random.Generator, *shapes: Any) -> list[np.ndarray]:
    return [np.array(rng.standard_normal(shape), np.float32) for shape in shapes]


@by_plain_case
@by_backend
def test_every_way_to_give_parameters_does_the_same(case: Case, backend: str, rng: np.random.Generator) -> None:
    start, gradients = arrays(rng, (3, 4), 5), arrays(rng, (3, 4), 5)
    results = []
    for give in (
        lambda p, g: case.make(p, backend=backend).step(g),
        lambda p, g: case.make(iter(p), backend=backend).step(tuple(g)),
        lambda p, g: case.make(dict(zip("ab", p, strict=True)), backend=backend).step({"b": g[1], "a": g[0]}),
        lambda p, g: case.make([{"params": each} for each in p], backend=backend).step(g),
        lambda p, g: case.make([{"params": p}], backend=backend).step([g]),
        lambda p, g: case.make(p, grads=g, backend=backend).step(),
        lambda p, g: [case.make(each, backend=backend).step(one) for each, one in zip(p, g, strict=True)],
    ):
        params = [each.copy() for each in start]
        give(params, [each.copy() for each in gradients])
        results.append(params)
    for params in results[1:]:
        assert all(equal_bits(a, b) for a, b in zip(results[0], params, strict=True))
    moved = [not equal_bits(a, b) for a, b in zip(results[0], start, strict=True)]
    assert moved == [case.moves_at_once] * 2


def test_pack() -> None:
    source = {"W": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(()), "none": np.zeros((0, 3))}
    source = {name: value.astype(np.float32) for name, value in source.items()}
    flat, views = fastopt.pack(source)
    assert flat.ctypes.data % 64 == 0
    assert flat.size == 7
    assert {name: view.shape for name, view in views.items()} == {"W": (2, 3), "b": (), "none": (0, 3)}
    assert all(view.size == 0 or np.shares_memory(view, flat) for view in views.values())
    assert not np.shares_memory(source["W"], flat)
    assert np.array_equal(views["W"], source["W"])
    gradient, gradient_views = fastopt.pack([np.ones((2, 3)), np.ones(())])
    assert gradient.dtype == np.float64
    assert isinstance(gradient_views, list)


def test_pack_takes_any_layout_of_memory() -> None:
    _, (view,) = fastopt.pack([np.arange(6.0).reshape(2, 3).T])
    assert np.array_equal(view, np.arange(6.0).reshape(2, 3).T)


@by_backend
def test_none_is_skipped_and_keeps_its_step_count(backend: str) -> None:
    params = [np.ones(4), np.ones(4)]
    optimizer = fastopt.Adam(params, backend=backend)
    optimizer.step([np.ones(4), None])
    optimizer.step([np.ones(4), np.ones(4)])
    assert [optimizer.state[index]["step"] for index in (0, 1)] == [2, 1]
    alone = np.ones(4)
    fastopt.Adam(alone, backend=backend).step(np.ones(4))
    assert equal_bits(params[1], alone)
    bound = fastopt.Adam([np.ones(4), np.ones(4)], grads=[None, np.ones(4)], backend=backend)
    bound.step()
    assert [bound.state[index]["step"] for index in (0, 1)] == [0, 1]


def test_groups_have_hyperparameters_of_their_own() -> None:
    a, b = np.zeros(3), np.zeros(3)
    optimizer = fastopt.SGD([{"params": a, "lr": 1.0}, {"params": b, "momentum": 0.5}], lr=0.25)
    optimizer.step([np.ones(3), np.ones(3)])
    optimizer.step([np.ones(3), np.ones(3)])
    assert a.tolist() == [-2.0] * 3
    assert b.tolist() == [-0.25 * (1 + 1.5)] * 3
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.25]
    assert set(optimizer.state[0]) == {"step"}
    assert set(optimizer.state[1]) == {"step", "momentum_buffer"}


def test_assignments_count_from_the_next_step() -> None:
    w = np.zeros(2)
    optimizer = fastopt.SGD(w, lr=1.0, grads=np.ones(2))
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.float32(0.5)
    optimizer.step()
    optimizer.param_groups[0].update(lr=np.array(0.25), maximize=True)
    optimizer.step()
    group = optimizer.param_groups[0]
    group |= {"maximize": False}
    assert w.tolist() == [-1.25, -1.25]
    assert isinstance(group["lr"], float)


def test_nesterov_and_momentum_can_be_switched_while_the_buffer_exists() -> None:
    w = np.zeros(2)
    optimizer = fastopt.SGD(w, lr=1.0, momentum=0.5, grads=np.ones(2))
    optimizer.step()
    optimizer.param_groups[0]["nesterov"] = True
    optimizer.step()
    assert w.tolist() == [-1 - 1 - 0.5 * 1.5] * 2
    optimizer.param_groups[0].update(nesterov=False, momentum=0.0)
    optimizer.step()
    assert w.tolist() == [-3.75] * 2
    assert optimizer.state[0]["momentum_buffer"].tolist() == [1.5, 1.5]


def test_rprop_starts_with_the_rate_at_its_first_step() -> None:
    w = np.zeros(2)
    optimizer = fastopt.Rprop(w, lr=1.0, grads=np.ones(2))
    optimizer.param_groups[0]["lr"] = 0.125
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 7.0
    optimizer.step()
    np.testing.assert_allclose(w, -0.125 - 0.125 * 1.2)


@by_backend
def test_add_param_group(backend: str) -> None:
    a, b = np.zeros(3), np.zeros(2)
    optimizer = fastopt.Adam(a, lr=0.1, backend=backend)
    optimizer.step(np.ones(3))
    optimizer.add_param_group({"params": {"b": b}, "lr": 0.5})
    optimizer.step([np.ones(3), {"b": np.ones(2)}])
    np.testing.assert_allclose(a, -0.2, atol=1e-6)
    np.testing.assert_allclose(b, -0.5, atol=1e-6)
    assert [optimizer.state[index]["step"] for index in optimizer.state] == [2, 1]
    with pytest.raises(ValueError, match="same array"):
        optimizer.add_param_group({"params": b})
    assert len(optimizer.param_groups) == 2
    optimizer.step([np.ones(3), {"b": None}])
    bound = fastopt.SGD(a, lr=1.0, grads=np.ones(3), backend=backend)
    with pytest.raises(TypeError, match="new group's with grads="):
        bound.add_param_group({"params": b})
    bound.add_param_group({"params": b}, grads=np.ones(2))
    bound.step()


def test_zero_grad_fills_the_bound_gradients() -> None:
    gradients = [np.ones(3), None, np.ones((2, 2))]
    optimizer = fastopt.Adam([np.ones(3), np.ones(1), np.ones((2, 2))], grads=gradients)
    optimizer.zero_grad()
    assert not any(gradient.any() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_is_the_kernels_memory_under_torchs_names(case: Case) -> None:
    params = [np.ones((2, 3)), np.ones(())]
    optimizer = case.make(params)
    optimizer.step([np.ones((2, 3)), np.ones(())])
    assert list(optimizer.state) == [0, 1]
    assert len(optimizer.state) == 2
    for index, param in enumerate(params):
        for name, value in optimizer.state[index].items():
            if name == "step":
                assert value == 1
            elif name in case.spec.carried:
                assert 0 < value <= 1
            else:
                assert value.shape == param.shape
                assert value.dtype == param.dtype
                assert value.ctypes.data % 64 == 0
    with pytest.raises(KeyError, match="no parameter 2"):
        optimizer.state[2]
    with pytest.raises(TypeError):
        optimizer.state[0]["step"] = 5  # type: ignore[index]


def test_writing_to_a_state_reaches_the_kernel() -> None:
    w = np.zeros(2)
    optimizer = fastopt.SGD(w, lr=1.0, momentum=0.5, grads=np.zeros(2))
    optimizer.step()
    optimizer.state[0]["momentum_buffer"][:] = 4
    optimizer.step()
    assert w.tolist() == [-2.0, -2.0]


@each_pair(case=CASES, how=["deepcopy", "pickle", "state_dict"], steps=[0, 3])
def test_copies_go_on_alike(case: Case, how: str, steps: int, rng: np.random.Generator) -> None:
    params = arrays(rng, 7, (2, 2))
    first = {"params": params[:1], **own_rate(case.optimizer, 0.5)}
    original = case.make([first, {"params": params[1:], "name": "second"}])
    for _ in range(steps):
        original.step([[gradient] for gradient in arrays(rng, 7, (2, 2))])
    if how == "state_dict":
        copies = [param.copy() for param in params]
        twin = case.make([{"params": copies[:1]}, {"params": copies[1:]}])
        twin.load_state_dict(original.state_dict())
    else:
        twin = copy.deepcopy(original) if how == "deepcopy" else pickle.loads(pickle.dumps(original))
        copies = [array for group in twin.param_groups for array in group["params"]]
    assert not any(np.shares_memory(a, b) for a, b in zip(params, copies, strict=True))
    assert twin.state_dict()["param_groups"] == original.state_dict()["param_groups"]
    for _ in range(3):
        gradients = [[gradient] for gradient in arrays(rng, 7, (2, 2))]
        original.step(gradients)
        twin.step(gradients)
    assert all(equal_bits(a, b) for a, b in zip(params, copies, strict=True))
    for index in original.state:
        for name, value in original.state[index].items():
            other = twin.state[index][name]
            if name != "step":  # SGD's are not saved
                assert value == other if isinstance(value, float) else equal_bits(value, other)


def test_a_copy_with_its_gradients_keeps_them_together() -> None:
    w, g = np.zeros(3), np.ones(3)
    optimizer = fastopt.SGD(w, lr=1.0, grads=g)
    twin, copied_w, copied_g = copy.deepcopy((optimizer, w, g))
    copied_g[:] = 2
    twin.step()
    assert copied_w.tolist() == [-2.0] * 3
    assert w.tolist() == [0.0] * 3


def test_a_state_dict_is_a_snapshot() -> None:
    optimizer = fastopt.Adam(np.zeros(3), grads=np.ones(3))
    assert optimizer.state_dict()["state"] == {}
    optimizer.step()
    saved = optimizer.state_dict()
    kept = saved["state"][0]["exp_avg"].copy()
    optimizer.step()
    assert equal_bits(saved["state"][0]["exp_avg"], kept)
    optimizer.load_state_dict(saved)
    assert optimizer.state[0]["step"] == 1
    assert equal_bits(optimizer.state[0]["exp_avg"], kept)


def test_loading_brings_the_variant_along() -> None:
    source = fastopt.Adam(np.zeros(3), amsgrad=True, lr=0.5, grads=np.ones(3))
    source.step()
    target = fastopt.Adam(np.zeros(3), grads=np.ones(3))
    target.load_state_dict(source.state_dict())
    assert target.param_groups[0]["amsgrad"] is True
    target.step()
    source.step()
    assert equal_bits(source.state[0]["max_exp_avg_sq"], target.state[0]["max_exp_avg_sq"])


@by_backend
def test_memory_is_free_as_soon_as_an_optimizer_is_dropped(backend: str) -> None:
    optimizer = fastopt.Adam([np.ones(3), np.ones(2)], grads=[np.ones(3), None], backend=backend)
    optimizer.step()
    state = weakref.ref(optimizer.state[0]["exp_avg"])
    gc.disable()
    try:
        del optimizer
        assert state() is None
    finally:
        gc.enable()


def test_repr_is_torchs() -> None:
    text = repr(fastopt.SGD([np.ones(1)], lr=0.5))
    assert text.splitlines()[:2] == ["SGD (", "Parameter Group 0"]
    assert "    lr: 0.5" in text


def test_weight_decay_coupled_and_decoupled() -> None:
    coupled, decoupled = np.ones(1), np.ones(1)
    fastopt.SGD(coupled, lr=0.5, weight_decay=0.5).step(np.ones(1))
    fastopt.SGD(decoupled, lr=0.5, weight_decay=0.5, decoupled_weight_decay=True).step(np.ones(1))
    assert coupled.tolist() == [1 - 0.5 * 1.5]
    assert decoupled.tolist() == [0.75 - 0.5]


def test_a_rate_of_zero_leaves_parameters_as_they_are(rng: np.random.Generator) -> None:
    for case in CASES:
        if case.spec.uses_lr:
            (w,), (g,) = arrays(rng, 100), arrays(rng, 100)
            before = w.copy()
            case.make(w, lr=0.0).step(g)
            assert equal_bits(w, before), str(case)


def peak_of_memory(call: Callable[[], Any]) -> int:
    """The most bytes of Python objects that were ever alive while this was called, beyond those from before."""
    call()
    tracemalloc.start()
    try:
        call()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in itertools.repeat(None, 1000):
            call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.compiled  # Steps that start in Python allocate its frames.
@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_a_step_with_bound_gradients_allocates_nothing(backend: str) -> None:
    params = [np.ones(10, np.float32), np.ones((3, 3), np.float32)]
    optimizer = fastopt.Adam(params, grads=[np.ones_like(param) for param in params], backend=backend)
    step = optimizer.step

    # `object` makes the smallest object there is. Other threads' objects can only add to a peak.
    assert min(peak_of_memory(step) for _ in range(5)) < min(peak_of_memory(object) for _ in range(5))
    blocks = sys.getallocatedblocks()
    for _ in itertools.repeat(None, 1_000_000):
        step()
    assert abs(sys.getallocatedblocks() - blocks) < 10


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    fastopt.show_config()
    shown = capsys.readouterr().out
    words = ("fastopt:", "compiled module:", "threads:", "numba:", "cpus available:", "can flush denormals:")
    of_the_compiled_module = ("instruction set:", "openmp:") if "compiled module:      yes" in shown else ()
    for word in (*words, *of_the_compiled_module):
        assert word in shown


def test_centered_variance_is_never_negative() -> None:
    w = np.zeros(1000, np.float32)
    g = np.full(1000, 1e-3, np.float32)
    optimizer = fastopt.RMSprop(w, lr=1e-3, alpha=0.5, eps=1e-8, centered=True, grads=g)
    for _ in range(200):
        optimizer.step()
    assert np.isfinite(w).all()

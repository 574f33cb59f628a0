"""The divergence guard: what it does when something is found, where it says that it began, what it puts back."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import Case, equal_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from fastopt.guard import DivergenceError, DivergenceWarning, Finding, snapshots
from fastopt.guard.signals import Signal
from fastopt.schedules import Lambda

NAN, INF = math.nan, math.inf


def copies(params: Any) -> list[np.ndarray]:
    return [param.copy() for param in params]


def same(before: Any, after: Any) -> bool:
    return all(equal_bits(a, b) for a, b in zip(before, after, strict=True))


def trained(
    on_divergence: str = "raise", steps: int = 3, lr: Any = 0.1, dtype: Any = np.float32, **arguments: Any
) -> Any:
    """Parameters W and b, an optimizer that has stepped, and its guard."""
    options = {name: arguments.pop(name) for name in ("max_grad_norm", "nonfinite", "zero_grads") if name in arguments}
    params = {"W": np.ones((2, 3), dtype), "b": np.ones(3, dtype)}
    optimizer = fastopt.Adam(params, lr=lr, **options)
    guard = fastopt.DivergenceGuard(optimizer, on_divergence, **arguments)
    for _ in range(steps):
        assert guard.step(1.0, gradients(dtype=dtype))
    return params, optimizer, guard


def gradients(W: float = 1.0, b: float = 1.0, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Gradients of ones, with these values as their first elements."""
    grads = {"W": np.ones((2, 3), dtype), "b": np.ones(3, dtype)}
    grads["W"].flat[0], grads["b"][0] = W, b
    return grads


# --- what is done -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [NAN, INF, -INF, 1.0])
@pytest.mark.parametrize("action", ["raise", "stop", "skip", "restore", "warn"])
def test_what_happens_after_a_bad_step(action: str, loss: float) -> None:
    params, optimizer, guard = trained(action)
    before = copies(params.values())
    bad = gradients(W=NAN if loss == 1.0 else 1.0)
    if action == "raise":
        with pytest.raises(DivergenceError, match="nonfinite at step 3") as caught:
            guard.step(loss, bad)
        assert caught.value.finding == guard.finding
    elif action == "warn":
        with pytest.warns(DivergenceWarning, match="nonfinite at step 3") as warned:
            assert guard.step(loss, bad)
        assert warned[0].filename == __file__
    else:
        assert not guard.step(loss, bad)
    assert guard.finding.kind == "nonfinite"
    assert guard.finding.step == 3
    done = {"raise": "raised", "stop": "stopped", "skip": "skipped", "restore": "restored", "warn": "warned"}
    assert guard.finding.action == done[action]
    assert guard.should_stop == (action == "stop")
    assert optimizer.iterations == {"restore": 0, "warn": 4}.get(action, 3)
    if action == "restore":
        assert same(params.values(), [np.ones((2, 3), np.float32), np.ones(3, np.float32)])
        assert guard.restores == 1
        assert optimizer.param_groups[0]["lr"] == 0.05
    elif action != "warn":
        assert same(before, params.values())
    if action != "warn":
        assert guard.step(1.0, gradients()) == (action != "stop")
        assert optimizer.iterations == {"restore": 1, "stop": 3}.get(action, 4)


def test_a_warning_is_not_repeated_in_each_step() -> None:
    _, _, guard = trained("warn", window=4)
    with pytest.warns(DivergenceWarning) as warned:
        assert all(guard.step(NAN, gradients()) for _ in range(41))
    assert len(warned) == len(guard.findings) == 2  # in steps 3 and 43


@pytest.mark.parametrize("action", ["raise", "stop"])
def test_a_stall_can_raise_or_stop(action: str) -> None:
    _, _, guard = trained("skip", lr=0.0, on_stall=action, patience=16, window=4)

    def go_on() -> bool:
        return all(guard.step(1.0, gradients()) for _ in range(20))

    if action == "raise":
        with pytest.raises(DivergenceError, match="stagnation at step 15"):
            go_on()
    else:
        assert not go_on()
    assert guard.finding.kind == "stagnation"
    assert "the rate is 0" in guard.finding.advice[0]


def test_skipping_has_an_end_and_starts_anew_after_a_good_step() -> None:
    _, optimizer, guard = trained("skip", max_consecutive_skips=3)
    for _ in range(2):
        for _ in range(3):
            assert not guard.step(NAN, gradients())
        assert guard.step(1.0, gradients())
    for _ in range(3):
        assert not guard.step(NAN, gradients())
    with pytest.raises(DivergenceError, match="3 steps in a row were skipped"):
        guard.step(NAN, gradients())
    assert optimizer.iterations == 5


def test_restoring_has_an_end() -> None:
    _, optimizer, guard = trained("restore", max_restores=2, lr_factor=0.25)
    for restores in (1, 2):
        assert not guard.step(INF, gradients())
        assert guard.restores == restores
        assert optimizer.param_groups[0]["lr"] == 0.1 * 0.25**restores
    with pytest.raises(DivergenceError, match="2 restorations did not help"):
        guard.step(INF, gradients())


@pytest.mark.parametrize("action", ["skip", "restore"])
def test_gradients_that_are_added_to_are_zeroed(action: str) -> None:
    """With zero_grads=True the next backward pass adds to what is there: NaN must not stay."""
    _, _, guard = trained(action, zero_grads=True)
    bad = gradients(W=NAN)
    assert not guard.step(1.0, bad)
    assert not any(bad["W"].flat)
    assert not any(bad["b"])


# --- restoring --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", fastopt.definitions.specs.SPECS)
def test_restoring_gives_back_every_bit(name: str, dtype: Any, rng: np.random.Generator) -> None:
    shapes = [(3, 4), (5,), ()]
    params = [np.array(rng.standard_normal(shape), dtype) for shape in shapes]
    grads = [[np.array(rng.standard_normal(shape), dtype) for shape in shapes] for _ in range(20)]
    case = Case(name, {})
    optimizer = case.make(params, **case.possible({"ema_decay": 0.9}))
    guard = fastopt.DivergenceGuard(optimizer, "restore", window=4, snapshot_every=5)
    for step in range(10):  # snapshots before steps 0, 5; then 10 - 4 is after 5
        if step == 5:
            then, state = copies(params), optimizer.state_dict()
        assert guard.step(1.0, grads[step])
    addresses = [param.ctypes.data for param in params]
    assert not guard.step(NAN, grads[10])
    assert same(then, params)
    assert [param.ctypes.data for param in params] == addresses
    now = optimizer.state_dict()
    assert now["state"].keys() == state["state"].keys()
    for index, states in state["state"].items():
        for key, value in states.items():
            assert equal_bits(np.asarray(value), np.asarray(now["state"][index][key]))
    assert now["param_groups"][0].pop("lr") == 0.5 * state["param_groups"][0].pop("lr")
    assert now["param_groups"] == state["param_groups"]
    assert optimizer.iterations == 5
    assert [optimizer.state[index]["step"] for index in range(3)] == [5, 5, 5]


def test_the_newest_snapshot_is_used_only_when_it_is_old_enough() -> None:
    params, optimizer, guard = trained("restore", steps=0, window=4, snapshot_every=5)
    history = []
    for _ in range(7):  # a snapshot before step 5; then something happens in step 7
        history.append(copies(params.values()))
        assert guard.step(1.0, gradients())
    assert not guard.step(NAN, gradients())
    assert same(history[0], params.values())
    assert optimizer.iterations == 0


def test_a_function_of_the_step_stays_one() -> None:
    def rate(step: int) -> float:
        return 0.1 * 0.5**step

    _, optimizer, guard = trained("restore", lr=rate)
    for restores in (1, 2):
        assert not guard.step(NAN, gradients())
        assert optimizer.current_lr == (0.1 * 0.5**restores,)
        assert optimizer.param_groups[0]["lr"](2) == 0.25 * 0.1 * 0.5**restores
    assert optimizer.param_groups[0]["lr"] == Lambda(1.0, rate) * 0.25  # not a function of a function


def test_each_group_keeps_its_own_rate() -> None:
    groups = [{"params": np.ones(2)}, {"params": [np.ones(2)], "lr": lambda step: 1.0}]
    optimizer = fastopt.SGD(groups, lr=0.1)
    guard = fastopt.DivergenceGuard(optimizer, "restore")
    optimizer.param_groups[0]["lr"] = 0.2
    assert not guard.step(NAN, [np.ones(2), [np.ones(2)]])
    assert optimizer.current_lr == (0.1, 0.5)


@pytest.mark.parametrize("interrupts", [1, 2])
def test_an_interrupt_does_not_leave_half_of_it(interrupts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    params, optimizer, guard = trained("restore")
    calls = []

    def copyto(target: np.ndarray, source: np.ndarray) -> None:
        calls.append(target)
        if len(calls) % 2 == 0 and len(calls) <= 2 * interrupts:  # after the first parameter
            raise KeyboardInterrupt
        target[...] = source

    monkeypatch.setattr(snapshots.np, "copyto", copyto)
    with pytest.raises(KeyboardInterrupt):
        guard.step(NAN, gradients())
    ones = [np.ones((2, 3), np.float32), np.ones(3, np.float32)]
    assert same(params.values(), ones) == (interrupts == 1)
    if interrupts == 2:
        guard._snapshots.finish()  # as the next call does
    assert same(params.values(), ones)
    assert optimizer.iterations == 0
    assert optimizer.param_groups[0]["lr"] == 0.05
    guard.step(1.0, gradients())
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_a_group_may_be_added() -> None:
    optimizer = fastopt.SGD([np.ones(2)], lr=0.5)
    guard = fastopt.DivergenceGuard(optimizer, "restore")
    assert guard.step(1.0, [np.ones(2)])
    added = np.ones(3)
    optimizer.add_param_group({"params": added})
    assert guard.step(1.0, [[np.ones(2)], np.ones(3)])
    assert not guard.step(NAN, [[np.ones(2)], np.ones(3)])
    assert np.array_equal(added, np.ones(3))
    assert optimizer.iterations == 1


# --- where it began ---------------------------------------------------------------------------------------------------

ORIGINS: list[tuple[str, dict[str, np.ndarray | None], Any]] = [
    ("one", {"a": np.array([1.0, NAN]), "b": np.ones(2)}, "a"),
    ("infinite", {"a": np.ones(2), "b": np.array([1.0, -INF])}, "b"),
    ("the smaller part", {"a": np.array([1.0, NAN]), "b": np.array([NAN, NAN])}, "a"),
    ("the last among equals", {"a": np.array([NAN, 1.0]), "b": np.array([1.0, INF])}, "b"),
    ("without another", {"a": None, "b": np.array([NAN, 1.0])}, "b"),
]


@pytest.mark.parametrize(("name", "grads", "origin"), ORIGINS, ids=[each[0] for each in ORIGINS])
def test_where_it_is_not_finite(name: str, grads: Any, origin: str) -> None:
    def find(params: Any, given: Any = None, **options: Any) -> Any:
        guard = fastopt.DivergenceGuard(fastopt.SGD(params, lr=0.1, **options), "stop")
        assert not guard.step(1.0, given)
        assert "finite" in guard.finding.message
        return guard.finding.parameter

    def params() -> list[np.ndarray]:
        return [np.ones(2), np.ones(2)]

    leaves, position = list(grads.values()), list(grads).index(origin)
    assert find(dict(zip("ab", params(), strict=True)), grads) == origin
    assert find(params(), leaves) == position
    assert find([{"params": each} for each in params()], leaves) == position
    assert find(params(), grads=leaves) == position
    assert find(dict(zip("ab", params(), strict=True)), grads, max_grad_norm=1.0, nonfinite="skip") == origin


def test_a_frozen_parameter_is_not_looked_at() -> None:
    _, optimizer, guard = trained()
    optimizer.set_segments("W", frozen=True)
    assert guard.step(1.0, gradients(W=NAN))


@pytest.mark.parametrize("what", ["value", "state"])
def test_what_is_not_finite_already_is_named(what: str) -> None:
    params, optimizer, guard = trained("stop")
    (params["W"] if what == "value" else optimizer.state[0]["exp_avg"])[0, 0] = NAN
    assert not guard.step(NAN, gradients(NAN, NAN))
    assert guard.finding.parameter == "W"
    assert "'W' or its state is not finite already" in guard.finding.message


def test_the_gradient_that_grew_most_is_named() -> None:
    _, _, guard = trained("stop", steps=20)
    assert guard.step(1.0, gradients())
    assert not guard.step(1.0, gradients(b=1e5))
    assert guard.finding.kind == "explosion"
    assert guard.finding.parameter == "b"
    assert "1e+05" in guard.finding.message


def test_an_overflow_of_the_norm_is_an_explosion() -> None:
    _, _, guard = trained("stop", dtype=np.float64)
    assert not guard.step(1.0, gradients(W=1e200, dtype=np.float64))
    assert guard.finding.kind == "explosion"
    assert guard.finding.parameter == "W"


def test_scaled_losses_change_nothing() -> None:
    _, optimizer, guard = trained(steps=30)
    optimizer.grad_scale = 2.0**16
    large = {name: gradient * np.float32(2.0**16) for name, gradient in gradients().items()}
    assert guard.step(1.0, large)


# --- the optimizer's own norm -----------------------------------------------------------------------------------------


def test_where_the_optimizer_takes_the_norm_the_guard_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    _, optimizer, guard = trained("skip", max_grad_norm=1.0, nonfinite="skip")
    monkeypatch.setattr(guard._target, "norm", None)  # calling it is an error
    assert guard.step(1.0, gradients(W=1e6))  # clipped
    assert guard._detector.norms.recent[-1] == optimizer.grad_norm > 1e5
    assert not guard.step(1.0, gradients(b=INF))
    assert (guard.finding.kind, guard.finding.parameter, guard.finding.step) == ("nonfinite", "b", 4)
    assert optimizer.skipped_steps == 1
    assert not guard.step(NAN, gradients())
    assert optimizer.iterations == 4


def test_what_only_the_optimizer_cannot_use() -> None:
    """1e30 is finite, and its square is not in float32, in which Adam takes it."""
    _, optimizer, guard = trained(nonfinite="skip", steps=0)
    assert not guard.step(1.0, gradients(W=1e30))
    assert optimizer.skipped_steps == 1
    assert guard.finding is None


def test_its_skips_are_counted_too() -> None:
    _, _, guard = trained("skip", max_grad_norm=1.0, nonfinite="skip", max_consecutive_skips=2)
    for _ in range(2):
        assert not guard.step(1.0, gradients(W=NAN))
    with pytest.raises(DivergenceError, match="2 steps in a row"):
        guard.step(1.0, gradients(W=NAN))


# --- arguments --------------------------------------------------------------------------------------------------------


def make(**arguments: Any) -> Any:
    return fastopt.DivergenceGuard(fastopt.SGD(np.ones(3), lr=0.1), **arguments)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: fastopt.DivergenceGuard(np.ones(3)), TypeError, "optimizer must be one of fastopt's .* got ndarray"),
    (lambda: make(on_divergence="explode"), ValueError, "on_divergence must be one of 'raise', .*got 'explode'"),
    (lambda: make(on_divergence=None), ValueError, "on_divergence must be one of .*got None"),
    (lambda: make(on_stall="restore"), ValueError, "on_stall must be one of 'warn', 'raise', 'stop', got 'restore'"),
    (lambda: make(window=1), ValueError, "window must be at least 4 .*got 1"),
    (lambda: make(window=8.0), TypeError, "window must be an integer, got 8.0"),
    (lambda: make(explosion_factor=1), ValueError, "explosion_factor must be more than 1, got 1"),
    (lambda: make(explosion_factor=NAN), ValueError, "explosion_factor must be more than 1, got nan"),
    (lambda: make(explosion_factor="10"), TypeError, "explosion_factor must be a real number"),
    (lambda: make(patience=0), ValueError, "patience must be at least 1"),
    (lambda: make(min_improvement=0), ValueError, "min_improvement must be more than 0 and less than 1, got 0"),
    (lambda: make(vanishing_ratio=1), ValueError, "vanishing_ratio must be more than 0 and less than 1, got 1"),
    (lambda: make(lr_factor=1.0), ValueError, "lr_factor must be more than 0 and less than 1, got 1.0"),
    (lambda: make(max_restores=0), ValueError, "max_restores must be at least 1"),
    (lambda: make(max_consecutive_skips=0), ValueError, "max_consecutive_skips must be at least 1"),
    (lambda: make(snapshot_every=0), ValueError, "snapshot_every must be at least 1"),
    (lambda: make().step("high", np.ones(3)), TypeError, "loss must be a real number, got 'high'"),
    (lambda: make().step(None, np.ones(3)), TypeError, "loss must be a real number, got None"),
    (lambda: make().step(True, np.ones(3)), TypeError, "loss must be a real number, got True"),
    (lambda: make().step(np.ones(3), np.ones(3)), TypeError, r"loss must be a single number, .*shape \(3,\)"),
    (lambda: make().step(1j, np.ones(3)), TypeError, "loss must be a real number, got 1j"),
    (lambda: make().step(1.0), TypeError, "the guard needs gradients"),
    (lambda: make().step(1.0, np.ones(2)), ValueError, r"grads must be .*shape \(3,\), got \(2,\)"),
    (lambda: make().step(1.0, np.ones(3, np.float32)), TypeError, "grads must be .*float64"),
    (lambda: make().check(1.0, np.ones(6)[::2]), ValueError, "grads must be C-contiguous"),
    (lambda: make().check(1.0, [1.0]), TypeError, "grads must be a numpy.ndarray"),
    (lambda: trained()[2].step(1.0, {"W": np.ones((2, 3), np.float32)}), ValueError, r"missing \['b'\]"),
    (lambda: make().load_state_dict({}), ValueError, "state_dict must be a dict with 'restores'"),
    (lambda: make().load_state_dict(make(window=9).state_dict()), ValueError, "window=9, this one has window=20"),
    (lambda: make().load_state_dict({**make().state_dict(), "restores": -1}), ValueError, "at least 0"),
    (lambda: make().load_state_dict({**make().state_dict(), "restores": "1"}), TypeError, "of type int, got '1'"),
    (lambda: make().load_state_dict({**make().state_dict(), "detector": {}}), ValueError, r"\['detector'\] must be"),
]


@pytest.mark.parametrize(("call", "error", "match"), BAD, ids=[match[:60] for _, _, match in BAD])
def test_bad_input(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_bad_input_changes_nothing() -> None:
    params, optimizer, guard = trained()
    before, state = copies(params.values()), guard.state_dict()
    for loss, grads in ((1.0, [1]), ("x", gradients()), (1.0, {"W": np.ones((2, 3), np.float32), "b": 1.0})):
        with pytest.raises((TypeError, ValueError)):
            guard.step(loss, grads)
    assert same(before, params.values())
    assert guard.state_dict() == state
    assert optimizer.iterations == 3


@pytest.mark.parametrize("loss", [1, 1.0, np.float32(1), np.float64(1), np.array(1.0), np.int64(1)])
def test_what_a_loss_may_be(loss: Any) -> None:
    assert make().step(loss, np.ones(3))


def test_bound_gradients() -> None:
    grads = np.ones(3)
    guard = fastopt.DivergenceGuard(fastopt.SGD(np.ones(3), lr=0.1, grads=grads))
    assert guard.step(1.0)
    with pytest.raises(TypeError, match="bound"):
        guard.step(1.0, grads)
    grads[1] = NAN
    with pytest.raises(DivergenceError):
        guard.check(1.0)


# --- saving, reports --------------------------------------------------------------------------------------------------


def test_a_saved_guard_goes_on_where_it_was() -> None:
    def losses() -> list[float]:
        return [1.0 + 0.1 * (step % 3) for step in range(70)] + [50.0]

    def run(resume_at: int | None) -> Finding:
        optimizer = fastopt.SGD(np.ones(3), lr=0.0)
        guard = fastopt.DivergenceGuard(optimizer, "stop", window=5, patience=1000)
        for step, loss in enumerate(losses()):
            if step == resume_at:
                saved = json.loads(json.dumps(guard.state_dict()))
                guard = fastopt.DivergenceGuard(optimizer, "stop", window=5, patience=1000)
                guard.load_state_dict(saved)
            guard.step(loss, np.ones(3))
        assert guard.finding is not None
        return guard.finding

    expected = run(None)
    assert (expected.kind, expected.step) == ("explosion", 70)
    for step in (1, 4, 5, 23, 70):
        assert run(step) == expected


def test_a_finding_reads_well_and_can_be_pickled() -> None:
    finding = Finding("nonfinite", 7, "the loss is nan", "W", ("this", "that"), "raised")
    assert str(finding) == ("nonfinite at step 7, in parameter 'W' (raised): the loss is nan\n  try: this\n  try: that")
    error = pickle.loads(pickle.dumps(DivergenceError(finding)))
    assert error.finding == finding
    assert str(error) == str(finding)


def test_importing_fastopt_does_not_load_the_guard_nor_the_guard_torch() -> None:
    code = (
        "import sys, fastopt; assert 'fastopt.guard' not in sys.modules; fastopt.DivergenceGuard;"
        "assert 'fastopt.guard' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- telling from noise -----------------------------------------------------------------------------------------------


def found(values: list[float], factor: float = 10.0, window: int = 5) -> list[bool]:
    signal, result = Signal(window), []
    for value in values:
        reason = signal.outgrows_start(value, factor) or signal.is_outlier(value, factor, 1 / factor)
        if reason is None:
            signal.add(value)
        result.append(reason is not None)
    return result


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.1, 0.5), min_size=1, max_size=60), st.integers(-50, 50))
def test_values_of_one_size_do_not_explode_and_scale_does_not_matter(values: list[float], exponent: int) -> None:
    assert not any(found(values))
    spiked = [*values, 100.0]
    assert found(spiked)[-1] or len(values) < 5
    assert found([math.ldexp(value, exponent) for value in spiked]) == found(spiked)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-3, -1), min_size=5, max_size=60))
def test_losses_may_be_negative(values: list[float]) -> None:
    assert not any(found(values))
    assert found([*values, 100.0])[-1]


def test_a_falling_loss_with_heavy_tails_does_not_explode() -> None:
    rng = np.random.default_rng(0)
    losses = 2.3 * np.exp(-np.arange(3000) / 500) * rng.lognormal(0, 1.0, 3000)
    assert not any(found(losses.tolist(), window=20))


# --- torch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["torch.optim", "fastopt.torch"])
@pytest.mark.parametrize("named", [False, True])
def test_torch_optimizers_are_watched(module: str, named: bool) -> None:
    import importlib

    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    params = model.named_parameters() if named else model.parameters()
    optimizer = importlib.import_module(module).SGD(params, lr=0.01)
    guard = fastopt.DivergenceGuard(optimizer, "skip")
    x = torch.randn(16, 3)
    for step in range(30):
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        assert guard.step(loss) if step % 2 else guard.check(loss)
        if not step % 2:
            optimizer.step()
    before = [param.detach().clone() for param in model.parameters()]
    model[2].weight.grad[0, 0] = math.nan
    assert not guard.step(loss)
    assert guard.finding is not None
    assert guard.finding.parameter == ("2.weight" if named else 2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(TypeError, match=r"parameters' \.grad"):
        guard.step(loss, [1])
    with pytest.raises(ValueError, match='"restore" is for optimizers over NumPy arrays'):
        fastopt.DivergenceGuard(optimizer, "restore")


def test_an_oscillation_is_found_in_torch() -> None:
    import torch

    w = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=2.0)
    guard = fastopt.DivergenceGuard(optimizer, "stop")
    for _ in range(60):
        optimizer.zero_grad()
        loss = 0.5 * w.square().sum()
        loss.backward()
        guard.step(loss)
    assert guard.finding is not None
    assert guard.finding.kind == "oscillation"


def test_no_warning_without_a_reason() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained("warn", steps=100)

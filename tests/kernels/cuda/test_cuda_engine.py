"""The engine on the device agrees with the reference: every rule, what is done around it, and what stops a step."""

from __future__ import annotations

import threading
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from cases import CASES, CONVENTION_CASES, PLAIN, VARIANTS, Case, extra_options, random_gradient
from engines import SHAPES, Pair, on_device, random_arrays

from fastopt import constraints
from fastopt.kernels.cuda import memory
from fastopt.kernels.cuda.launches import LaunchShape
from fastopt.kernels.engine.contract import BUSY, SHARED, SWAPPED, EngineInputs

CASES = [case for case in CASES if not case.has_sums]  # which devices do not compute
PLAIN = [case for case in PLAIN if not case.has_sums]  # which devices do not compute
VARIANTS = [case for case in VARIANTS if not case.has_sums]  # which devices do not compute

OFFSETS = [0, 0, 0, 0, 1]
OPTIONS = {
    name: options
    for name, options in extra_options().items()
    if all(getattr(options.get(key), "row", None) is None for key in ("prox", "projection"))
}
ADAM = Case("Adam", {"lr": 0.01})


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


ROWS = [
    *((case, np.float32) for case in (*CASES, *CONVENTION_CASES)),
    *((case, np.float64) for case in VARIANTS),  # every rule; the others are other coefficients
]


@pytest.mark.parametrize(("case", "dtype"), ROWS, ids=lambda each: getattr(each, "__name__", str(each)))
def test_every_rule(case: Case, dtype: Any, rng: np.random.Generator) -> None:
    pair = Pair(case, random_arrays(rng, dtype), OFFSETS)
    for step in range(3):
        gradients: list[Any] = random_arrays(rng, dtype, random_gradient)
        if step == 1:
            gradients[1] = None
        pair.step(gradients, [0, 1, 0, 0, 1])
    pair.check()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    ("case", "dtype"), [(ADAM, np.float32), (Case("NAdam", {}), np.float64)], ids=["Adam-float32", "NAdam-float64"]
)
def test_what_is_done_around_it(case: Case, name: str, dtype: Any, rng: np.random.Generator) -> None:
    pair = Pair(case, random_arrays(rng, dtype), OFFSETS, **OPTIONS[name])
    for call in range(5):
        gradients: list[Any] = random_arrays(rng, dtype)
        if call in (1, 3):
            gradients[call] = None
        pair.step(gradients)
        pair.check()


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_proximal_steps(case: Case, rng: np.random.Generator) -> None:
    options = {"prox": constraints.ElasticNet(0.2, 0.1), "projection": constraints.NonNegative()}
    if not case.can(options):
        pytest.skip("it has no rate to do a proximal step with")
    pair = Pair(case, random_arrays(rng, np.float32), **options)
    for _ in range(2):
        pair.step(random_arrays(rng, np.float32))
    pair.check()


@pytest.mark.parametrize(
    ("case", "more"), list(zip(PLAIN, cycle(({}, {"max_grad_norm": 1.0}, {"clip_value": 1.0})), strict=False)), ids=str
)
def test_what_is_not_finite_is_handed_on(case: Case, more: dict[str, Any], rng: np.random.Generator) -> None:
    pair = Pair(case, random_arrays(rng, np.float32), **more)
    gradients = random_arrays(rng, np.float32)
    gradients[0][:4] = np.nan, np.inf, -np.inf, 3e38
    for _ in range(2):
        pair.step(gradients)
    pair.check()


@pytest.mark.parametrize("more", [{}, {"max_grad_norm": 1.0, "nonfinite": "skip"}, {"ema_decay": 0.5}], ids=str)
def test_nothing_to_update(more: dict[str, Any]) -> None:
    pair = Pair(ADAM, [np.zeros((0, 3), np.float32)], **more)
    pair.step([np.zeros((0, 3), np.float32)])
    pair.step([None])
    pair.check()
    some = Pair(ADAM, [np.zeros(3, np.float32)], **more)
    some.step([None])
    some.check()


def test_many_parameters(rng: np.random.Generator) -> None:
    arrays = [rng.standard_normal(1 + index % 3).astype(np.float32) for index in range(70)]
    pair = Pair(ADAM, arrays, max_grad_norm=0.5)
    pair.step([None if index % 5 == 4 else each for index, each in enumerate(arrays)])
    pair.check()


def test_groups_with_updates_of_their_own(rng: np.random.Generator) -> None:
    arrays = random_arrays(rng, np.float32)
    groups = [
        {"params": arrays[:2], "lr": 0.5},
        {"params": arrays[2:4], "amsgrad": True, "clip_value": 0.5},
        {"params": arrays[4:], "weight_decay": 0.1, "clip_norm": 0.25},
    ]
    pair = Pair(ADAM, groups, OFFSETS, nonfinite="skip")
    for _ in range(2):
        pair.step(random_arrays(rng, np.float32))
    pair.check()


def test_settings_of_single_parameters(rng: np.random.Generator) -> None:
    pair = Pair(Case("AdamW", {"weight_decay": 0.1}), random_arrays(rng, np.float64), max_grad_norm=1.0)
    for settings in (pair.opt._contents.settings, pair.engine.settings):  # type: ignore[attr-defined]
        settings.lr_scale[:] = [1, 0.25, 2, 1, 1]
        settings.weight_decay[0] = 0.5
        settings.frozen[1] = True
    pair.opt._room.engine.settings_changed()  # type: ignore[attr-defined]
    pair.engine.settings_changed()
    for _ in range(2):
        pair.step(random_arrays(rng, np.float64))
    pair.check()


def remade(pair: Pair) -> Any:
    """The engine made anew from what the host has, as an optimizer does when its structure changes."""
    old = pair.engine
    return type(old)(
        EngineInputs(
            old.dtype,
            old.plans,
            old.segments,
            old.settings,
            old.records,
            old.progress,
            old.plan,
            old.reject,
            old.report,
        )
    )


def test_an_engine_starts_from_what_another_fetched(rng: np.random.Generator) -> None:
    pair = Pair(Case("NAdam", {}), random_arrays(rng, np.float32), accumulate_steps=2)
    for _ in range(3):
        pair.step(random_arrays(rng, np.float32))
    pair.engine.fetch()
    pair.engine = remade(pair)
    for _ in range(2):
        pair.step(random_arrays(rng, np.float32))
    pair.check()


# --- gradients that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"max_grad_norm": 0.5}, {"accumulate_steps": 2}, {"zero_grads": True}], ids=str)
def test_a_step_is_skipped_and_counted_on_the_device(more: dict[str, Any], rng: np.random.Generator) -> None:
    pair = Pair(ADAM, random_arrays(rng, np.float32), nonfinite="skip", **more)
    bad = (1, 2, 4)
    for call in range(6):
        gradients = random_arrays(rng, np.float32)
        if call in bad:
            gradients[0][7] = np.nan
            gradients[4][3:5] = np.inf
        pair.step(gradients)
        pair.check()
        assert pair.engine.skipped == sum(each <= call for each in bad)
        assert pair.engine.consecutive == (0, 1, 2, 0, 1, 0)[call]
    assert pair.engine.unusable() == [(0, 1), (4, 2)]
    assert not pair.report.heard  # nothing waited


def test_a_step_that_waits_reports_before_anything_is_written(rng: np.random.Generator) -> None:
    pair = Pair(ADAM, random_arrays(rng, np.float32), nonfinite="raise", max_grad_norm=1.0)
    pair.step(random_arrays(rng, np.float32))
    gradients = random_arrays(rng, np.float32)
    gradients[1][1, 2] = np.nan
    pair.report.error = FloatingPointError("reported")
    with pytest.raises(FloatingPointError, match="reported"):
        pair.engine.step([on_device(each) for each in gradients])
    assert pair.report.heard == [([(1, 1)], 1)]
    pair.check()
    pair.step(random_arrays(rng, np.float32))
    pair.check()


# --- changes between steps --------------------------------------------------------------------------------------------


def test_changed_hyperparameters(rng: np.random.Generator) -> None:
    pair = Pair(ADAM, random_arrays(rng, np.float32), max_grad_norm=1.0)
    opt: Any = pair.opt
    pair.step(random_arrays(rng, np.float32))
    opt.param_groups[0]["lr"] = 0.25
    pair.engine.set_lr(0, 0.25)
    pair.step(random_arrays(rng, np.float32))
    pair.check()
    opt.param_groups[0]["betas"] = (0.5, 0.75)
    pair.engine.set_hyperparameters(0, pair.group_plans()[0])
    opt.max_grad_norm = 0.125
    pair.engine.set_scale(Pair(ADAM, random_arrays(rng, np.float32), max_grad_norm=0.125).engine.plan)
    pair.step(random_arrays(rng, np.float32))
    pair.check()


def test_averages_are_swapped(rng: np.random.Generator) -> None:
    pair = Pair(ADAM, random_arrays(rng, np.float32), OFFSETS, ema_decay=0.5)
    pair.step(random_arrays(rng, np.float32))
    pair.opt.swap_averages()
    pair.engine.swap()
    pair.check()
    with pytest.raises(RuntimeError, match=SWAPPED.split(",")[0]):
        pair.engine.step([None] * len(SHAPES))
    pair.opt.swap_averages()
    pair.engine.swap()
    pair.step(random_arrays(rng, np.float32))
    pair.check()


@pytest.mark.parametrize("more", [{}, {"max_grad_norm": 0.5, "accumulate_steps": 2, "nonfinite": "skip"}], ids=str)
def test_replayed_launches_count_and_correct_by_themselves(
    more: dict[str, Any], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a captured CUDA graph is: the launches of one step, again, without Python around them."""
    pair = Pair(Case("NAdam", {}), random_arrays(rng, np.float32), **more)
    gradients = random_arrays(rng, np.float32)
    captured: list[Any] = []

    def recorded(launch: Any) -> Any:
        def run(header: int) -> None:
            captured.append((launch, header))
            launch(header)

        return run

    pair.engine.bind([on_device(each) for each in gradients])
    pair.engine.step()
    pair.opt.step([each.copy() for each in gradients])
    monkeypatch.setattr(pair.engine, "_launch", {name: recorded(each) for name, each in pair.engine._launch.items()})
    pair.engine.step()
    pair.opt.step([each.copy() for each in gradients])
    for _ in range(4):
        pair.opt.step([each.copy() for each in gradients])
        for launch, header in captured[:]:
            launch(header)
    pair.check()
    pair.engine.set_lr(0, 0.5)
    pair.engine.upload()
    pair.opt.param_groups[0]["lr"] = 0.5
    for launch, header in captured[:]:
        launch(header)
    pair.opt.step([each.copy() for each in gradients])
    pair.check()


def test_bound_gradients_and_addresses(rng: np.random.Generator) -> None:
    pair = Pair(ADAM, random_arrays(rng, np.float32))
    gradients = random_arrays(rng, np.float32)
    there = [on_device(each) for each in gradients]
    pair.engine.bind(there)
    assert pair.engine.bound
    pair.engine.step()
    pair.opt.step(gradients)
    uploads = pair.engine.changed.copy()
    pair.engine.step()
    pair.opt.step(gradients)
    assert not uploads
    pair.engine.step_at([memory.address(each) for each in there[:4]] + [None])
    pair.opt.step([*gradients[:4], None])
    pair.check()


# --- errors -----------------------------------------------------------------------------------------------------------


def test_constraints_on_rows_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="backend='cuda' has no constraints on rows"):
        Pair(ADAM, random_arrays(rng, np.float32), projection=constraints.L2Ball(1.0))


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no device array": (np.zeros(150, np.float32), TypeError, "gradient 0 must be"),
    "a number": (1.0, TypeError, "gradient 0 must be"),
    "dtype": (lambda: on_device(np.zeros(150)), TypeError, "array of float32"),
    "shape": (lambda: on_device(np.zeros(149, np.float32)), TypeError, r"shape \(150,\)"),
    "order": (lambda: on_device(np.zeros(300, np.float32))[::2], TypeError, "contiguous"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_gradients(name: str, rng: np.random.Generator) -> None:
    gradient, error, message = BAD[name]
    pair = Pair(ADAM, random_arrays(rng, np.float32))
    with pytest.raises(error, match=message):
        pair.engine.step([gradient() if callable(gradient) else gradient, None, None, None, None])
    pair.check()


def test_gradients_in_the_memory_of_others(rng: np.random.Generator) -> None:
    pair = Pair(ADAM, random_arrays(rng, np.float32), zero_grads=True)
    own = pair.engine.segments[0]
    for array in (own.param, own.states[1]):
        with pytest.raises(ValueError, match="shares memory with a parameter or state"):
            pair.engine.step([array, None, None, None, None])
    there = on_device(np.zeros(150, np.float32))
    with pytest.raises(ValueError, match=SHARED):
        pair.engine.step([there, None, None, None, there[2:15]])
    pair.check()


def test_one_step_at_a_time(rng: np.random.Generator) -> None:
    pair = Pair(ADAM, random_arrays(rng, np.float32))

    def nested() -> None:
        with pytest.raises(RuntimeError, match=BUSY[:20]):
            pair.engine.step([None] * 5)

    pair.engine.alone(nested)
    thread = threading.Thread(target=pair.engine.step, args=([None] * 5,))
    thread.start()
    thread.join()
    assert pair.engine.progress.calls[0] == 1


@pytest.mark.parametrize("stream", [-1, True, "default", None, 1.0], ids=repr)
def test_what_is_no_stream(stream: Any, rng: np.random.Generator) -> None:
    pair = Pair(ADAM, [np.zeros(3, np.float32)])
    with pytest.raises(TypeError, match="stream must be a CUDA stream handle"):
        pair.engine.stream = stream
    assert pair.engine.stream == 0


def test_chunks_fit_the_size() -> None:
    shape = LaunchShape()
    lengths = [shape.chunk_for(10**power) for power in range(10)]
    assert all(length % (4 * shape.threads) == 0 for length in lengths)
    assert lengths[0] == 4 * shape.threads
    assert lengths[-1] == shape.chunk

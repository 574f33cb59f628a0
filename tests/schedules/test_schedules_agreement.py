"""Every schedule of torch, Keras and optax has its equal here: live, and against recorded rates (tests/golden)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastopt
from fastopt.schedules import (
    Constant,
    CosineDecay,
    CosineDecayRestarts,
    Cyclic,
    ExponentialDecay,
    Lambda,
    Multiplicative,
    PiecewiseConstantDecay,
    PiecewiseInterpolation,
    PolynomialDecay,
    Product,
    Schedule,
    Sequential,
    Warmup,
    multi_step,
    one_cycle,
)

LR = 0.3
STEPS = 70


class Same(NamedTuple):
    """A schedule of ours, and how to make the other framework's of the same name."""

    name: str
    ours: Schedule
    theirs: Callable[[Any], Any]

    def __str__(self) -> str:
        return self.name


def table(*rows: Same) -> Any:
    return pytest.mark.parametrize("same", rows, ids=str)


def ours(schedule: Schedule, steps: int = STEPS) -> list[float]:
    return [schedule(step) for step in range(steps)]


# --- torch ----------------------------------------------------------------------------------------------------------


def torch_rates(
    make: Callable[[Any], Any], steps: int = STEPS, between: Callable[[int, Any], None] = lambda step, optimizer: None
) -> list[float]:
    """The rates that torch's optimizer has in each step."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = make(optimizer)
    rates = []
    for step in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        between(step, optimizer)
        scheduler.step()
    return rates


def scheduler(name: str, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    def make(optimizer: Any) -> Any:
        import torch

        return getattr(torch.optim.lr_scheduler, name)(optimizer, *args, **kwargs)

    return make


def several(name: str, *makers: Callable[[Any], Any], **kwargs: Any) -> Callable[[Any], Any]:
    def make(optimizer: Any) -> Any:
        import torch

        schedulers = [each(optimizer) for each in makers]
        if name == "SequentialLR":
            return torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers, **kwargs)
        return torch.optim.lr_scheduler.ChainedScheduler(schedulers)

    return make


def inverse(step: int) -> float:
    return 1 / (1 + step)


TORCH = [
    Same("LambdaLR", Lambda(LR, inverse), scheduler("LambdaLR", inverse)),
    Same("MultiplicativeLR", Multiplicative(LR, lambda step: 0.9), scheduler("MultiplicativeLR", lambda step: 0.9)),
    Same("StepLR", ExponentialDecay(LR, 7, 0.5, staircase=True), scheduler("StepLR", 7, gamma=0.5)),
    Same("MultiStepLR", multi_step(LR, [3, 7, 30], 0.2), scheduler("MultiStepLR", [3, 7, 30], gamma=0.2)),
    Same(
        "ConstantLR",
        PiecewiseConstantDecay([5], [LR / 3, LR], side="right"),
        scheduler("ConstantLR", 1 / 3, total_iters=5),
    ),
    Same(
        "LinearLR",
        PolynomialDecay(LR * 0.25, 9, LR * 0.75),
        scheduler("LinearLR", start_factor=0.25, end_factor=0.75, total_iters=9),
    ),
    Same("ExponentialLR", ExponentialDecay(LR, 1, 0.9), scheduler("ExponentialLR", 0.9)),
    Same("PolynomialLR", PolynomialDecay(LR, 40, 0.0, power=1.5), scheduler("PolynomialLR", 40, power=1.5)),
    Same(
        "CosineAnnealingLR",
        CosineDecay(LR, 16, alpha=0.01 / LR, cycle=True),
        scheduler("CosineAnnealingLR", 16, eta_min=0.01),
    ),
    Same(
        "CosineAnnealingWarmRestarts",
        CosineDecayRestarts(LR, 5, t_mul=3, alpha=0.01 / LR),
        scheduler("CosineAnnealingWarmRestarts", 5, T_mult=3, eta_min=0.01),
    ),
    Same(
        "CosineAnnealingWarmRestarts, T_mult 1",
        CosineDecayRestarts(LR, 5, t_mul=1),
        scheduler("CosineAnnealingWarmRestarts", 5),
    ),
    *(
        Same(
            f"CyclicLR {mode}",
            Cyclic(0.1, 0.5, 4, 9, mode=mode, gamma=0.97),
            scheduler("CyclicLR", 0.1, 0.5, 4, 9, mode=mode, gamma=0.97, cycle_momentum=False),
        )
        for mode in ("triangular", "triangular2", "exp_range")
    ),
    *(
        Same(
            f"CyclicLR scale_fn of {scale_mode}",
            Cyclic(0.1, 0.5, 4, scale_fn=inverse, scale_mode=scale_mode),
            scheduler("CyclicLR", 0.1, 0.5, 4, scale_fn=inverse, scale_mode=scale_mode, cycle_momentum=False),
        )
        for scale_mode in ("cycle", "iterations")
    ),
    *(
        Same(
            f"OneCycleLR {strategy}{' in three phases' if three_phase else ''}",
            one_cycle(0.5, STEPS, 0.33, strategy, three_phase=three_phase),
            scheduler(
                "OneCycleLR", 0.5, STEPS, None, None, 0.33, strategy, three_phase=three_phase, cycle_momentum=False
            ),
        )
        for strategy in ("cos", "linear")
        for three_phase in (False, True)
    ),
    Same(
        "SequentialLR",
        Sequential([PolynomialDecay(LR * 0.1, 8, LR), CosineDecay(LR, 30), ExponentialDecay(LR, 1, 0.5)], [8, 38]),
        several(
            "SequentialLR",
            scheduler("LinearLR", start_factor=0.1, total_iters=8),
            scheduler("CosineAnnealingLR", 30),
            scheduler("ExponentialLR", 0.5),
            milestones=[8, 38],
        ),
    ),
    Same(
        "SequentialLR, as Warmup",
        Warmup(CosineDecay(LR, 70), 8, start_factor=0.1),
        several(
            "SequentialLR",
            scheduler("LinearLR", start_factor=0.1, total_iters=8),
            scheduler("CosineAnnealingLR", 70),
            milestones=[8],
        ),
    ),
    Same(
        "ChainedScheduler",
        ExponentialDecay(LR, 1, 0.9) * PiecewiseConstantDecay([5], [0.1, 1.0], side="right"),
        several("ChainedScheduler", scheduler("ConstantLR", 0.1, total_iters=5), scheduler("ExponentialLR", 0.9)),
    ),
    Same(
        "ChainedScheduler of three",
        Product([LR, ExponentialDecay(1, 1, 0.9), PolynomialDecay(0.5, 6, 1.0), ExponentialDecay(1, 4, 0.5, True)]),
        several(
            "ChainedScheduler",
            scheduler("LinearLR", start_factor=0.5, total_iters=6),
            scheduler("ExponentialLR", 0.9),
            scheduler("StepLR", 4, 0.5),
        ),
    ),
]


@table(*TORCH)
def test_torch(same: Same) -> None:
    """To 1e-12: torch's recursive forms round in every step, and these rates are held for 70."""
    np.testing.assert_allclose(ours(same.ours), torch_rates(same.theirs), rtol=1e-12, atol=1e-15)


def test_every_scheduler_of_torch_is_in_the_table() -> None:
    module = pytest.importorskip("torch.optim.lr_scheduler")
    base = module.LRScheduler
    names = {name for name in module.__all__ if issubclass(getattr(module, name), base)}
    assert names - {same.name.split(",")[0].split()[0] for same in TORCH} == {"LRScheduler", "ReduceLROnPlateau"}


def test_where_torch_drifts_from_the_formula() -> None:
    """torch multiplies what is in the group: rounding adds up, and an lr that was assigned by hand stays."""
    steps = 5000
    by_torch = torch_rates(scheduler("ExponentialLR", 0.999), steps)[-1]
    by_us = ExponentialDecay(LR, 1, 0.999)(steps - 1)
    exact = float(Fraction(LR) * Fraction(0.999) ** (steps - 1))
    assert abs(by_us / exact - 1) < 4e-16
    assert 4e-16 < abs(by_torch / exact - 1) < 1e-12

    def halve(step: int, optimizer: Any) -> None:
        if step == 5:
            optimizer.param_groups[0]["lr"] /= 2

    for name, arguments, schedule in (
        ("ExponentialLR", (0.9,), ExponentialDecay(LR, 1, 0.9)),
        ("CosineAnnealingLR", (16,), CosineDecay(LR, 16, cycle=True)),
    ):
        changed, unchanged = torch_rates(scheduler(name, *arguments), 15, halve), ours(schedule, 15)
        np.testing.assert_allclose(changed[:6], unchanged[:6], rtol=1e-14)
        np.testing.assert_allclose(changed[6:], np.multiply(unchanged[6:], 0.5), rtol=1e-12)


def test_beyond_t_max_torch_rises_again() -> None:
    rising = torch_rates(scheduler("CosineAnnealingLR", 10), 21)
    assert rising[20] == pytest.approx(LR)
    assert CosineDecay(LR, 10)(20) == 0
    np.testing.assert_allclose(ours(CosineDecay(LR, 10, cycle=True), 21), rising, rtol=1e-12, atol=1e-15)


# --- Keras ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras() -> Any:
    import keras

    return keras


def schedule_of(name: str, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    return lambda keras: getattr(keras.optimizers.schedules, name)(*args, **kwargs)


KERAS = [
    Same(
        name,
        getattr(fastopt.schedules, name)(*args, **kwargs),
        schedule_of(name, *args, **kwargs),
    )
    for name, args, kwargs in (
        ("ExponentialDecay", (LR, 10, 0.5), {}),
        ("ExponentialDecay", (LR, 10, 0.5), {"staircase": True}),
        ("InverseTimeDecay", (LR, 10, 0.5), {}),
        ("InverseTimeDecay", (LR, 10, 0.5), {"staircase": True}),
        ("PiecewiseConstantDecay", ([5, 9, 30], [0.5, 0.25, 0.125, 1.0]), {}),
        ("PolynomialDecay", (LR, 20), {}),
        ("PolynomialDecay", (LR, 20), {"end_learning_rate": 0.1, "power": 2.0}),
        ("PolynomialDecay", (LR, 20), {"end_learning_rate": 0.1, "power": 0.5, "cycle": True}),
        ("CosineDecay", (LR, 50), {"alpha": 0.1}),
        ("CosineDecay", (0.1, 40), {"alpha": 0.1, "warmup_target": 0.5, "warmup_steps": 10}),
        ("CosineDecay", (0.5, 40), {"warmup_target": 0.1, "warmup_steps": 10}),
        ("CosineDecayRestarts", (LR, 8), {}),
        ("CosineDecayRestarts", (LR, 8), {"t_mul": 1.0, "m_mul": 0.5, "alpha": 0.1}),
        ("CosineDecayRestarts", (LR, 8), {"t_mul": 1.5, "m_mul": 0.9, "alpha": 0.1}),
    )
]


def growing_restarts(schedule: Schedule) -> list[int]:
    """The steps at which periods of growing length begin, unless they begin between two steps.

    Keras finds the period with a float32 logarithm. There it is a whole number, or on some processors the float just
    below, and then Keras is still at the end of the old period.
    """
    if not isinstance(schedule, CosineDecayRestarts) or schedule.t_mul == 1:
        return []
    begins = itertools.accumulate(schedule.first_decay_steps * schedule.t_mul**period for period in range(STEPS))
    return [int(begin) for begin in itertools.takewhile(lambda begin: begin < STEPS, begins) if begin.is_integer()]


@pytest.mark.peers
@table(*KERAS)
def test_keras(same: Same, keras: Any) -> None:
    """The same arguments, the same rates: Keras computes in float32, where 1 - cos and 1 - p lose digits near 0."""
    theirs = same.theirs(keras)
    rates = np.array([float(theirs(step)) for step in range(STEPS)])
    expected = np.array(ours(same.ours))
    for step in growing_restarts(same.ours):
        if rates[step] < 0.5 * expected[step]:
            expected[step] = same.ours.alpha * LR
    np.testing.assert_allclose(rates, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.peers
def test_a_late_restart_is_where_it_should_be(keras: Any) -> None:
    """After 8 + 16 + ... + 32768 steps a new period begins; Keras may still be at the end of the old one."""
    begin = 8 * (2**13 - 1)
    assert [CosineDecayRestarts(1.0, 8)(begin + each) for each in (-1, 0)] == [pytest.approx(0, abs=1e-8), 1.0]
    theirs = keras.optimizers.schedules.CosineDecayRestarts(1.0, 8)
    at_begin = float(theirs(begin))
    assert at_begin == pytest.approx(0, abs=1e-6) or at_begin == pytest.approx(1)
    assert float(theirs(begin + 1)) == pytest.approx(1)


@pytest.mark.peers
def test_every_schedule_of_keras_is_in_the_table(keras: Any) -> None:
    module = keras.optimizers.schedules
    names = {name for name in dir(module) if isinstance(getattr(module, name), type)}
    assert names - {same.name for same in KERAS} == {"LearningRateSchedule"}


# --- optax ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def optax() -> Iterator[Any]:
    """With float64, so that more than float32's digits are compared."""
    import jax
    import optax

    with jax.enable_x64(True):
        yield optax


def optax_schedule(name: str, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    return lambda optax: getattr(optax, name)(*args, **kwargs)


OPTAX = [
    Same("constant_schedule", Constant(LR), optax_schedule("constant_schedule", LR)),
    Same(
        "cosine_decay_schedule",
        CosineDecay(LR, 50, alpha=0.1, exponent=2.0),
        optax_schedule("cosine_decay_schedule", LR, 50, alpha=0.1, exponent=2.0),
    ),
    *(
        Same(
            f"exponential_decay {rate}",
            ExponentialDecay(LR, 8, rate, staircase, 5, end),
            optax_schedule("exponential_decay", LR, 8, rate, 5, staircase, end),
        )
        for rate, staircase, end in ((0.5, False, None), (0.5, True, 0.05), (1.5, True, 0.7), (1.5, False, None))
    ),
    Same(
        "linear_schedule",
        PolynomialDecay(LR, 20, 0.1, transition_begin=4),
        optax_schedule("linear_schedule", LR, 0.1, 20, 4),
    ),
    Same(
        "polynomial_schedule",
        PolynomialDecay(0.1, 20, LR, power=2.5, transition_begin=4),
        optax_schedule("polynomial_schedule", 0.1, LR, 2.5, 20, 4),
    ),
    Same(
        "piecewise_constant_schedule",
        multi_step(LR, [5, 30], [0.5, 4.0]),
        optax_schedule("piecewise_constant_schedule", LR, {5: 0.5, 30: 4.0}),
    ),
    *(
        Same(
            f"piecewise_interpolate_schedule {kind}",
            PiecewiseInterpolation([5, 30, 60], [LR, LR * 0.5, LR * 2, 0.0], kind),
            optax_schedule("piecewise_interpolate_schedule", kind, LR, {5: 0.5, 30: 4.0, 60: 0.0}),
        )
        for kind in ("linear", "cosine")
    ),
    Same(
        "cosine_onecycle_schedule",
        one_cycle(LR, 60, convention="optax"),
        optax_schedule("cosine_onecycle_schedule", 60, LR),
    ),
    Same(
        "linear_onecycle_schedule",
        one_cycle(LR, 60, anneal_strategy="linear", three_phase=True, convention="optax"),
        optax_schedule("linear_onecycle_schedule", 60, LR),
    ),
    Same(
        "warmup_constant_schedule",
        Warmup(LR, 9, start_factor=0.1),
        optax_schedule("warmup_constant_schedule", LR * 0.1, LR, 9),
    ),
    Same(
        "warmup_cosine_decay_schedule",
        CosineDecay(0.1, 41, alpha=0.5, warmup_target=LR, warmup_steps=9),
        optax_schedule("warmup_cosine_decay_schedule", 0.1, LR, 9, 50, LR * 0.5),
    ),
    Same(
        "warmup_exponential_decay_schedule",
        Warmup(ExponentialDecay(LR, 8, 0.5, True, 3, 0.05), 9),
        optax_schedule("warmup_exponential_decay_schedule", 0.0, LR, 9, 8, 0.5, 3, True, 0.05),
    ),
    Same(
        "join_schedules",
        Sequential([LR, ExponentialDecay(LR, 1, 0.5), PolynomialDecay(0.1, 20, 0.0)], [10, 25]),
        lambda optax: optax.join_schedules(
            [optax.constant_schedule(LR), optax.exponential_decay(LR, 1, 0.5), optax.linear_schedule(0.1, 0.0, 20)],
            [10, 25],
        ),
    ),
    Same(
        "sgdr_schedule",
        Sequential(
            [
                CosineDecay(0.0, 8, warmup_target=LR, warmup_steps=2),
                CosineDecay(0.1, 16, warmup_target=LR / 2, warmup_steps=4),
            ],
            [10],
        ),
        optax_schedule(
            "sgdr_schedule",
            [
                {"init_value": 0.0, "peak_value": LR, "decay_steps": 10, "warmup_steps": 2},
                {"init_value": 0.1, "peak_value": LR / 2, "decay_steps": 20, "warmup_steps": 4},
            ],
        ),
    ),
]


@pytest.mark.peers
@table(*OPTAX)
def test_optax(same: Same, optax: Any) -> None:
    """In float64; cosines and powers are XLA's own, so not to the bit. cos near pi / 2 has an absolute error."""
    theirs = same.theirs(optax)
    rates = [float(theirs(step)) for step in range(STEPS)]
    np.testing.assert_allclose(ours(same.ours), rates, rtol=1e-12, atol=1e-15)


@pytest.mark.peers
def test_every_schedule_of_optax_is_in_the_table(optax: Any) -> None:
    public = (name for name in vars(optax.schedules) if not name.startswith("_"))
    names = {name for name in public if name.endswith(("_schedule", "_schedules", "_decay"))}
    assert names == {same.name.split()[0] for same in OPTAX}


# --- recorded rates -------------------------------------------------------------------------------------------------


def read(name: str) -> list[dict[str, Any]]:
    cases = json.loads((Path(__file__).parents[1] / "golden" / f"{name}.json").read_text())["cases"]
    return [case for case in cases if case["optimizer"].startswith("schedule:")]


FROM_OPTAX: dict[str, Callable[..., Schedule]] = {
    "cosine_decay_schedule": lambda init_value, decay_steps, alpha: CosineDecay(init_value, decay_steps, alpha),
    "exponential_decay": lambda init_value, transition_steps, decay_rate, staircase=False, **more: ExponentialDecay(
        init_value,
        transition_steps,
        decay_rate,
        staircase,
        more.get("transition_begin", 0),
        more.get("end_value"),
    ),
    "linear_schedule": lambda init_value, end_value, transition_steps, transition_begin: PolynomialDecay(
        init_value, transition_steps, end_value, transition_begin=transition_begin
    ),
    "polynomial_schedule": lambda init_value, end_value, power, transition_steps: PolynomialDecay(
        init_value, transition_steps, end_value, power
    ),
    "warmup_cosine_decay_schedule": lambda init_value, peak_value, warmup_steps, decay_steps, end_value: CosineDecay(
        init_value, decay_steps - warmup_steps, end_value / peak_value, peak_value, warmup_steps
    ),
    "cosine_onecycle_schedule": lambda transition_steps, peak_value: one_cycle(
        peak_value, transition_steps, convention="optax"
    ),
    "linear_onecycle_schedule": lambda transition_steps, peak_value: one_cycle(
        peak_value, transition_steps, anneal_strategy="linear", three_phase=True, convention="optax"
    ),
    "warmup_exponential_decay_schedule": lambda init_value, peak_value, warmup_steps, transition_steps, decay_rate: (
        Warmup(ExponentialDecay(peak_value, transition_steps, decay_rate), warmup_steps, init_value / peak_value)
    ),
}


def from_keras(name: str, config: dict[str, Any]) -> Schedule:
    arguments = {key: value for key, value in config.items() if key != "name"}
    made: Schedule = getattr(fastopt.schedules, name)(**arguments)
    return made


RECORDED = [
    *(("keras3", from_keras(case["optimizer"][9:], case["config"]), case) for case in read("keras3")),
    *(("optax", FROM_OPTAX[case["optimizer"][9:]](**case["config"]), case) for case in read("optax")),
]


@pytest.mark.parametrize(("framework", "schedule", "case"), RECORDED, ids=lambda value: str(value)[:70])
def test_recorded_rates(framework: str, schedule: Schedule, case: dict[str, Any]) -> None:
    """Recorded with float64 parameters, but rates in float32 in Keras and where optax has a cosine or a power."""
    expected = [rate for (rate,) in case["trajectory"]]
    np.testing.assert_allclose(ours(schedule, len(expected)), expected, rtol=1e-6, atol=1e-9)


def test_all_records_are_compared() -> None:
    assert len(RECORDED) == len(read("keras3")) + len(read("optax")) >= 17

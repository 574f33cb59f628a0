"""Schedules as values: equality, repr, pickles, products; their numbers at all steps; and the same formula in Numba."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import repr_without_addresses
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processes import in_a_fresh_process

import fastopt
from fastopt import schedules
from fastopt.schedules import (
    Constant,
    CosineDecay,
    CosineDecayRestarts,
    Cyclic,
    ExponentialDecay,
    InverseTimeDecay,
    Lambda,
    Multiplicative,
    PiecewiseConstantDecay,
    PiecewiseInterpolation,
    PolynomialDecay,
    Product,
    Scaled,
    Schedule,
    Sequential,
    Warmup,
    inverse_square_root,
    multi_step,
    one_cycle,
    warmup_stable_decay,
)


def inverse(step: int) -> float:
    return 1 / (1 + step)


def nine_tenths(step: int) -> float:
    return 0.9


NO_LIBRARY = [
    Constant(0.3),
    ExponentialDecay(0.3, 7, 1.0, transition_begin=3),
    InverseTimeDecay(0.3, 7, 0.5),
    InverseTimeDecay(0.3, 7, 0.5, staircase=True),
    PolynomialDecay(0.3, 20, 0.01),
    PolynomialDecay(0.01, 20, 0.3, cycle=True, transition_begin=5),
    PiecewiseConstantDecay([3, 9, 11], [0.1, 0.2, 0.4, 0.05]),
    PiecewiseConstantDecay([], [0.1]),
    multi_step(0.3, [4, 9]),
    PiecewiseInterpolation([2.5, 30], [0.1, 0.3, 0.0]),
    one_cycle(0.3, 50, anneal_strategy="linear"),
    Cyclic(0.1, 0.3, 5, 7),
    Lambda(0.3, inverse),
    Multiplicative(0.3, nine_tenths),
    Warmup(InverseTimeDecay(0.3, 7, 0.5), 5, start_factor=0.1),
    Sequential([0.1, PolynomialDecay(0.3, 9), Constant(0.2), Lambda(0.3, inverse)], [3, 9, 20]),
    Lambda(0.3, inverse) * PolynomialDecay(1.0, 5, 0.5),
    PolynomialDecay(0.3, 20, 0.01) * 0.3,
    PolynomialDecay(0.3, 5, 0.01, per="epoch", steps_per_epoch=4),
    Sequential([0.1, 0.2], [2], per="epoch", steps_per_epoch=3),
    warmup_stable_decay(0.3, 5, 10, 20),
    Warmup(PolynomialDecay(0.3, 20, 0.01), 0, start_factor=0.1),
    warmup_stable_decay(0.3, 0, 0, 20),
    Sequential([0.1, PolynomialDecay(0.3, 9), 0.2], [4, 4]),
    PiecewiseConstantDecay([0, 5], [0.1, 0.2, 0.4]),
    Cyclic(0.1, 0.3, 0, 7),
    Cyclic(0.1, 0.3, 7, 0),
]
"""Made of operations that IEEE 754 defines to the bit."""

WITH_LIBRARY = [
    ExponentialDecay(0.3, 7, 0.5),
    ExponentialDecay(0.3, 1, 2.0, end_learning_rate=100.0),
    ExponentialDecay(0.3, 7, 0.9, staircase=True, transition_begin=3, end_learning_rate=0.2),
    PolynomialDecay(0.3, 20, 0.01, power=1.7),
    CosineDecay(0.3, 30),
    CosineDecay(0.1, 30, alpha=0.1, warmup_target=0.3, warmup_steps=8, exponent=1.5),
    CosineDecay(0.3, 9, cycle=True),
    CosineDecayRestarts(0.3, 5, t_mul=1.5, m_mul=0.8, alpha=0.01),
    CosineDecayRestarts(0.3, 5, t_mul=1.0),
    PiecewiseInterpolation([2.5, 30], [0.1, 0.3, 0.0], "cosine"),
    one_cycle(0.3, 50, three_phase=True),
    Cyclic(0.1, 0.3, 5, mode="triangular2"),
    Cyclic(0.1, 0.3, 5, mode="exp_range", gamma=0.99),
    Cyclic(0.1, 0.3, 5, scale_fn=inverse, scale_mode="iterations"),
    Warmup(CosineDecay(0.3, 30), 5),
    inverse_square_root(0.3, 10, warmup_steps=10),
    inverse_square_root(0.3, 10),
    warmup_stable_decay(0.3, 5, 10, 20, 0.01, "cosine"),
]
"""Made with powers and cosines, which come from a library of mathematics."""

EVERY = NO_LIBRARY + WITH_LIBRARY


by_schedule = pytest.mark.parametrize("schedule", EVERY, ids=repr_without_addresses)


def test_every_class_is_in_the_lists() -> None:
    classes = {each for each in vars(schedules).values() if isinstance(each, type) and issubclass(each, Schedule)}
    assert {type(each) for each in EVERY} == classes - {Schedule}
    public = {name: each for name, each in vars(schedules).items() if not name.startswith("_")}
    assert set(schedules.__all__) == {name for name, each in public.items() if not isinstance(each, ModuleType)}


# --- values ---------------------------------------------------------------------------------------------------------


@by_schedule
def test_repr_is_the_call_that_makes_it(schedule: Schedule) -> None:
    names = {**vars(schedules), repr(inverse): inverse}
    text = repr(schedule).replace(repr(inverse), "inverse").replace(repr(nine_tenths), "nine_tenths")
    again = eval(text, {**names, "inverse": inverse, "nine_tenths": nine_tenths})
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert repr(again) == repr(schedule)


def test_repr_leaves_defaults_out() -> None:
    assert repr(PolynomialDecay(1, 4)) == "PolynomialDecay(1.0, 4)"
    schedule = Warmup(PolynomialDecay(1, 4, cycle=True), 2, per="epoch", steps_per_epoch=3)
    assert repr(schedule) == "Warmup(PolynomialDecay(1.0, 4, cycle=True), 2, per='epoch', steps_per_epoch=3)"


@by_schedule
def test_pickles_and_copies(schedule: Schedule) -> None:
    expected = [schedule(step) for step in range(40)]
    for again in (pickle.loads(pickle.dumps(schedule)), copy.copy(schedule), copy.deepcopy(schedule)):
        assert again == schedule
        assert [again(step) for step in range(40)] == expected


def test_all_are_different() -> None:
    assert len(set(EVERY)) == len(EVERY)
    assert ExponentialDecay(1, 2, 0.5) != InverseTimeDecay(1, 2, 0.5)
    assert Constant(1) != 1.0


def test_immutable() -> None:
    schedule = Constant(0.5)
    with pytest.raises(AttributeError, match="cannot assign"):
        schedule.learning_rate = 1.0  # type: ignore[misc]
    given = [3, 4]
    piecewise = PiecewiseConstantDecay(given, [1, 2, 3])
    given[0] = 2
    assert piecewise.boundaries == (3, 4)


@by_schedule
def test_the_step_is_all_that_counts(schedule: Schedule) -> None:
    in_order = [schedule(step) for step in range(60)]
    assert [schedule(step) for step in reversed(range(60))][::-1] == in_order
    assert all(type(rate) is float for rate in in_order)
    assert schedule(np.int64(7)) == in_order[7]


def test_scaling() -> None:
    schedule = ExponentialDecay(1.0, 10, 0.5)
    half = schedule * 0.5
    assert isinstance(half, Scaled)
    assert half == 0.5 * schedule == schedule * np.float64(0.5) == np.float32(0.5) * schedule
    assert half * 0.5 == schedule * 0.25 == Scaled(half, 0.5)
    assert [half(step) for step in range(30)] == [schedule(step) * 0.5 for step in range(30)]
    reduced: Schedule = schedule
    for _ in range(5000):
        reduced = reduced * 0.999
    assert isinstance(reduced, Scaled)
    assert reduced.schedule == schedule
    assert reduced(0) == pytest.approx(0.999**5000)
    assert Scaled(half, 0.5).jit(3) == (half * 0.5)(3)


def test_products() -> None:
    a, b, c = ExponentialDecay(1.0, 10, 0.5), PolynomialDecay(1.0, 4, 0.5), Constant(2)
    assert (a * b)(3) == a(3) * b(3)
    assert (a * b * c)(3) == a(3) * b(3) * 2
    assert Product([a, 2.0])(3) == 2 * a(3)


@pytest.mark.parametrize("other", ["2", None, 1j, [1], np.ones(2)], ids=repr)
def test_what_schedules_cannot_be_multiplied_with(other: Any) -> None:
    with pytest.raises(TypeError, match="Constant"):
        Constant(1.0) * other
    with pytest.raises(TypeError):
        other * Constant(1.0)


def test_epochs() -> None:
    schedule = ExponentialDecay(1.0, 1, 0.5, per="epoch", steps_per_epoch=3)
    assert [schedule(step) for step in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    warm = Warmup(schedule, 2, per="step")
    assert [warm(step) for step in range(7)] == [0, 0.5, 1, 1, 1, 0.5, 0.5]


# --- numbers at all steps -------------------------------------------------------------------------------------------

rates = st.floats(0, 10) | st.sampled_from([0.0, 1e-300, 5e-324])
positive = st.floats(1e-6, 10)
lengths = st.integers(1, 2**31 - 1) | st.integers(1, 100)
any_step = st.integers(0, 2**40) | st.integers(0, 300)
factors = st.floats(0, 1) | st.sampled_from([0.0, 1.0])
flags = st.booleans()


def milestones(number: int, least: int = 1) -> st.SearchStrategy[list[int]]:
    return st.lists(lengths, min_size=number, max_size=number, unique=True).map(sorted)


bounded = st.one_of(
    st.builds(Constant, rates),
    st.builds(ExponentialDecay, rates, lengths, factors, flags, st.integers(0, 2**31 - 1), st.none() | rates),
    st.builds(ExponentialDecay, rates, lengths, st.floats(1, 1e300), flags, st.just(0), rates),
    st.builds(InverseTimeDecay, rates, lengths, st.floats(0, 1e300), flags, st.floats(0, 1e3)),
    st.builds(PolynomialDecay, rates, lengths, rates, st.floats(0, 1e3), flags),
    st.builds(CosineDecay, rates, lengths, st.floats(0, 2), rates, st.integers(0, 100), st.floats(0, 1e3), flags),
    st.builds(
        CosineDecayRestarts, rates, lengths, st.floats(1, 4) | st.sampled_from([1.0, 1e300]), factors, st.floats(0, 2)
    ),
    st.builds(
        Cyclic, st.floats(0, 1), st.floats(1, 2), lengths, lengths, st.sampled_from(["triangular", "triangular2"])
    ),
    st.builds(Cyclic, st.floats(0, 1), st.floats(1, 2), lengths, mode=st.just("exp_range"), gamma=st.floats(0, 1)),
    st.builds(PiecewiseConstantDecay, milestones(3), st.lists(rates, min_size=4, max_size=4)),
    st.builds(
        PiecewiseInterpolation,
        milestones(3),
        st.lists(rates, min_size=4, max_size=4),
        st.sampled_from(["linear", "cosine"]),
    ),
    st.builds(
        one_cycle,
        positive,
        st.integers(20, 10**6),
        st.floats(0.1, 0.4),
        st.sampled_from(["cos", "linear"]),
        st.floats(1, 100),
        st.floats(1, 1e6),
        flags,
        convention=st.sampled_from(["torch", "optax"]),
    ),
)
composed = st.recursive(
    bounded,
    lambda inner: st.one_of(
        st.builds(Warmup, inner, lengths, factors),
        st.builds(Sequential, st.lists(inner, min_size=3, max_size=3), milestones(2)),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, b: a * b, inner, factors),
    ),
    max_leaves=4,
)


@settings(deadline=None, max_examples=300)
@example(CosineDecayRestarts(0.3, 1, t_mul=1e300), 2**40)
@given(composed, any_step)
def test_never_negative_never_nan(schedule: Schedule, step: int) -> None:
    rate = schedule(step)
    assert 0 <= rate < math.inf


@given(st.floats(1, 1e300), st.integers(0, 2**40), rates)
def test_growth_has_no_overflow_error(decay_rate: float, step: int, start: float) -> None:
    rate = ExponentialDecay(start, 1, decay_rate)(step)
    assert rate >= start
    assert start > 1 or math.isfinite(rate)


falling = st.one_of(
    st.builds(ExponentialDecay, rates, lengths, factors, flags),
    st.builds(InverseTimeDecay, rates, lengths, st.floats(0, 1e3), flags, st.floats(0, 5)),
    st.builds(lambda a, b, n, power: PolynomialDecay(a + b, n, b, power), rates, rates, lengths, st.floats(0, 5)),
    st.builds(CosineDecay, rates, lengths, factors, exponent=st.floats(0, 5)),
)


@given(falling, any_step, st.integers(1, 2**40) | st.integers(1, 10))
def test_decays_do_not_rise(schedule: Schedule, step: int, further: int) -> None:
    """But for the last place: a library's power and cosine are not monotone to the bit."""
    earlier, later = schedule(step), schedule(step + further)
    assert later <= earlier * (1 + 1e-14) + 1e-15


@given(bounded, st.integers(1, 10**6), factors)
def test_warmup_meets_what_follows(schedule: Schedule, steps: int, start_factor: float) -> None:
    warm = Warmup(schedule, steps, start_factor)
    peak = schedule(0)
    assert warm(0) == peak * start_factor
    assert warm(steps) == peak
    assert abs(warm(steps) - warm(steps - 1)) <= peak / steps * (1 + 1e-9) + 1e-300
    assert warm(steps + 5) == schedule(5)


@given(positive, st.integers(1, 1000), st.integers(1, 5), st.integers(0, 8), st.floats(0.1, 1))
def test_restarts_are_at_the_exact_step(start: float, first: int, t_mul: int, number: int, m_mul: float) -> None:
    schedule = CosineDecayRestarts(start, first, t_mul=t_mul, m_mul=m_mul)
    begin = first * sum(t_mul**each for each in range(number + 1))
    assert schedule(begin) == pytest.approx(start * m_mul ** (number + 1), rel=1e-14)
    length = first * t_mul**number
    expected = start * m_mul**number * 0.5 * (1 + math.cos(math.pi * (length - 1) / length))
    assert schedule(begin - 1) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(0, 2500))
def test_sequences_of_any_length(sizes: list[int], step: int) -> None:
    ends = list(itertools.accumulate(sizes))
    parts = [Lambda(1.0, lambda step, part=part: part * 10_000 + step) for part in range(len(sizes) + 1)]
    part = sum(end <= step for end in ends)
    start = ends[part - 1] if part else 0
    assert Sequential(parts, ends)(step) == part * 10_000 + step - start


def test_many_pieces_do_not_nest_deep() -> None:
    many = Sequential([Constant(0.1)] * 3000, range(1, 3000))
    assert many(0) == many(2999) == many(10**9) == 0.1


def test_multiplicative_calls_its_function_once_a_step() -> None:
    calls = []

    def note(step: int) -> float:
        calls.append(step)
        return 0.5

    schedule = Multiplicative(1.0, note)
    assert [schedule(step) for step in (0, 1, 2, 2, 4)] == [1, 0.5, 0.25, 0.25, 0.0625]
    assert calls == [1, 2, 3, 4]
    assert schedule(1) == 0.5


# --- parts without a length -------------------------------------------------------------------------------------------

jump_up, jump_down = Cyclic(0.5, 1.0, 0, 4), Cyclic(0.5, 1.0, 4, 0)
decay = PolynomialDecay(1.0, 4, 0.5)
WITHOUT_LENGTH = [
    (Warmup(decay, 0), decay),
    (
        Warmup(decay, 0, 0.5, per="epoch", steps_per_epoch=2),
        PolynomialDecay(1.0, 4, 0.5, per="epoch", steps_per_epoch=2),
    ),
    (warmup_stable_decay(1.0, 5, 0, 4, 0.5), Warmup(decay, 5)),
    (warmup_stable_decay(1.0, 0, 5, 4, 0.5), Sequential([1.0, decay], [5])),
    (warmup_stable_decay(1.0, 0, 0, 4, 0.5, "cosine"), CosineDecay(1.0, 4, 0.5)),
    (inverse_square_root(1.0, 4, 0), InverseTimeDecay(1.0, 4, 1.0, power=0.5)),
    (CosineDecay(0.1, 4, warmup_target=1.0, warmup_steps=0), CosineDecay(1.0, 4)),
    (Sequential([0.1, decay], [0]), decay),
    (Sequential([0.1, 0.2, decay], [3, 3]), Sequential([0.1, decay], [3])),
    (Sequential([0.1, 0.2, decay, 0.3], [0, 0, 3]), Sequential([decay, 0.3], [3])),
    (multi_step(1.0, [0, 3], 0.5), multi_step(0.5, [3], 0.5)),
    (PiecewiseConstantDecay([0], [0.1, 0.2]), PiecewiseConstantDecay([1], [0.1, 0.2], side="right")),
    (jump_up, lambda step: 1.0 - 0.5 * (step % 4) / 4),
    (jump_down, lambda step: 0.5 + 0.5 * (step % 4) / 4),
]


@pytest.mark.parametrize(("schedule", "expected"), WITHOUT_LENGTH, ids=lambda each: repr_without_addresses(each))
def test_a_part_without_a_length_is_left_out(schedule: Schedule, expected: Callable[[int], float]) -> None:
    assert [schedule(step) for step in range(20)] == [expected(step) for step in range(20)]


# --- schedules that no framework has, by their formulas -------------------------------------------------------------


def test_inverse_square_root() -> None:
    """The Transformer's: peak * min(step / warmup, sqrt(warmup / step))."""
    schedule = inverse_square_root(0.3, 40, warmup_steps=40)
    for step in range(1, 500):
        assert schedule(step) == pytest.approx(0.3 * min(step / 40, math.sqrt(40 / step)), rel=1e-14)
    assert inverse_square_root(0.3, 40)(120) == pytest.approx(0.15, rel=1e-14)
    assert inverse_square_root(0.3, 1, 2, per="epoch", steps_per_epoch=10)(10) == 0.15


@pytest.mark.parametrize("decay_type", ["linear", "cosine"])
def test_warmup_stable_decay(decay_type: Any) -> None:
    schedule = warmup_stable_decay(0.4, 10, 20, 40, 0.1, decay_type)
    assert [schedule(step) for step in range(11)] == pytest.approx([0.04 * step for step in range(11)], rel=1e-14)
    assert {schedule(step) for step in range(10, 31)} == {0.4}
    assert schedule(50) == pytest.approx(0.25, rel=1e-14)
    assert schedule(40) == pytest.approx(
        {"linear": 0.325, "cosine": 0.25 + 0.15 * math.sqrt(0.5)}[decay_type], rel=1e-14
    )
    assert schedule(70) == schedule(10**9) == pytest.approx(0.1, rel=1e-14)
    assert warmup_stable_decay(0.0, 1, 1, 1, decay_type=decay_type)(5) == 0


# --- optimizers -----------------------------------------------------------------------------------------------------


@by_schedule
def test_in_an_optimizer(schedule: Schedule) -> None:
    """The same bits as with a rate that is assigned before each step."""
    scheduled, assigned = np.ones(3), np.ones(3)
    optimizer, by_hand = fastopt.Adam(scheduled, lr=schedule), fastopt.Adam(assigned)
    for step in range(25):
        assert optimizer.current_lr == (schedule(step),)
        by_hand.param_groups[0]["lr"] = schedule(step)
        for each, param in ((optimizer, scheduled), (by_hand, assigned)):
            each.step(param * (1 + step))
    assert optimizer.param_groups[0]["lr"] is schedule
    assert scheduled.tobytes() == assigned.tobytes()


# --- Numba ----------------------------------------------------------------------------------------------------------


def rates_in_numba(schedule: Schedule, steps: int) -> np.ndarray:
    import numba

    rate = schedule.jit

    @numba.njit
    def loop(steps: int) -> np.ndarray:
        rates = np.empty(steps)
        for step in range(steps):
            rates[step] = rate(step)
        return rates

    found: np.ndarray = loop(steps)
    return found


@pytest.mark.parametrize("schedule", NO_LIBRARY, ids=repr_without_addresses)
def test_the_same_bits_in_a_loop_of_numba(schedule: Schedule) -> None:
    np.testing.assert_array_equal(rates_in_numba(schedule, 100), [schedule(step) for step in range(100)])


@pytest.mark.parametrize("schedule", WITH_LIBRARY, ids=repr_without_addresses)
def test_powers_and_cosines_in_a_loop_of_numba(schedule: Schedule) -> None:
    """LLVM may compute 2**x with exp2 and the like: some units in the last place, of the largest rate at a zero."""
    expected = [schedule(step) for step in range(100)]
    np.testing.assert_allclose(rates_in_numba(schedule, 100), expected, rtol=1e-14, atol=1e-16)


def test_a_callers_fastmath_changes_nothing() -> None:
    """Numba hands a caller's flags on to what it calls, and keeps what was compiled then for every other caller."""
    found = in_a_fresh_process("""if True:
        import numba, numpy as np
        from fastopt.schedules import PolynomialDecay
        schedule = PolynomialDecay(0.3, 20, end_learning_rate=0.01)
        rate = schedule.jit

        def loop(steps):
            rates = np.empty(steps)
            for step in range(steps):
                rates[step] = rate(step)
            return rates

        for flags in ({"fastmath": True, "error_model": "numpy"}, {}):
            print(np.array_equal(numba.njit(**flags)(loop)(100), [schedule(step) for step in range(100)]))
    """)
    assert found.split() == ["True", "True"]


def test_a_users_own_compiled_function() -> None:
    import numba

    schedule = Lambda(0.5, numba.njit(inverse))
    assert schedule.jit(3) == schedule(3) == 0.125
    assert schedule.jit is schedule.jit


# --- bad input ------------------------------------------------------------------------------------------------------


class Bad(NamedTuple):
    call: Callable[[], Any]
    error: type[Exception]
    match: str


NAN, INF = math.nan, math.inf
BAD = [
    Bad(lambda: Constant(-0.1), ValueError, r"Constant: learning_rate must be finite and >= 0, got -0.1"),
    Bad(lambda: Constant(NAN), ValueError, "learning_rate must be finite and >= 0, got nan"),
    Bad(lambda: Constant(INF), ValueError, "learning_rate must be finite and >= 0, got inf"),
    Bad(lambda: Constant("0.1"), TypeError, "learning_rate must be a real number, got '0.1'"),  # type: ignore[arg-type]
    Bad(lambda: Constant(True), TypeError, "learning_rate must be a real number, got True"),
    Bad(lambda: ExponentialDecay(0.1, 0, 0.5), ValueError, "ExponentialDecay: decay_steps must be at least 1.*got 0"),
    Bad(lambda: ExponentialDecay(0.1, 1.5, 0.5), TypeError, "decay_steps must be an integer, got 1.5"),  # type: ignore[arg-type]
    Bad(lambda: ExponentialDecay(0.1, 1, -0.5), ValueError, "decay_rate must be finite and >= 0, got -0.5"),
    Bad(lambda: ExponentialDecay(0.1, 1, 0.5, 1), TypeError, "staircase must be True or False, got 1"),  # type: ignore[arg-type]
    Bad(lambda: ExponentialDecay(0.1, 1, 0.5, transition_begin=-1), ValueError, "transition_begin must be at least 0"),
    Bad(lambda: ExponentialDecay(0.1, 1, 0.5, end_learning_rate=NAN), ValueError, "end_learning_rate .*got nan"),
    Bad(lambda: InverseTimeDecay(0.1, 1, NAN), ValueError, "InverseTimeDecay: decay_rate .*got nan"),
    Bad(lambda: PolynomialDecay(0.1, 5, power=-1), ValueError, "PolynomialDecay: power .*>= 0, got -1"),
    Bad(lambda: CosineDecay(0.1, 5, alpha=-0.5), ValueError, "CosineDecay: alpha .*got -0.5"),
    Bad(lambda: CosineDecay(0.1, 5, warmup_steps=2), ValueError, "warmup_steps needs a warmup_target"),
    Bad(lambda: CosineDecayRestarts(0.1, 5, t_mul=0.5), ValueError, "t_mul must be at least 1, got 0.5"),
    Bad(lambda: PiecewiseConstantDecay([5, 5], [1, 2, 3]), ValueError, r"boundaries must be increasing, got \[5, 5\]"),
    Bad(lambda: PiecewiseConstantDecay([5, 3], [1, 2, 3]), ValueError, r"boundaries must be increasing, got \[5, 3\]"),
    Bad(lambda: PiecewiseConstantDecay([-1], [1, 2]), ValueError, r"boundaries\[0\] must be at least 0.*got -1"),
    Bad(lambda: PiecewiseConstantDecay([5], [1]), ValueError, "values must be one more.*1 values and 1 boundaries"),
    Bad(lambda: PiecewiseConstantDecay([5], [1, -1]), ValueError, r"values\[1\] must be finite and >= 0, got -1"),
    Bad(lambda: PiecewiseConstantDecay(5, [1, 2]), TypeError, "boundaries must be a sequence, got 5"),  # type: ignore[arg-type]
    Bad(lambda: PiecewiseConstantDecay([5], [1, 2], "up"), ValueError, "side must be one of 'left', 'right', got 'up'"),  # type: ignore[arg-type]
    Bad(lambda: multi_step(1.0, [5, 6], [0.1]), ValueError, "multi_step: gamma .* one for each milestone, got 1 for 2"),
    Bad(lambda: multi_step(1.0, [6, 5]), ValueError, "multi_step: milestones must be increasing"),
    Bad(lambda: PiecewiseInterpolation([5], [1, 2], "cubic"), ValueError, "interpolate_type .*'cosine', got 'cubic'"),  # type: ignore[arg-type]
    Bad(lambda: PiecewiseInterpolation([-5.0], [1, 2]), ValueError, r"boundaries\[0\] must be finite and > 0"),
    Bad(lambda: one_cycle(0.1, 3, 0.3), ValueError, "one_cycle: every phase needs .*total_steps=3"),
    Bad(lambda: one_cycle(0.1, 100, 1.0), ValueError, "every phase needs .*pct_start=1.0"),
    Bad(lambda: one_cycle(0.1, 100, pct_final=0.5), ValueError, "pct_final needs three_phase=True, got pct_final=0.5"),
    Bad(lambda: one_cycle(0.1, 100, anneal_strategy="cosine"), ValueError, "anneal_strategy must be one of 'cos'"),  # type: ignore[arg-type]
    Bad(lambda: one_cycle(0.1, 100, three_phase=1), TypeError, "three_phase must be True or False, got 1"),  # type: ignore[arg-type]
    Bad(lambda: one_cycle(0.1, 100, convention="keras"), ValueError, "convention must be one of 'torch', 'optax'"),  # type: ignore[arg-type]
    Bad(lambda: one_cycle(0.1, 100, div_factor=0), ValueError, "div_factor must be finite and > 0, got 0"),
    Bad(lambda: Cyclic(0.2, 0.1), ValueError, "max_lr must be at least base_lr, got max_lr=0.1 and base_lr=0.2"),
    Bad(lambda: Cyclic(0.1, 0.2, mode="square"), ValueError, "mode must be one of 'triangular', .*got 'square'"),  # type: ignore[arg-type]
    Bad(lambda: Cyclic(0.1, 0.2, 0, 0), ValueError, "must not both be 0, got step_size_up=0 and step_size_down=0"),
    Bad(lambda: Cyclic(0.1, 0.2, 0), ValueError, "must not both be 0, got step_size_up=0 and step_size_down=None"),
    Bad(lambda: Cyclic(0.1, 0.2, step_size_down=-1), ValueError, "step_size_down must be at least 0.*got -1"),
    Bad(lambda: Cyclic(0.1, 0.2, scale_fn=2), TypeError, "scale_fn must be a function, got 2"),  # type: ignore[arg-type]
    Bad(lambda: Warmup(inverse, 5), TypeError, r"schedule must be a schedule or a number, .*Lambda\(1.0, function\)"),
    Bad(lambda: Warmup(0.1, -1), ValueError, "Warmup: warmup_steps must be at least 0.*got -1"),
    Bad(lambda: Sequential([0.1, 0.2], []), ValueError, "schedules must be one more than milestones, got 2 .* 0"),
    Bad(lambda: Sequential([0.1, 0.2, 0.3], [5, 4]), ValueError, r"milestones must not decrease, got \[5, 4\]"),
    Bad(lambda: Sequential([0.1, -0.2], [5]), ValueError, r"schedules\[1\] must be finite and >= 0, got -0.2"),
    Bad(lambda: Product([]), ValueError, r"Product: schedules must not be empty"),
    Bad(lambda: Lambda(0.1, 0.5), TypeError, "lr_lambda must be a function, got 0.5"),  # type: ignore[arg-type]
    Bad(lambda: Constant(0.1) * -1, ValueError, "Scaled: factor must be finite and >= 0, got -1"),
    Bad(lambda: Constant(0.1) * NAN, ValueError, "Scaled: factor must be finite and >= 0, got nan"),
    Bad(lambda: Constant(0.1) * 1e200 * 1e200, ValueError, "Scaled: the product of all factors"),
    Bad(lambda: Constant(0.1) * True, TypeError, "Scaled: factor must be a real number, got True"),
    Bad(lambda: Constant(0.1, per="batch"), ValueError, "per must be one of 'step', 'epoch', got 'batch'"),  # type: ignore[arg-type]
    Bad(
        lambda: Constant(0.1, per="epoch"), ValueError, "steps_per_epoch goes with per='epoch', .*steps_per_epoch=None"
    ),
    Bad(lambda: Constant(0.1, steps_per_epoch=5), ValueError, "steps_per_epoch goes with per='epoch', got per='step'"),
    Bad(lambda: Constant(0.1, per="epoch", steps_per_epoch=0), ValueError, "steps_per_epoch must be at least 1.*got 0"),
    Bad(lambda: Constant(0.1)(-1), ValueError, "step must be >= 0, got -1"),
    Bad(lambda: Constant(0.1)(1.5), TypeError, "step must be a whole number, got 1.5 of type float"),  # type: ignore[arg-type]
    Bad(lambda: Constant(0.1)(2.0), TypeError, "step must be a whole number, got 2.0"),  # type: ignore[arg-type]
    Bad(lambda: Constant(0.1)(True), TypeError, "step must be a whole number, got True"),
    Bad(lambda: Constant(0.1)(None), TypeError, "step must be a whole number, got None"),  # type: ignore[arg-type]
    Bad(lambda: warmup_stable_decay(0.1, 1, 1, 1, decay_type="exp"), ValueError, "decay_type must be one of"),  # type: ignore[arg-type]
    Bad(lambda: inverse_square_root(0.1, 10, -1), ValueError, "warmup_steps must be at least 0"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.match[:60])
def test_bad_input(bad: Bad) -> None:
    with pytest.raises(bad.error, match=bad.match):
        bad.call()


def test_lazy() -> None:
    assert fastopt.schedules is schedules

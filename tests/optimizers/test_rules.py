"""Custom rules: built-in rules made anew give the same bits, and what is not a rule is refused with its line."""

from __future__ import annotations

import copy
import ctypes
import inspect
import math
import pickle
from typing import Any

import numpy as np
import pytest
from cases import CONVENTION_CASES, VARIANTS, Case, equal_bits, extra_options, random_gradient
from custom_momentum import Momentum

import fastopt
from fastopt.definitions.conventions import spec_of
from fastopt.definitions.hyperparameters import HYPERPARAMETERS
from fastopt.definitions.specs import SPECS
from fastopt.kernels.constants import ENGINE_ARGUMENTS
from fastopt.kernels.formulas import coefficients, registry, rules
from fastopt.kernels.numba import loops as numba_loops
from fastopt.rules import CARRIED, COMMON, clip, floor, maximum, select, sign, sqrt


def made_anew(case: Case) -> tuple[type[fastopt.Optimizer], dict[str, Any]]:
    """A built-in optimizer's rule as a user would make it, and the hyperparameters of a case for it."""
    spec = spec_of(case.optimizer, case.options.get("convention", "torch"))
    values = {**spec.defaults, **{name: value for name, value in case.options.items() if name in spec.defaults}}
    rule, function = spec.rule(values), registry.coefficient_function(spec.coefficients)
    numbers = {"lr": values["lr"], **spec.numbers(values)}
    wanted = [name for name in function.arguments if name not in (*ENGINE_ARGUMENTS, *spec.carried, "lr")]
    hyper = {"lr": numbers["lr"], **{name: float(numbers.get(name, 0.0)) for name in wanted}}
    for name, known in HYPERPARAMETERS.items():  # a flag of the same name is a flag here, too
        if known.flag and name in hyper:
            hyper[name] = bool(hyper[name])
    starts = {
        name: float(values[start]) if isinstance(start, str) and start != "lr" else start
        for name, start in spec.initial.items()
    }
    made = fastopt.rule(
        state={name: starts.get(name, 0.0) for name in registry.rule(rule).states},
        hyper=hyper,
        coefficients=getattr(coefficients, spec.coefficients),
    )(getattr(rules, rule))
    return made, {name: values[name] for name in COMMON if name in values}


def rule_of(case: Case) -> str:
    spec = spec_of(case.optimizer, case.options.get("convention", "torch"))
    return spec.rule(
        {**spec.defaults, **{name: value for name, value in case.options.items() if name in spec.defaults}}
    )


def can_be_made_anew(case: Case) -> bool:
    """Whether what comes before the rule, and what it carries to the next step, can be a custom rule's."""
    spec = spec_of(case.optimizer, case.options.get("convention", "torch"))
    return spec.stages(rule_of(case)) == ("regularize", spec.coefficients) and spec.carried.keys() <= CARRIED.keys()


def without_decay(case: Case) -> Case:
    """Legacy Keras' decay of the rate is its convention's, not its rules'."""
    return Case(case.optimizer, {name: value for name, value in case.options.items() if name != "decay"})


REFERENCES = list(dict.fromkeys(map(without_decay, filter(can_be_made_anew, [*VARIANTS, *CONVENTION_CASES]))))


def train(optimizer: fastopt.Optimizer, params: list[np.ndarray], gradients: list[list[np.ndarray]]) -> None:
    for each in gradients:
        optimizer.step([None if gradient is None else gradient.copy() for gradient in each])


def problem(dtype: Any, n_steps: int = 4) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    rng = np.random.default_rng(7)
    shapes = ((301,), (3, 5), ())
    params = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    return params, [[random_gradient(rng, shape, dtype) for shape in shapes] for _ in range(n_steps)]


ONE_OF_EACH_RULE = list({rule_of(case): case for case in reversed(REFERENCES)}.values())
OTHERS = [case for case in REFERENCES if case not in ONE_OF_EACH_RULE]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, np.float32) for case in ONE_OF_EACH_RULE),
        *(pytest.param(case, np.float64, marks=pytest.mark.exhaustive) for case in ONE_OF_EACH_RULE),
        *(pytest.param(case, np.float32, marks=pytest.mark.exhaustive) for case in OTHERS),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_a_built_in_rule_made_anew_gives_the_same_bits(case: Case, dtype: Any) -> None:
    made, values = made_anew(case)
    params, gradients = problem(dtype)
    expected = [param.copy() for param in params]
    clipping = {"clip_norm": 3.0} if case.options.get("convention", "torch") == "torch" else {}
    built_in = case.make(expected, **clipping)
    train(built_in, expected, gradients)
    for backend in ("numba", "reference"):
        mine = [param.copy() for param in params]
        optimizer = made(mine, backend=backend, **values, **clipping)
        train(optimizer, mine, gradients)
        assert all(map(equal_bits, mine, expected)), backend
        for index, state in built_in.state.items():
            assert state.keys() == optimizer.state[index].keys()
            for name, array in state.items():
                assert np.array_equal(array, optimizer.state[index][name], equal_nan=True), name


def test_every_rule_is_made_anew() -> None:
    others = {
        rule
        for spec in SPECS.values()
        for rule in spec.rules.values()
        if spec.stages(rule)[0] != "regularize" or not spec.carried.keys() <= CARRIED.keys()
    }
    assert {rule_of(case) for case in ONE_OF_EACH_RULE} == set(registry.rules()) - others


@pytest.mark.parametrize("options", extra_options().values(), ids=extra_options())
@pytest.mark.parametrize("name", ["Adam", "SGD", "Rprop"])
def test_options_around_a_custom_rule_are_those_around_a_built_in_one(name: str, options: dict[str, Any]) -> None:
    case = next(each for each in VARIANTS if each.optimizer == name and not each.options.get("amsgrad"))
    made, values = made_anew(case)
    params, gradients = problem(np.float32)
    if options.get("prox") is not None and options["prox"].row is None:
        with pytest.raises(ValueError, match="prox is not possible"):
            made(params, **values, **options)
        return
    expected = [param.copy() for param in params]
    train(case.make(expected, **options), expected, gradients)
    for backend in ("auto", "reference"):
        mine = [param.copy() for param in params]
        train(made(mine, backend=backend, **values, **options), mine, gradients)
        assert all(map(equal_bits, mine, expected)), backend


# --- an optimizer like all others -------------------------------------------------------------------------------------


def twin(**options: Any) -> tuple[fastopt.Optimizer, np.ndarray]:
    w = np.linspace(-1, 1, 50, dtype=np.float32)
    return fastopt.SGD(w, lr=1e-2, momentum=0.9, **options), w


def test_it_is_an_optimizer_class() -> None:
    assert issubclass(Momentum, fastopt.Optimizer)
    assert Momentum.__name__ == "Momentum"
    assert Momentum.__module__ == "custom_momentum"
    assert str(inspect.signature(Momentum)) == (
        "(params, lr=0.01, beta=0.9, nesterov=False, *, weight_decay=0.0, decoupled_weight_decay=False, "
        "maximize=False, **options)"
    )
    assert inspect.getdoc(Momentum).startswith("Heavy ball.")  # type: ignore[union-attr]


def test_groups_schedules_segments_and_threads() -> None:
    schedule = fastopt.schedules.ExponentialDecay(0.1, decay_rate=0.5, decay_steps=3)
    mine, other = ({"w": np.ones(20_000, np.float32), "b": np.ones(3, np.float32)} for _ in range(2))

    def groups(params: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        return [{"params": [params["w"]], "weight_decay": 0.1}, {"params": [params["b"]], "lr": 0.5}]

    optimizer = Momentum(groups(mine), lr=schedule, n_threads=2)
    expected = fastopt.SGD(groups(other), lr=schedule, momentum=0.9)
    for each in (optimizer, expected):
        each.set_segments(0, lr_scale=0.5)
        for step in range(5):
            each.param_groups[1]["lr"] = 0.1 * step
            each.step([[np.full(20_000, 0.1, np.float32)], [np.ones(3, np.float32)]])
    assert optimizer.current_lr == expected.current_lr
    assert all(equal_bits(mine[name], other[name]) for name in mine)


def test_state_dicts_pickles_and_copies_go_on_with_the_same_bits() -> None:
    w = np.linspace(-1, 1, 50, dtype=np.float32)
    expected, other = twin()
    g = np.cos(np.arange(50, dtype=np.float32))
    optimizer = Momentum(w)
    optimizer.step(g)
    saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
    again = Momentum(w.copy())
    again.load_state_dict(saved)
    copies = [again, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    for _ in range(2):
        expected.step(g)
    for each in copies:
        each.step(g)
        assert equal_bits(each.param_groups[0]["params"][0], other)
    with pytest.raises(ValueError, match="beta"):
        fastopt.Adam(w.copy()).load_state_dict(saved)


def test_describe_prints_the_update(capsys: pytest.CaptureFixture[str]) -> None:
    Momentum(np.zeros(3), nesterov=True, weight_decay=0.5).describe()
    shown = capsys.readouterr().out
    assert "Momentum, a custom rule" in shown
    assert "exp_avg = 0.9 * exp_avg + grad" in shown
    assert "param = param - 0.01 * (0.9 * exp_avg + grad)" in shown
    assert "PyTorch" not in shown


def test_step_and_starts() -> None:
    @fastopt.rule(state={"sum": "start"}, hyper={"lr": 1.0, "start": 2.0})
    def Harmonic(param, grad, sum, lr, step):  # type: ignore[no-untyped-def]
        sum = sum + grad
        param = param - lr / step * sum
        return param, sum

    for backend in ("auto", "reference"):
        w = np.zeros(2)
        optimizer = Harmonic(w, backend=backend, start=3.0)
        optimizer.step(np.ones(2))
        optimizer.step(np.ones(2))
        assert w.tolist() == [-4 - 5 / 2] * 2


def test_names_of_its_own_can_be_those_of_options() -> None:
    """`low`, `l1` and `ema_weight` are what options call their own coefficients."""

    @fastopt.rule(state=("size",), hyper={"lr": 0.5, "low": 2.0, "l1": 3.0, "ema_weight": 5.0})
    def Odd(param, grad, size, lr, low, l1, ema_weight):  # type: ignore[no-untyped-def]
        size = size + low * l1 * ema_weight
        param = param - lr * grad
        return param, size

    for backend in ("auto", "reference"):
        w = np.zeros(3)
        optimizer = Odd(w, backend=backend, ema_weight=7.0, projection=fastopt.constraints.Box(-1.5, 1.0))
        optimizer.step(np.array([1.0, -4.0, 4.0]))
        assert w.tolist() == [-0.5, 1.0, -1.5]
        assert optimizer.state[0]["size"].tolist() == [42.0] * 3


def test_expressions_can_be_returned() -> None:
    @fastopt.rule(state=("exp_avg",), hyper={"lr": 0.5, "beta": 0.5})
    def Short(param, grad, exp_avg, lr, beta):  # type: ignore[no-untyped-def]
        exp_avg = beta * exp_avg + grad
        return param - lr * exp_avg, exp_avg

    for backend in ("auto", "reference"):
        w = np.zeros(2)
        optimizer = Short(w, backend=backend)
        optimizer.step(np.ones(2))
        optimizer.step(np.ones(2))
        assert w.tolist() == [-1.25, -1.25]
    optimizer.describe()


def test_names_that_loops_use_are_free_for_states() -> None:
    @fastopt.rule(state=("i", "size", "operands", "block"), hyper={"lr": 0.5, "blocks": 1.0})
    def Names(param, grad, i, size, operands, block, lr, blocks):  # type: ignore[no-untyped-def]
        i = i + grad
        size = size + 2 * grad
        operands = operands + 3 * grad
        block = block + 4 * grad
        param = param - lr * blocks * grad
        return param, i, size, operands, block

    w = np.zeros(200)
    optimizer = Names(w)
    optimizer.step(np.ones(200))
    optimizer.step(np.ones(200))
    assert w.tolist() == [-1.0] * 200
    assert [optimizer.state[0][name][150] for name in ("i", "size", "operands", "block")] == [2, 4, 6, 8]


def test_numbers_are_of_the_parameters_precision_in_every_backend() -> None:
    def tenth(x):  # type: ignore[no-untyped-def]
        share = 1 - 0.9
        return share * x + (2 / 3) * select(x > 0, 1, 0)

    @fastopt.rule(state=(), hyper={"lr": 0.1})
    def Shares(param, grad, lr):  # type: ignore[no-untyped-def]
        return param - lr * tenth(grad) - 1 / 3 * floor(grad) + clip(sign(grad), -0.3, maximum(grad, 0.7)) * sqrt(2)

    g = np.random.default_rng(1).standard_normal(777).astype(np.float32)
    results = []
    for backend in ("numba", "reference"):
        w = np.zeros(777, np.float32)
        Shares(w, backend=backend).step(g)
        results.append(w)
    assert equal_bits(*results)


def test_powers_are_the_c_librarys_whatever_the_exponent() -> None:
    """LLVM would make products, roots and exp2 of some, which are other bits now and then."""

    def separate(lr, x):  # type: ignore[no-untyped-def]
        a = x**2
        b = x**0.5
        c = x**3
        d = 2**x
        e = x**-0.5
        return a, b, c, d, e

    @fastopt.rule(state=(), hyper={"lr": 1.0, "x": 0.1}, coefficients=separate)
    def Powers(param, grad, a, b, c, d, e):  # type: ignore[no-untyped-def]
        return param - (a + b + c + d + e) * grad

    compute = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(
        numba_loops.coefficient_function(Powers.spec.coefficients)
    )
    xs = np.random.default_rng(8).uniform(0, 3, 20_000)
    found = np.zeros((xs.size, 5))
    arguments = np.ones((xs.size, 2))
    arguments[:, 1] = xs
    for given, results in zip(arguments, found, strict=True):
        compute(given.ctypes.data, results.ctypes.data)
    expected = [[math.pow(x, 2), math.pow(x, 0.5), math.pow(x, 3), math.pow(2, x), math.pow(x, -0.5)] for x in xs]
    assert equal_bits(found, np.array(expected))


@pytest.mark.parametrize("spec_name", sorted({case.optimizer for case in VARIANTS if can_be_made_anew(case)}))
def test_what_is_told_of_a_rule_from_its_text_fits_what_was_measured(spec_name: str) -> None:
    """Costs decide about threads only: within a factor of two. Squares decide what overflows: the same."""
    for case in VARIANTS:
        if case.optimizer == spec_name and can_be_made_anew(case):
            made, _ = made_anew(case)
            spec = spec_of(case.optimizer, "torch")
            measured = spec.costs[spec.rule({**spec.defaults, **case.options})]
            told = made.spec.costs[made.spec.rule({})]
            assert made.spec.squares == spec.squares
            assert all(one / 2 < other < one * 2 for one, other in zip(measured, told, strict=True)), (measured, told)

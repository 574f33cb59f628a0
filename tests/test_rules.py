"""Users' own rules: built-in rules made anew give the same bits, and what is not a rule is refused with its line."""

from __future__ import annotations

import copy
import ctypes
import importlib.util
import inspect
import itertools
import math
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import CONVENTION_CASES, DTYPES, VARIANTS, Case, equal_bits, extra_options, random_gradient

import fastopt
from fastopt import rules as own
from fastopt.conventions import spec_of
from fastopt.hyperparameters import HYPERPARAMETERS
from fastopt.kernels import coefficients, formulas, numba_loops, rules
from fastopt.kernels.plan import ENGINE_ARGUMENTS
from fastopt.rules import COMMON, clip, floor, maximum, select, sign, sqrt


def made_anew(case: Case) -> tuple[type[fastopt.Optimizer], dict[str, Any]]:
    """A built-in optimizer's rule as a user would make it, and the hyperparameters of a case for it."""
    spec = spec_of(case.optimizer, case.options.get("convention", "torch"))
    values = {**spec.defaults, **{name: value for name, value in case.options.items() if name in spec.defaults}}
    rule, function = spec.rule(values), formulas.coefficient_function(spec.coefficients)
    numbers = {"lr": values["lr"], **spec.numbers(values)}
    wanted = [name for name in function.arguments if name not in (*ENGINE_ARGUMENTS, "lr")]
    hyper = {"lr": numbers["lr"], **{name: float(numbers.get(name, 0.0)) for name in wanted}}
    for name, known in HYPERPARAMETERS.items():  # a flag of the same name is a flag here, too
        if known.flag and name in hyper:
            hyper[name] = bool(hyper[name])
    starts = {
        name: float(values[start]) if isinstance(start, str) and start != "lr" else start
        for name, start in spec.initial.items()
    }
    made = fastopt.rule(
        state={name: starts.get(name, 0.0) for name in formulas.rule(rule).states},
        hyper=hyper,
        coefficients=getattr(coefficients, spec.coefficients),
    )(getattr(rules, rule))
    return made, {name: values[name] for name in COMMON if name in values}


def without_decay(case: Case) -> Case:
    """Legacy Keras' decay of the rate is its convention's, not its rules'."""
    return Case(case.optimizer, {name: value for name, value in case.options.items() if name != "decay"})


REFERENCES = list(dict.fromkeys(map(without_decay, [*VARIANTS, *CONVENTION_CASES])))


def train(optimizer: fastopt.Optimizer, params: list[np.ndarray], gradients: list[list[np.ndarray]]) -> None:
    for each in gradients:
        optimizer.step([None if gradient is None else gradient.copy() for gradient in each])


def problem(dtype: Any, n_steps: int = 4) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    rng = np.random.default_rng(7)
    shapes = ((301,), (3, 5), ())
    params = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    return params, [[random_gradient(rng, shape, dtype) for shape in shapes] for _ in range(n_steps)]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("case", REFERENCES, ids=str)
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
    names = set()
    for case in REFERENCES:
        spec = spec_of(case.optimizer, case.options.get("convention", "torch"))
        names.add(spec.rule({**spec.defaults, **{k: v for k, v in case.options.items() if k in spec.defaults}}))
    assert names == set(formulas.rules())


@pytest.mark.parametrize("options", extra_options().values(), ids=extra_options())
@pytest.mark.parametrize("name", ["Adam", "SGD", "Rprop"])
def test_options_around_an_own_rule_are_those_around_a_built_in_one(name: str, options: dict[str, Any]) -> None:
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


@own.rule(state=("exp_avg",), hyper={"lr": 1e-2, "beta": 0.9, "nesterov": False}, domain={"beta": "[0, 1)"})
def Momentum(param, grad, exp_avg, lr, beta, nesterov):  # type: ignore[no-untyped-def]
    """Heavy ball."""
    exp_avg = beta * exp_avg + grad
    param = param - lr * select(nesterov != 0, beta * exp_avg + grad, exp_avg)
    return param, exp_avg


def twin(**options: Any) -> tuple[fastopt.Optimizer, np.ndarray]:
    w = np.linspace(-1, 1, 50, dtype=np.float32)
    return fastopt.SGD(w, lr=1e-2, momentum=0.9, **options), w


def test_it_is_an_optimizer_class() -> None:
    assert issubclass(Momentum, fastopt.Optimizer)
    assert Momentum.__name__ == "Momentum"
    assert Momentum.__module__ == __name__
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
    assert "Momentum, a rule of your own" in shown
    assert "exp_avg = 0.9 * exp_avg + grad" in shown
    assert "param = param - 0.01 * (0.9 * exp_avg + grad)" in shown
    assert "PyTorch" not in shown


def test_step_and_starts() -> None:
    @own.rule(state={"sum": "start"}, hyper={"lr": 1.0, "start": 2.0})
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

    @own.rule(state=("size",), hyper={"lr": 0.5, "low": 2.0, "l1": 3.0, "ema_weight": 5.0})
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
    @own.rule(state=("exp_avg",), hyper={"lr": 0.5, "beta": 0.5})
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
    @own.rule(state=("i", "size", "streams", "block"), hyper={"lr": 0.5, "blocks": 1.0})
    def Names(param, grad, i, size, streams, block, lr, blocks):  # type: ignore[no-untyped-def]
        i = i + grad
        size = size + 2 * grad
        streams = streams + 3 * grad
        block = block + 4 * grad
        param = param - lr * blocks * grad
        return param, i, size, streams, block

    w = np.zeros(200)
    optimizer = Names(w)
    optimizer.step(np.ones(200))
    optimizer.step(np.ones(200))
    assert w.tolist() == [-1.0] * 200
    assert [optimizer.state[0][name][150] for name in ("i", "size", "streams", "block")] == [2, 4, 6, 8]


def test_numbers_are_of_the_parameters_precision_in_every_backend() -> None:
    def tenth(x):  # type: ignore[no-untyped-def]
        share = 1 - 0.9
        return share * x + (2 / 3) * select(x > 0, 1, 0)

    @own.rule(state=(), hyper={"lr": 0.1})
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

    @own.rule(state=(), hyper={"lr": 1.0, "x": 0.1}, coefficients=separate)
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


# --- changed rules --------------------------------------------------------------------------------------------------

SOURCE = """\
from fastopt import rule
from fastopt.rules import {words}

{before}
@rule(state=("exp_avg",), hyper=dict(lr=1.0, beta=0.5){more})
def Mine({arguments}):
    {body}
"""

counter = itertools.count()


def load(tmp_path: Path, body: str, **parts: str) -> ModuleType:
    path = tmp_path / f"mine_{next(counter)}.py"
    arguments = {"words": "sqrt, select", "before": "", "more": "", "arguments": "param, grad, exp_avg, lr, beta"}
    path.write_text(SOURCE.format(**{**arguments, **parts, "body": body}))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


GOOD = "exp_avg = {} * grad\n    param = param - lr * exp_avg\n    return param, exp_avg"


def test_a_changed_rule_is_another(tmp_path: Path) -> None:
    results = []
    for factor in (1, 2, 1):
        w = np.zeros(3)
        load(tmp_path, GOOD.format(factor)).Mine(w).step(np.ones(3))
        results.append(w[0])
    assert results == [-1, -2, -1]


def test_a_changed_helper_or_coefficient_is_another(tmp_path: Path) -> None:
    def result(**parts: str) -> float:
        w = np.zeros(3)
        load(tmp_path, GOOD.format("twice(beta)").replace("twice", "helper"), **parts).Mine(w).step(np.ones(3))
        return float(w[0])

    assert [result(before=f"def helper(x):\n    return x * {each}\n") for each in (2, 3)] == [-1.0, -1.5]
    rates = "def rates(step, lr, beta):\n    lr = lr * {}\n    return lr, beta\n\ndef helper(x):\n    return x\n"
    found = [result(before=rates.format(each), more=", coefficients=rates") for each in (2, 3)]
    assert found == [-1.0, -1.5]


def test_a_file_that_changed_since_it_was_loaded_is_not_compiled(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    text = "def mine(param, grad, lr):\n    param = param - {} * lr * grad\n    return param\n"
    path.write_text(text.format(1))
    spec = importlib.util.spec_from_file_location("changing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path.write_text(text.format(22))
    with pytest.raises(own.SourceError, match="was changed since it was loaded"):
        own.rule(state=(), hyper={"lr": 1.0})(module.mine)


def test_without_source_there_is_no_rule() -> None:
    namespace: dict[str, Any] = {}
    exec("def mine(param, grad, lr):\n    param = param - lr * grad\n    return param", namespace)
    with pytest.raises(own.SourceError, match=r"the source of mine cannot be read.*write it with def"):
        own.rule(state=(), hyper={"lr": 1.0})(namespace["mine"])
    with pytest.raises(own.SourceError, match="written with def"):
        own.rule(state=(), hyper={"lr": 1.0})(lambda param, grad, lr: param - lr * grad)
    with pytest.raises(TypeError, match="a plain function is needed"):
        own.rule(state=(), hyper={"lr": 1.0})(np.sqrt)


# --- what is refused --------------------------------------------------------------------------------------------------

R = "\n    return param, exp_avg"
# (what it is, body, other parts, line within the file, message)
OUTSIDE: list[tuple[str, str, dict[str, str], int, str]] = [
    ("if", "if grad > 0:\n        param = param - lr" + R, {}, 7, r"write select\(condition"),
    ("conditional", "param = param if grad > 0 else -param" + R, {}, 7, r"write select\("),
    ("augmented", "param -= lr * grad" + R, {}, 7, r"write `name = name"),
    ("power", "exp_avg = exp_avg\n    param = param - lr * grad**2" + R, {}, 8, r"powers are for coefficient.*x \* x"),
    ("loop", "for i in range(3):\n        param = param - lr" + R, {}, 7, "no loops"),
    ("comparison", "param = param - lr * (grad > 0)" + R, {}, 7, "only be the condition of select"),
    ("two comparisons", "param = select(0 < grad < 1, param, grad)" + R, {}, 7, "must be one comparison"),
    ("no comparison", "param = select(grad, param, grad)" + R, {}, 7, "must be one comparison"),
    ("attribute", "param = np.sqrt(grad)" + R, {"before": "import numpy as np\n"}, 8, "'np.sqrt.*no dot"),
    ("subscript", "param = param[0]" + R, {}, 7, "nothing to index"),
    ("global", "param = param - RATE * grad" + R, {"before": "RATE = 0.5\n"}, 8, "'RATE' is not defined here"),
    ("abs", "param = abs(param)" + R, {}, 7, r"abs\(\) is not in the vocabulary.*write maximum\(x, -x\)"),
    ("other word", "param = sqrt(param)" + R, {"words": "sign", "before": "from math import sqrt\n"}, 8, "fastopt"),
    ("no import", "param = sign(param)" + R, {}, 7, "sign is not defined here; write `from fastopt.rules import sign`"),
    ("arity", "param = select(grad > 0, param)" + R, {}, 7, r"select\(\) takes 3 arguments, got 2"),
    ("string", "param = 'a'" + R, {}, 7, "outside of the dialect"),
    ("two targets", "param, exp_avg = exp_avg, param" + R, {}, 7, "one plain name"),
    ("word as a name", "sqrt = param" + R, {}, 7, "'sqrt' is a function here"),
    ("no return", "param = param - lr * grad", {}, 7, "must return a value"),
    ("returns less", "param = param - lr\n    return param", {}, 8, "must return param, exp_avg; it returns param"),
    ("returns other", "return exp_avg, param", {}, 7, "must return param, exp_avg; it returns exp_avg, param"),
    ("returns twice", "return param - lr, param + 1", {}, 7, "it returns param - lr, param"),
    ("arguments", "return param, exp_avg", {"arguments": "param, exp_avg, lr, beta"}, 6, "must begin with"),
    ("unknown argument", "return param, exp_avg", {"arguments": "param, grad, exp_avg, lr, gamma"}, 6, "'gamma'"),
    ("default", "return param, exp_avg", {"arguments": "param, grad, exp_avg, lr=1"}, 6, "without defaults"),
    ("weight decay", "return param, exp_avg", {"arguments": "param, grad, exp_avg, weight_decay"}, 6, "'weight_decay'"),
    (
        "helper", "param = helper(param)" + R,
        {"before": "def helper(x):\n    return x.real\n"}, 5, "no dot",
    ),
    (
        "helper of two", "param = helper(param)" + R,
        {"before": "def helper(x):\n    return x, x\n"}, 9, "returns 2 values",
    ),
    (
        "recursion", "param = helper(param)" + R,
        {"before": "def helper(x):\n    return helper(x)\n"}, 5, "calls itself",
    ),
    (
        "coefficients", "return param, exp_avg",
        {"before": "def rates(lr):\n    return lr\n", "more": ", coefficients=rates"}, 5, "beta is missing",
    ),
    (
        "coefficients take", "return param, exp_avg",
        {"before": "def rates(lr, gamma):\n    return lr\n", "more": ", coefficients=rates"}, 4, "'gamma'",
    ),
    (
        "coefficients return", "return param, exp_avg",
        {"before": "def rates(lr, beta):\n    return lr, 1 - beta\n", "more": ", coefficients=rates"}, 5, "by name",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("what", "body", "parts", "line", "message"), OUTSIDE, ids=[each[0] for each in OUTSIDE])
def test_what_is_outside_of_the_dialect_is_refused_with_its_line(
    what: str, body: str, parts: dict[str, str], line: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(own.DialectError, match=message) as caught:
        load(tmp_path, body, **parts)
    assert caught.value.filename is not None
    assert Path(caught.value.filename).parent == tmp_path
    assert caught.value.lineno == line
    assert caught.value.text
    assert caught.value.text.strip() in Path(caught.value.filename).read_text()


ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"state": "exp_avg"}, TypeError, "state must be a tuple of names, or a dict, got 'exp_avg'"),
    ({"state": 3}, TypeError, "state must be a tuple of names"),
    ({"state": (3,)}, TypeError, "state must be names, got 3"),
    ({"state": ("a b",)}, ValueError, "state: 'a b' is no name"),
    ({"state": ("lambda",)}, ValueError, "state: 'lambda' is no name"),
    ({"state": ("step",)}, ValueError, "state: 'step' is taken"),
    ({"state": ("param_i",)}, ValueError, "state: 'param_i' is taken"),
    ({"state": ("lr",)}, ValueError, "state: 'lr' is taken"),
    ({"state": ("a", "a")}, ValueError, "state has a name twice"),
    ({"state": tuple("abcdefg")}, ValueError, "at most 6 arrays, got 7"),
    ({"state": {"a": "nothing"}}, ValueError, "starts with 'nothing', which is no number in hyper"),
    ({"state": {"a": float("nan")}}, ValueError, "must start with a finite number"),
    ({"hyper": ("lr",)}, TypeError, "hyper must be a dict"),
    ({"hyper": {"beta": 0.9}}, ValueError, "hyper must have 'lr'"),
    ({"hyper": {"lr": "1"}}, TypeError, "hyper['lr'] must be a real number"),
    ({"hyper": {"lr": -1.0}}, ValueError, "Invalid learning rate: -1"),
    ({"hyper": {"lr": 1.0, "step": 3.0}}, ValueError, "hyper: 'step' is taken"),
    ({"hyper": {"lr": 1.0, "sqrt": 3.0}}, ValueError, "hyper: 'sqrt' is taken"),
    ({"hyper": {"lr": 1.0, "clip_value": 3.0}}, ValueError, "hyper: 'clip_value' is taken"),
    ({"hyper": {"lr": 1.0, "maximize": 1.0}}, TypeError, "hyper['maximize'] must be True or False"),
    ({"hyper": {"lr": 1.0, "beta": float("inf")}}, ValueError, "expected a finite number"),
    ({"domain": {"gamma": "[0, 1)"}}, ValueError, "domain has 'gamma', which is no number in hyper"),
    ({"domain": {"lr": "0 to 1"}}, ValueError, "domain['lr'] must be an interval"),
    ({"domain": {"lr": "[1, 0]"}}, ValueError, "domain['lr'] must be an interval"),
    ({"domain": {"lr": "[0, 1)"}}, ValueError, "Invalid lr value: 1 (expected lr in [0, 1))"),
    ({"domain": ["lr"]}, TypeError, "domain must be a dict"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), ARGUMENTS, ids=[each[2] for each in ARGUMENTS])
def test_wrong_arguments_are_named(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    def mine(param, grad, lr):  # type: ignore[no-untyped-def]
        return param - lr * grad

    with pytest.raises(error, match=re.escape(message)):
        own.rule(**{"state": (), "hyper": {"lr": 1.0}, **wrong})(mine)


def test_without_parentheses_it_says_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"write @fastopt.rule\(state="):
        own.rule(lambda param: param)  # type: ignore[call-arg,arg-type]
    with pytest.raises(TypeError, match="hyper"):
        own.rule(state=())  # type: ignore[call-arg]


WRONG_USE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -1}, ValueError, "Invalid learning rate: -1"),
    ({"beta": 1.0}, ValueError, "Invalid beta value: 1 (expected beta in [0, 1))"),
    ({"beta": "0.9"}, TypeError, "beta must be a real number, got '0.9'"),
    ({"nesterov": 1.0}, TypeError, "nesterov must be True or False"),
    ({"betas": (0.9, 0.99)}, TypeError, "Momentum() got an unexpected keyword argument 'betas'"),
    ({"convention": "keras"}, ValueError, "no convention='keras'"),
    ({"convention": "other"}, ValueError, "no convention='other'"),
    ({"backend": "cython"}, ValueError, "backend='cython' has loops for fastopt's own rules only"),
    ({"backend": "other"}, ValueError, "unknown backend: 'other'"),
    ({"decay": 0.1}, TypeError, "unexpected keyword argument 'decay'"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG_USE, ids=[each[2] for each in WRONG_USE])
def test_wrong_use_of_the_class_is_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Momentum(np.zeros(3), **options)


def test_a_rate_can_be_positional_and_only_once() -> None:
    assert Momentum(np.zeros(3), 0.5).param_groups[0]["lr"] == 0.5
    with pytest.raises(TypeError, match=r"Momentum\(\): multiple values for argument 'lr'"):
        Momentum(np.zeros(3), 0.5, lr=0.5)
    with pytest.raises(ValueError, match="unknown key 'gamma'"):
        Momentum([{"params": np.zeros(3), "gamma": 1}])


@pytest.mark.parametrize("spec_name", sorted({case.optimizer for case in VARIANTS}))
def test_what_is_told_of_a_rule_from_its_text_fits_what_was_measured(spec_name: str) -> None:
    """Costs decide about threads only: within a factor of two. Squares decide what overflows: the same."""
    for case in VARIANTS:
        if case.optimizer == spec_name:
            made, _ = made_anew(case)
            spec = spec_of(case.optimizer, "torch")
            measured = spec.costs[spec.rule({**spec.defaults, **case.options})]
            told = made.spec.costs[made.spec.rule({})]
            assert made.spec.squares == spec.squares
            assert all(one / 2 < other < one * 2 for one, other in zip(measured, told, strict=True)), (measured, told)

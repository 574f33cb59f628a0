"""Wrong options and constraints: each is a named TypeError or ValueError, raised before anything is written."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from arrays import ones, read_only
from cases import BACKENDS, equal_bits, repr_without_addresses

import fastopt
from fastopt import constraints as c
from fastopt.definitions.specs import SPECS

NAN, INF = float("nan"), float("inf")
shared = ones(10)

NUMBERLESS = ("1", None, True, np.True_, [1.0], ones(2), 1j)
NEEDS: dict[str, dict[str, Any]] = {
    "ema_overwrite_frequency": {"ema_decay": 0.5},
    "ema_warmup": {"ema_decay": 0.5},
    "max_consecutive_skips": {"nonfinite": "skip"},
    "seed": {"stochastic_rounding": True},
}
# option: (what it must be, wrong types, wrong values)
AROUND: dict[str, tuple[str, tuple[Any, ...], tuple[Any, ...]]] = {
    "grad_scale": (">|real number", NUMBERLESS, (0, -1, NAN, INF, np.float32(0))),
    "max_grad_norm": ("> 0|real number", tuple(each for each in NUMBERLESS if each is not None), (0, -1, NAN, -INF)),
    "clip_norm": ("> 0|real number", tuple(each for each in NUMBERLESS if each is not None), (0, -1, NAN, -INF)),
    "clip_value": ("> 0|real number", tuple(each for each in NUMBERLESS if each is not None), (0, -1, NAN, -INF)),
    "nonfinite": ("one of 'propagate', 'skip', 'raise'", (), ("ignore", 0, None, True, ["skip"], ones(2))),
    "max_consecutive_skips": ("integer|at least 1", ("1", True, np.True_, 1.0, NAN, INF, ones(2)), (0, -1, 2**31)),
    "accumulate_steps": ("integer|at least 1", ("1", None, True, 2.0, NAN, INF, ones(2)), (0, -1, np.int64(2**31))),
    "ema_decay": ("at least 0|real number", ("1", True, [0.5], 1j), (-0.1, 1, 1.5, NAN, INF, np.float64(1))),
    "ema_warmup": ("True or False", (1, 0, "yes", None, ones(2)), ()),
    "ema_overwrite_frequency": ("integer|at least 1", ("1", True, 1.5, NAN, INF, ones(2)), (0, -1, 2**31)),
    "zero_grads": ("True or False", (1, 0, "yes", None, ones(2)), ()),
    "state_dtype": (
        "one of 'float32', 'bfloat16', 'float8', or a dict of them by the names of states",
        (1, True, np.float32, ["float8"], {1: "float8"}),
        ("int8", "float16", {"exp_avg": None}, {"exp_avg": "float64"}),
    ),
    "stochastic_rounding": ("True or False", (1, 0, "yes", None), ()),
    "seed": ("integer|at least 0", ("1", None, True, 1.0, NAN), (-1, 2**64)),
    "master_weights": ("True or False", (1, 0, "yes", None), ()),
    "backend": ("string", (None, 1, ["cython"], ones(2)), ()),
    "convention": ("string", (None, 1, {"torch": 1}, ones(2)), ()),
    "projection": (
        "projections, or None",
        (True, "box", 1.0, ones(2), c.Box, c.L1(0.1), c.L1, c.Projection()),
        (),
    ),
    "prox": (
        "proximal steps, or None",
        (True, "l1", 1.0, ones(2), c.L1, c.Box(), c.GroupLasso, c.Prox()),
        (),
    ),
}
WRONG_OPTIONS = [
    (name, value, error, expected)
    for name, (expected, types, values) in AROUND.items()
    for error, wrong in ((TypeError, types), (ValueError, values))
    for value in wrong
]


def message_of(error: type[Exception], call: Callable[[], Any]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    return str(caught.value)


def contents(optimizer: fastopt.Optimizer) -> str:
    """All that can be seen of an optimizer, as text."""
    seen = [dict(group) for group in optimizer.param_groups]
    attributes = [optimizer.grad_scale, optimizer.max_grad_norm, optimizer.segments, optimizer.skipped_steps]
    return repr([seen, optimizer.state_dict(), attributes])


@pytest.mark.parametrize(
    ("name", "value", "error", "expected"),
    WRONG_OPTIONS,
    ids=[f"{row[0]}={repr_without_addresses(row[1])}" for row in WRONG_OPTIONS],
)
def test_options(name: str, value: Any, error: type[Exception], expected: str) -> None:
    in_group = name in fastopt.step.options.GROUP_OPTIONS
    param, optimizer = ones(3), fastopt.Adam(ones(3))
    optimizer.step(ones(3))
    before = contents(optimizer)
    calls = [lambda: fastopt.Adam(param, **{name: value, **NEEDS.get(name, {})})]
    if in_group:
        calls += [
            lambda: fastopt.Adam([{"params": param, name: value}]),
            lambda: optimizer.add_param_group({"params": param, name: value}),
            lambda: optimizer.param_groups[0].update({"lr": 0.25, name: value}),
        ]
    elif name in ("grad_scale", "max_grad_norm"):
        calls.append(lambda: setattr(optimizer, name, value))
    for call in calls:
        message = message_of(error, call)
        assert name in message
        assert re.search(expected, message)
        assert repr(value) in message
    assert contents(optimizer) == before
    assert equal_bits(param, ones(3))
    optimizer.step(ones(3))


TOGETHER = [
    ({"max_grad_norm": 1.0, "clip_norm": 2.0}, "at most one of .*max_grad_norm=1.0, clip_norm=2.0"),
    ({"max_grad_norm": 1.0, "clip_value": 2.0}, "at most one of .*max_grad_norm=1.0, clip_value=2.0"),
    ({"clip_norm": 1.0, "clip_value": 2.0}, "at most one of .*clip_norm=1.0, clip_value=2.0"),
    (
        {"prox": c.GroupLasso(1.0), "projection": c.L2Ball(0.5)},
        r"must have the same per, got GroupLasso\(.*per='row'\) and L2Ball\(.*per='param'\)",
    ),
    ({"ema_warmup": True}, "ema_warmup needs ema_decay"),
    ({"ema_overwrite_frequency": 2}, "ema_overwrite_frequency needs ema_decay"),
    ({"max_consecutive_skips": 2}, "max_consecutive_skips needs nonfinite='skip', got nonfinite='propagate'"),
    ({"max_consecutive_skips": 2, "nonfinite": "raise"}, "got nonfinite='raise'"),
    ({"seed": 3}, "seed needs stochastic_rounding=True: nothing else is random, got seed=3"),
]


@pytest.mark.parametrize(("options", "match"), TOGETHER)
def test_options_that_do_not_go_together(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fastopt.Adam(ones(3), **options)
    first, *others = options.items()
    if (
        others and others[0][0] in fastopt.step.options.GROUP_OPTIONS
    ):  # the second one in a group, at construction, added, or assigned
        group = {"params": ones(2), others[0][0]: others[0][1]}
        with pytest.raises(ValueError, match=match):
            fastopt.Adam([group], **dict([first]))
        optimizer = fastopt.Adam(ones(3), **dict([first]))
        before = contents(optimizer)
        for call in (
            lambda: optimizer.add_param_group(group),
            lambda: optimizer.param_groups[0].update(dict(others)),
            lambda: optimizer.param_groups[0].__setitem__(*others[0]),
        ):
            with pytest.raises(ValueError, match=match):
                call()
        assert contents(optimizer) == before


def test_max_grad_norm_is_not_turned_on_or_off() -> None:
    for optimizer, values in ((fastopt.Adam(ones(3)), (1.0, INF)), (fastopt.Adam(ones(3), max_grad_norm=1), (None,))):
        for value in values:
            with pytest.raises(ValueError, match=rf"max_grad_norm cannot be turned on or off.*got {value!r}"):
                optimizer.max_grad_norm = value
    optimizer.max_grad_norm = 3
    with pytest.raises(ValueError, match=r"at most one of .* got max_grad_norm=3.0, clip_norm=1.0"):
        optimizer.param_groups[0]["clip_norm"] = 1.0


@pytest.mark.parametrize("name", [*SPECS, "constraints.Box", "constraints.L1"])
def test_unknown_arguments(name: str) -> None:
    cls = operator.attrgetter(name)(fastopt)
    message = message_of(TypeError, lambda: cls(*([] if "." in name else [ones(3)]), clipnorm=1.0))
    assert "got an unexpected keyword argument 'clipnorm'" in message


@pytest.mark.parametrize("name", ["zero_grads", "grad_scale", "max_grad_norm", "ema_decay", "clipnorm"])
def test_options_that_groups_do_not_have(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown key '{name}' in a parameter group of Adam .*clip_norm"):
        fastopt.Adam([{"params": ones(3), name: 0.5}])


POSITIVE, FINITE = "must be finite and > 0", "must be finite and >= 0"
# constraint, argument: what it must be
CONSTRAINTS = {
    ("L2Ball", "radius"): POSITIVE,
    ("L1Ball", "radius"): POSITIVE,
    ("Simplex", "total"): POSITIVE,
    ("L1", "l1"): FINITE,
    ("L2", "l2"): FINITE,
    ("ElasticNet", "l1"): FINITE,
    ("ElasticNet", "l2"): FINITE,
    ("GroupLasso", "strength"): FINITE,
    ("Box", "low"): "low must be at most high",
    ("Box", "high"): "low must be at most high",
}


@pytest.mark.parametrize(("owner", "name"), CONSTRAINTS)
def test_constraints(owner: str, name: str) -> None:
    cls = getattr(c, owner)
    for value in NUMBERLESS:
        message = message_of(TypeError, lambda: cls(**{name: value}))  # noqa: B023
        assert f"{owner}: {name} must be a real number, got {value!r}" in message
    wrong = {POSITIVE: (0, -1, NAN, INF), FINITE: (-1, NAN, INF)}.get(CONSTRAINTS[owner, name], (NAN,))
    for value in (*wrong, INF if name == "low" else -INF):
        message = message_of(ValueError, lambda: cls(**{name: value}))  # noqa: B023
        assert f"{owner}: " in message
        assert CONSTRAINTS[owner, name] in message
        assert str(value) in message
    assert "float64 can hold" in message_of(ValueError, lambda: cls(**{name: 10**400}))
    for good in (np.float64(0.5), np.float32(0.5), np.float16(0.5), np.int64(2), np.uint8(2), 2, np.array(0.5)):
        made = getattr(cls(**{name: good}), name)
        assert type(made) is float
        assert made == good


@pytest.mark.parametrize("owner", ["L2Ball", "L1Ball", "Simplex", "GroupLasso"])
@pytest.mark.parametrize("per", ["column", "", None, 1, ["row"], np.array(["row", "row"])], ids=str)
def test_constraints_per(owner: str, per: Any) -> None:
    message = message_of(ValueError, lambda: getattr(c, owner)(1.0, per=per))
    assert message == f"{owner}: per must be 'param' or 'row', got {per!r}"


def test_boxes() -> None:
    with pytest.raises(ValueError, match=r"low must be at most high.* got low=2.0, high=1.0"):
        c.Box(2, 1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'low'"):
        c.NonNegative(low=-1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_subclass_of_a_constraint_does_what_its_base_does(backend: str) -> None:
    class UnitBall(c.L2Ball):
        pass

    param = np.array([3.0, 4.0])
    fastopt.SGD(param, projection=UnitBall(), backend=backend).step(np.zeros(2))
    assert param == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("scalar", [np.float64, np.float32, np.float16, np.array])
def test_scalars_of_numpy_are_numbers(scalar: Any) -> None:
    fractions = {"grad_scale": 0.5, "max_grad_norm": 0.5, "ema_decay": 0.5}
    counts = {"accumulate_steps": 2, "ema_overwrite_frequency": 2, "max_consecutive_skips": 2}
    optimizer = fastopt.Adam(
        ones(3),
        lr=scalar(0.5),
        nonfinite=np.str_("skip"),
        zero_grads=np.True_,
        **{name: scalar(value) for name, value in fractions.items()},
        **{name: np.int64(value) for name, value in counts.items()},
    )
    plain = fastopt.Adam(ones(3), lr=0.5, nonfinite="skip", zero_grads=True, **fractions, **counts)
    for each in (optimizer, plain):
        for _ in range(3):
            each.step(ones(3))
    assert contents(optimizer) == contents(plain)
    optimizer.grad_scale = optimizer.max_grad_norm = scalar(0.25)
    optimizer.set_segments(np.int64(0), lr_scale=scalar(0.5), weight_decay=np.float32(0.5), frozen=np.True_)
    assert (optimizer.grad_scale, optimizer.max_grad_norm) == (0.25, 0.25)
    assert optimizer.segments[0].frozen is True
    for name in ("clip_norm", "clip_value"):
        group = fastopt.Adam(ones(3), **{name: scalar(0.5)}).param_groups[0]
        assert (type(group[name]), group[name]) == (float, 0.5)


def test_selections_with_scalars_of_numpy() -> None:
    optimizer = fastopt.Adam({"a": ones(3), "b": ones(2)})
    optimizer.set_segments([np.False_, np.True_], frozen=True)
    assert [each.frozen for each in optimizer.segments] == [False, True]
    with pytest.raises(TypeError, match=r"by name or position.* got np.True_"):
        optimizer.set_segments(np.True_, frozen=False)
    with pytest.raises(ValueError, match="float64 can hold"):
        optimizer.set_segments("a", lr_scale=10**400)


ZEROED: list[tuple[str, Callable[[], list[np.ndarray]], str]] = [
    ("read-only", lambda: [ones(3), read_only(ones(2))], r"grads\[1\] must be writable, got a read-only"),
    ("overlapping", lambda: [shared[:3], shared[2:4]], "zero_grads=True is to zero share memory"),
    ("the same, in descending order", lambda: [shared[4:7], shared[3:5]], "zero_grads=True is to zero share memory"),
]


@pytest.mark.parametrize(("name", "make", "match"), ZEROED, ids=[row[0] for row in ZEROED])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_that_cannot_be_zeroed(name: str, make: Callable[[], Any], match: str, backend: str) -> None:
    params, gradients = [ones(3), ones(2)], make()
    with pytest.raises(ValueError, match=match):
        fastopt.Adam(params, zero_grads=True, grads=gradients, backend=backend)
    optimizer = fastopt.Adam(params, zero_grads=True, backend=backend)
    before = contents(optimizer)
    with pytest.raises(ValueError, match=match):
        optimizer.step(gradients)
    assert contents(optimizer) == before
    assert all(equal_bits(each, np.ones_like(each)) for each in (*params, *gradients))
    fastopt.Adam(params, backend=backend).step(gradients)  # not zeroed: all is well
    optimizer.step([ones(3), ones(2)])


def saved_after(calls: int, **options: Any) -> dict[str, Any]:
    optimizer = fastopt.Adam([ones(3), ones(2)], **options)
    for _ in range(calls):
        optimizer.step([ones(3), None])
    return optimizer.state_dict()


def accumulated(value: Any) -> dict[str, Any]:
    return {**saved_after(1, accumulate_steps=2), "accumulated": value}


def skipped(value: Any) -> dict[str, Any]:
    return {**saved_after(1), "skipped": value}


SKIPPED: list[tuple[Any, type[Exception], str]] = [
    *[(skipped(each), TypeError, "'skipped' must be a dict of") for each in (None, [], 1, {}, {"steps": 1})],
    *[
        (skipped({"steps": 1, "consecutive": each}), TypeError, "'skipped' consecutive must be an integer, got")
        for each in ("x", 0.5, True, NAN, None)
    ],
    (skipped({"steps": -1, "consecutive": 0}), ValueError, "'skipped' steps must be at least 0.* got -1"),
    (skipped({"steps": 1, "consecutive": 2}), ValueError, "'skipped' consecutive must be at most its steps, got 2 of"),
]

ACCUMULATED: list[tuple[Any, type[Exception], str]] = [
    *[(accumulated(each), TypeError, "'accumulated' must be a dict of") for each in (None, [], 1, {}, {"calls": 1})],
    *[
        (accumulated({"calls": each, "params": [0]}), TypeError, "'accumulated' calls must be an integer, got")
        for each in ("x", 1.5, True, NAN, INF, None)
    ],
    (accumulated({"calls": -1, "params": [0]}), ValueError, "'accumulated' calls must be at least 0.* got -1"),
    (accumulated({"calls": 2**40, "params": [0]}), ValueError, r"'accumulated' calls must be .*less than 2\*\*31"),
    (accumulated({"calls": 2, "params": [0]}), ValueError, "after 2 calls; this optimizer has accumulate_steps=2"),
    *[(accumulated({"calls": 1, "params": each}), TypeError, "must be a list of positions") for each in (0, "01", {0})],
    *[
        (accumulated({"calls": 1, "params": [each]}), TypeError, "'accumulated' params must be an integer")
        for each in ("a", 0.5, None, True)
    ],
    (
        accumulated({"calls": 1, "params": [7]}),
        ValueError,
        r"'accumulated' params must be positions below 2, got \[7\]",
    ),
    (accumulated({"calls": 1, "params": [-1]}), ValueError, "'accumulated' params must be at least 0.* got -1"),
    (accumulated({"calls": 1, "params": [0, 1]}), ValueError, r"state\[1\] has no 'grad_accumulator'"),
    (accumulated({"calls": 1, "params": [1]}), ValueError, r"state\[0\] has gradients in .* 'accumulated' does not"),
    (saved_after(2, accumulate_steps=3), ValueError, "after 2 calls of accumulate_steps=3; .* has accumulate_steps=2"),
    (saved_after(1, ema_decay=0.5), ValueError, r"state\[0\] has 'param_average'.* without ema_decay"),
]


@pytest.mark.parametrize(("saved", "error", "match"), [*ACCUMULATED, *SKIPPED])
def test_state_dicts_of_options(saved: Any, error: type[Exception], match: str) -> None:
    optimizer = fastopt.Adam([ones(3), ones(2)], accumulate_steps=2)
    optimizer.step([ones(3), ones(2)])
    before = contents(optimizer)
    with pytest.raises(error, match=match):
        optimizer.load_state_dict(saved)
    assert contents(optimizer) == before


def test_state_dicts_of_accumulated_gradients_need_an_accumulator() -> None:
    optimizer = fastopt.Adam([ones(3), ones(2)])
    with pytest.raises(ValueError, match=r"saved between accumulated steps.*after 1 calls.* accumulate_steps=1"):
        optimizer.load_state_dict(saved_after(1, accumulate_steps=2))
    optimizer.load_state_dict(saved_after(2, accumulate_steps=2))
    good = fastopt.Adam([ones(3), ones(2)], accumulate_steps=2)
    good.load_state_dict({**saved_after(1, accumulate_steps=2), "accumulated": {"calls": np.int64(1), "params": (0,)}})
    good.step([None, None])
    assert good.state[0]["step"] == 1


def test_a_proximal_step_without_a_rate_is_refused_at_once() -> None:
    param = np.ones((2, 3))
    with pytest.raises(ValueError, match="prox is not possible with Adadelta"):
        fastopt.Adadelta(param, prox=fastopt.constraints.L1(0.1))
    optimizer = fastopt.Adadelta(param, prox=fastopt.constraints.GroupLasso(0.1))  # goes by lr
    group = optimizer.param_groups[0]
    with pytest.raises(ValueError, match="prox is not possible with Adadelta"):
        group["prox"] = fastopt.constraints.L1(0.1)
    assert group["prox"] == fastopt.constraints.GroupLasso(0.1)
    optimizer.step(np.ones((2, 3)))
    assert np.isfinite(param).all()

"""A table of wrong uses: each is a named TypeError or ValueError, raised before anything is written."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import BACKENDS, equal_bits

import fastopt
from fastopt import constraints as c
from fastopt.specs import SPECS

F32 = np.float32


def ones(*shape: int, dtype: Any = F32) -> np.ndarray:
    return np.ones(shape, dtype)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def misaligned(size: int) -> np.ndarray:
    return np.zeros(4 * size + 1, np.uint8)[1:].view(F32)


class Bad(NamedTuple):
    """A call that must fail; `match` is what the message must say."""

    name: str
    call: Callable[[], Any]
    error: type[Exception]
    match: str


shared = ones(10)
same = ones(3)

PARAMETERS = [
    Bad(
        "a list of numbers", lambda: fastopt.Adam([1.0, 2.0]), TypeError, r"params\[0\] must be a numpy.ndarray.*float"
    ),
    Bad("a number", lambda: fastopt.Adam(1.0), TypeError, "params must be a numpy.ndarray, a list or a dict.*float"),
    Bad("a string", lambda: fastopt.Adam("w"), TypeError, "params must be a numpy.ndarray.*str"),
    Bad("none", lambda: fastopt.Adam(None), TypeError, "params must be a numpy.ndarray"),
    Bad("a set", lambda: fastopt.Adam({1, 2}), TypeError, "ordered collection.*set"),
    Bad("an empty list", lambda: fastopt.Adam([]), ValueError, "optimizer got an empty parameter list"),
    Bad("an empty dict", lambda: fastopt.Adam({}), ValueError, "optimizer got an empty parameter list"),
    Bad("a masked array", lambda: fastopt.Adam(np.ma.ones(3)), TypeError, "numpy.ndarray.*Masked"),
    Bad("integers", lambda: fastopt.Adam(np.ones(3, int)), TypeError, "float32 or float64, got int64"),
    Bad("complex", lambda: fastopt.Adam(np.ones(3, complex)), TypeError, "float32 or float64, got complex128"),
    Bad("half precision", lambda: fastopt.Adam(np.ones(3, np.float16)), TypeError, "got float16"),
    Bad("objects", lambda: fastopt.Adam(np.ones(3, object)), TypeError, "got object"),
    Bad("mixed dtypes", lambda: fastopt.Adam([ones(3), ones(3, dtype=float)]), TypeError, r"one dtype.*params\[1\]"),
    Bad("byte-swapped", lambda: fastopt.Adam(np.ones(3, ">f4")), TypeError, "byte order.*>f4"),
    Bad("read-only", lambda: fastopt.Adam(read_only(ones(3))), ValueError, "params must be writable"),
    Bad("misaligned", lambda: fastopt.Adam(misaligned(3)), ValueError, "aligned"),
    Bad("every other element", lambda: fastopt.Adam(ones(6)[::2]), ValueError, "C-contiguous.*strides"),
    Bad("backwards", lambda: fastopt.Adam(ones(6)[::-1]), ValueError, "C-contiguous.*strides"),
    Bad("zero strides", lambda: fastopt.Adam(np.broadcast_to(ones(1), 5)), ValueError, "C-contiguous.*strides"),
    Bad("a transposed array", lambda: fastopt.Adam(ones(2, 3).T), ValueError, "C-contiguous.*strides"),
    Bad(
        "overlapping", lambda: fastopt.Adam([shared[:6], shared[5:]]), ValueError, r"params\[0\] and params\[1\] share"
    ),
    Bad("the same twice", lambda: fastopt.Adam([same, same]), ValueError, r"params\[0\] and params\[1\].*appear twice"),
    Bad("a view and its base", lambda: fastopt.Adam({"a": same, "b": same[:]}), ValueError, r"params\['a'\].*\['b'\]"),
    Bad("a list in a list", lambda: fastopt.Adam([[ones(3)]]), TypeError, r"params\[0\] must be a numpy.ndarray"),
]

GROUPS = [
    Bad("one group, not in a list", lambda: fastopt.Adam({"params": [ones(3)]}), TypeError, "single group.*list"),
    Bad("no params", lambda: fastopt.Adam([{"lr": 1.0}]), ValueError, "group 0 has no 'params'"),
    Bad(
        "unknown key", lambda: fastopt.Adam([{"params": ones(3), "rho": 1}]), ValueError, "unknown key 'rho'.*lr, betas"
    ),
    Bad(
        "another optimizer's key",
        lambda: fastopt.Adam([{"params": ones(3), "alpha": 1.0}]),
        ValueError,
        "unknown key 'alpha' .a hyperparameter of other optimizers",
    ),
    Bad("only empty groups", lambda: fastopt.Adam([{"params": []}]), ValueError, "empty parameter list: no group"),
    Bad("not a dict", lambda: fastopt.Adam([{"params": ones(3)}, ones(2)]), TypeError, "param_group must be a dict"),
    Bad(
        "the same in two groups",
        lambda: fastopt.Adam([{"params": same}, {"params": [same]}]),
        ValueError,
        r"params\[0\] and params\[1\]\[0\] are the same array",
    ),
    Bad("bad value", lambda: fastopt.Adam([{"params": ones(3), "lr": -1}]), ValueError, "Invalid learning rate: -1"),
    Bad("duplicate key", lambda: fastopt.Adam(ones(3), 0.1, lr=0.2), TypeError, "multiple values.*'lr'"),
]

HYPERPARAMETERS = [
    Bad("lr", lambda: fastopt.Adam(ones(3), lr=-1), ValueError, "^Invalid learning rate: -1"),
    Bad("lr nan", lambda: fastopt.SGD(ones(3), lr=float("nan")), ValueError, "^Invalid learning rate: nan"),
    Bad("lr text", lambda: fastopt.Adam(ones(3), lr="fast"), TypeError, "lr must be a real number, got 'fast'"),
    Bad("lr none", lambda: fastopt.Adam(ones(3), lr=None), TypeError, "lr must be a real number, got None"),
    Bad("lr true", lambda: fastopt.Adam(ones(3), lr=True), TypeError, "lr must be a real number, got True"),
    Bad("lr array", lambda: fastopt.Adam(ones(3), lr=ones(2)), TypeError, "lr must be a real number"),
    Bad("lr complex", lambda: fastopt.Adam(ones(3), lr=1j), TypeError, "lr must be a real number"),
    Bad("eps", lambda: fastopt.Adam(ones(3), eps=-1), ValueError, "^Invalid epsilon value: -1"),
    Bad(
        "beta1", lambda: fastopt.Adam(ones(3), betas=(1.0, 0.9)), ValueError, "^Invalid beta parameter at index 0: 1.0"
    ),
    Bad("beta2", lambda: fastopt.AdamW(ones(3), betas=(0, -1)), ValueError, "^Invalid beta parameter at index 1: -1.0"),
    Bad("betas number", lambda: fastopt.Adam(ones(3), betas=0.9), TypeError, "betas must be a tuple of 2 numbers"),
    Bad("betas three", lambda: fastopt.Adam(ones(3), betas=(0, 0, 0)), TypeError, "betas must be a tuple of 2 numbers"),
    Bad("betas text", lambda: fastopt.Adam(ones(3), betas=(0, "b")), TypeError, r"betas\[1\] must be a real number"),
    Bad("decay", lambda: fastopt.AdamW(ones(3), weight_decay=-1), ValueError, "^Invalid weight_decay value: -1"),
    Bad("momentum", lambda: fastopt.SGD(ones(3), momentum=-1), ValueError, "^Invalid momentum value: -1"),
    Bad("nesterov", lambda: fastopt.SGD(ones(3), nesterov=True), ValueError, "^Nesterov momentum requires a momentum"),
    Bad("dampening", lambda: fastopt.SGD(ones(3), dampening=np.nan), ValueError, "Invalid dampening value: nan"),
    Bad("alpha", lambda: fastopt.RMSprop(ones(3), alpha=-0.1), ValueError, "^Invalid alpha value: -0.1"),
    Bad("lr_decay", lambda: fastopt.Adagrad(ones(3), lr_decay=-1), ValueError, "^Invalid lr_decay value: -1"),
    Bad(
        "accumulator",
        lambda: fastopt.Adagrad(ones(3), initial_accumulator_value=-1),
        ValueError,
        "^Invalid initial_accumulator_value value: -1",
    ),
    Bad("etas", lambda: fastopt.Rprop(ones(3), etas=(1.0, 0.5)), ValueError, "^Invalid eta values: 1.0, 0.5"),
    Bad(
        "step_sizes",
        lambda: fastopt.Rprop(ones(3), step_sizes=(2, 1)),
        ValueError,
        "^Invalid step_sizes values: 2.0, 1",
    ),
    Bad("flag", lambda: fastopt.Adam(ones(3), amsgrad="yes"), TypeError, "amsgrad must be True or False, got 'yes'"),
    Bad("unknown argument", lambda: fastopt.Adam(ones(3), momentum=1), TypeError, "momentum"),
    Bad("backend", lambda: fastopt.Adam(ones(3), backend="gpu"), ValueError, "unknown backend: 'gpu'.*'cython'"),
    Bad(
        "convention", lambda: fastopt.Adam(ones(3), convention="jax"), ValueError, "unknown convention: 'jax'.*'torch'"
    ),
    Bad("threads", lambda: fastopt.Adam(ones(3), n_threads=0), ValueError, "n_threads must be at least 1, got 0"),
    Bad("negative threads", lambda: fastopt.Adam(ones(3), n_threads=-2), ValueError, "n_threads .* got -2"),
    Bad("half a thread", lambda: fastopt.Adam(ones(3), n_threads=1.5), TypeError, "n_threads must be an integer"),
    Bad("many threads", lambda: fastopt.Adam(ones(3), n_threads=10**6), ValueError, "n_threads must be at most 4096"),
    Bad("global threads", lambda: fastopt.set_num_threads(0), ValueError, "n must be at least 1, got 0"),
    Bad("flush", lambda: fastopt.Adam(ones(3), flush_denormals=2), TypeError, "flush_denormals must be True or False"),
    Bad("pack nothing", lambda: fastopt.pack([]), ValueError, "arrays is empty"),
    Bad("pack an array", lambda: fastopt.pack(ones(3)), TypeError, "arrays must be a dict or a sequence"),
    Bad("pack dtypes", lambda: fastopt.pack([ones(1), ones(1, dtype=float)]), TypeError, "one dtype"),
    Bad("pack integers", lambda: fastopt.pack({"a": np.ones(2, int)}), TypeError, r"arrays\['a'\] must be .*<i8"),
]


@pytest.mark.parametrize("bad", [*PARAMETERS, *GROUPS, *HYPERPARAMETERS], ids=lambda bad: bad.name)
def test_construction(bad: Bad) -> None:
    with pytest.raises(bad.error, match=bad.match):
        bad.call()


class BadGradients(NamedTuple):
    """Gradients that a step must refuse: made from the parameters (shapes (3,) and (2, 2)) and states."""

    name: str
    make: Callable[[list[np.ndarray], Any], Any]
    error: type[Exception]
    match: str


GRADIENTS = [
    BadGradients("missing", lambda p, s: [ones(3)], ValueError, "grads must be a list of 2.*got 1"),
    BadGradients("too many", lambda p, s: [ones(3), ones(2, 2), ones(1)], ValueError, "list of 2.*got 3"),
    BadGradients("an array", lambda p, s: ones(2, 3), TypeError, "grads must be a list of 2.*ndarray"),
    BadGradients("a dict", lambda p, s: {"a": ones(3)}, TypeError, "grads must be a list of 2.*dict"),
    BadGradients("numbers", lambda p, s: [1.0, 2.0], TypeError, r"grads\[0\] must be a numpy.ndarray, got float"),
    BadGradients("lists", lambda p, s: [[1, 2, 3], None], TypeError, r"grads\[0\] must be a numpy.ndarray, got list"),
    BadGradients(
        "dtype", lambda p, s: [ones(3), ones(2, 2, dtype=float)], TypeError, r"grads\[1\] .*dtype float32.*64"
    ),
    BadGradients("integers", lambda p, s: [ones(3), np.ones((2, 2), int)], TypeError, r"grads\[1\] .*int64"),
    BadGradients("byte-swapped", lambda p, s: [ones(3), np.ones((2, 2), ">f4")], TypeError, r"grads\[1\] .*byte order"),
    BadGradients("shape", lambda p, s: [ones(3), ones(4)], ValueError, r"grads\[1\] .*shape \(2, 2\), got \(4,\)"),
    BadGradients("transposed", lambda p, s: [ones(3), ones(2, 2).T], ValueError, r"grads\[1\] .*C-contiguous"),
    BadGradients("strided", lambda p, s: [ones(6)[::2], ones(2, 2)], ValueError, r"grads\[0\] .*C-contiguous"),
    BadGradients("misaligned", lambda p, s: [misaligned(3), ones(2, 2)], ValueError, r"grads\[0\] .*aligned"),
    BadGradients(
        "the parameter", lambda p, s: [p[0], ones(2, 2)], ValueError, r"grads\[0\] shares memory with params\[0\]"
    ),
    BadGradients(
        "another parameter", lambda p, s: [p[1].reshape(-1)[1:], ones(2, 2)], ValueError, r"grads\[0\] .*params\[1\]"
    ),
    BadGradients(
        "a state", lambda p, s: [s[0]["exp_avg"], ones(2, 2)], ValueError, r"grads\[0\] shares memory with params\[0\]"
    ),
    BadGradients("second one bad", lambda p, s: [ones(3), ones(2, 3)], ValueError, r"grads\[1\]"),
]


@pytest.mark.parametrize("bad", GRADIENTS, ids=lambda bad: bad.name)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bound", [False, True])
def test_gradients(bad: BadGradients, backend: str, bound: bool) -> None:
    params = [ones(3), ones(2, 2)]
    optimizer = fastopt.Adam(params, backend=backend)
    optimizer.step([ones(3), ones(2, 2)])
    before = [param.copy() for param in params], optimizer.state_dict()
    gradients = bad.make(params, optimizer.state)
    if bound and bad.name != "a state":
        with pytest.raises(bad.error, match=bad.match):
            fastopt.Adam(params, grads=gradients, backend=backend)
    else:
        with pytest.raises(bad.error, match=bad.match):
            optimizer.step(gradients)
    assert all(equal_bits(old, new) for old, new in zip(before[0], params, strict=True))
    after = optimizer.state_dict()
    for index, state in before[1]["state"].items():
        assert state["step"] == after["state"][index]["step"] == 1
        assert equal_bits(state["exp_avg"], after["state"][index]["exp_avg"])
    optimizer.step([ones(3), ones(2, 2)])  # still usable


def test_a_good_gradient_may_be_read_only_and_shared() -> None:
    gradient = read_only(ones(3))
    fastopt.Adam([ones(3), ones(3)]).step([gradient, gradient])


@pytest.mark.parametrize(
    ("gradients", "message"),
    [({"a": ones(3)}, r"missing \['b'\]"), ({"a": ones(3), "b": ones(2), "c": ones(1)}, r"unknown \['c'\]")],
)
def test_gradients_of_a_dict(gradients: Any, message: str) -> None:
    optimizer = fastopt.Adam({"a": ones(3), "b": ones(2)})
    with pytest.raises(ValueError, match=message):
        optimizer.step(gradients)


def test_step_without_or_with_too_many_gradients() -> None:
    with pytest.raises(TypeError, match="needs gradients"):
        fastopt.Adam(ones(3)).step()
    with pytest.raises(TypeError, match="gradients are bound"):
        fastopt.Adam(ones(3), grads=ones(3)).step(ones(3))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", ["param", "grad", "base"])
def test_a_resized_array_is_noticed(backend: str, what: str) -> None:
    arrays = {"param": ones(1000), "grad": ones(1000)}
    base = ones(1000)
    param = base[:1000] if what == "base" else arrays["param"]
    optimizer = fastopt.SGD(param, grads=arrays["grad"], ema_decay=0.5, backend=backend)
    optimizer.step()
    target = base if what == "base" else arrays[what]
    target.resize(10_000_000, refcheck=False)
    for call in (optimizer.step, optimizer.swap_averages):
        with pytest.raises(RuntimeError, match="resized"):
            call()
    assert optimizer.state[0]["step"] == 1


def test_a_freed_array_stays_alive() -> None:
    import gc

    optimizer = fastopt.SGD(ones(100_000), grads=ones(100_000), lr=1.0)
    gc.collect()
    optimizer.step()
    assert not optimizer.param_groups[0]["params"][0].any()


ASSIGNMENTS = [
    ("lr", -1, ValueError, "Invalid learning rate: -1"),
    ("lr", "x", TypeError, "lr must be a real number"),
    ("betas", (0.5,), TypeError, "betas must be a tuple of 2"),
    ("learning_rate", 0.1, ValueError, "unknown key 'learning_rate'"),
    ("params", [], ValueError, "'params' are fixed"),
    ("amsgrad", True, ValueError, "amsgrad=True needs state .* max_exp_avg_sq"),
]


@pytest.mark.parametrize(("key", "value", "error", "match"), ASSIGNMENTS)
def test_assignments_to_a_group(key: str, value: Any, error: type[Exception], match: str) -> None:
    optimizer = fastopt.Adam(ones(3))
    before = dict(optimizer.param_groups[0])
    with pytest.raises(error, match=match):
        optimizer.param_groups[0][key] = value
    with pytest.raises(error, match=match):
        optimizer.param_groups[0].update({"eps": 1.0, key: value})
    assert dict(optimizer.param_groups[0]) == before


@pytest.mark.parametrize("method", ["pop", "popitem", "clear", "__delitem__"])
def test_a_groups_keys_are_fixed(method: str) -> None:
    group = fastopt.Adam(ones(3)).param_groups[0]
    with pytest.raises(TypeError, match="keys of a parameter group are fixed"):
        getattr(group, method)(*(["lr"] if method in ("pop", "__delitem__") else []))


def _state_dict(**changes: Any) -> dict[str, Any]:
    optimizer = fastopt.Adam([ones(3), ones(2)])
    optimizer.step([ones(3), ones(2)])
    saved = optimizer.state_dict()
    saved["state"][1].update(changes)
    return saved


def _without(saved: dict[str, Any], name: str) -> dict[str, Any]:
    del saved["state"][1][name]
    return saved


def _in_group(**changes: Any) -> dict[str, Any]:
    saved = _state_dict()
    saved["param_groups"][0].update(changes)
    return saved


STATE_DICTS = [
    ("not one", {"w": ones(3)}, ValueError, "'state' and 'param_groups'"),
    ("two groups", {"state": {}, "param_groups": [{}, {}]}, ValueError, "different number of parameter groups"),
    ("sizes", fastopt.Adam(ones(3)).state_dict(), ValueError, "doesn't match the size of optimizer's group"),
    ("shape", _state_dict(exp_avg=ones(3)), ValueError, r"state\[1\]\['exp_avg'\] .*shape \(2,\), got \(3,\)"),
    ("dtype", _state_dict(exp_avg=ones(2, dtype=float)), TypeError, r"state\[1\]\['exp_avg'\] .*float32, got float64"),
    ("missing", _without(_state_dict(), "exp_avg_sq"), ValueError, r"state\[1\] has no 'exp_avg_sq'"),
    ("no step", _without(_state_dict(), "step"), ValueError, r"state\[1\] has no 'step'"),
    ("half a step", _state_dict(step=1.5), ValueError, "whole number"),
    ("too many steps", _state_dict(step=2**53), ValueError, r"below 2\*\*53"),
    ("no dict of states", {"state": None, "param_groups": []}, TypeError, "a dict as 'state'"),
    ("no dict of a state", {**_state_dict(), "state": {0: [1]}}, TypeError, r"state\[0\] must be a dict"),
    ("no params", {"state": {}, "param_groups": [{"lr": 1.0}]}, TypeError, r"param_groups\[0\] must be a dict with"),
    ("unknown state", _state_dict(square_avg=ones(2)), ValueError, "'square_avg', which Adam .* does not keep"),
    ("unknown key", _in_group(alpha=0.9), ValueError, r"param_groups\[0\] has 'alpha'"),
    ("bad value", _in_group(lr=-1), ValueError, "Invalid learning rate: -1"),
]


@pytest.mark.parametrize(("name", "saved", "error", "match"), STATE_DICTS, ids=[case[0] for case in STATE_DICTS])
def test_state_dicts(name: str, saved: Any, error: type[Exception], match: str) -> None:
    optimizer = fastopt.Adam([ones(3), ones(2)], lr=0.5)
    optimizer.step([ones(3), ones(2)])
    before = optimizer.state_dict()
    with pytest.raises(error, match=match):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index in (0, 1):
        assert equal_bits(after["state"][index]["exp_avg"], before["state"][index]["exp_avg"])


def test_zero_grad_without_bound_gradients() -> None:
    with pytest.raises(RuntimeError, match="needs gradients bound"):
        fastopt.Adam(ones(3)).zero_grad()
    bound = fastopt.Adam([ones(3), ones(2)], grads=[ones(3), read_only(ones(2))])
    with pytest.raises(ValueError, match=r"grads\[1\] is read-only"):
        bound.zero_grad()


def test_torch_tensors_are_told_where_to_go() -> None:
    import torch

    for params in (torch.zeros(3), [torch.zeros(3)]):
        with pytest.raises(TypeError, match=r"torch.*tensor\.detach\(\)\.numpy\(\) shares its memory"):
            fastopt.Adam(params)


# --- what is done around an update ----------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
NUMBERLESS = ("1", None, True, np.True_, [1.0], ones(2), 1j)
NEEDS: dict[str, dict[str, Any]] = {
    "ema_overwrite_frequency": {"ema_decay": 0.5},
    "max_consecutive_skips": {"nonfinite": "skip"},
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
    "ema_overwrite_frequency": ("integer|at least 1", ("1", True, 1.5, NAN, INF, ones(2)), (0, -1, 2**31)),
    "zero_grads": ("True or False", (1, 0, "yes", None, ones(2)), ()),
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
    ("name", "value", "error", "expected"), WRONG_OPTIONS, ids=[f"{row[0]}={row[1]!r}" for row in WRONG_OPTIONS]
)
def test_options(name: str, value: Any, error: type[Exception], expected: str) -> None:
    in_group = name in fastopt.options.GROUP_OPTIONS
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
    ({"ema_overwrite_frequency": 2}, "ema_overwrite_frequency needs ema_decay"),
    ({"max_consecutive_skips": 2}, "max_consecutive_skips needs nonfinite='skip', got nonfinite='propagate'"),
    ({"max_consecutive_skips": 2, "nonfinite": "raise"}, "got nonfinite='raise'"),
]


@pytest.mark.parametrize(("options", "match"), TOGETHER)
def test_options_that_do_not_go_together(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fastopt.Adam(ones(3), **options)
    first, *others = options.items()
    if (
        others and others[0][0] in fastopt.options.GROUP_OPTIONS
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
    (accumulated({"calls": 1, "params": [1]}), ValueError, r"state\[1\] has no 'grad_accumulator'"),
    (saved_after(2, accumulate_steps=3), ValueError, "after 2 calls; this optimizer has accumulate_steps=2"),
    (saved_after(1, ema_decay=0.5), ValueError, r"state\[0\] has 'param_average'.* without ema_decay"),
]


@pytest.mark.parametrize(("saved", "error", "match"), ACCUMULATED)
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
    with pytest.raises(ValueError, match=r"state\[0\] has 'grad_accumulator'.* without accumulate_steps"):
        optimizer.load_state_dict(saved_after(2, accumulate_steps=2))
    good = fastopt.Adam([ones(3), ones(2)], accumulate_steps=2)
    good.load_state_dict({**saved_after(1, accumulate_steps=2), "accumulated": {"calls": np.int64(1), "params": (0,)}})
    good.step([None, None])
    assert good.state[0]["step"] == 1

"""A table of wrong uses: each is a named TypeError or ValueError, raised before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from arrays import ones, read_only
from cases import BACKENDS, equal_bits

import fastopt
from fastopt.definitions.specs import SPECS, Spec

F32 = np.float32


def misaligned(size: int) -> np.ndarray:
    return np.zeros(4 * size + 1, np.uint8)[1:].view(F32)


class Bad(NamedTuple):
    """A call that must fail; `match` is what the message must say."""

    name: str
    call: Callable[[], Any]
    error: type[Exception]
    match: str


def endless() -> list[Any]:
    found: list[Any] = [ones(3)]
    found.append({"a": found})
    return found


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
    Bad("a masked array", lambda: fastopt.Adam(np.ma.ones(3)), TypeError, "numpy.ndarray.*Masked.*mask would be"),
    Bad("integers", lambda: fastopt.Adam(np.ones(3, int)), TypeError, "float64, bfloat16 or float16, got int64"),
    Bad(
        "complex", lambda: fastopt.Adam(np.ones(3, complex)), TypeError, "float64, bfloat16 or float16, got complex128"
    ),
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
    Bad(
        "a number in nested lists",
        lambda: fastopt.Adam([[ones(3), 1.0]]),
        TypeError,
        r"params\[0\]\[1\] must be a numpy.ndarray, got float",
    ),
    Bad(
        "a tensor in nested dicts",
        lambda: fastopt.Adam({"layers": [ones(3), {"W": np.ones(3, int)}]}),
        TypeError,
        r"params\['layers'\]\[1\]\['W'\] must be of dtype float32, float64, bfloat16 or float16, got int64",
    ),
    Bad("empty nested", lambda: fastopt.Adam([[], {"a": ()}]), ValueError, "optimizer got an empty parameter list"),
    Bad("the same twice, nested", lambda: fastopt.Adam([[same], {"a": same}]), ValueError, r"params\[1\]\['a'\]"),
    Bad("a list in itself", lambda: fastopt.Adam(endless()), ValueError, r"params\[1\]\['a'\] contains itself"),
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
        "convention",
        lambda: fastopt.Adam(ones(3), convention="jax"),
        ValueError,
        "unknown convention.*'jax'.*'torch'",
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
    Bad("pack masked", lambda: fastopt.pack({"a": np.ma.ones(2)}), TypeError, r"arrays\['a'\] must be .*Masked"),
    Bad("norm of masked", lambda: fastopt.global_norm([np.ma.ones(2)]), TypeError, r"arrays\[0\] must be .*Masked"),
    Bad("norm of strided", lambda: fastopt.global_norm(ones(6)[::2]), ValueError, r"pass np.ascontiguousarray"),
    Bad("lr masked", lambda: fastopt.Adam(ones(3), lr=np.ma.array(0.5)), TypeError, "lr must be a real number"),
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
    BadGradients(
        "transposed", lambda p, s: [ones(3), ones(2, 2).T], ValueError, r"grads\[1\] .*C-contiguous.*gradient"
    ),
    BadGradients(
        "strided",
        lambda p, s: [ones(6)[::2], ones(2, 2)],
        ValueError,
        r"grads\[0\] .*strides \(8,\);.*gradient.*|grads\[0\] .*np.ascontiguousarray",
    ),
    BadGradients(
        "masked", lambda p, s: [np.ma.ones(3, F32), ones(2, 2)], TypeError, r"grads\[0\] .*Masked.*mask would be ign"
    ),
    BadGradients(
        "the second one masked",
        lambda p, s: [ones(3), np.ma.array(ones(2, 2), mask=[[True, False], [False, False]])],
        TypeError,
        r"grads\[1\] must be a numpy.ndarray, got numpy.ma.*its mask",
    ),
    BadGradients("a scalar", lambda p, s: [F32(1), ones(2, 2)], TypeError, r"grads\[0\] .*got numpy.float32"),
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


CONTIGUOUS = [
    ({}, False, r"grads must be C-contiguous.*strides \(8,\); pass np.ascontiguousarray\(...\) of this gradient$"),
    ({"zero_grads": True}, False, r"pass np.ascontiguousarray.* and zero the original yourself$"),
    ({}, True, r"bind a gradient made by np.ascontiguousarray.*write each new gradient into it$"),
]


@pytest.mark.parametrize(("options", "bound", "match"), CONTIGUOUS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_to_do_about_a_strided_gradient(options: Any, bound: bool, match: str, backend: str) -> None:
    gradient = ones(6)[::2]
    grads = {"grads": gradient} if bound else {}
    with pytest.raises(ValueError, match=match):
        fastopt.SGD(ones(3), backend=backend, **options, **grads).step(gradient)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_that_comes_later_is_noticed(backend: str) -> None:
    """Also by the guard, and after steps with plain arrays."""
    params = {"a": ones(3), "b": ones(2)}
    optimizer = fastopt.SGD(params, lr=1.0, backend=backend)
    guard = fastopt.DivergenceGuard(optimizer)
    optimizer.step({"a": ones(3), "b": ones(2)})
    for step in (optimizer.step, lambda grads: guard.step(1.0, grads)):
        with pytest.raises(TypeError, match=r"grads\['b'\] .*its mask would be ignored; array.filled\(0\)"):
            step({"a": ones(3), "b": np.ma.masked_greater(ones(2), 0)})
        assert not params["a"].any()
        assert not params["b"].any()


# --- parameters and gradients without dimensions --------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_scalars_are_gradients_of_parameters_without_dimensions(spec: Spec, dtype: Any, backend: str) -> None:
    """NumPy's arithmetic makes scalars of arrays without dimensions; the update is that of an array."""
    scalar, array = np.array(0.5, dtype), np.array(0.5, dtype)
    make = getattr(fastopt, spec.name)
    optimizers = make({"w": scalar}, backend=backend), make({"w": array}, backend=backend)
    for step in range(3):
        gradient = 2 * scalar - step
        assert isinstance(gradient, np.generic)
        optimizers[0].step({"w": gradient})
        optimizers[1].step({"w": np.array(gradient)})
    assert scalar.tobytes() == array.tobytes()
    assert scalar != 0.5


def test_the_guard_takes_scalars_too() -> None:
    w = np.array(0.5)
    guard = fastopt.DivergenceGuard(fastopt.SGD(w, lr=0.5))
    assert guard.step(w**2, 2 * w)
    assert w == 0
    with pytest.raises(fastopt.guard.DivergenceError, match="nonfinite"):
        guard.step(1.0, np.float64("nan"))


SCALARS = [
    (np.float32(1), {}, TypeError, "grads must be of its parameter's dtype float64, got float32"),
    (np.int64(1), {}, TypeError, "grads must be of dtype float32, float64, bfloat16 or float16, got int64"),
    (1.0, {}, TypeError, "grads must be a numpy.ndarray or a scalar of NumPy's of dtype float64, got float"),
    (np.ones(1), {}, ValueError, r"grads must be of its parameter's shape \(\), got \(1,\)"),
    (np.float64(1), {"zero_grads": True}, TypeError, "grads must be a numpy.ndarray, got numpy.float64"),
    (np.float64(1), {"grads": np.float64(1)}, TypeError, "grads must be a numpy.ndarray, got numpy.float64"),
    (np.ma.masked, {}, TypeError, "its mask would be ignored"),
]


@pytest.mark.parametrize(("gradient", "options", "error", "match"), SCALARS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_scalars_that_are_refused(
    gradient: Any, options: Any, error: type[Exception], match: str, backend: str
) -> None:
    w = np.array(0.5)
    with pytest.raises(error, match=match):
        fastopt.SGD(w, backend=backend, **options).step(gradient)
    assert w == 0.5


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

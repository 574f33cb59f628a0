"""What is done around an update: the same bits everywhere, and the same values as NumPy's when done one by one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, DTYPES, PLAIN, VARIANTS, Case, dealt, equal_bits, extra_options
from comparing import assert_same, stepped

import fastopt
from fastopt.constraints import Box, ElasticNet, GroupLasso, L1Ball, L2Ball, Simplex
from fastopt.definitions.specs import SPECS
from fastopt.kernels import backends

OPTIONS = extra_options()
SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (7,), (), (0, 4), (2, 1300), (9000,), (40, 3, 2), (1, 64))
STEPS = 7

by_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
WAYS_TO_SAVE = ["state_dict", "pickle", "deepcopy"]
NUMBERS = {id(options): number for number, options in enumerate(OPTIONS.values())}

by_plain_case = pytest.mark.parametrize("case", PLAIN, ids=str)


def problem(rng: np.random.Generator, dtype: Any) -> tuple[list[np.ndarray], list[list[np.ndarray | None]]]:
    """Parameters, and gradients for some steps; some have none in some steps."""
    params = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    gradients = [
        [
            None if (step + index) % 5 == 4 else rng.standard_normal(shape).astype(dtype)
            for index, shape in enumerate(SHAPES)
        ]
        for step in range(STEPS)
    ]
    return params, gradients


@by_options
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("threads_always")
def test_the_same_bits_from_every_backend_and_number_of_threads(
    options: dict[str, Any], dtype: Any, rng: np.random.Generator
) -> None:
    """Each variant with every third option, in one of the dtypes: what is done around a rule has loops of its own."""
    params, gradients = problem(rng, dtype)
    for case in dealt(VARIANTS, NUMBERS[id(options)] + 3 * DTYPES.index(dtype), 6):
        if not case.can(options):
            continue
        expected = stepped(case, params, gradients, backend="reference", **options)
        for backend, n_threads in (("cython", 1), ("cython", 3), ("numba", 2)):
            actual = stepped(case, params, gradients, backend=backend, n_threads=n_threads, **options)
            assert_same(case, expected, actual, f"{backend}, {n_threads} threads")


@by_options
@pytest.mark.usefixtures("threads_always")
def test_the_same_bits_of_large_arrays(options: dict[str, Any], rng: np.random.Generator) -> None:
    params = [rng.standard_normal((1000, 301)).astype(np.float32)]
    gradients = [[rng.standard_normal((1000, 301)).astype(np.float32)] for _ in range(4)]
    case = PLAIN[1]
    expected = stepped(case, params, gradients, backend="reference", **options)
    for n_threads in (1, 2, 7):
        actual = stepped(case, params, gradients, n_threads=n_threads, **options)
        assert_same(case, expected, actual, f"{n_threads} threads")


@by_options
def test_numba_without_the_compiled_module(
    options: dict[str, Any], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = [rng.standard_normal(shape).astype(np.float32) for shape in ((400, 301), (7,))]
    gradients = [[rng.standard_normal(param.shape).astype(np.float32) for param in params] for _ in range(4)]
    case = PLAIN[1]
    expected = stepped(case, params, gradients, backend="reference", **options)
    with monkeypatch.context() as patch:
        patch.setattr(backends, "compiled_module_error", lambda: "not built")
        backend = backends.BACKENDS["numba"]()
        patch.setattr(backends, "load", lambda name, custom=False: backend)
        actual = stepped(case, params, gradients, n_threads=3, **options)
    assert_same(case, expected, actual, "numba without the compiled module")


# --- done one by one ------------------------------------------------------------------------------------------------


def adam_rate(state: Any, group: Any, weight: float, second: str = "exp_avg_sq") -> Any:
    """Of rules that divide by the root of an average of squares, corrected for its start."""
    correction = 1 - group["betas"][1] ** state["step"]
    return group["lr"] * weight / (np.sqrt(state[second] / correction) + group["eps"])


def first_weight(state: Any, group: Any) -> float:
    """What corrects an average of gradients for its start."""
    return float(1 / (1 - group["betas"][0] ** state["step"]))


def nadam_weight(state: Any, group: Any) -> float:
    step = state["step"]
    mu, after = (group["betas"][0] * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"])) for t in (step, step + 1))
    return float((1 - mu) / (1 - state["mu_product"]) + after / (1 - state["mu_product"] * after))


def ademamix_weight(state: Any, group: Any) -> float:
    warmup = group["alpha_warmup"]
    return first_weight(state, group) + group["alpha"] * (min(state["step"] / warmup, 1) if warmup else 1)


def adan_rate(state: Any, group: Any) -> Any:
    (beta1, beta2, beta3), step = group["betas"], state["step"]
    weight = 1 / (1 - beta1**step) + beta2 / (1 - beta2**step)
    return group["lr"] * weight / (np.sqrt(state["exp_avg_sq"] / (1 - beta3**step)) + group["eps"])


def radam_rate(state: Any, group: Any) -> Any:
    beta2, step = group["betas"][1], state["step"]
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if length <= 5:
        return group["lr"] * first_weight(state, group)
    rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    corrected = math.sqrt(rectified * (1 - beta2**step)) * first_weight(state, group)
    return group["lr"] * corrected / (np.sqrt(state["exp_avg_sq"]) + group["eps"])


def adam_or_amsgrad_rate(state: Any, group: Any) -> Any:
    second = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
    return adam_rate(state, group, first_weight(state, group), second)


def rmsprop_rate(state: Any, group: Any) -> Any:
    variance = state["square_avg"] - (state["grad_avg"] ** 2 if group["centered"] else 0)
    return group["lr"] / (np.sqrt(np.maximum(variance, 0)) + group["eps"])


def adagrad_rate(state: Any, group: Any) -> Any:
    decayed = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
    return decayed / (np.sqrt(state["sum"]) + group["eps"])


RATES: dict[str, Callable[[Any, Any], Any]] = {
    "SGD": lambda state, group: group["lr"],
    "Adam": adam_or_amsgrad_rate,
    "AdamW": adam_or_amsgrad_rate,
    "RMSprop": rmsprop_rate,
    "Adagrad": adagrad_rate,
    "Rprop": lambda state, group: state["step_size"],
    "Adamax": lambda state, group: group["lr"] * first_weight(state, group) / state["exp_inf"],
    "NAdam": lambda state, group: adam_rate(state, group, nadam_weight(state, group)),
    "RAdam": radam_rate,
    "Lion": lambda state, group: group["lr"],
    "AdaBelief": lambda state, group: adam_rate(state, group, first_weight(state, group), "exp_avg_var"),
    "AdEMAMix": lambda state, group: adam_rate(state, group, ademamix_weight(state, group)),
    "Adan": adan_rate,
}
"""The rate of an update for each element, from the definition in the docstrings: of all that take a proximal step."""


def test_every_proximal_step_has_a_rate_and_no_other() -> None:
    assert RATES.keys() == {name for name, spec in SPECS.items() if spec.proximal}
    for name, spec in SPECS.items():
        assert not spec.proximal or spec.proximal.keys() == set(spec.rules.values()), name


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if not (spec.proximal or spec.average)])
def test_a_proximal_step_without_a_rate_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"prox is not possible with {name}: its updates have no rate to do it with"):
        getattr(fastopt, name)(np.ones(3), prox=fastopt.constraints.L1(0.1))


def rows_of(param: np.ndarray, per: str) -> np.ndarray:
    return param.reshape(param.shape[0], -1) if per == "row" and param.ndim > 1 else param.reshape(1, -1)


def threshold(row: np.ndarray, total: float) -> float:
    """By sorting, as Duchi et al. give it."""
    ordered = np.sort(row)[::-1]
    excess = (np.cumsum(ordered) - total) / np.arange(1, row.size + 1)
    return float(excess[np.nonzero(ordered > excess)[0][-1]])


def constrain(param: np.ndarray, constraint: Any, rate: Any, lr: float) -> np.ndarray:
    if isinstance(constraint, ElasticNet):
        return np.sign(param) * np.maximum(abs(param) - rate * constraint.l1, 0) / (1 + rate * constraint.l2)
    if isinstance(constraint, Box):
        return np.clip(param, constraint.low, constraint.high)
    if constraint is None or param.size == 0:
        return param
    rows = rows_of(param, constraint.per).copy()
    for row in rows:
        norm = math.sqrt(np.sum(row * row))
        if isinstance(constraint, L2Ball):
            row *= min(1, constraint.radius / norm) if norm else 1
        elif isinstance(constraint, GroupLasso):
            row *= max(0, 1 - lr * constraint.strength / norm) if norm else 0
        elif isinstance(constraint, Simplex):
            row[:] = np.maximum(row - threshold(row, constraint.total), 0)
        elif isinstance(constraint, L1Ball) and abs(row).sum() > constraint.radius:
            row[:] = np.sign(row) * np.maximum(abs(row) - threshold(abs(row), constraint.radius), 0)
    return rows.reshape(param.shape)


def one_by_one(
    case: Case, params: list[np.ndarray], gradients: list[list[Any]], options: dict[str, Any]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Parameters and averages after a plain optimizer was stepped, with everything around it done by NumPy."""
    params = [param.copy() for param in params]
    plain = case.make(params)
    group = plain.param_groups[0]
    averages = [param.copy() for param in params]
    every = options.get("accumulate_steps", 1)
    gathered: list[Any] = [None] * len(params)
    for call, step in enumerate(gradients):
        for index, gradient in enumerate(step):
            if gradient is not None:
                part = gradient / options.get("grad_scale", 1.0) / every
                gathered[index] = part if gathered[index] is None else gathered[index] + part
        if (call + 1) % every:
            continue
        present = [each for each in gathered if each is not None]
        norm = math.sqrt(sum(float(np.sum(each * each)) for each in present))
        factor = min(1, options.get("max_grad_norm", math.inf) / (norm + 1e-6))
        clipped = []
        for each in gathered:
            if each is not None:
                own = min(1, options.get("clip_norm", math.inf) / (math.sqrt(np.sum(each * each)) + 1e-6))
                each = np.ascontiguousarray(
                    np.clip(
                        each * factor * own, -options.get("clip_value", math.inf), options.get("clip_value", math.inf)
                    )
                ).reshape(each.shape)
            clipped.append(each)
        plain.step(clipped)
        for index, param in enumerate(params):
            if gathered[index] is None:
                continue
            state = plain.state[index]
            decay = 0.0 if state["step"] == 1 else options.get("ema_decay", 0.0)
            if options.get("ema_warmup"):
                decay = min(decay, (1 + state["step"]) / (10 + state["step"]))
            averages[index] = decay * averages[index] + (1 - decay) * param
            frequency = options.get("ema_overwrite_frequency")
            if frequency and state["step"] % frequency == 0:
                param[...] = averages[index]
            rate = RATES[case.optimizer](state, group) if case.spec.proximal else None
            for constraint in (options.get("prox"), options.get("projection")):
                param[...] = constrain(param, constraint, rate, group["lr"])
        gathered = [None] * len(params)
    return params, averages


@by_options
def test_the_same_values_as_one_by_one(options: dict[str, Any], rng: np.random.Generator) -> None:
    params, gradients = problem(rng, np.float64)
    for case in [each for each in VARIANTS if each.can(options)]:
        expected, averages = one_by_one(case, params, gradients, options)
        actual, state = stepped(case, params, gradients, **options)
        for index, (mine, theirs) in enumerate(zip(actual, expected, strict=True)):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12, err_msg=f"{case}, parameter {index}")
            if "ema_decay" in options:
                np.testing.assert_allclose(
                    state[index]["param_average"], averages[index], rtol=1e-9, atol=1e-12, err_msg=str(case)
                )


@by_options
def test_gradients_are_not_rewritten_but_for_zero_grads(options: dict[str, Any], rng: np.random.Generator) -> None:
    params, gradients = problem(rng, np.float32)
    optimizer = fastopt.Adam(params, **options)
    for step in gradients:
        before = [None if gradient is None else gradient.copy() for gradient in step]
        optimizer.step(step)
        for gradient, old in zip(step, before, strict=True):
            if gradient is not None:
                assert equal_bits(gradient, np.zeros_like(old) if options.get("zero_grads") else old)


@by_options
def test_all_dead_gradients_change_nothing_unexpected(options: dict[str, Any]) -> None:
    param = np.full(10, 0.1, np.float32)
    fastopt.SGD(param, lr=0.1, **options).step(np.zeros(10, np.float32))
    assert np.isfinite(param).all()


CONSTRAINED = {name: options for name, options in OPTIONS.items() if {"prox", "projection"} & set(options)}


@pytest.mark.parametrize("options", CONSTRAINED.values(), ids=CONSTRAINED)
@pytest.mark.parametrize("backend", ["cython", "numba", "reference"])
def test_nan_stays_nan_whatever_it_is_held_to(options: dict[str, Any], backend: str) -> None:
    gradient = np.zeros((4, 3))
    gradient[1, 2] = np.nan
    every = options.get("accumulate_steps", 1)
    for case in [each for each in VARIANTS if each.can(options)]:
        param = np.full((4, 3), 0.25)
        optimizer = case.make(param, backend=backend, **{**options, "nonfinite": "propagate"})
        for _ in range(2 * every):  # the first step of some goes into a state alone
            optimizer.step(gradient.copy())
        assert np.isnan(param[1, 2]), case


# --- clipping -------------------------------------------------------------------------------------------------------


def test_the_norm_is_as_exact_as_float64(rng: np.random.Generator) -> None:
    gradient = rng.standard_normal(3_000_017).astype(np.float32) * 1e-3
    gradient[::1000] *= 1e6
    exact = math.sqrt(math.fsum((gradient.astype(np.float64) ** 2).tolist()))
    norms = set()
    for backend in ("cython", "numba", "reference"):
        for n_threads in (1, 2, 5):
            optimizer = fastopt.SGD(
                np.zeros_like(gradient), max_grad_norm=math.inf, backend=backend, n_threads=n_threads
            )
            assert math.isnan(optimizer.grad_norm)
            optimizer.step(gradient)
            norms.add(optimizer.grad_norm)
    assert len(norms) == 1, "the same bits"
    assert abs(norms.pop() - exact) <= 1e-14 * exact


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_clipping_is_that_of_torch(dtype: Any, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    shapes = [(30, 7), (5,), ()]
    starts = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    mine = [start.copy() for start in starts]
    theirs = [torch.tensor(start, requires_grad=True) for start in starts]
    optimizer = fastopt.AdamW(mine, max_grad_norm=0.7)
    torch_optimizer = torch.optim.AdamW(theirs)
    for step in range(20):
        gradients = [np.asarray(rng.standard_normal(shape) * 10.0 ** (step % 4 - 2)).astype(dtype) for shape in shapes]
        for tensor, gradient in zip(theirs, gradients, strict=True):
            tensor.grad = torch.tensor(gradient)
        norm = torch.nn.utils.clip_grad_norm_(theirs, 0.7)
        torch_optimizer.step()
        optimizer.step(gradients)
        assert optimizer.grad_norm == pytest.approx(float(norm), rel=1e-6 if dtype == np.float32 else 1e-12)
    for param, tensor in zip(mine, theirs, strict=True):
        tolerance = 1e-6 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(param, tensor.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_infinite_norm_propagates_as_in_torch(value: float) -> None:
    torch = pytest.importorskip("torch")
    param, tensor = np.ones(3), torch.ones(3, dtype=torch.float64, requires_grad=True)
    tensor.grad = torch.tensor([1.0, value, 2.0], dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_([tensor], 1.0)
    torch.optim.SGD([tensor], lr=0.1).step()
    fastopt.SGD(param, lr=0.1, max_grad_norm=1.0).step(np.array([1.0, value, 2.0]))
    assert equal_bits(param, tensor.detach().numpy())


def test_grad_scale_and_max_grad_norm_can_change_between_steps() -> None:
    param = np.zeros(2)
    optimizer = fastopt.SGD(param, lr=1.0, grad_scale=2.0, max_grad_norm=100.0)
    optimizer.step(np.array([2.0, 4.0]))
    optimizer.grad_scale = 4
    optimizer.step(np.array([4.0, 8.0]))
    assert param.tolist() == [-2, -4]
    optimizer.max_grad_norm = 5.0
    optimizer.step(np.array([0.0, 40.0]))
    assert param == pytest.approx([-2, -9])
    with pytest.raises(ValueError, match="cannot be turned on or off"):
        optimizer.max_grad_norm = None
    with pytest.raises(ValueError, match="cannot be turned on or off"):
        fastopt.SGD(param).max_grad_norm = 1.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_norm_is_kept(backend: str) -> None:
    optimizer = fastopt.SGD(np.zeros(2), max_grad_norm=1.0, accumulate_steps=2, backend=backend)
    for _ in range(2):
        optimizer.step(np.array([3.0, 4.0]))
    optimizer.param_groups[0]["projection"] = Box(-1, 1)  # makes a new engine
    optimizer.step(np.array([3.0, 4.0]))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.grad_norm == copy.deepcopy(optimizer).grad_norm == 5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("projection", [Simplex(1.0), L1Ball(1.0)], ids=str)
def test_an_element_at_the_threshold(projection: Any, backend: str) -> None:
    param = np.array([2.0, 1.0, 0.0])
    fastopt.SGD(param, projection=projection, backend=backend).step(np.zeros(3))
    assert param.tolist() == [1, 0, 0]


# --- averages -------------------------------------------------------------------------------------------------------


def test_averages_are_swapped_in_and_out_and_nothing_else_goes_on_meanwhile() -> None:
    param, gradient = np.array([1.0, 2.0]), np.ones(2)
    optimizer = fastopt.SGD(param, lr=1.0, ema_decay=0.5)
    optimizer.step(gradient)
    optimizer.step(gradient)
    average = optimizer.state[0]["param_average"].copy()
    assert average.tolist() == [-0.5, 0.5]
    with optimizer.averaged_params():
        assert param.tolist() == average.tolist()
        for call in (
            lambda: optimizer.step(gradient),
            optimizer.state_dict,
            lambda: optimizer.load_state_dict({"state": {}, "param_groups": []}),
            lambda: optimizer.add_param_group({"params": np.zeros(2)}),
            lambda: optimizer.set_segments(0, frozen=True),
        ):
            with pytest.raises(RuntimeError, match="averages are swapped in, so this is not possible"):
                call()
        assert param.tolist() == average.tolist()
    assert param.tolist() == [-1, 0]
    optimizer.step(gradient)
    assert param.tolist() == [-2, -1]
    with pytest.raises(RuntimeError, match="ema_decay"):
        fastopt.SGD(param).swap_averages()


def test_averages_come_back_after_an_exception() -> None:
    param = np.array([1.0])
    optimizer = fastopt.SGD(param, lr=1.0, ema_decay=0.5)
    optimizer.step(np.ones(1))
    optimizer.step(np.ones(1))
    with pytest.raises(ZeroDivisionError), optimizer.averaged_params():
        raise ZeroDivisionError
    assert param.tolist() == [-1]


# --- saving ---------------------------------------------------------------------------------------------------------


@by_options
@pytest.mark.parametrize(
    "how", [WAYS_TO_SAVE[0], *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS_TO_SAVE[1:])]
)
def test_saved_in_the_middle_and_continued(options: dict[str, Any], how: str, rng: np.random.Generator) -> None:
    """Each optimizer with each option, in one of the ways: what an option keeps is the same for every rule."""
    import pickle

    params, gradients = problem(rng, np.float64)
    for case in dealt(PLAIN, NUMBERS[id(options)] + WAYS_TO_SAVE.index(how), len(WAYS_TO_SAVE)):
        if not case.can(options):
            continue
        expected, _ = stepped(case, params, gradients, **options)
        for at in (1, 2, 3):
            started = [param.copy() for param in params]
            optimizer = case.make(started, **options)
            for step in gradients[:at]:
                optimizer.step([None if each is None else each.copy() for each in step])
            if how == "state_dict":
                continued = case.make(started, **options)
                continued.load_state_dict(optimizer.state_dict())
            else:
                continued = pickle.loads(pickle.dumps(optimizer)) if how == "pickle" else copy.deepcopy(optimizer)
            for step in gradients[at:]:
                continued.step([None if each is None else each.copy() for each in step])
            for mine, theirs in zip(continued.param_groups[0]["params"], expected, strict=True):
                assert equal_bits(mine, theirs), f"{case}, saved after {at}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_had_no_gradient_in_any_accumulated_call_is_not_updated(backend: str) -> None:
    gradient = np.ones(2)
    optimizer = fastopt.Adam([np.zeros(2), np.zeros(2)], accumulate_steps=2, backend=backend)
    for first in (gradient, None, None, None, gradient, None):
        optimizer.step([first, gradient])
    assert [optimizer.state[index]["step"] for index in (0, 1)] == [2, 3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_options_of_groups_can_change_between_accumulated_calls(backend: str) -> None:
    param = np.zeros(2)
    optimizer = fastopt.SGD(param, lr=1.0, accumulate_steps=2, backend=backend)
    optimizer.step(np.full(2, 1.0))
    optimizer.param_groups[0]["clip_value"] = 1.5  # makes a new engine
    optimizer.step(np.array([0.0, 5.0]))
    assert param.tolist() == [-0.5, -1.5]


def test_options_of_groups_can_change() -> None:
    param = np.zeros(2)
    optimizer = fastopt.SGD(param, lr=1.0, ema_decay=0.5)
    optimizer.step(np.array([1.0, 5.0]))
    optimizer.param_groups[0]["clip_value"] = 2.0
    optimizer.param_groups[0]["projection"] = fastopt.constraints.Box(-6, 6)
    optimizer.step(np.array([1.0, 5.0]))
    assert param.tolist() == [-2, -6]
    with pytest.raises(ValueError, match="at most one of"):
        optimizer.param_groups[0]["clip_norm"] = 1.0
    optimizer.param_groups[0].update(clip_value=None, clip_norm=math.sqrt(2))
    optimizer.step(np.array([-1.0, -1.0]))
    assert param == pytest.approx([-1, -5])

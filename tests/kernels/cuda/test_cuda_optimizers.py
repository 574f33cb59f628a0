"""Optimizers over arrays on a device: what NumPy's reference gives, through everything that users call."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import assert_agrees, is_exact
from cases import DTYPES, PLAIN, VARIANTS, Case, equal_bits, extra_options
from custom_rule import Custom
from device_arrays import Interface, to_device, to_host, transposed
from storages import HALVES

import fastopt
from fastopt.constraints import NonNegative
from fastopt.definitions.specs import SPECS
from fastopt.kernels.cuda.availability import is_simulated

PLAIN = [case for case in PLAIN if not case.has_sums]  # which devices do not compute
VARIANTS = [case for case in VARIANTS if not case.has_sums]  # which devices do not compute
SPECS = {name: spec for name, spec in SPECS.items() if not spec.has_sums}

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (7,), (), (0, 4), (130,))
STEPS = 4

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)

Make = Callable[..., fastopt.Optimizer]


def problem(rng: np.random.Generator, dtype: Any = np.float32) -> tuple[list[np.ndarray], list[list[Any]]]:
    """Parameters, and gradients for some steps; some have none in some steps."""
    params = [np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]
    gradients = [
        [
            None if (step + index) % 5 == 4 else np.asarray(rng.standard_normal(shape), dtype)
            for index, shape in enumerate(SHAPES)
        ]
        for step in range(STEPS)
    ]
    return params, gradients


def assert_same(device: fastopt.Optimizer, host: fastopt.Optimizer, label: object = "") -> None:
    """The same parameters, states and counts, bit by bit where a device computes no powers."""
    assert device.iterations == host.iterations
    exact = is_exact(host.spec.coefficients)
    pairs = zip(device._contents.params.arrays, host._contents.params.arrays, strict=True)
    for index, (mine, theirs) in enumerate(pairs):
        assert_agrees(theirs, to_host(mine), exact, f"{label}: parameter {index}")
        for name, state in host.state[index].items():
            if name == "step" and not host.spec.counts_steps:  # not in its state dict either
                continue
            assert_same_state(state, to_host(device.state[index][name]), exact, f"{label}: {name} of parameter {index}")


def assert_same_state(expected: Any, actual: Any, exact: bool, label: str) -> None:
    """For an array; or for a number, such as a count of steps or a product that is carried from step to step."""
    if isinstance(expected, np.ndarray):
        assert_agrees(expected, actual, exact, label)
    else:
        assert actual == (expected if exact or isinstance(expected, int) else pytest.approx(expected, rel=1e-13)), label


def both(make: Make, params: Any, gradients: list[Any], **more: Any) -> tuple[fastopt.Optimizer, fastopt.Optimizer]:
    """Two optimizers after these steps: on the device, and the reference."""
    device = make(to_device(params), backend="cuda", **more)
    host = make(copy.deepcopy(params), backend="reference", **more)
    for step in gradients:
        device.step(to_device(step))
        host.step(copy.deepcopy(step))
    return device, host


# --- the same as the reference ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_every_rule(case: Case, rng: np.random.Generator) -> None:
    """In float64, too, in `test_cuda_engine.py`."""
    device, host = both(case.make, *problem(rng))
    assert_same(device, host, case)
    assert device.backend == "cuda"


@by_dtype
def test_a_rule_of_the_user_s_own(dtype: Any, rng: np.random.Generator) -> None:
    device, host = both(Custom, *problem(rng, dtype), lr=0.1, weight_decay=0.25, max_grad_norm=1.0)
    assert_same(device, host)
    moved = Custom([to_host(param) for param in device._contents.params.arrays], backend="numba")
    moved.load_state_dict(device.state_dict())
    assert_same(device, moved)


ELEMENTWISE = {
    name: options
    for name, options in extra_options().items()
    if all(getattr(options.get(key), "row", None) is None for key in ("prox", "projection"))
}


@pytest.mark.parametrize("options", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_every_option(options: dict[str, Any], rng: np.random.Generator) -> None:
    device, host = both(fastopt.Adam, *problem(rng), **options)
    assert_same(device, host, options)
    norms = [optimizer.grad_norm for optimizer in (device, host)]
    np.testing.assert_array_equal(*norms)


ON_ROWS = {name: options for name, options in extra_options().items() if name not in ELEMENTWISE}


@pytest.mark.parametrize("options", ON_ROWS.values(), ids=ON_ROWS)
def test_options_on_rows_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="backend='cuda' has no constraints on rows"):
        fastopt.SGD(to_device(np.zeros((2, 3))), **options)


def layouts(rng: np.random.Generator) -> dict[str, tuple[Any, Any]]:
    """Parameters as they can be given, and gradients of the same form."""

    def of(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "array": (of(33), of(33)),
        "list": ([of(3, 2), of(5)], [of(3, 2), None]),
        "dict": ({"W": of(3, 2), "b": of(2)}, {"W": of(3, 2), "b": of(2)}),
        "groups": (
            [{"params": of(6), "lr": 0.5}, {"params": {"W": of(2, 2)}, "weight_decay": 0.1}],
            [of(6), {"W": of(2, 2)}],
        ),
    }


@pytest.mark.parametrize("kind", layouts(np.random.default_rng(0)))
def test_every_layout(kind: str, rng: np.random.Generator) -> None:
    params, gradients = layouts(rng)[kind]
    assert_same(*both(fastopt.AdamW, params, [gradients] * 3), kind)
    device, host = both(fastopt.AdamW, params, [], grads=None)
    assert_same(device, host, kind)
    on_device = to_device(gradients)
    device = fastopt.AdamW(to_device(params), grads=on_device)  # the backend is chosen for these
    host = fastopt.AdamW(copy.deepcopy(params), grads=gradients, backend="reference")
    for _ in range(3):
        device.step()
        host.step()
    assert device.backend == "cuda"
    assert_same(device, host, kind)


def test_arrays_of_other_libraries(rng: np.random.Generator) -> None:
    values, gradient = rng.standard_normal((2, 3, 5)).astype(np.float32), rng.standard_normal((3, 5)).astype(np.float32)
    params = [Interface(each) for each in values]
    device, host = fastopt.Adam(params), fastopt.Adam(list(values), backend="reference")
    for _ in range(2):
        device.step([Interface(gradient), Interface(gradient, read_only=True)])
        host.step([gradient, gradient])
    for mine, theirs in zip(params, values, strict=True):
        assert equal_bits(mine.to_host(), theirs)
    assert list(device.param_groups[0]["params"]) == params  # as they were given


# --- parameters and gradients of 16 bits ----------------------------------------------------------------------------

HALVES_HERE = HALVES if is_simulated() else {"float16": HALVES["float16"]}
"""On a device, arrays of Numba's cannot be bfloat16; `test_cuda_torch.py` has tensors."""
DTYPES_IN_TURN = (*HALVES_HERE.values(), np.dtype(np.float32))
STOCHASTIC = {"stochastic_rounding": True, "seed": 2**63 + 5}


def problem_of_halves(rng: np.random.Generator) -> tuple[list[np.ndarray], list[list[Any]]]:
    """The same problem with parameters of these dtypes in turn, and gradients of theirs or of float32."""
    params, gradients = problem(rng)
    of = [DTYPES_IN_TURN[index % len(DTYPES_IN_TURN)] for index in range(len(params))]
    wide = np.dtype(np.float32)
    return [each.astype(dtype) for each, dtype in zip(params, of, strict=True)], [
        [
            None if each is None else each.astype(wide if (step + index) % 3 == 0 else of[index])
            for index, each in enumerate(found)
        ]
        for step, found in enumerate(gradients)
    ]


@pytest.mark.parametrize(
    ("case", "more"), [(case, STOCHASTIC if index % 2 else {}) for index, case in enumerate(PLAIN)], ids=str
)
def test_halves(case: Case, more: dict[str, Any], rng: np.random.Generator) -> None:
    device, host = both(case.make, *problem_of_halves(rng), **more)
    assert_same(device, host, case)


@pytest.mark.parametrize("options", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_every_option_of_halves(options: dict[str, Any], rng: np.random.Generator) -> None:
    device, host = both(fastopt.Adam, *problem_of_halves(rng), **options, **STOCHASTIC)
    assert_same(device, host, options)
    norms = [optimizer.grad_norm for optimizer in (device, host)]
    np.testing.assert_array_equal(*norms)


@pytest.mark.parametrize("half", HALVES_HERE.values(), ids=HALVES_HERE)
def test_rounding_of_special_values(half: Any) -> None:
    """Overflow, denormals, ties, infinities, NaN, signs of zeros: as the reference rounds and reads them."""
    numbers = [0.0, -0.0, 1e-45, 6e-8, 2.98e-8, 65504, 65520, -1e30, 3.4e38, np.inf, -np.inf, np.nan, 1 + 2**-9, 1 / 3]
    param = np.zeros(len(numbers), half)
    with np.errstate(all="ignore"):
        codes = [np.asarray(numbers, np.float32), np.asarray(numbers, np.float32).astype(half)]
    for gradient in codes:
        device = fastopt.SGD(to_device(param), lr=1.0, flush_denormals=False)
        host = fastopt.SGD(param.copy(), lr=1.0, backend="reference", flush_denormals=False)
        for optimizer, given in ((device, to_device(gradient)), (host, gradient)):
            optimizer.step(given)
        assert_same(device, host)


def test_averages_of_halves_are_swapped(rng: np.random.Generator) -> None:
    params, gradients = problem_of_halves(rng)
    device, host = both(fastopt.Adam, params, gradients, ema_decay=0.5)
    for _ in range(2):
        for optimizer in (device, host):
            optimizer.swap_averages()
        assert_same(device, host)
    for optimizer, step in ((device, to_device(gradients[0])), (host, gradients[0])):
        optimizer.step(step)
    assert_same(device, host)


def test_bound_gradients_of_halves(rng: np.random.Generator) -> None:
    params, gradients = problem_of_halves(rng)
    on_device = to_device(gradients[0])
    device = fastopt.Adam(to_device(params), grads=on_device, zero_grads=True)
    host = fastopt.Adam(copy.deepcopy(params), grads=gradients[0], zero_grads=True, backend="reference")
    for optimizer in (device, host):
        optimizer.step()
        optimizer.step()
    assert_same(device, host)
    for mine, theirs in zip(on_device, gradients[0], strict=True):
        assert mine is None or equal_bits(to_host(mine), theirs)


def test_state_dicts_of_halves(rng: np.random.Generator) -> None:
    params, gradients = problem_of_halves(rng)
    device, host = both(fastopt.Adam, params, gradients[:2], **STOCHASTIC)
    moved = fastopt.Adam([to_host(each) for each in device._contents.params.arrays], stochastic_rounding=True)
    moved.load_state_dict(device.state_dict())
    back = fastopt.Adam(to_device([each.copy() for each in host._contents.params.arrays]), stochastic_rounding=True)
    back.load_state_dict(host.state_dict())
    for optimizer, given in ((device, to_device), (host, copy.deepcopy), (moved, copy.deepcopy), (back, to_device)):
        optimizer.step(given(gradients[2]))
    assert_same(device, host)
    assert_same(back, moved)
    assert_same(device, moved)


# --- accumulations that end early, and counts that are set ------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "finish"),
    [
        *((case, "apply_accumulated") for case in PLAIN),
        *((case, "drop_accumulated") for case in PLAIN[:3]),  # no rule runs: what is forgotten is the same for all
    ],
    ids=str,
)
def test_accumulations_that_end_early(case: Case, finish: str, rng: np.random.Generator) -> None:
    params, gradients = problem(rng)
    lr: Any = (lambda step: 0.5 / (1 + step)) if case.spec.uses_lr else 0.5
    device, host = both(case.make, params, gradients[:1], accumulate_steps=3, max_grad_norm=0.5, lr=lr)
    for step in gradients[1:]:
        assert getattr(device, finish)() == getattr(host, finish)()
        device.step(to_device(step))
        host.step(step)
    assert_same(device, host, case)


def test_bound_gradients_stay_bound(rng: np.random.Generator) -> None:
    param, gradient = rng.standard_normal((2, 5)).astype(np.float32)
    on_device, bound = to_device(param), to_device(gradient)
    device = fastopt.SGD(on_device, lr=0.5, accumulate_steps=2, grads=bound)
    host = fastopt.SGD(param, lr=0.5, accumulate_steps=2, grads=gradient)
    for optimizer in (device, host):
        optimizer.step()
        assert optimizer.apply_accumulated()
        optimizer.step()
        optimizer.step()
    assert_same(device, host)


def test_iterations_can_be_set(rng: np.random.Generator) -> None:
    params, gradients = problem(rng)
    device, host = both(fastopt.Adam, params, gradients[:2], lr=lambda step: 0.5 / (1 + step), nonfinite="skip")
    for optimizer in (device, host):
        optimizer.iterations = 40
        assert optimizer.current_lr == (0.5 / 41,)
        optimizer.step([_like(optimizer, each) if each is not None else None for each in gradients[2]])
        assert optimizer.iterations == 41
        assert optimizer.state[1]["step"] == 3
    assert_same(device, host)


# --- between steps ----------------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[fastopt.Optimizer], object]] = {
    "lr": lambda opt: opt.param_groups[0].update(lr=0.5),
    "schedule": lambda opt: opt.param_groups[0].update(lr=lambda step: 0.1 / (1 + step)),
    "betas": lambda opt: opt.param_groups[0].update(betas=(0.5, 0.75)),
    "projection": lambda opt: opt.param_groups[0].update(projection=NonNegative()),
    "grad_scale": lambda opt: setattr(opt, "grad_scale", 8.0),
    "max_grad_norm": lambda opt: setattr(opt, "max_grad_norm", 0.25),
    "frozen": lambda opt: opt.set_segments(1, frozen=True),
    "lr_scale": lambda opt: opt.set_segments([0, 4], lr_scale=0.5, weight_decay=0.25),
    "state": lambda opt: opt.load_state_dict(opt.state_dict()),
    "swapped twice": lambda opt: (opt.swap_averages(), opt.swap_averages()),
    "added": lambda opt: opt.add_param_group({"params": [_like(opt, np.ones(3, np.float32))], "lr": 0.5}),
}


def _like(optimizer: fastopt.Optimizer, values: np.ndarray) -> Any:
    return to_device(values) if optimizer.backend == "cuda" else values


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_between_steps(change: Callable[[fastopt.Optimizer], object], rng: np.random.Generator) -> None:
    params, gradients = problem(rng)
    device, host = both(fastopt.Adam, params, gradients[:2], max_grad_norm=10.0, ema_decay=0.5)
    for optimizer in (device, host):
        change(optimizer)
    for step in gradients[2:]:
        step = [step, [np.full(3, 0.5, np.float32)]] if len(host.param_groups) > 1 else step
        device.step(to_device(step))
        host.step(step)
    assert_same(device, host)


@pytest.mark.parametrize("cls", [fastopt.Adagrad, fastopt.Rprop])
def test_states_are_begun_anew_only_where_nothing_was_stepped(cls: Make, rng: np.random.Generator) -> None:
    """The device knows that, not the host."""
    params, gradients = problem(rng)
    device, host = both(cls, params, [[*gradients[0][:4], None]])
    for optimizer in (device, host):
        optimizer.param_groups[0].update(lr=0.5, maximize=True)
    device.step(to_device(gradients[1]))
    host.step(gradients[1])
    assert_same(device, host)


def test_schedules_go_by_the_updates_that_were_done(rng: np.random.Generator) -> None:
    params, gradients = problem(rng)
    gradients[1][0][0, 0] = np.inf  # this step is skipped, which the device alone knows
    device, host = both(
        fastopt.SGD, params, gradients, lr=fastopt.schedules.ExponentialDecay(0.5, 1, 0.5), nonfinite="skip"
    )
    assert host.iterations == STEPS - 1
    assert_same(device, host)
    for name in ("skipped_steps", "consecutive_skips", "nonfinite_counts", "current_lr"):
        assert getattr(device, name) == getattr(host, name), name
    assert device.skipped_steps == 1


def test_skips_are_counted_on_after_a_change(rng: np.random.Generator) -> None:
    bad = np.array([1.0, np.nan], np.float32)
    params = rng.standard_normal(2).astype(np.float32)
    device, host = both(fastopt.Adam, params, [bad, bad], nonfinite="skip")
    for optimizer in (device, host):
        optimizer.set_segments(0, lr_scale=0.5)
        optimizer.step(_like(optimizer, bad))
        assert (optimizer.skipped_steps, optimizer.consecutive_skips) == (3, 3)
        assert optimizer.nonfinite_counts == {"grads": 1}
        optimizer.step(_like(optimizer, np.ones(2, np.float32)))
        assert (optimizer.skipped_steps, optimizer.consecutive_skips) == (3, 0)
    assert_same(device, host)


@pytest.mark.parametrize(
    ("options", "skips"),
    [({"nonfinite": "raise"}, 0), ({"nonfinite": "skip", "max_consecutive_skips": 2}, 2)],
    ids=["raise", "limit"],
)
def test_errors_about_gradients_change_nothing(options: dict[str, Any], skips: int, rng: np.random.Generator) -> None:
    good, bad = rng.standard_normal((2, 9)).astype(np.float32)
    bad[3] = np.nan
    device, host = both(fastopt.Adam, rng.standard_normal(9).astype(np.float32), [good], **options)
    for optimizer in (device, host):
        for _ in range(skips):
            optimizer.step(_like(optimizer, bad))
        with pytest.raises(FloatingPointError, match="1 of 9 in grads"):
            optimizer.step(_like(optimizer, bad))
    device.step(to_device(good))
    host.step(good)
    assert_same(device, host)


def test_averages_and_gradients_are_on_the_device(rng: np.random.Generator) -> None:
    param, gradient = rng.standard_normal((2, 5)).astype(np.float32)
    on_device, bound = to_device(param), to_device(gradient)
    device = fastopt.SGD(on_device, lr=0.5, ema_decay=0.5, grads=bound)
    host = fastopt.SGD(param, lr=0.5, ema_decay=0.5, grads=gradient)
    for optimizer in (device, host):
        optimizer.step()
        assert optimizer.state[0]["step"] == 1
    with device.averaged_params(), host.averaged_params():
        assert device.averages_swapped_in
        assert equal_bits(to_host(on_device), param)
        with pytest.raises(RuntimeError, match="averages are swapped in"):
            device.step()
    assert_same(device, host)
    device.zero_grad()
    assert not to_host(bound).any()
    assert hasattr(device.state[0]["param_average"], "copy_to_host")  # Numba's device array


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.average is not None])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), *HALVES_HERE.values()], ids=str)
def test_averages_that_follow_from_parameters_are_shown(name: str, dtype: Any, rng: np.random.Generator) -> None:
    param = rng.standard_normal(5).astype(dtype)
    on_device = to_device(param)
    device, host = (getattr(fastopt, name)(each, lr=0.1) for each in (on_device, param))
    for _ in range(3):
        gradient = rng.standard_normal(5).astype(dtype)
        device.step(to_device(gradient))
        host.step(gradient)
    trained = to_host(on_device).copy()
    with device.averaged_params(), host.averaged_params():
        assert device.averages_swapped_in
        assert_same(device, host)
        assert not equal_bits(to_host(on_device), trained)
        with pytest.raises(RuntimeError, match="averages are swapped in"):
            device.step(to_device(gradient))
    assert equal_bits(to_host(on_device), trained)


def test_a_graph_s_replays_get_what_was_assigned(rng: np.random.Generator) -> None:
    """`apply_changes` sends hyperparameters without a step: replays call no Python that could."""
    param, gradient = rng.standard_normal((2, 5)).astype(np.float32)
    device = fastopt.SGD(to_device(param), lr=0.5, grads=to_device(gradient))
    host = fastopt.SGD(param, lr=0.5, grads=gradient, backend="reference")
    for optimizer in (device, host):
        optimizer.step()  # the one that is captured
    replay = device._room.engine._launch
    for rate in (0.5, 0.25):
        for optimizer in (device, host):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.apply_changes()
        for name in ("prepare", "update"):  # what a captured step is
            replay[name](device._room.engine.tables.header)
        host.step()
    assert_same(device, host)
    for rate in (0.25, lambda iteration: 0.5**iteration):
        for optimizer in (device, host):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.apply_changes()
        for name in ("prepare", "update"):
            replay[name](device._room.engine.tables.header)
        host.step()
    assert_same(device, host)
    assert device.iterations == 5
    device.param_groups[0]["projection"] = NonNegative()
    with pytest.raises(RuntimeError, match="capture again"):
        device.apply_changes()


def test_streams(rng: np.random.Generator) -> None:
    device = fastopt.SGD(to_device(np.zeros(3)))
    assert device.stream == 0
    device.stream = 7 if _simulated() else 2  # there, the per-thread default stream
    handle = device.stream
    device.set_segments(0, lr_scale=0.5)  # makes another engine
    device.step(to_device(np.ones(3)))
    assert device.stream == handle
    with pytest.raises(TypeError, match="stream must be a CUDA stream handle"):
        device.stream = "fast"
    assert device.stream == handle
    with pytest.raises(AttributeError, match=r"backend='cython' run on the processor"):
        _ = fastopt.SGD(np.zeros(3), backend="cython").stream


def _simulated() -> bool:
    from fastopt.kernels.cuda.availability import is_simulated

    return is_simulated()


# --- state dicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_state_dicts_load_into_every_backend_and_back(case: Case, rng: np.random.Generator) -> None:
    params, gradients = problem(rng)
    device, host = both(case.make, params, gradients[:2])
    saved, expected = device.state_dict(), host.state_dict()
    assert saved.keys() == expected.keys()
    assert saved["param_groups"] == expected["param_groups"]
    for index, states in expected["state"].items():
        for name, value in states.items():
            mine = saved["state"][index][name]
            assert type(mine) is type(value), name
            assert_same_state(value, mine, is_exact(host.spec.coefficients), name)
    moved = case.make([to_host(param) for param in device._contents.params.arrays], backend="cython")
    moved.load_state_dict(saved)
    back = case.make(to_device([param.copy() for param in host._contents.params.arrays]))
    back.load_state_dict(pickle.loads(pickle.dumps(expected)))
    for step in gradients[2:]:
        for optimizer in (device, host, moved, back):
            optimizer.step(to_device(step) if optimizer.backend == "cuda" else step)
    assert_same(device, host)
    assert_same(back, host)
    assert_same(device, moved)


@pytest.mark.parametrize("case", PLAIN[:3], ids=str)
def test_files_load_into_every_backend_and_back(case: Case, rng: np.random.Generator, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    params, gradients = problem(rng)
    device, host = both(case.make, params, gradients[:2])
    others = [case.make([np.zeros_like(param) for param in params], backend="cython"), case.make(to_device(params))]
    for saved, loaded in zip((device, host), others, strict=True):
        fastopt.save(path, saved)
        fastopt.load(path, loaded)
    fastopt.load(path, device)  # into what has states already
    for step in gradients[2:]:
        for optimizer in (device, host, *others):
            optimizer.step(to_device(step) if optimizer.backend == "cuda" else step)
    assert_same(device, host)
    assert_same(device, others[0])
    assert_same(others[1], host)


class OnDevice(Interface):
    """As CuPy's arrays are: NumPy cannot take them as they are."""

    def get(self) -> np.ndarray:
        return self.to_host()

    def __array__(self, *arguments: Any, **keywords: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")


def test_a_state_dict_of_device_arrays(rng: np.random.Generator) -> None:
    params, gradients = problem(rng)
    device, host = both(fastopt.Adam, params, gradients)
    saved = host.state_dict()
    for states in saved["state"].values():
        states.update({name: OnDevice(value) for name, value in states.items() if isinstance(value, np.ndarray)})
    for optimizer in (device, host):
        optimizer.load_state_dict(saved)
    assert_same(device, host)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_are_refused(copied: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied: its parameters are in the memory of a device"):
        copied(fastopt.Adam(to_device(np.zeros(3))))


# --- bad input --------------------------------------------------------------------------------------------------------

A = np.ones((2, 3), np.float32)


@pytest.mark.parametrize("use", [fastopt.global_norm, fastopt.DivergenceGuard], ids=["global_norm", "DivergenceGuard"])
def test_what_is_for_main_memory_says_so(use: Callable[[Any], Any]) -> None:
    array = to_device(A)
    with pytest.raises(TypeError, match=r"on a device|memory of a CUDA device"):
        use(fastopt.Adam(array) if use is fastopt.DivergenceGuard else array)


BAD_PARAMS: dict[str, tuple[Callable[[], Any], str, Any, str]] = {
    "NumPy's": (lambda: A, "cuda", TypeError, "params must be in the memory of a CUDA device .*, got numpy.ndarray"),
    "NumPy's, the second": (
        lambda: [to_device(A), A],
        "auto",
        TypeError,
        r"params\[1\] must be in the memory of a CUDA",
    ),
    "NumPy's, the first": (lambda: [A, to_device(A)], "auto", TypeError, r"params\[1\] must be a numpy.ndarray, got"),
    "for cython": (
        lambda: to_device(A),
        "cython",
        TypeError,
        "in the memory of a CUDA device .for optimizers with backend='cuda'",
    ),
    "for numba": (
        lambda: Interface(A),
        "numba",
        TypeError,
        "in the memory of a CUDA device .for optimizers with backend='cuda'",
    ),
    "integers": (lambda: Interface(np.ones(3, np.int32)), "cuda", TypeError, "bfloat16 or float16, got int32"),
    "two dtypes": (lambda: to_device([A, A.astype(float)]), "cuda", TypeError, "must be of one dtype"),
    "transposed": (lambda: transposed(A), "cuda", ValueError, "params must be C-contiguous"),
    "read-only": (lambda: Interface(A, read_only=True), "cuda", ValueError, "params must be writable"),
    "twice": (lambda: [to_device(A)] * 2, "cuda", ValueError, r"params\[0\] and params\[1\] are the same array"),
    "overlapping": (lambda: _overlapping(), "cuda", ValueError, r"params\[0\] and params\[1\] share memory"),
    "misaligned": (lambda: _misaligned(), "cuda", ValueError, "params must be aligned"),
}


def _overlapping() -> list[Any]:
    array = to_device(np.ones(6, np.float32))
    return [array[:4], array[2:]]


def _misaligned() -> Interface:
    array = Interface(np.ones(4, np.float32))
    address, read_only = array.__cuda_array_interface__["data"]
    array.__cuda_array_interface__ |= {"data": (address + 2, read_only), "shape": (3,)}
    return array


@pytest.mark.parametrize("bad", BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_bad_parameters(bad: tuple[Callable[[], Any], str, Any, str]) -> None:
    params, backend, error, message = bad
    with pytest.raises(error, match=message):
        fastopt.Adam(params(), backend=backend)


@pytest.mark.parametrize(
    "options", [{"state_dtype": "float8"}, {"state_dtype": "bfloat16"}, {"master_weights": True}], ids=str
)
def test_states_in_fewer_bits_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(
        NotImplementedError, match=f"{next(iter(options))} with backend='cuda': its states are of float32 or float64"
    ):
        fastopt.Adam(to_device(A), **options)


BAD_GRADIENTS: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "NumPy's": (lambda param: A, TypeError, r"grads\[1\] must be in the memory of a CUDA device .*, got numpy.ndarray"),
    "shape": (
        lambda param: to_device(A[0]),
        ValueError,
        r"grads\[1\] must be of its parameter's shape \(2, 3\), got \(3,\)",
    ),
    "dtype": (
        lambda param: to_device(A.astype(float)),
        TypeError,
        r"grads\[1\] must be of its parameter's dtype float32",
    ),
    "transposed": (lambda param: transposed(A), ValueError, r"grads\[1\] must be C-contiguous"),
    "the parameter": (lambda param: param, ValueError, r"grads\[1\] shares memory with params\[1\]"),
}


@pytest.mark.parametrize("bad", BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
@pytest.mark.parametrize("bound", [True, False], ids=["bound", "given"])
def test_bad_gradients_change_nothing(bad: tuple[Callable[[Any], Any], Any, str], bound: bool) -> None:
    make, error, message = bad
    params = to_device([A, A])
    gradients = [to_device(A), make(params[1])]
    optimizer = fastopt.Adam(params)
    with pytest.raises(error, match=message):
        fastopt.Adam(params, grads=gradients) if bound else optimizer.step(gradients)
    assert optimizer.iterations == 0
    assert all(equal_bits(to_host(param), A) for param in params)
    optimizer.step(to_device([A, A]))
    assert optimizer.iterations == 1


@pytest.mark.skipif(not _simulated(), reason="needs two devices, or the simulator")
def test_everything_is_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator has one device: here, each array says on which it is."""
    from fastopt.kernels.cuda import memory
    from fastopt.kernels.cuda.words import machine

    first, second = to_device([A, A])
    there = memory.address(second)
    monkeypatch.setattr(machine, "device_at", lambda address: int(address == there))
    with pytest.raises(ValueError, match=r"must be in one place: params\[0\] is on cuda:0, params\[1\] on cuda:1"):
        fastopt.Adam([first, second])
    optimizer = fastopt.Adam(first)
    with pytest.raises(ValueError, match="grads must be where its parameter is, cuda:0, got cuda:1"):
        optimizer.step(second)
    assert optimizer.iterations == 0


def test_every_class_has_a_backend_for_devices() -> None:
    """That the table above is of all of them."""
    assert {case.optimizer for case in VARIANTS} == set(SPECS)


def test_what_cuda_runs_on_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    fastopt.show_config()
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("cuda:"))
    assert ("simulator" if _simulated() else "compute capability") in line


def test_rules_with_sums_are_refused() -> None:
    with pytest.raises(ValueError, match="has no optimizers that add up whole parameters"):
        fastopt.LAMB(to_device([np.ones(3)]), backend="cuda")

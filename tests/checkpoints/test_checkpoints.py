"""`fastopt.save` and `fastopt.load`: what was saved goes on with the same bits, or the error says what differs."""

from __future__ import annotations

import json
import stat
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from cases import CONVENTION_CASES, PLAIN, VARIANTS, Case, extra_options, random_gradient
from checkpoint_runs import Run, all_of, everything, gradients, params
from comparing import snapshot

import fastopt
from fastopt.checkpoints import files
from fastopt.kernels.engine.contract import BUSY

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint-1.safetensors"
"""A file of format 1, which was written by `everything().steps(7)`. It is never written again."""


def addresses(optimizer: fastopt.Optimizer) -> list[int]:
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, np.ndarray)]
    arrays = [param for group in optimizer.param_groups for param in group["params"]]
    return [array.ctypes.data for array in (*arrays, *states)]


def saved_and_loaded(case: Case, path: Path, dtype: Any = np.float32, **options: Any) -> None:
    """Step, save, step on; load into the same and into another optimizer, and step again: the same bits."""
    rng = np.random.default_rng(3)
    shapes = ((2, 3), (5,))
    steps = [[random_gradient(rng, shape, dtype) for shape in shapes] for _ in range(6)]

    def start() -> fastopt.Optimizer:
        return case.make([np.full(shape, 0.5, dtype) for shape in shapes], **options)

    optimizer, other = start(), start()
    for step in steps[:3]:
        optimizer.step([each.copy() for each in step])
    fastopt.save(path, optimizer)
    saved, kept = snapshot(optimizer), addresses(optimizer)
    for step in steps[3:]:
        optimizer.step([each.copy() for each in step])
    expected = snapshot(optimizer)
    other.step([each.copy() for each in steps[5]])
    for each in (optimizer, other):
        fastopt.load(path, each)
        assert snapshot(each) == saved, case
        for step in steps[3:]:
            each.step([gradient.copy() for gradient in step])
        assert snapshot(each) == expected, case
    assert addresses(optimizer) == kept


@pytest.mark.parametrize("case", [*VARIANTS, *CONVENTION_CASES], ids=str)
def test_every_optimizer_goes_on_with_the_same_bits(case: Case, folder: Path) -> None:
    saved_and_loaded(case, folder / "run.safetensors")


@pytest.mark.parametrize("options", extra_options().values(), ids=extra_options())
@pytest.mark.parametrize("case", PLAIN[:2], ids=str)
def test_every_option_goes_on_with_the_same_bits(case: Case, options: dict[str, Any], folder: Path) -> None:
    if case.can(options):
        saved_and_loaded(case, folder / "run.safetensors", np.float64, **options)


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_every_backend_loads_what_another_saved(backend: str, folder: Path) -> None:
    saved_and_loaded(PLAIN[1], folder / "run.safetensors", backend=backend)
    optimizers = [fastopt.Adam(params(), backend=each) for each in ("cython", backend)]
    optimizers[0].step(gradients(0))
    fastopt.save(folder / "run.safetensors", optimizers[0])
    fastopt.load(folder / "run.safetensors", optimizers[1])
    assert snapshot(optimizers[0]) == snapshot(optimizers[1])


@pytest.mark.parametrize("calls", [6, 7])  # between two updates, and after one
def test_everything_beside_the_optimizer_goes_on(calls: int, folder: Path) -> None:
    path, run, other = folder / "run.safetensors", everything().steps(calls), everything().steps(2)
    before = all_of(run)
    fastopt.save(path, run.optimizer, **run.others)
    assert all_of(run) == before
    expected = all_of(run.steps(9, calls))
    history = other.others["extra"]["history"]
    for each in (run, other):
        fastopt.load(path, each.optimizer, **each.others)
        assert all_of(each) == before
        assert all_of(each.steps(9, calls)) == expected
    assert other.others["extra"]["history"] is history


def test_a_file_of_format_1_is_loaded_for_ever(folder: Path) -> None:
    run = everything()
    fastopt.load(GOLDEN, run.optimizer, **run.others)
    expected = everything().steps(7)
    assert all_of(run) == all_of(expected)
    assert all_of(run.steps(9, 7)) == all_of(expected.steps(9, 7))


def test_the_golden_file_has_every_part_that_needs_no_torch() -> None:
    content = json.loads(files.read(GOLDEN).metadata["fastopt"])
    assert content["format"] == 1
    assert {part["kind"] for part in content["parts"].values()} == {"optimizer", "dict", "generator", "state_dict"}
    assert GOLDEN.stat().st_size < 20_000


def test_other_programs_read_the_arrays(folder: Path) -> None:
    optimizer = fastopt.Adam(params())
    optimizer.step(gradients(0))
    fastopt.save(folder / "run.safetensors", optimizer)
    found = safetensors.numpy.load_file(folder / "run.safetensors")
    assert sorted(found) == [
        "optimizer.params.W",
        "optimizer.params.b",
        *(f"optimizer.state.{index}.{name}" for index in (0, 1) for name in ("exp_avg", "exp_avg_sq")),
    ]
    assert np.array_equal(found["optimizer.params.W"], optimizer.param_groups[0]["params"][0])


def test_parameters_are_left_out_where_that_is_asked_for(folder: Path) -> None:
    path, optimizer = folder / "run.safetensors", fastopt.Adam(params())
    optimizer.step(gradients(0))
    fastopt.save(path, optimizer, params=False)
    assert not any("params" in name for name in safetensors.numpy.load_file(path))
    other = fastopt.Adam(params())
    with pytest.raises(ValueError, match=r"run\.safetensors: optimizer: it has no parameters .*params=False"):
        fastopt.load(path, other)
    fastopt.load(path, other, params=False)
    assert np.array_equal(other.param_groups[0]["params"][0], params()["W"])
    assert np.array_equal(other.state[0]["exp_avg"], optimizer.state[0]["exp_avg"])
    fastopt.save(path, optimizer)
    fastopt.load(path, other, params=False)
    assert np.array_equal(other.param_groups[0]["params"][0], params()["W"])


def test_numbers_are_loaded_and_a_schedule_stays(folder: Path) -> None:
    path, optimizer = folder / "run.safetensors", fastopt.SGD(params(), lr=0.5, momentum=0.5)
    optimizer.step(gradients(0))
    optimizer.param_groups[0].update(lr=0.25, weight_decay=0.125)
    fastopt.save(path, optimizer)
    other = fastopt.SGD(params(), lr=0.5, momentum=0.75)
    fastopt.load(path, other)
    other.step(gradients(1))
    optimizer.step(gradients(1))
    assert snapshot(other) == snapshot(optimizer)
    scheduled = fastopt.SGD(params(), lr=fastopt.schedules.Constant(0.125), momentum=0.5)
    with pytest.raises(ValueError, match=r"lr of group 0 is a number in the file and Constant\(0\.125\) here .*strict"):
        fastopt.load(path, scheduled)
    fastopt.load(path, scheduled, strict=False)
    assert scheduled.current_lr == (0.125,)


def test_parameters_are_found_by_name(folder: Path) -> None:
    """In another order, and groups too; a setting stays with its parameter."""
    path, values = folder / "run.safetensors", params()
    groups = [{"params": {"W": values["W"], "b": values["b"]}, "lr": 0.5}, {"params": {"c": np.ones(2)}}]
    optimizer = fastopt.Adam(groups, lr=0.25)
    optimizer.set_segments("b", lr_scale=0.5)
    optimizer.step([gradients(0), {"c": np.ones(2)}])
    fastopt.save(path, optimizer)
    other = {"b": np.zeros(4), "W": np.zeros((3, 4)), "c": np.zeros(2)}
    moved = fastopt.Adam([{"params": {"c": other["c"]}}, {"params": {"b": other["b"], "W": other["W"]}}])
    with pytest.raises(
        ValueError, match=r"lr_scale of single parameters .* is \[\[1, 0\.5\]\] in the file and \[\] here"
    ):
        fastopt.load(path, moved)
    moved.set_segments("b", lr_scale=0.5)
    fastopt.load(path, moved)
    optimizer.step([gradients(1), {"c": np.ones(2)}])
    moved.step([{"c": np.ones(2)}, gradients(1)])
    assert [group["lr"] for group in moved.param_groups] == [0.25, 0.5]
    assert np.array_equal(other["W"], values["W"])
    assert np.array_equal(other["b"], values["b"])


@pytest.mark.parametrize(
    "changed", [lambda lr: lr * 0.5, lambda lr: 0.125, lambda lr: lr], ids=["factor", "number", ""]
)
def test_a_rate_that_was_changed_goes_on(changed: Callable[[Any], Any], folder: Path) -> None:
    """A schedule that was scaled or replaced since construction."""

    def start() -> fastopt.Optimizer:
        return fastopt.SGD(params(), lr=fastopt.schedules.ExponentialDecay(0.5, 3, 0.5))

    optimizer, other = start(), start()
    optimizer.param_groups[0]["lr"] = changed(optimizer.param_groups[0]["lr"])
    optimizer.step(gradients(0))
    fastopt.save(folder / "run.safetensors", optimizer)
    fastopt.load(folder / "run.safetensors", other)
    for step in range(1, 5):
        assert other.current_lr == optimizer.current_lr
        other.step(gradients(step))
        optimizer.step(gradients(step))
    assert snapshot(other) == snapshot(optimizer)


# --- what does not fit ------------------------------------------------------------------------------------------------


def adam(**options: Any) -> fastopt.Optimizer:
    return fastopt.Adam(params(), **options)


def with_frozen() -> fastopt.Optimizer:
    optimizer = adam()
    optimizer.set_segments("b", frozen=True)
    return optimizer


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "class": (lambda: fastopt.RMSprop(params()), "the optimizer is 'Adam' in the file and 'RMSprop' here"),
    "convention": (lambda: adam(convention="keras"), "its convention is 'torch' in the file and 'keras' here"),
    "shape": (
        lambda: fastopt.Adam({"W": np.zeros((4, 3)), "b": np.zeros(4)}),
        r"parameter 'W' of group 0 has the shape \(3, 4\) in the file and \(4, 3\) here",
    ),
    "dtype": (
        lambda: fastopt.Adam({name: value.astype(np.float32) for name, value in params().items()}),
        "parameter 'W' of group 0 is of dtype float64 in the file and float32 here",
    ),
    "name": (
        lambda: fastopt.Adam({"V": np.zeros((3, 4)), "b": np.zeros(4)}),
        "parameter 0 of group 0 is 'W' in the file and 'V' here",
    ),
    "number of parameters": (
        lambda: fastopt.Adam({"W": np.zeros((3, 4))}),
        "group 0 has 2 parameters in the file and 1 here",
    ),
    "groups": (
        lambda: fastopt.Adam([{"params": {name: value}} for name, value in params().items()]),
        "there are 1 parameter groups in the file and 2 here",
    ),
    "option": (lambda: adam(nonfinite="skip"), "nonfinite is 'propagate' in the file and 'skip' here .*strict=False"),
    "option of a group": (lambda: adam(clip_norm=1.0), "clip_norm of group 0 is None in the file and 1.0 here"),
    "schedule": (
        lambda: adam(lr=fastopt.schedules.Constant(0.1)),
        r"the lr of group 0 is a number in the file and Constant\(0\.1\) here",
    ),
    "setting": (
        with_frozen,
        r"frozen of single parameters \(see set_segments\) is \[\] in the file and \[\[1, True\]\]",
    ),
    "accumulation": (lambda: adam(accumulate_steps=2), "accumulate_steps is 1 in the file and 2 here"),
}


@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS)
def test_another_optimizer_is_refused_with_what_differs(make: Callable[[], Any], message: str, folder: Path) -> None:
    optimizer, other = adam(), make()
    optimizer.step(gradients(0))
    fastopt.save(folder / "run.safetensors", optimizer)
    before = snapshot(other)
    with pytest.raises(ValueError, match=rf"{folder.name}/run\.safetensors: optimizer: .*{message}"):
        fastopt.load(folder / "run.safetensors", other)
    assert snapshot(other) == before


class Failing:
    """Its state can be saved, and not be loaded."""

    def state_dict(self) -> dict[str, Any]:
        return {"a": 1}

    def load_state_dict(self, state_dict: Any) -> None:
        raise RuntimeError("no")


def ending(**others: Any) -> Callable[[], dict[str, Any]]:
    return lambda: others


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "missing": ({}, {"extra": {"a": 1}}, r"run\.safetensors does not have extra; it has optimizer"),
    "more": ({"extra": {"a": 1}}, {}, r"run\.safetensors also has extra: .*strict=False"),
    "kind": ({"x": {"a": 1}}, {"x": np.random.default_rng(0)}, "x is a dict in the file and a generator here"),
    "keys": ({"x": {"a": 1}}, {"x": {"b": 1}}, r"x: x has other keys: not in the file: \['b'\], only in .*\['a'\]"),
    "array's dtype": (
        {"x": {"a": np.ones(2)}},
        {"x": {"a": np.ones(2, np.int64)}},
        r"x\['a'\] is int64 of shape \(2,\) here, and float64 of shape \(2,\) in the file",
    ),
    "array's shape": ({"x": {"a": np.ones(2)}}, {"x": {"a": np.ones(3)}}, r"x\['a'\] is float64 of shape \(3,\) here"),
    "no array": ({"x": {"a": 1.0}}, {"x": {"a": np.ones(2)}}, r"x\['a'\] is array.* here, and 1\.0 in the file"),
    "list of arrays": ({"x": {"a": [np.ones(2)]}}, {"x": {"a": [np.ones(2)] * 2}}, r"x\['a'\] is a list of 2 arrays"),
    "another generator": (
        {"x": np.random.default_rng(0)},
        {"x": np.random.Generator(np.random.MT19937(0))},
        "x: it is a PCG64 in the file and a MT19937 here",
    ),
    "another class": (
        {"x": Failing()},
        {"x": fastopt.ReduceOnPlateau(fastopt.Adam(np.ones(1)))},
        "x: it is a Failing in the file and a ReduceOnPlateau here",
    ),
}


@pytest.mark.parametrize(("saved", "given", "message"), REFUSED.values(), ids=REFUSED)
def test_other_parts_are_refused_with_what_differs(
    saved: dict[str, Any], given: dict[str, Any], message: str, folder: Path
) -> None:
    optimizer = adam()
    fastopt.save(folder / "run.safetensors", optimizer, **saved)
    optimizer.step(gradients(0))
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message):
        fastopt.load(folder / "run.safetensors", optimizer, **given)
    assert snapshot(optimizer) == before


def test_more_than_is_given_is_left_out_where_that_is_asked_for(folder: Path) -> None:
    fastopt.save(folder / "run.safetensors", adam(), extra={"a": np.ones(2)})
    fastopt.load(folder / "run.safetensors", adam(), strict=False)


def test_a_read_only_array_is_refused(folder: Path) -> None:
    array = np.ones(2)
    fastopt.save(folder / "run.safetensors", adam(), x={"a": array})
    array.flags.writeable = False
    with pytest.raises(ValueError, match=r"x\['a'\] is a read-only array"):
        fastopt.load(folder / "run.safetensors", adam(), x={"a": array})


BAD_CALLS: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no optimizer": (
        lambda path: fastopt.save(path, {"w": np.ones(2)}),
        TypeError,
        r"optimizer must be one of fastopt, fastopt\.torch or torch\.optim, got .* of type dict",
    ),
    "params": (lambda path: fastopt.save(path, adam(), params=np.ones(2)), TypeError, "params must be True or False"),
    "strict": (lambda path: fastopt.load(path, adam(), strict=1), TypeError, "strict must be True or False, got 1"),
    "nothing that can be saved": (
        lambda path: fastopt.save(path, adam(), x=3),
        TypeError,
        "x must have state_dict and load_state_dict, or be a dict or a numpy.random.Generator, got 3 of type int",
    ),
    "an array": (
        lambda path: fastopt.save(path, adam(), x=np.ones(2)),
        TypeError,
        r"ndarray; give a dict, x=\{\.\.\.\}",
    ),
    "dtype": (
        lambda path: fastopt.save(path, adam(), x={"a": {"b": np.ones(2, complex)}}),
        TypeError,
        r"x\['a'\]\['b'\] is of dtype '<c16', which a file cannot hold; it can hold bool, int8",
    ),
    "objects": (lambda path: fastopt.save(path, adam(), x={"a": {1}}), TypeError, r"x\['a'\] is a builtins.set, which"),
    "masked": (
        lambda path: fastopt.save(path, adam(), x={"a": np.ma.ones(2)}),
        TypeError,
        r"x\['a'\] is a masked array",
    ),
    "path": (lambda path: fastopt.save(3, adam()), TypeError, "path must be a string or a path, got 3"),  # type: ignore[arg-type]
    "empty path": (lambda path: fastopt.save("", adam()), ValueError, "path must name a file, got an empty one"),
    "folder": (
        lambda path: fastopt.save(path.parent, adam()),
        IsADirectoryError,
        "path must name a file, not a folder",
    ),
    "folder that is not there": (
        lambda path: fastopt.save(path / "a" / "b", adam()),
        FileNotFoundError,
        "path must be in a folder that exists",
    ),
    "file that is not there": (lambda path: fastopt.load(path, adam()), FileNotFoundError, r"run\.safetensors"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls_are_errors_and_leave_nothing(
    call: Callable[[Path], Any], error: type[Exception], message: str, folder: Path
) -> None:
    with pytest.raises(error, match=message):
        call(folder / "run.safetensors")
    assert not list(folder.iterdir())


def test_the_same_object_twice_is_an_error(folder: Path) -> None:
    optimizer = adam()
    with pytest.raises(ValueError, match="twin and optimizer are the same object"):
        fastopt.save(folder / "run.safetensors", optimizer, twin=optimizer)


@pytest.mark.parametrize("beside", [False, True])
def test_swapped_averages_are_refused(beside: bool, folder: Path) -> None:
    path, optimizer = folder / "run.safetensors", adam(ema_decay=0.5)
    fastopt.save(path, adam(ema_decay=0.5), **({"twin": optimizer} if beside else {}))
    optimizer.step(gradients(0))
    for act in (fastopt.save, fastopt.load):
        with pytest.raises(RuntimeError, match="averages are swapped in"), optimizer.averaged_params():
            act(path, *((adam(ema_decay=0.5),) if beside else (optimizer,)), **({"twin": optimizer} if beside else {}))


def test_a_step_while_the_file_is_written_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, found = adam(), []

    def step() -> None:
        with pytest.raises(RuntimeError) as error:
            optimizer.step(gradients(0))
        found.append(error)

    def write(*arguments: Any) -> None:
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()

    monkeypatch.setattr(files, "write", write)
    fastopt.save(folder / "run.safetensors", optimizer)
    assert str(found[0].value) == BUSY


# --- all or nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_object_that_cannot_be_loaded_leaves_everything_as_it_was(error: type[BaseException], folder: Path) -> None:
    path, run, other = folder / "run.safetensors", everything().steps(3), everything().steps(5)
    failing = Failing()
    fastopt.save(path, run.optimizer, **run.others, failing=failing)
    failing.load_state_dict = lambda state_dict: (_ for _ in ()).throw(error)  # type: ignore[method-assign]
    before = all_of(other)
    with pytest.raises(error):
        fastopt.load(path, other.optimizer, **other.others, failing=failing)
    assert all_of(other) == before
    assert all_of(other.steps(3, 5)) == all_of(everything().steps(8))


def test_saving_copies_nothing(folder: Path) -> None:
    size = 1 << 18
    optimizer = fastopt.Adam(np.ones(size), ema_decay=0.5)
    optimizer.step(np.ones(size))
    fastopt.save(folder / "run.safetensors", optimizer)
    tracemalloc.start()
    fastopt.save(folder / "run.safetensors", optimizer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size * 8 / 4, "an array was copied"  # 0.1 MB were measured; an array has 2 MB


def test_a_file_keeps_its_mode_and_its_link(folder: Path) -> None:
    path, link = folder / "run.safetensors", folder / "last.safetensors"
    fastopt.save(path, adam())
    usual = stat.S_IMODE(path.stat().st_mode)
    (folder / "file").touch()
    assert usual == stat.S_IMODE((folder / "file").stat().st_mode)
    path.chmod(0o640)
    link.symlink_to(path)
    fastopt.save(link, adam(lr=0.5))
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(each.name for each in folder.iterdir()) == ["file", "last.safetensors", "run.safetensors"]


def test_arrays_of_every_kind_are_held(folder: Path) -> None:
    path = folder / "run.safetensors"
    given: dict[Any, Any] = {name: np.ones((2, 2), name) for name in ("bool", "int8", "uint64", "float16", "complex64")}
    given |= {
        "transposed": np.arange(6).reshape(2, 3).T,
        "empty": np.empty((0, 3)),
        "scalar": np.array(2.5),
        "view": np.arange(10)[::2],
        "list": [np.ones(2), np.zeros(3)],
        ("a", 1): (np.float32(0.1), np.int64(3), True, None, "ä\udc80", 2**70, -0.0),
    }
    expected = repr(given)
    fastopt.save(path, adam(), given=given)
    for value in given.values():
        if isinstance(value, np.ndarray):
            value[...] = 0
    given["list"][1][:] = 5
    given[("a", 1)] = None
    fastopt.load(path, adam(), given=given)
    assert repr(given) == expected


def test_shared_memory_is_saved_once(folder: Path) -> None:
    array = np.ones(1000)
    fastopt.save(folder / "run.safetensors", fastopt.SGD(array), x={"a": array, "b": array})
    assert (folder / "run.safetensors").stat().st_size < 2 * array.nbytes
    run = Run(fastopt.SGD(array), {}, lambda run, step: None)
    array[:] = 0
    fastopt.load(folder / "run.safetensors", run.optimizer, x={"a": array, "b": np.zeros(1000)})
    assert (array == 1).all()

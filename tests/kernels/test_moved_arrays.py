"""Arrays that other code resizes between the checks of a step and its first write: an error, and nothing is written.

Steps run in processes of their own, because a step that went on would end its process.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, equal_bits
from processes import in_a_fresh_process

import fastopt

SIZE = 1 << 18
"""Large enough that the memory is given back to the system when the array is resized."""

VICTIMS = ("param", "state", "bound gradient", "given gradient")


def owner(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def check(error: Exception) -> None:
    """Raise what is not the error of a resized array."""
    if "resized" not in str(error) and "shape" not in str(error):
        raise error


class Gradients(dict[str, Any]):
    """Gradients that call a function when they are read."""

    action: Callable[[], None]

    def __getitem__(self, key: str) -> Any:
        found = super().__getitem__(key)
        self.action()
        return found


class Dying:
    """Calls a function when the garbage collector finds it."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.cycle = self
        self.action = action

    def __del__(self) -> None:
        self.action()


def step(backend: str, place: str, victim: str, n_threads: int) -> None:
    """A step during which an array loses its memory."""
    bound = victim == "bound gradient"
    params = {"a": np.ones(SIZE), "b": np.ones(SIZE)}
    grads = {"a": np.full(SIZE, 0.5), "b": np.full(SIZE, 0.25)}
    armed = False

    def resize() -> None:
        nonlocal armed
        if armed:
            armed = False
            target.resize(0, refcheck=False)

    def rate(iteration: int) -> float:
        if place == "schedule":
            resize()
        if place == "collector":
            Dying(resize)
            gc.collect()
        return 0.1

    options: dict[str, Any] = {"nonfinite": "skip", "zero_grads": True} if place == "report" else {}
    optimizer = fastopt.AdamW(
        params, lr=rate, backend=backend, n_threads=n_threads, **options, **({"grads": grads} if bound else {})
    )
    given = None if bound else Gradients(grads)
    if given is not None:
        given.action = resize if place == "mapping" else lambda: None
    optimizer.step(given)
    target = {
        "param": params["b"],
        "state": owner(optimizer.state[1]["exp_avg"]),
        "bound gradient": grads["b"],
        "given gradient": grads["b"],
    }[victim]
    if place == "report":
        report = optimizer._contents.report
        before = type(report).describe

        def describe(self: Any, counts: Any) -> str:
            resize()
            return before(self, counts)

        type(report).describe = describe  # type: ignore[method-assign]
        (grads["a"] if victim != "param" else grads["b"])[0] = np.nan
    kept = params["a"].copy()
    state = optimizer.state[0]["exp_avg"]
    kept_state = np.array(state) if victim != "state" else None
    kept_grads = [grads["a"].copy()]
    armed = True
    try:
        optimizer.step(given)
    except (RuntimeError, ValueError) as error:
        check(error)
    else:
        raise AssertionError(f"{place}: {victim} was resized, and the step went on")
    assert not armed, "nothing was resized"
    assert equal_bits(params["a"], kept), "a parameter was written"
    assert kept_state is None or equal_bits(np.array(state), kept_state), "a state was written"
    assert equal_bits(grads["a"], kept_grads[0]), "a gradient was written"


PLACES = {
    "schedule": VICTIMS,
    "collector": VICTIMS,
    "mapping": ("param", "state", "given gradient"),
    "report": VICTIMS,
}


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_python_resizes_during_a_step(backend: str, n_threads: int) -> None:
    calls = [f"step({backend!r}, {place!r}, {victim!r}, {n_threads})" for place in PLACES for victim in PLACES[place]]
    in_a_fresh_process("\n".join(["from test_moved_arrays import step", *calls]))


def bind_while_collecting(backend: str) -> None:
    """Construct an optimizer while the garbage collector resizes what it is given, at each of its allocations."""
    for victim in ("param", "gradient"):
        for threshold in range(1, 400, 7):
            param, grad = np.ones(SIZE), np.ones(SIZE)
            target = param if victim == "param" else grad
            gc.collect()
            Dying(lambda target=target: target.resize(0, refcheck=False))  # type: ignore[misc]
            before = gc.get_threshold()
            gc.set_threshold(threshold, 1, 1)
            try:
                optimizer = fastopt.AdamW(param, grads=grad, backend=backend, n_threads=1)
            except (RuntimeError, ValueError, TypeError):
                continue
            finally:
                gc.set_threshold(*before)
            if target.size:  # not yet
                gc.collect()
            try:
                optimizer.step()
            except (RuntimeError, ValueError) as error:
                check(error)
            else:
                raise AssertionError(f"{victim} was resized, and the step went on")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_collector_resizes_during_construction(backend: str) -> None:
    code = f"from test_moved_arrays import bind_while_collecting\nbind_while_collecting({backend!r})"
    in_a_fresh_process(code)


def lying(name: str, value: Any) -> type:
    """A subclass of arrays that is wrong about one of its attributes."""
    return type("Lying", (np.ndarray,), {name: property(lambda self: value)})


LIES: dict[str, Any] = {
    "size": 1 << 24,
    "nbytes": 1 << 27,
    "shape": (1 << 24,),
    "ndim": 1,
    "strides": (8,),
    "dtype": np.dtype(np.float64),
    "itemsize": 8,
    "base": None,
    "ctypes": np.zeros(1).ctypes,
    "__array_interface__": np.zeros(1).__array_interface__,
    "flags": np.zeros(1).flags,
    "data": memoryview(b"12345678"),
}


def step_with_lies(backend: str) -> None:
    """Subclasses step as plain arrays do."""
    for name, value in LIES.items():
        kind = lying(name, value)
        grad = np.linspace(-1, 1, 12).reshape(4, 3)
        expected, bound, given = np.ones((3, 4, 3))
        options: dict[str, Any] = {"lr": 0.1, "projection": fastopt.constraints.L2Ball(0.5, per="row")}
        fastopt.AdamW(expected, backend=backend, **options).step(grad)
        fastopt.AdamW(bound.view(kind), grads=grad.view(kind), backend=backend, **options).step()
        fastopt.AdamW(given.view(kind), backend=backend, **options).step(grad.view(kind))
        assert equal_bits(bound, expected), name
        assert equal_bits(given, expected), name


def step_with_what_is_not_usable(backend: str) -> None:
    """A gradient that is too short, of another dtype, or not contiguous says of itself that it is right."""
    right, short, single, strided = np.ones(1000), np.ones(4), np.ones(1000, np.float32), np.ones(2000)[::2]
    for name, wrong in {"shape": short, "size": short, "dtype": single, "flags": strided}.items():
        kind = lying(name, getattr(right, name))
        with pytest.raises((TypeError, ValueError)):
            fastopt.AdamW(np.ones(1000), backend=backend).step(wrong.view(kind))
        if wrong is not short:
            with pytest.raises((TypeError, ValueError)):
                fastopt.AdamW([np.ones(3), wrong.view(kind)], backend=backend)


def step_after_owners_moved(backend: str) -> None:
    """The owner behind a subclass whose `base` says that there is none, and the owner of a state."""
    memory = np.ones(SIZE)
    optimizer = fastopt.AdamW(memory.view(lying("base", None)), grads=np.ones(SIZE), backend=backend)
    memory.resize(0, refcheck=False)
    with pytest.raises(RuntimeError, match="resized"):
        optimizer.step()
    param = np.ones(SIZE)
    optimizer = fastopt.AdamW(param, grads=np.ones(SIZE), backend=backend)
    owner(optimizer.state[0]["exp_avg_sq"]).resize(0, refcheck=False)
    with pytest.raises(RuntimeError, match="resized"):
        optimizer.step()
    assert (param == 1).all()


@pytest.mark.parametrize("function", [step_with_lies, step_with_what_is_not_usable, step_after_owners_moved])
@pytest.mark.parametrize("backend", BACKENDS)
def test_subclasses_and_owners(backend: str, function: Callable[[str], None]) -> None:
    in_a_fresh_process(f"import test_moved_arrays\ntest_moved_arrays.{function.__name__}({backend!r})")
